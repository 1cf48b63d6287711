//! The page of settings says what the code does: no key is missing, none is invented, and defaults
//! and ranges are those in force.

use std::collections::BTreeMap;

use ottla_model::config::{TOPIC_CONFIGS, check_topic_config};

use super::*;

struct Row {
    default: String,
    range: String,
}

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
    std::fs::read_to_string(path).unwrap()
}

/// The rows of the tables that give type, default and range of a key of the file.
fn rows(page: &str) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let [key, _kind, default, range, _doc] = cells.as_slice() {
            let row = Row {
                default: default.trim_matches('`').to_owned(),
                range: range.replace('`', ""),
            };
            let twice = rows.insert(key.trim_matches('`').to_owned(), row);
            assert!(twice.is_none(), "{key} stands twice on the page");
        }
    }
    rows
}

/// Every key that a file may have, with its default; `null` where there is none.
fn defaults() -> BTreeMap<String, serde_json::Value> {
    let mut file: ConfigFile = toml::from_str(MINIMAL).unwrap();
    file.node.rack = Some(String::new());
    let serde_json::Value::Object(sections) = serde_json::to_value(&file).unwrap() else {
        panic!("a file is a table");
    };
    let mut all = BTreeMap::new();
    for (section, value) in sections {
        let (value, is_list) = match value {
            serde_json::Value::Array(items) => (items[0].clone(), true),
            value => (value, false),
        };
        let given = matches!(section.as_str(), "node" | "advertise") || is_list;
        for (key, value) in value.as_object().unwrap() {
            let value = if given {
                serde_json::Value::Null
            } else {
                value.clone()
            };
            all.insert(format!("{section}.{key}"), value);
        }
    }
    all
}

#[test]
fn every_key_of_the_file_is_on_the_page_with_its_default() {
    let (rows, defaults) = (rows(&page()), defaults());
    let on_page: Vec<_> = rows.keys().collect();
    assert_eq!(on_page, defaults.keys().collect::<Vec<_>>());
    for (key, default) in defaults.iter().filter(|(_, value)| !value.is_null()) {
        let told = match default {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string().replace(',', ", "),
        };
        assert_eq!(rows[key].default, told, "{key}");
    }
}

#[test]
fn the_ranges_on_the_page_are_those_in_force() {
    let (rows, defaults) = (rows(&page()), defaults());
    let mut checked = 0;
    for (key, row) in &rows {
        let Some((_, most)) = row.range.split_once(" to ") else {
            continue;
        };
        let above = most.parse::<u64>().unwrap() + 1;
        let (section, name) = key.split_once('.').unwrap();
        let value = match &defaults[key] {
            serde_json::Value::Array(_) => format!("[1000, {above}]"),
            _ => above.to_string(),
        };
        // Two beats must fit a session, whose own rule is not what is asked for here.
        let session = match section {
            "controller" => "",
            _ => "[controller]\nsession_timeout_ms = 600000\n",
        };
        let said = refusal(&format!(
            "{MINIMAL}{session}[{section}]\n{name} = {value}\n"
        ));
        let range = defaults
            .iter()
            .fold(row.range.clone(), |range, (key, value)| {
                range.replace(key, &value.to_string())
            });
        assert!(said.ends_with(&format!("use {range}")), "{key}: {said}");
        checked += 1;
    }
    // All that are numbers, but for node ids.
    let numbers = defaults
        .values()
        .filter(|value| value.is_number() || value.is_array());
    assert_eq!(checked, numbers.count());
}

#[test]
fn the_topic_settings_on_the_page_are_the_codes_own() {
    let mut table =
        String::from("| setting | default | values | what it does |\n|---|---|---|---|\n");
    for key in TOPIC_CONFIGS {
        let refused = check_topic_config(key.name, "?").unwrap_err().to_string();
        let (_, values) = refused.split_once("expected ").unwrap();
        let values = values
            .strip_prefix("a whole number from ")
            .unwrap_or(values);
        let default = match key.default {
            "" => "a majority".to_owned(),
            default => format!("`{default}`"),
        };
        table.push_str(&format!(
            "| `{}` | {default} | {values} | {} |\n",
            key.name, key.doc
        ));
    }
    assert!(
        page().contains(&table),
        "docs/settings.md must hold this table:\n{table}"
    );
}
