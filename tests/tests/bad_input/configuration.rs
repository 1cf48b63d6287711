//! `ottla server` with a wrong configuration or in a wrong place: it ends with one line that says
//! what is wrong, where, and what to do.

use std::path::Path;

use super::node::{Node, config, free_port, refused_server};

/// The server ends with one line that has these words.
#[track_caller]
fn assert_one_line(dir: &Path, config: &str, words: &[&str]) {
    let output = refused_server(dir, config);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{config}\nended well: {said}");
    assert_eq!(said.lines().count(), 1, "one line was expected:\n{said}");
    assert!(said.starts_with("error: "), "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is missing: {said}");
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
        assert_one_line(dir.path(), &config, words);
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
        dir.path(),
        &port_taken,
        &["listen.client", &taken, "another address"],
    );
    let in_use = config_of(0, &node.data_dir());
    assert_one_line(
        dir.path(),
        &in_use,
        &["node.data_dir", "in use", "of its own"],
    );
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let no_directory = config_of(0, &file.join("data"));
    assert_one_line(dir.path(), &no_directory, &["node.data_dir", "may write"]);
    node.assert_unharmed();

    node.kill();
    let of_another = config_of(1, &node.data_dir());
    assert_one_line(dir.path(), &of_another, &["belongs to node 0", "node.id"]);
}
