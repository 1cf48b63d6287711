//! Reading records in a format, from any buffered reader.

use std::io::{self, BufRead};
use std::str::FromStr;

use super::{Field, FormatError, Piece, parse};

/// The most bytes of one record in its text form; a terminator that never comes is found early.
const RECORD_TEXT_MAX: usize = 2 * ottla_model::limits::BATCH_BYTES_MAX;

/// A record as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputRecord {
    /// `None` where the format has no key or the key is empty.
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub partition: Option<i32>,
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Input that does not fit the format, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MalformedRecord {
    #[error("record {number} does not fit the format: {reason}")]
    Shape { number: u64, reason: String },
    #[error("record {number} is longer than {RECORD_TEXT_MAX} bytes")]
    TooLong { number: u64 },
    #[error("cannot read standard input")]
    Read(#[source] io::Error),
}

impl MalformedRecord {
    /// Which record it is, from 1; `None` if the input could not be read.
    pub fn number(&self) -> Option<u64> {
        match self {
            MalformedRecord::Shape { number, .. } | MalformedRecord::TooLong { number } => {
                Some(*number)
            }
            MalformedRecord::Read(_) => None,
        }
    }
}

/// How records are read: text before the first field, fields with the text behind each; the text
/// behind the last one ends a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFormat {
    prefix: Vec<u8>,
    fields: Vec<(Field, Vec<u8>)>,
    /// Whether a record ends with its line, however lines end. Otherwise every byte counts.
    by_line: bool,
}

impl Default for InputFormat {
    /// A value a line.
    fn default() -> InputFormat {
        InputFormat {
            prefix: Vec::new(),
            fields: vec![(Field::Value, b"\n".to_vec())],
            by_line: true,
        }
    }
}

impl FromStr for InputFormat {
    type Err = FormatError;

    /// Parses a format. If nothing follows its last field, a record ends with its line, be that
    /// with `\n` or with `\r\n`.
    fn from_str(format: &str) -> Result<InputFormat, FormatError> {
        let mut prefix = Vec::new();
        let mut fields: Vec<(Field, Vec<u8>)> = Vec::new();
        let pieces = parse(format).map_err(|error| match error {
            FormatError::UnknownField(letter) => FormatError::UnknownInputField(letter),
            error => error,
        });
        for piece in pieces? {
            match (piece, fields.last_mut()) {
                (Piece::Text(text), None) => prefix = text,
                (Piece::Text(text), Some((_, behind))) => *behind = text,
                (Piece::Field(_), Some((_, behind))) if behind.is_empty() => {
                    return Err(FormatError::NoText);
                }
                (Piece::Field(field), _) => {
                    let letter = input_letter(field)?;
                    if fields.iter().any(|(other, _)| *other == field) {
                        return Err(FormatError::Twice(letter));
                    }
                    fields.push((field, Vec::new()));
                }
            }
        }
        let mut by_line = false;
        if let Some((_, behind)) = fields.last_mut()
            && behind.is_empty()
        {
            behind.push(b'\n');
            by_line = true;
        }
        Ok(InputFormat {
            prefix,
            fields,
            by_line,
        })
    }
}

/// The letter of a field that can be produced.
fn input_letter(field: Field) -> Result<char, FormatError> {
    match field {
        Field::Key => Ok('k'),
        Field::Value => Ok('v'),
        Field::Partition => Ok('p'),
        Field::Headers => Ok('h'),
        Field::Topic => Err(FormatError::NotForInput('t')),
        Field::Offset => Err(FormatError::NotForInput('o')),
        Field::Timestamp => Err(FormatError::NotForInput('d')),
    }
}

impl InputFormat {
    /// Whether the format names the record's key.
    pub fn has_key(&self) -> bool {
        self.fields.iter().any(|(field, _)| *field == Field::Key)
    }

    /// Reads the next record; `None` at the end of the input. `number` counts from 1 and is for
    /// errors, `buffer` is scratch space.
    pub fn read(
        &self,
        reader: &mut impl BufRead,
        number: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<InputRecord>, MalformedRecord> {
        let Some((_, terminator)) = self.fields.last() else {
            return Ok(None);
        };
        buffer.clear();
        if !read_until(reader, terminator, number, buffer)? {
            return Ok(None);
        }
        // The last record may lack its terminator.
        let text = match buffer.strip_suffix(terminator.as_slice()) {
            Some(line) if self.by_line => line.strip_suffix(b"\r").unwrap_or(line),
            Some(text) => text,
            None => buffer,
        };
        self.split(text)
            .map(Some)
            .map_err(|reason| MalformedRecord::Shape { number, reason })
    }

    /// Whether this record, as it stood in the input, ends with a `\r` that its line's end left in
    /// its last field.
    pub fn keeps_carriage_return(&self, text: &[u8]) -> bool {
        let ends_in_newline = self.fields.last().is_some_and(|(_, after)| after == b"\n");
        !self.by_line && ends_in_newline && text.ends_with(b"\r\n")
    }

    /// The byte that a record ends with: without it, no whole record is there.
    pub fn last_byte(&self) -> u8 {
        let after = self.fields.last().and_then(|(_, after)| after.last());
        after.copied().unwrap_or(b'\n')
    }

    /// Takes a record's text apart. The first occurrence of a separator counts; the last field
    /// takes all that is left.
    fn split(&self, text: &[u8]) -> Result<InputRecord, String> {
        let mut rest = text
            .strip_prefix(self.prefix.as_slice())
            .ok_or_else(|| format!("it does not begin with {:?}", lossy(&self.prefix)))?;
        let mut record = InputRecord::default();
        let last = self.fields.len().saturating_sub(1);
        for (index, (field, behind)) in self.fields.iter().enumerate() {
            let content = if index == last {
                rest
            } else {
                let at =
                    find(rest, behind).ok_or_else(|| format!("{:?} is missing", lossy(behind)))?;
                let content = &rest[..at];
                rest = &rest[at + behind.len()..];
                content
            };
            set_field(&mut record, *field, content)?;
        }
        Ok(record)
    }
}

fn set_field(record: &mut InputRecord, field: Field, content: &[u8]) -> Result<(), String> {
    match field {
        Field::Key => record.key = (!content.is_empty()).then(|| content.to_vec()),
        Field::Value => record.value = content.to_vec(),
        Field::Partition => {
            let text = lossy(content);
            let partition = text.parse().ok().filter(|partition: &i32| *partition >= 0);
            let partition = partition.ok_or_else(|| format!("{text:?} is no partition"))?;
            record.partition = Some(partition);
        }
        Field::Headers => record.headers = parse_headers(content)?,
        Field::Topic | Field::Offset | Field::Timestamp => {}
    }
    Ok(())
}

/// Parses `name=value,name=value`; nothing is no headers.
fn parse_headers(text: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(|byte| *byte == b',').map(parse_header).collect()
}

/// Parses `name=value`.
pub fn parse_header(text: &[u8]) -> Result<(String, Vec<u8>), String> {
    let at = find(text, b"=").filter(|at| *at > 0);
    let at = at.ok_or_else(|| format!("{:?} is no header; write name=value", lossy(text)))?;
    let name = std::str::from_utf8(&text[..at])
        .map_err(|_| format!("the header name {:?} is not UTF-8", lossy(&text[..at])))?;
    Ok((name.to_owned(), text[at + 1..].to_vec()))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where `needle` first occurs.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    match needle {
        [byte] => haystack.iter().position(|other| other == byte),
        _ => haystack
            .windows(needle.len())
            .position(|window| window == needle),
    }
}

/// Reads up to and including the terminator, or to the end. False if there was nothing to read.
fn read_until(
    reader: &mut impl BufRead,
    terminator: &[u8],
    number: u64,
    buffer: &mut Vec<u8>,
) -> Result<bool, MalformedRecord> {
    let last = *terminator.last().unwrap_or(&b'\n');
    loop {
        let chunk = match reader.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(MalformedRecord::Read(error)),
        };
        if chunk.is_empty() {
            return Ok(!buffer.is_empty());
        }
        let end = chunk.iter().position(|byte| *byte == last);
        let taken = end.map_or(chunk.len(), |at| at + 1);
        buffer.extend_from_slice(&chunk[..taken]);
        reader.consume(taken);
        if end.is_some() && buffer.ends_with(terminator) {
            return Ok(true);
        }
        if buffer.len() > RECORD_TEXT_MAX {
            return Err(MalformedRecord::TooLong { number });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(format: &str, text: &[u8]) -> Result<Vec<InputRecord>, String> {
        let format: InputFormat = format.parse().unwrap();
        // A tiny buffer makes separators and terminators span reads.
        let mut reader = io::BufReader::with_capacity(3, text);
        let mut buffer = Vec::new();
        let mut records = Vec::new();
        loop {
            let number = records.len() as u64 + 1;
            match format.read(&mut reader, number, &mut buffer) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => return Ok(records),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn keyed(key: &str, value: &str) -> InputRecord {
        InputRecord {
            key: (!key.is_empty()).then(|| key.as_bytes().to_vec()),
            value: value.as_bytes().to_vec(),
            ..InputRecord::default()
        }
    }

    #[test]
    fn lines_are_values_and_the_last_needs_no_newline() {
        let expected = ["a", "", "b"].map(|value| keyed("", value));
        assert_eq!(read_all("%v", b"a\n\nb").unwrap(), expected);
        assert_eq!(read_all("%v\\n", b"a\n\nb\n").unwrap(), expected);
        assert_eq!(read_all("%v", b"").unwrap(), []);
    }

    #[test]
    fn a_line_may_end_in_a_carriage_return_where_the_format_does_not_say_how_it_ends() {
        let text = b"k\ta\r\nk\tb\n\t\r\nk\tc\r";
        let values = |format| -> Vec<Vec<u8>> {
            let records = read_all(format, text).unwrap();
            records.into_iter().map(|record| record.value).collect()
        };
        assert_eq!(values("%k\\t%v"), [&b"a"[..], b"b", b"", b"c\r"]);
        assert_eq!(values("%k\\t%v\\n"), [&b"a\r"[..], b"b", b"\r", b"c\r"]);
        let keeps = |format: &str, text: &[u8]| {
            let format: InputFormat = format.parse().unwrap();
            format.keeps_carriage_return(text)
        };
        assert!(keeps("%v\\n", b"a\r\n"));
        assert!(!keeps("%v\\n", b"a\n"));
        assert!(!keeps("%v", b"a\r\n"));
        assert!(!keeps("%v\\r\\n", b"a\r\n"));
    }

    #[test]
    fn a_record_ends_with_the_last_byte_of_its_format() {
        let last_byte = |format: &str| format.parse::<InputFormat>().unwrap().last_byte();
        assert_eq!(InputFormat::default().last_byte(), b'\n');
        assert_eq!(last_byte("%k\\t%v\\n"), b'\n');
        assert_eq!(last_byte("%k=%v;"), b';');
    }

    #[test]
    fn the_first_separator_counts_and_the_last_field_takes_the_rest() {
        assert_eq!(
            read_all("%k\\t%v\\n", b"k\tv\tw\n\tx\n").unwrap(),
            [keyed("k", "v\tw"), keyed("", "x")]
        );
    }

    #[test]
    fn a_terminator_may_be_longer_than_a_byte_and_values_may_hold_newlines() {
        assert_eq!(
            read_all("%k: %v--\\n", b"a: one\ntwo-\n--\nb: 3--\n").unwrap(),
            [keyed("a", "one\ntwo-\n"), keyed("b", "3")]
        );
    }

    #[test]
    fn partitions_and_headers_are_read() {
        let records = read_all("%p %h %v", b"2 a=1,b=x=y hello\n").unwrap();
        assert_eq!(records[0].partition, Some(2));
        assert_eq!(
            records[0].headers,
            [
                ("a".to_owned(), b"1".to_vec()),
                ("b".to_owned(), b"x=y".to_vec())
            ]
        );
    }

    #[test]
    fn a_record_that_does_not_fit_is_named_by_its_number() {
        let error = read_all("%k\\t%v", b"a\tb\nnone\n").unwrap_err();
        assert_eq!(
            error,
            "record 2 does not fit the format: \"\\t\" is missing"
        );
        assert!(
            read_all("%p %v", b"x y\n")
                .unwrap_err()
                .contains("no partition")
        );
        assert!(
            read_all("%h %v", b"=1 y\n")
                .unwrap_err()
                .contains("name=value")
        );
    }

    #[test]
    fn formats_that_cannot_be_read_are_refused() {
        let refused = |format: &str| format.parse::<InputFormat>().unwrap_err();
        assert_eq!(refused("%k%v"), FormatError::NoText);
        assert_eq!(refused("%v %v"), FormatError::Twice('v'));
        assert_eq!(refused("%o %v"), FormatError::NotForInput('o'));
        let unknown = refused("%q").to_string();
        assert!(
            unknown.ends_with("known are %k %v %p %h and %%"),
            "{unknown}"
        );
    }
}
