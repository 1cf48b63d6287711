//! Writes records to standard output as the options ask for.

use std::io::Write as _;

use ottla_client::ConsumedRecord;

use crate::format::{OutputFormat as RecordFormat, RecordView};
use crate::output::stdout_error;

/// Where records go.
pub struct Printer {
    pub(super) out: std::io::BufWriter<std::io::Stdout>,
    pub(super) format: RecordFormat,
    pub(super) json: bool,
    pub(super) line: Vec<u8>,
}

impl Printer {
    pub fn print(&mut self, topic: &str, record: &ConsumedRecord) -> anyhow::Result<()> {
        let view = RecordView {
            topic,
            partition: record.partition.0,
            offset: record.offset.0,
            timestamp_ms: record.timestamp.0,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &record.headers,
        };
        self.line.clear();
        if self.json {
            serde_json::to_writer(&mut self.line, &view.to_json())?;
            self.line.push(b'\n');
        } else {
            self.format.write(&view, &mut self.line);
        }
        self.out.write_all(&self.line).map_err(stdout_error)
    }

    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.out.flush().map_err(stdout_error)
    }
}
