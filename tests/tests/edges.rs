//! Which crate may know which: the table of the architecture, enforced. A new edge needs a
//! decision record under `docs/adr/` and a line here.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Each crate with the crates of the workspace that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("ottla-model", &[]),
    ("base2histogram", &[]),
    ("ottla-metadata", &["ottla-model"]),
    ("ottla-log", &["ottla-model"]),
    ("ottla-proto", &["ottla-model"]),
    ("ottla-shell", &["ottla-model"]),
    ("ottla-controller-core", &["ottla-metadata", "ottla-model"]),
    ("ottla-broker-core", &["ottla-model"]),
    (
        "ottla-controller",
        &[
            "ottla-controller-core",
            "ottla-log",
            "ottla-metadata",
            "ottla-model",
            "ottla-proto",
            "ottla-shell",
        ],
    ),
    (
        "ottla-broker",
        &[
            "ottla-broker-core",
            "ottla-log",
            "ottla-metadata",
            "ottla-model",
            "ottla-proto",
            "ottla-shell",
        ],
    ),
    ("ottla-client", &["ottla-model", "ottla-proto"]),
];

/// What must not appear among a crate's dependencies, however indirectly.
const MUST_NOT_KNOW: &[(&str, &[&str])] = &[
    (
        "ottla-model",
        &["tokio", "tonic", "prost", "rand", "tracing"],
    ),
    (
        "ottla-metadata",
        &["tokio", "tonic", "openraft", "sled", "rand", "ottla-log"],
    ),
    (
        "ottla-controller-core",
        &[
            "tokio",
            "tonic",
            "openraft",
            "sled",
            "rand",
            "ottla-proto",
            "ottla-shell",
        ],
    ),
    (
        "ottla-broker-core",
        &[
            "tokio",
            "tonic",
            "prost",
            "rand",
            "ottla-proto",
            "ottla-log",
            "ottla-shell",
        ],
    ),
    (
        "ottla-log",
        &["tokio", "tonic", "prost", "ottla-metadata", "ottla-proto"],
    ),
    (
        "ottla-client",
        &[
            "openraft",
            "sled",
            "ottla-log",
            "ottla-metadata",
            "ottla-shell",
        ],
    ),
    (
        "ottla-broker",
        &["openraft", "sled", "ottla-controller", "ottla-client"],
    ),
    ("ottla-controller", &["ottla-broker", "ottla-client"]),
];

/// Names of all dependencies of a package in normal use, reached through each other.
fn reach(name: &str, edges: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut waiting = vec![name.to_owned()];
    while let Some(next) = waiting.pop() {
        for dependency in edges.get(&next).into_iter().flatten() {
            if seen.insert(dependency.clone()) {
                waiting.push(dependency.clone());
            }
        }
    }
    seen
}

fn direct_edges() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(ottla_tests::workspace::root().join("Cargo.toml"))
        .other_options(vec!["--offline".to_owned(), "--locked".to_owned()])
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let normal = |package: &cargo_metadata::Package| {
        let dependencies = package.dependencies.iter();
        let normal = dependencies.filter(|d| d.kind == DependencyKind::Normal);
        normal.map(|d| d.name.clone()).collect::<BTreeSet<_>>()
    };
    metadata
        .packages
        .iter()
        .map(|package| (package.name.to_string(), normal(package)))
        .collect()
}

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let edges = direct_edges();
    for (name, allowed) in MAY_USE {
        let used = edges
            .get(*name)
            .unwrap_or_else(|| panic!("there is no crate {name}"));
        for dependency in used.iter().filter(|d| d.starts_with("ottla-")) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not use {dependency}"
            );
        }
    }
    for (name, used) in &edges {
        assert!(
            !used.contains("ottla-tests"),
            "{name} must not use the tests"
        );
    }
}

#[test]
fn crates_do_not_know_what_they_must_not() {
    let edges = direct_edges();
    for (name, forbidden) in MUST_NOT_KNOW {
        let known = reach(name, &edges);
        for other in *forbidden {
            assert!(!known.contains(*other), "{name} must not know {other}");
        }
    }
}
