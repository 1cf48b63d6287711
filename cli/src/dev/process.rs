//! Nodes as processes of their own: starting, recognising and killing them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::manifest::ManifestNode;

/// How often a process is looked at while its end is awaited.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Tells a node to stop without moving its leaders to others, which stop too.
pub const CLUSTER_STOPS: Signal = Signal::QUIT;

/// The command that runs a node: this program again, telling into the node's log file, out of
/// reach of the terminal's Ctrl-C so that whoever started it stops it in order.
fn command(node: &ManifestNode) -> anyhow::Result<std::process::Command> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let log = open_log(&node.log)?;
    let mut command = std::process::Command::new(program);
    command
        .args(["server", "--config"])
        .arg(&node.config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share the log file")?)
        .stderr(log)
        .process_group(0);
    Ok(command)
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Starts a node that ends when this process does. Must be called on the main thread: the kernel
/// ties the child to the thread that starts it.
pub fn spawn(node: &ManifestNode) -> anyhow::Result<tokio::process::Child> {
    let mut command = command(node)?;
    command.args(["--die-with-parent", &std::process::id().to_string()]);
    tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start node {}", node.id))
}

/// Starts a node that lives on after this process, and gives its process id.
pub fn spawn_detached(node: &ManifestNode) -> anyhow::Result<u32> {
    let child = tokio::process::Command::from(command(node)?)
        .spawn()
        .with_context(|| format!("cannot start node {}", node.id))?;
    child
        .id()
        .with_context(|| format!("node {} ended at once", node.id))
}

/// Sends a signal to a process; one that is gone is no error.
pub fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.with_context(|| format!("{pid} is no process id"))?;
    match kill_process(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot signal process {pid}")),
    }
}

/// Whether the process is gone. One that has ended but was not yet collected by its parent is.
pub fn is_gone(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // The state follows the name, which stands in parentheses and may hold anything.
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

/// Waits until the process is gone. False if it is not within the time given.
pub async fn wait_gone(pid: u32, at_most: Duration) -> bool {
    let deadline = Instant::now() + at_most;
    while !is_gone(pid) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK_INTERVAL).await;
    }
    true
}

/// Kills a process without warning (kill -9) and waits until it is gone.
pub async fn kill_and_wait(pid: u32) -> anyhow::Result<()> {
    send(pid, Signal::KILL)?;
    if !wait_gone(pid, Duration::from_secs(10)).await {
        bail!("process {pid} did not end after SIGKILL");
    }
    Ok(())
}

/// Tells a node's process that the whole cluster stops and, should it not within the time given,
/// kills it.
pub async fn stop_and_wait(pid: u32, at_most: Duration) -> anyhow::Result<()> {
    send(pid, CLUSTER_STOPS)?;
    if wait_gone(pid, at_most).await {
        return Ok(());
    }
    kill_and_wait(pid).await
}

/// How a node's process ended, in words: by a signal, with its own error, or otherwise with a word
/// on where to look. What it told before it was killed says nothing of why it ended.
pub fn ending(status: ExitStatus, log: &Path) -> String {
    if status.signal().is_some() {
        return format!("killed by {}", status.to_string().replace(": ", " "));
    }
    if status.success() {
        return "it was told to stop, and did".to_owned();
    }
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    match last.filter(|line| line.starts_with("error: ")) {
        Some(error) => error.to_owned(),
        None => format!("{status}; see {}", log.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_error_that_a_node_ended_with_is_taken_for_its_reason() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let ending = |status, text: &str| {
            fs::write(log.path(), text).unwrap();
            ending(ExitStatus::from_raw(status), log.path())
        };
        let chatter = "INFO a broker registered\n";
        let killed = ending(9, chatter);
        assert_eq!(killed, "killed by signal 9 (SIGKILL)");
        let failed = 1 << 8;
        assert_eq!(
            ending(failed, "INFO up\nerror: no room\n\n"),
            "error: no room"
        );
        let silent = ending(failed, chatter);
        let at = format!("see {}", log.path().display());
        assert!(silent.ends_with(&at) && silent.contains('1'), "{silent}");
        assert!(!ending(0, chatter).contains("registered"));
    }

    #[test]
    fn this_process_is_there() {
        assert!(!is_gone(std::process::id()));
    }

    #[test]
    fn a_killed_child_is_gone_before_it_is_collected() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = child.id();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(kill_and_wait(pid)).unwrap();
        assert!(is_gone(pid));
        child.wait().unwrap();
    }
}
