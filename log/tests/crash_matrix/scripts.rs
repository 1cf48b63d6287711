//! Stories: what a store is asked for in one life after another, each ended with a shutdown.
//!
//! A word is a step, with its log and its number behind colons; `*6` repeats it.

use super::work::Step;

/// Each story with its name and its lives.
pub const SCRIPTS: &[(&str, &[&str])] = &[
    ("create and append", &["append:0 append:1 append:2 settle"]),
    (
        "several batches in an append, over a roll",
        &["bulk:0*2 wait:0 bulk:0 settle"],
    ),
    ("roll", &["append:0*6 checkpoint append:0*6 settle"]),
    (
        "truncate within a segment",
        &["append:0*6 checkpoint truncate:0:1 append:0 settle checkpoint"],
    ),
    (
        "truncate over segments and write again",
        &[
            "append:0*9 checkpoint epoch truncate:0:16 settle append:0*6 checkpoint \
           truncate:0:3 settle",
        ],
    ),
    (
        "truncate twice before the segments follow",
        &["append:0*5 truncate:0:5 append:0 truncate:0:3 append:0 checkpoint"],
    ),
    (
        "restart",
        &["append:0*6 checkpoint restart:0:50 settle append:0 checkpoint restart:0:7 append:0"],
    ),
    (
        "advance the log's start",
        &["append:0*9 checkpoint start:0:8 settle append:0 checkpoint start:0:0 settle append:0"],
    ),
    (
        "advance the log's start and be told",
        &["append:0*9 checkpoint told:0:8 wait:0 append:0 told:0:0 wait:0 checkpoint append:0"],
    ),
    (
        "skip",
        &[
            "append:0*3 skip:0:20 append:0*3 checkpoint skip:0:5 settle checkpoint",
            "append:0 skip:0:9 truncate:0:4 append:0*6 settle skip:0:7 start:0:3 settle append:0 \
           checkpoint restart:1:3 skip:0:2",
        ],
    ),
    (
        "retention",
        &["append:0*14 settle retention:0 settle checkpoint append:0 settle"],
    ),
    (
        "save the producers",
        &[
            "append:0*3 save:0 append:0*3 save:0 checkpoint append:0 truncate:0:7 append:0*3 settle \
           append:0*2 save:0 start:0:3 settle checkpoint append:0",
            "append:0*2 save:0 restart:0:9 append:0*9 settle save:0 delete:0 append:0*6",
        ],
    ),
    (
        "delete and create again",
        &["append:0*6 checkpoint delete:0 append:0 checkpoint append:0 delete:0 append:1 append:0"],
    ),
    (
        "set aside and create again",
        &[
            "append:0*6 checkpoint append:0 aside:0 append:0 checkpoint append:0 aside:0 append:1 \
           append:0",
        ],
    ),
    (
        "recycle the journal",
        &[
            "append:0*12 checkpoint append:1*12 checkpoint append:2*12 checkpoint append:0*12 \
           checkpoint",
        ],
    ),
    (
        "shutdowns",
        &[
            "append:0 append:1",
            "append:0 truncate:1:1 append:2",
            "append:0*8 checkpoint delete:1",
            "append:0",
        ],
    ),
];

/// The steps that one life's words say.
pub fn steps(words: &str) -> Vec<Step> {
    words.split_whitespace().flat_map(repeated).collect()
}

fn repeated(word: &str) -> Vec<Step> {
    let (word, times) = word.split_once('*').unwrap_or((word, "1"));
    vec![step(word); times.parse().unwrap()]
}

fn step(word: &str) -> Step {
    let mut parts = word.split(':');
    let name = parts.next().unwrap_or_default();
    let mut numbers = parts.map(|part| part.parse::<usize>().unwrap());
    let log = numbers.next().unwrap_or(0);
    let number = numbers.next().unwrap_or(0) as i64;
    match name {
        "append" => Step::Append {
            log,
            batches: 1,
            bytes: 700,
        },
        "bulk" => Step::Append {
            log,
            batches: 3,
            bytes: 900,
        },
        "epoch" => Step::NextEpoch,
        "truncate" => Step::Truncate {
            log,
            records: number,
        },
        "restart" => Step::RestartAt { log, at: number },
        "start" => Step::AdvanceLogStart {
            log,
            records: number,
        },
        "told" => Step::AdvanceLogStartTold {
            log,
            records: number,
        },
        "skip" => Step::Skip {
            log,
            records: number,
        },
        "retention" => Step::Retention { log },
        "save" => Step::SaveProducers { log },
        "delete" => Step::Delete { log },
        "aside" => Step::SetAside { log },
        "wait" => Step::WaitFor { log },
        "checkpoint" => Step::Checkpoint,
        "settle" => Step::Settle,
        other => panic!("no step is called {other}"),
    }
}
