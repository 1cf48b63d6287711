//! Writing records in a format.

use std::io::Write as _;
use std::str::FromStr;

use base64::Engine as _;
use ottla_model::batch::Header;

use super::{Field, FormatError, Piece, parse};

/// A record to be written.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header],
}

impl RecordView<'_> {
    /// The record as an object. Keys and values that are text stand as text; others stand in
    /// base64 under `key_base64` and `value_base64`.
    pub fn to_json(self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        object.insert("topic".to_owned(), self.topic.into());
        object.insert("partition".to_owned(), self.partition.into());
        object.insert("offset".to_owned(), self.offset.into());
        object.insert("timestamp_ms".to_owned(), self.timestamp_ms.into());
        insert_bytes(&mut object, "key", self.key);
        insert_bytes(&mut object, "value", self.value);
        let header = |header: &Header| {
            let mut object = serde_json::Map::new();
            object.insert("key".to_owned(), header.key.clone().into());
            insert_bytes(&mut object, "value", header.value.as_deref());
            object.into()
        };
        let headers: Vec<serde_json::Value> = self.headers.iter().map(header).collect();
        object.insert("headers".to_owned(), headers.into());
        object.into()
    }
}

fn insert_bytes(
    object: &mut serde_json::Map<String, serde_json::Value>,
    name: &str,
    bytes: Option<&[u8]>,
) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => object.insert(name.to_owned(), serde_json::Value::Null),
        Some((_, Ok(text))) => object.insert(name.to_owned(), text.into()),
        Some((bytes, Err(_))) => {
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            object.insert(format!("{name}_base64"), text.into())
        }
    };
}

/// How each consumed record is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFormat {
    pieces: Vec<Piece>,
    /// What stands for a key, value or header value that is absent.
    null: Vec<u8>,
}

impl Default for OutputFormat {
    /// The value on a line of its own.
    fn default() -> OutputFormat {
        OutputFormat {
            pieces: vec![Piece::Field(Field::Value), Piece::Text(b"\n".to_vec())],
            null: Vec::new(),
        }
    }
}

impl FromStr for OutputFormat {
    type Err = FormatError;

    fn from_str(format: &str) -> Result<OutputFormat, FormatError> {
        parse(format).map(|pieces| OutputFormat {
            pieces,
            null: Vec::new(),
        })
    }
}

impl OutputFormat {
    /// The same format with a text for what is absent.
    #[must_use]
    pub fn with_null(self, text: &str) -> OutputFormat {
        OutputFormat {
            null: text.as_bytes().to_vec(),
            ..self
        }
    }

    /// Appends the record as the format shows it.
    pub fn write(&self, record: &RecordView<'_>, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Field(field) => write_field(*field, record, &self.null, out),
            }
        }
    }
}

fn write_field(field: Field, record: &RecordView<'_>, null: &[u8], out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let mut number = |number: i64| {
        let _ = write!(out, "{number}");
    };
    match field {
        Field::Partition => number(i64::from(record.partition)),
        Field::Offset => number(record.offset),
        Field::Timestamp => number(record.timestamp_ms),
        Field::Topic => out.extend_from_slice(record.topic.as_bytes()),
        Field::Key => out.extend_from_slice(record.key.unwrap_or(null)),
        Field::Value => out.extend_from_slice(record.value.unwrap_or(null)),
        Field::Headers => {
            for (index, header) in record.headers.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(header.key.as_bytes());
                out.push(b'=');
                out.extend_from_slice(header.value.as_deref().unwrap_or(null));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: OutputFormat, key: Option<&[u8]>) -> String {
        let headers = [
            Header {
                key: "a".to_owned(),
                value: Some(b"1".as_slice().into()),
            },
            Header {
                key: "b".to_owned(),
                value: None,
            },
        ];
        let record = RecordView {
            topic: "orders",
            partition: 3,
            offset: 42,
            timestamp_ms: 1_700,
            key,
            value: Some(b"value"),
            headers: &headers,
        };
        let mut out = Vec::new();
        format.write(&record, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_field_is_shown() {
        let format = "%t-%p@%o %d %k=%v [%h]\\n".parse().unwrap();
        assert_eq!(
            written(format, Some(b"key")),
            "orders-3@42 1700 key=value [a=1,b=]\n"
        );
    }

    #[test]
    fn json_holds_text_as_text_and_other_bytes_in_base64() {
        let record = RecordView {
            topic: "t",
            partition: 0,
            offset: 1,
            timestamp_ms: 2,
            key: Some(&[0xff, 0x00]),
            value: None,
            headers: &[],
        };
        assert_eq!(
            record.to_json(),
            serde_json::json!({
                "topic": "t", "partition": 0, "offset": 1, "timestamp_ms": 2,
                "key_base64": "/wA=", "value": null, "headers": [],
            })
        );
    }

    #[test]
    fn the_default_is_a_value_a_line_and_an_absent_key_is_nothing() {
        assert_eq!(written(OutputFormat::default(), None), "value\n");
        let key: OutputFormat = "<%k>".parse().unwrap();
        assert_eq!(written(key.clone(), None), "<>");
        assert_eq!(written(key.with_null("NULL"), None), "<NULL>");
        let headers: OutputFormat = "%h".parse().unwrap();
        assert_eq!(written(headers.with_null("NULL"), None), "a=1,b=NULL");
    }
}
