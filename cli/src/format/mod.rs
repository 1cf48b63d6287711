//! The percent language of `produce -f` and `consume -f`: `%k\t%v\n` names fields and the text
//! between them. Pure; [`OutputFormat`] writes records, [`InputFormat`] reads them.
//!
//! `%t` topic, `%p` partition, `%o` offset, `%d` timestamp in milliseconds, `%k` key, `%v` value,
//! `%h` headers as `name=value` joined by commas, `%%` a percent sign; `\n`, `\t`, `\r`, `\0` and
//! `\\` stand for themselves.

mod input;
mod output;

pub use input::{InputFormat, InputRecord, MalformedRecord, parse_header};
pub use output::{OutputFormat, RecordView};

/// A field of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    Headers,
}

impl Field {
    fn from_letter(letter: char) -> Option<Field> {
        Some(match letter {
            't' => Field::Topic,
            'p' => Field::Partition,
            'o' => Field::Offset,
            'd' => Field::Timestamp,
            'k' => Field::Key,
            'v' => Field::Value,
            'h' => Field::Headers,
            _ => return None,
        })
    }
}

/// A part of a format: a field, or text that stands as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Field(Field),
    Text(Vec<u8>),
}

/// A format that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("'%{0}' is no field; known are %t %p %o %d %k %v %h and %%")]
    UnknownField(char),
    #[error("'%{0}' is no field of a record to produce; known are %k %v %p %h and %%")]
    UnknownInputField(char),
    #[error("'\\{0}' is no escape; known are \\n \\t \\r \\0 and \\\\")]
    UnknownEscape(char),
    #[error("the format ends in the middle of '{0}'")]
    CutOff(char),
    #[error("the format names no field, so every record would look the same")]
    NoField,
    #[error("%{0} is not for producing; use %k, %v, %p and %h")]
    NotForInput(char),
    #[error("the format has %{0} twice")]
    Twice(char),
    #[error("two fields follow each other; put text between them, so that they can be told apart")]
    NoText,
}

/// Splits a format into its pieces; adjacent text is one piece.
fn parse(format: &str) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut text = Vec::new();
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' && character != '\\' {
            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let next = rest.next().ok_or(FormatError::CutOff(character))?;
        if character == '\\' {
            text.push(escape(next)?);
        } else if next == '%' {
            text.push(b'%');
        } else {
            let field = Field::from_letter(next).ok_or(FormatError::UnknownField(next))?;
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Field(field));
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    if !pieces.iter().any(|piece| matches!(piece, Piece::Field(_))) {
        return Err(FormatError::NoField);
    }
    Ok(pieces)
}

fn escape(letter: char) -> Result<u8, FormatError> {
    Ok(match letter {
        'n' => b'\n',
        't' => b'\t',
        'r' => b'\r',
        '0' => 0,
        '\\' => b'\\',
        _ => return Err(FormatError::UnknownEscape(letter)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_fields_alternate() {
        assert_eq!(
            parse("%k\\t100%%:%v\\n").unwrap(),
            [
                Piece::Field(Field::Key),
                Piece::Text(b"\t100%:".to_vec()),
                Piece::Field(Field::Value),
                Piece::Text(b"\n".to_vec()),
            ]
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(parse("%x"), Err(FormatError::UnknownField('x')));
        assert_eq!(parse("%v\\q"), Err(FormatError::UnknownEscape('q')));
        assert_eq!(parse("%v%"), Err(FormatError::CutOff('%')));
        assert_eq!(parse("text"), Err(FormatError::NoField));
    }
}
