//! Habits of the code, as tests: each failure names file, line and what to do instead.

use std::path::{Path, PathBuf};

use ottla_tests::workspace::{files_ending, root};

const LINE_WIDTH: usize = 100;
const FILE_LINES_MAX: usize = 600;

fn name(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

fn sources() -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a readable source file");
        (path, text)
    };
    files_ending(".rs").into_iter().map(read).collect()
}

fn is_test(path: &Path) -> bool {
    let text = name(path);
    text.starts_with("tests/") || text.contains("/tests/") || text.ends_with("tests.rs")
}

/// The lines of a file before its inline tests.
fn production(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let before_tests = |(_, line): &(usize, &str)| !line.starts_with("#[cfg(test)]\nmod");
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end]
        .lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line))
        .take_while(before_tests)
}

#[test]
fn no_file_outgrows_its_reader() {
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let lines = production(text).count();
        assert!(
            lines <= FILE_LINES_MAX,
            "{} has {lines} lines before its tests; split it at a seam below {FILE_LINES_MAX}",
            name(path)
        );
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in sources() {
        let path = name(&path);
        let excused = path.ends_with("tests.rs") || path.contains("/tests/");
        assert!(
            excused || text.starts_with("//!"),
            "{path} must begin with a `//!` header"
        );
    }
}

#[test]
fn lines_fit_the_screen() {
    for (path, text) in sources() {
        for (index, line) in text.lines().enumerate() {
            let width = line.chars().count();
            // A long text in quotes cannot always be broken.
            let is_text = line.contains('"');
            assert!(
                width <= LINE_WIDTH || is_text,
                "{}:{} has {width} columns; at most {LINE_WIDTH} are read at a glance",
                name(&path),
                index + 1
            );
        }
    }
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    let marks = ["TODO", "FIXME", "XXX", "HACK"];
    for (path, text) in sources()
        .iter()
        .filter(|(path, _)| !name(path).ends_with("tidy.rs"))
    {
        for (index, line) in text.lines().enumerate() {
            for mark in &marks {
                assert!(
                    !line.contains(mark),
                    "{}:{} says {mark}; do it now or write it down in docs/",
                    name(path),
                    index + 1
                );
            }
        }
    }
}

#[test]
fn cores_know_neither_clock_nor_thread_nor_file() {
    let cores = [
        "metadata/src",
        "controller/core/src",
        "broker/core/src",
        "model/src",
    ];
    let banned = [
        ("Instant::now", "take `now` as an input"),
        ("SystemTime", "take the time as an input"),
        ("std::thread", "leave threads to the shell"),
        ("std::fs", "leave files to the shell"),
        ("std::net", "leave sockets to the shell"),
        (
            "HashMap",
            "use an ordered map, so that the same inputs have the same effects",
        ),
        (
            "HashSet",
            "use an ordered set, so that the same inputs have the same effects",
        ),
    ];
    for (path, text) in sources() {
        let file = name(&path);
        if is_test(&path) || !cores.iter().any(|core| file.starts_with(core)) {
            continue;
        }
        for (number, line) in production(&text) {
            for (word, instead) in banned {
                let comment = line.trim_start().starts_with("//");
                assert!(
                    comment || !line.contains(word),
                    "{file}:{number} uses {word}: {instead}"
                );
            }
        }
    }
}

#[test]
fn only_the_quorum_names_openraft() {
    for (path, text) in sources() {
        let file = name(&path);
        if file.starts_with("controller/src/quorum") || is_test(&path) {
            continue;
        }
        for (number, line) in production(&text) {
            assert!(
                !line.contains("openraft::"),
                "{file}:{number} names openraft"
            );
        }
    }
}

#[test]
fn queues_are_bounded() {
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        for (number, line) in production(text) {
            assert!(
                !line.contains("unbounded_channel") && !line.contains("mpsc::unbounded"),
                "{}:{number} makes a queue without a bound",
                name(path)
            );
        }
    }
}
