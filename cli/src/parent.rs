//! A process that ends with the one that started it.

use anyhow::{Context as _, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Lets the kernel kill this process when its parent, which must have the id `pid`, ends.
///
/// # Errors
/// If the parent is another process: it ended before this call, or never was.
pub fn die_with(pid: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot ask to end with the parent process")?;
    // The parent may have ended before the call took effect; then someone else adopted us.
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(pid) {
        bail!("the parent process {pid} is gone");
    }
    Ok(())
}
