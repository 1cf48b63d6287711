//! Simulations, stories over the cores, and tests over real processes.
