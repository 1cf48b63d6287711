//! What commands print: tables or JSON on standard output, everything else on standard error.

use std::fs::File;
use std::future::{Future, pending};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, presets};
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

/// How results are written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Aligned columns for people.
    Table,
    /// JSON for programs; its fields are stable.
    Json,
}

/// The reader of standard output closed it. The command ends quietly.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub struct StdoutClosed;

/// Standard output could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct StdoutFailed(#[source] io::Error);

/// Ends once nobody can read what is written to this file any more: the other end of the pipe was
/// closed. For anything but a pipe it never ends.
pub async fn reader_gone(output: impl AsFd) {
    let watched = output.as_fd().try_clone_to_owned();
    // Only waited on and never written to, so it stays blocking for those who write to it. What
    // cannot be waited on, such as a plain file, has no reader that could go.
    let Ok(pipe) = watched.and_then(|fd| Sender::from_file_unchecked(File::from(fd))) else {
        return pending().await;
    };
    match pipe.ready(Interest::ERROR).await {
        Ok(_) => {}
        Err(_) => pending().await,
    }
}

/// Runs what writes to standard output until it ends, or until nobody reads it any more.
pub async fn while_read<E: From<StdoutClosed>>(
    writing: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    tokio::select! {
        outcome = writing => outcome,
        () = reader_gone(io::stdout()) => Err(StdoutClosed.into()),
    }
}

/// Tells a closed pipe, which is no failure, from a failed write.
pub fn stdout_error(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        StdoutClosed.into()
    } else {
        StdoutFailed(error).into()
    }
}

/// Buffered standard output for data. Whoever writes flushes when there is nothing more to write
/// for the moment, so that a reader never waits for a full buffer.
pub fn stdout() -> BufWriter<io::Stdout> {
    BufWriter::with_capacity(256 * 1024, io::stdout())
}

/// A table under construction.
#[derive(Debug)]
pub struct Table {
    table: comfy_table::Table,
}

impl Table {
    /// A table with these column names.
    pub fn new<const N: usize>(columns: [&str; N]) -> Table {
        let mut table = comfy_table::Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(columns);
        Table { table }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.table.add_row(cells);
    }

    /// The table as lines without trailing blanks.
    pub fn render(mut self) -> String {
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = String::new();
        for line in self.table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints a result: as JSON, or as the text that `table` makes of it.
pub fn print<T: Serialize>(
    format: OutputFormat,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let text = match format {
        OutputFormat::Table => table(value),
        OutputFormat::Json => {
            let mut json = serde_json::to_string_pretty(value)?;
            json.push('\n');
            json
        }
    };
    print_text(&text)
}

/// Prints a result as one JSON line, or as text; for commands that print again and again.
pub fn print_line<T: Serialize>(
    format: OutputFormat,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let mut line = match format {
        OutputFormat::Table => text(value),
        OutputFormat::Json => serde_json::to_string(value)?,
    };
    if !line.ends_with('\n') {
        line.push('\n');
    }
    print_text(&line)
}

/// Writes text to standard output at once.
pub fn print_text(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(stdout_error)
}

/// Tells a person something on standard error. That nobody listens there is no failure.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A number of things, in the singular or the plural: `1 record`, `2 records`, `3 batches`.
pub fn counted(count: impl TryInto<u64>, thing: &str) -> String {
    // What does not fit is more than one.
    let count = count.try_into().unwrap_or(u64::MAX);
    let ending = match (count, thing.ends_with("ch")) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{count} {thing}{ending}")
}

/// Numbers joined by commas, as replica lists are written.
pub fn joined<T: std::fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    let texts: Vec<String> = items.iter().map(T::to_string).collect();
    texts.join(",")
}

/// A value or a dash.
pub fn or_dash<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_table_has_aligned_columns_and_no_trailing_blanks() {
        let mut table = Table::new(["NAME", "PARTITIONS"]);
        table.row(["orders".to_owned(), "3".to_owned()]);
        table.row(["a".to_owned(), "12".to_owned()]);
        assert_eq!(
            table.render(),
            "NAME    PARTITIONS\norders  3\na       12\n"
        );
    }

    #[tokio::test]
    async fn a_pipe_without_reader_is_noticed_without_writing_to_it() {
        let (reader, writer) = io::pipe().unwrap();
        let mut gone = Box::pin(reader_gone(writer));
        let soon = Duration::from_millis(20);
        assert!(timeout(soon, &mut gone).await.is_err(), "it has a reader");
        drop(reader);
        timeout(Duration::from_secs(10), gone).await.unwrap();
    }

    #[tokio::test]
    async fn a_pipe_whose_reader_left_before_is_noticed_too() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let gone = reader_gone(writer);
        timeout(Duration::from_secs(10), gone).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_has_no_reader_to_lose() {
        let gone = reader_gone(tempfile::tempfile().unwrap());
        assert_eq!(gone.now_or_never(), None);
    }

    #[test]
    fn one_is_singular_and_any_other_number_plural() {
        assert_eq!(counted(1u64, "record"), "1 record");
        assert_eq!(counted(0usize, "partition"), "0 partitions");
        assert_eq!(counted(1i32, "batch"), "1 batch");
        assert_eq!(counted(2u64, "batch"), "2 batches");
    }

    #[test]
    fn nothing_is_a_dash() {
        assert_eq!(joined::<i32>(&[]), "-");
        assert_eq!(joined(&[1, 2]), "1,2");
        assert_eq!(or_dash::<i32>(None), "-");
    }
}
