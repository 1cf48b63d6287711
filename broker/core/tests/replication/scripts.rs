//! Runs `tests/scripts/*.txt`: commands, a line of dashes, and what came of them, compared exactly.
//! `OTTLA_REWRITE_SCRIPTS=1` writes what came of them into the files instead.
//!
//! ```text
//! cluster min_isr=N isr=1,2,3 [away=N]
//!                               three nodes, the first of the ISR leads in epoch 1; N is isolated
//! produce N [count=N] [acks=leader|none] [producer=ID:EPOCH:SEQUENCE]
//! flush N                       what node N wrote becomes durable
//! deliver [A B]                 every message and decision moves; or messages from A to B only
//! metadata N                    node N learns the newest metadata
//! decide                        the controller answers what it was asked
//! settle                        everything moves, disks too, until nothing does
//! advance N{ms,s}               time passes
//! cut A B, isolate N, heal [N]  links; node 0 is the controller
//! crash N, restart N, fence N, elect N [unclean]
//! retain N FROM                 retention keeps nothing below FROM on the leader
//! trim N [TO]                   somebody wants everything below TO dropped, or below the high
//!                               watermark
//! compact N BELOW               compaction on node N removes batches below BELOW, but the last
//! status, log N
//! ```

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ottla_broker_core::Acks;
use ottla_model::{NodeId, Offset};

use super::cluster::Cluster;
use super::simulation::idempotent_batch;

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scripts")
}

#[derive(Default)]
struct Runner {
    cluster: Option<Cluster>,
}

impl Runner {
    fn run(&mut self, line: &str) -> Vec<String> {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        if command == "cluster" {
            let isr = named(&words, "isr").unwrap_or("1,2,3");
            let isr: Vec<i32> = isr.split(',').map(number).collect();
            let min_isr = named(&words, "min_isr").map_or(2, number);
            let mut cluster = Cluster::new(&[1, 2, 3], &isr, min_isr);
            if let Some(away) = named(&words, "away") {
                cluster.isolate(NodeId(number(away)));
            }
            for node in [3, 2, 1] {
                cluster.deliver_metadata(NodeId(node));
            }
            cluster.deliver_all();
            self.cluster = Some(cluster);
            return Vec::new();
        }
        let cluster = self.cluster.as_mut().expect("`cluster` comes first");
        let shown = act(cluster, command, &words);
        let mut out = std::mem::take(&mut cluster.events);
        out.extend(shown);
        cluster.replies.clear();
        let checker = std::mem::take(&mut cluster.checker);
        checker.check(cluster);
        cluster.checker = checker;
        out
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse()
        .unwrap_or_else(|_| panic!("'{text}' is no number"))
}

fn named<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words
        .iter()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn node(words: &[&str], at: usize) -> NodeId {
    NodeId(number(words[at]))
}

fn act(cluster: &mut Cluster, command: &str, words: &[&str]) -> Vec<String> {
    match command {
        "produce" => produce(cluster, words),
        "flush" => {
            cluster.flush(node(words, 0), usize::MAX);
        }
        "deliver" if words.is_empty() => cluster.deliver_all(),
        "deliver" => {
            let (from, to) = (node(words, 0), node(words, 1));
            while cluster.deliver(from, to, true) || cluster.deliver(to, from, false) {}
        }
        "metadata" => while cluster.deliver_metadata(node(words, 0)) {},
        "decide" => while cluster.decide() || cluster.deliver_answer() {},
        "settle" => cluster.settle(),
        "advance" => cluster.advance(duration(words[0])),
        "cut" => cluster.cut(node(words, 0), node(words, 1)),
        "isolate" => cluster.isolate(node(words, 0)),
        "heal" => cluster.heal(words.first().map(|_| node(words, 0))),
        "crash" => cluster.crash(node(words, 0)),
        "restart" => cluster.restart(node(words, 0)),
        "fence" => cluster.controller.fence(node(words, 0)),
        "elect" => {
            let unclean = words.contains(&"unclean");
            cluster.checker.is_lossy |= unclean;
            if !cluster.controller.elect(node(words, 0), unclean) {
                return vec!["not eligible".to_owned()];
            }
        }
        "retain" => cluster.retain(node(words, 0), Offset(number(words[1]))),
        "trim" => cluster.trim(node(words, 0), words.get(1).map(|to| Offset(number(to)))),
        "compact" => {
            cluster.compact(node(words, 0), Offset(number(words[1])), |_| true);
        }
        "status" => return cluster.status(),
        "log" => return vec![cluster.log(node(words, 0))],
        other => panic!("no such command: {other}"),
    }
    Vec::new()
}

fn produce(cluster: &mut Cluster, words: &[&str]) {
    let acks = match named(words, "acks") {
        None => Acks::All,
        Some("leader") => Acks::Leader,
        Some("none") => Acks::None,
        Some(other) => panic!("no such acks: {other}"),
    };
    let count = named(words, "count").map_or(1, number);
    let batch = match named(words, "producer") {
        None => idempotent_batch(-1, -1, -1, count),
        Some(text) => {
            let parts: Vec<i32> = text.split(':').map(number).collect();
            idempotent_batch(i64::from(parts[0]), parts[1] as i16, parts[2], count)
        }
    };
    cluster.produce(node(words, 0), acks, batch);
}

fn duration(text: &str) -> Duration {
    match text.strip_suffix("ms") {
        Some(millis) => Duration::from_millis(number(millis)),
        None => Duration::from_secs(number(text.trim_end_matches('s'))),
    }
}

/// The script with its outputs as they came.
fn replay(script: &str) -> String {
    let mut runner = Runner::default();
    let mut out = String::new();
    let mut outputs: Vec<String> = Vec::new();
    let mut is_expected = false;
    for line in script.lines().chain([""]) {
        if line.starts_with("----") {
            is_expected = true;
            writeln!(out, "----").expect("text");
            for output in outputs.drain(..) {
                writeln!(out, "{output}").expect("text");
            }
        } else if is_expected {
            is_expected = !line.trim().is_empty();
            if !is_expected {
                out.push('\n');
            }
        } else {
            if !line.trim().is_empty() && !line.starts_with('#') {
                outputs.extend(runner.run(line));
            }
            writeln!(out, "{line}").expect("text");
        }
    }
    format!("{}\n", out.trim_end())
}

#[test]
fn every_script_ends_as_it_says() {
    let rewrite = std::env::var_os("OTTLA_REWRITE_SCRIPTS").is_some();
    let entries = std::fs::read_dir(scripts()).expect("the folder of scripts");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {:?}", scripts());
    for path in paths {
        let script = std::fs::read_to_string(&path).expect("a script");
        let actual = replay(&script);
        if rewrite {
            std::fs::write(&path, &actual).expect("a writable script");
            continue;
        }
        assert!(
            actual == script,
            "{} ends differently:\n{actual}",
            path.display()
        );
    }
}
