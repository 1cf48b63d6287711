//! `ottla server` with a wrong configuration or in a wrong place: it ends with one line that says
//! what is wrong, where, and what to do.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::node::{Ended, Node, binary, config, free_port, refused, refused_server};

/// How long a server may take to refuse on an idle machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// And how many times that which a busy machine takes to start the program at all.
const BUSY: u32 = 30;

/// The exit codes of a wrong configuration and of a place that cannot be used.
const USAGE: i32 = 2;
const FAILURE: i32 = 1;

/// The server ended at once, with this code and one line that has these words.
#[track_caller]
pub fn assert_one_line(ended: &Ended, code: i32, words: &[&str]) {
    let said = &ended.said;
    assert_eq!(said.lines().count(), 1, "one line was expected:\n{said}");
    assert_last_line(ended, code, words);
}

/// The server ended at once, with this code and a last line that has these words. Nothing before
/// it is an error.
#[track_caller]
pub fn assert_last_line(ended: &Ended, code: i32, words: &[&str]) {
    let Ended {
        status,
        said,
        took,
        least,
    } = ended;
    assert_eq!(status.code(), Some(code), "{said}");
    let at_once = AT_ONCE + *least * BUSY;
    assert!(*took < at_once, "it took {took:?}, not {at_once:?}: {said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: "), "{said}");
    assert_eq!(said.matches("ERROR").count(), 0, "{said}");
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    for word in words {
        assert!(last.contains(word), "'{word}' is missing: {last}");
    }
}

#[test]
fn a_wrong_configuration_ends_the_server_with_one_clear_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let (client, internal) = (free_port(), free_port());
    let good = config(0, &dir.path().join("data"), client, internal);
    let client_text = format!("127.0.0.1:{client}");
    let replaced = |from: &str, to: &str| good.replacen(from, to, 1);
    let file = "refused.toml:";
    let cases: [(String, &[&str]); 13] = [
        (String::new(), &[file, "node"]),
        ("][".to_owned(), &[file]),
        (format!("colour = 1\n{good}"), &[file, "colour"]),
        (format!("{good}[log]\nfsync = false\n"), &[file, "fsync"]),
        (replaced("id = 0", "id = -1"), &[file, "node.id", "-1"]),
        (replaced("id = 0", "id = \"x\""), &[file, "id"]),
        (
            replaced("id = 0", "id = 5"),
            &[file, "node.id", "[[controllers]]"],
        ),
        (
            replaced(&client_text, "nonsense"),
            &[file, "listen.client", "nonsense", "IP:port"],
        ),
        (
            replaced(&client_text, "127.0.0.1:99999"),
            &[file, "listen.client", "99999"],
        ),
        (
            replaced(&client_text, &format!("127.0.0.1:{internal}")),
            &[file, "must differ"],
        ),
        (
            replaced(&client_text, "0.0.0.0:1"),
            &["advertise.client", "missing"],
        ),
        (
            format!("{good}[broker]\nthreads = 0\n"),
            &[file, "broker.threads", "use 1"],
        ),
        (
            format!("{good}[controller]\nelection_timeout_ms = [9, 3]\n"),
            &[file, "controller.election_timeout_ms"],
        ),
    ];
    for (config, words) in cases {
        assert_one_line(&refused_server(dir.path(), config), USAGE, words);
    }
    let not_text = refused_server(dir.path(), b"[node]\nid = 0 # \xff\n");
    assert_one_line(&not_text, USAGE, &["refused.toml:2:", "UTF-8"]);
}

/// It got as far as its ports once, and told people to choose others.
#[test]
fn a_node_that_may_open_too_few_files_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("ottla.toml");
    let config = config(0, &dir.path().join("data"), free_port(), free_port());
    std::fs::write(&file, config).expect("a configuration file");
    for limit in [16, 255] {
        let mut command = Command::new("sh");
        let line = format!("ulimit -n {limit}; exec \"$@\"");
        command.args(["-c", &line, "sh"]).arg(binary());
        command.args(["server", "--config"]).arg(&file);
        let words = [
            &format!("only {limit} files")[..],
            "256",
            "ulimit",
            "LimitNOFILE",
        ];
        assert_one_line(&refused(command), FAILURE, &words);
    }
}

#[tokio::test]
async fn a_place_that_is_taken_ends_the_server_with_one_clear_line() {
    let mut node = Node::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let taken = node.client_port.to_string();
    let config_of = |id, data: &Path| config(id, data, free_port(), free_port());

    let port_taken = config(0, &data, node.client_port, free_port());
    assert_one_line(
        &refused_server(dir.path(), port_taken),
        FAILURE,
        &["listen.client", &taken, "another address"],
    );
    let in_use = config_of(0, &node.data_dir());
    assert_one_line(
        &refused_server(dir.path(), in_use),
        FAILURE,
        &["node.data_dir", "in use", "of its own"],
    );
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    for nowhere in [file.join("data"), file, "/proc/nowhere".into()] {
        let ended = refused_server(dir.path(), config_of(0, &nowhere));
        let named = nowhere.display().to_string();
        assert_one_line(&ended, FAILURE, &["node.data_dir", &named, "directory"]);
    }
    node.assert_unharmed();

    node.kill();
    let of_another = refused_server(dir.path(), config_of(1, &node.data_dir()));
    assert_one_line(&of_another, FAILURE, &["belongs to node 0", "node.id"]);
}
