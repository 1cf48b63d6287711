//! Why a configuration was refused, in one line: the file, the line, the key, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::check::Problem;
use crate::nearest::nearest;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}; give its path with --config", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}:{line}: the file is not UTF-8 text; save it as UTF-8", path.display())]
    NotText { path: PathBuf, line: usize },
    /// Not TOML, or an unknown key.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        path: PathBuf,
        line: usize,
        message: String,
    },
    /// A value of the wrong type, or one that breaks a rule.
    #[error("{}:{line}: {key}: {message}", path.display())]
    Key {
        path: PathBuf,
        line: usize,
        key: String,
        message: String,
    },
    /// A key that must be there and is not.
    #[error("{}: {key}: {message}", path.display())]
    Missing {
        path: PathBuf,
        key: String,
        message: String,
    },
}

impl ConfigError {
    pub(super) fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
        let position = error.span().map(|span| span.start);
        let line = position.map_or(1, |position| line_at(text, position));
        let said = error.message().trim().replace('\n', ", ");
        let path = path.to_owned();
        match position.and_then(|position| key_at(text, position)) {
            Some(key) => ConfigError::Key {
                path,
                line,
                message: in_words(&said, unit(&key)),
                key,
            },
            None => ConfigError::Syntax {
                path,
                line,
                message: in_words(&said, ""),
            },
        }
    }

    /// The bytes up to the first that is no text are `valid`.
    pub(super) fn not_text(path: &Path, valid: &[u8]) -> ConfigError {
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::NotText {
            path: path.to_owned(),
            line,
        }
    }

    pub(super) fn key(path: &Path, text: &str, problem: Problem) -> ConfigError {
        let path = path.to_owned();
        let Problem { key, message } = problem;
        match line_of(text, &key) {
            Some(line) => ConfigError::Key {
                path,
                line,
                key,
                message,
            },
            None => ConfigError::Missing { path, key, message },
        }
    }
}

/// What the reader of TOML says, without the names of this program's types, and with what a key
/// that is none was perhaps meant to be. `unit` is what a number counts.
fn in_words(message: &str, unit: &str) -> String {
    const NUMBERS: [&str; 6] = ["i32", "i64", "u16", "u32", "u64", "usize"];
    if let Some((what, expected)) = message.rsplit_once(", expected ")
        && NUMBERS.contains(&expected)
    {
        return format!("{what}, expected a whole number{unit} that fits");
    }
    let meant = message.strip_prefix("unknown field `").and_then(|rest| {
        let (typed, known) = rest.split_once('`')?;
        // Every second part stands between backticks.
        nearest(typed, known.split('`').skip(1).step_by(2))
    });
    match meant {
        Some(meant) => format!("{message}; did you mean `{meant}`?"),
        None => message.to_owned(),
    }
}

/// What the numbers at a key count.
fn unit(key: &str) -> &'static str {
    if key.ends_with("_ms") {
        " of milliseconds"
    } else if key.ends_with("_bytes") || key.contains("_bytes_per_") {
        " of bytes"
    } else {
        ""
    }
}

/// The key, such as `controllers[1].id`, in whose value this byte lies; `None` if it lies in none.
fn key_at(text: &str, position: usize) -> Option<String> {
    let document = DeTable::parse(text).ok()?;
    key_below(document.get_ref(), position)
}

fn key_below(table: &DeTable<'_>, position: usize) -> Option<String> {
    table.iter().find_map(|(name, value)| {
        let name = name.get_ref();
        let tables = match value.get_ref() {
            DeValue::Table(inner) => vec![(String::new(), inner)],
            DeValue::Array(items) => {
                let items = items.iter().enumerate();
                let tables = items.filter_map(|(index, item)| match item.get_ref() {
                    DeValue::Table(inner) => Some((format!("[{index}]"), inner)),
                    _ => None,
                });
                tables.collect()
            }
            _ => Vec::new(),
        };
        if tables.is_empty() {
            return value.span().contains(&position).then(|| name.to_string());
        }
        let mut tables = tables.into_iter();
        tables.find_map(|(index, inner)| {
            key_below(inner, position).map(|key| format!("{name}{index}.{key}"))
        })
    })
}

/// The number of the line, from 1, that holds this byte.
fn line_at(text: &str, position: usize) -> usize {
    let before = text.as_bytes().iter().take(position);
    before.filter(|byte| **byte == b'\n').count() + 1
}

/// The line on which the value at a key such as `controllers[1].id` stands; `None` if the file
/// has no such key.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut position = None;
    for part in key.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, rest)) => (name, rest.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let mut value = table.get(name)?;
        if let Some(index) = index {
            let DeValue::Array(items) = value.get_ref() else {
                return None;
            };
            value = items.get(index)?;
        }
        position = Some(value.span().start);
        if let DeValue::Table(inner) = value.get_ref() {
            table = inner;
        }
    }
    position.map(|position| line_at(text, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_on_its_line() {
        let text = "[node]\nid = 1\n\n[[controllers]]\nid = 1\n[[controllers]]\n\nid = 2\n";
        assert_eq!(line_of(text, "node.id"), Some(2));
        assert_eq!(line_of(text, "controllers[1].id"), Some(8));
        assert_eq!(line_of(text, "listen.client"), None);
        assert_eq!(line_of(text, "controllers[7].id"), None);
    }
}
