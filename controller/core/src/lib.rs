//! Pure decisions of the active controller.
