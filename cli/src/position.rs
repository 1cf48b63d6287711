//! The little language for places in a log: `start`, `end`, `47`, `+2` (two after the start), `-3`
//! (three before the end), `@` and a time; and from one to another, `10:20` or `@-1h:end`. Pure.

use std::str::FromStr;

use ottla_client::OffsetSpec;
use ottla_model::{Offset, TimestampMs};

use crate::timestamp::PointInTime;

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    Earliest,
    Latest,
    Offset(i64),
    /// So many offsets behind the first.
    AfterEarliest(i64),
    /// So many offsets before the end.
    BeforeLatest(i64),
    Time(PointInTime),
}

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: Position,
    /// The first that is no longer read; `None` if there is no end.
    pub to: Option<Position>,
}

/// What a partition holds, for finding a position in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub first: Offset,
    /// The offset of the next record to come.
    pub end: Offset,
}

impl Position {
    /// What to ask a partition's leader for, besides its extent.
    pub fn asks_for(self, now_ms: i64) -> Option<OffsetSpec> {
        match self {
            Position::Time(time) => Some(OffsetSpec::Timestamp(TimestampMs(time.millis(now_ms)))),
            _ => None,
        }
    }

    /// The offset in a partition, where `at_time` is the first at or after the position's time. A
    /// time behind which there is nothing is the end; what counts from an end stays inside.
    pub fn resolve(self, extent: Extent, at_time: Option<Offset>) -> Offset {
        match self {
            Position::Earliest => extent.first,
            Position::Latest => extent.end,
            Position::Offset(offset) => Offset(offset),
            Position::AfterEarliest(count) => {
                Offset(extent.first.0.saturating_add(count)).min(extent.end)
            }
            Position::BeforeLatest(count) => {
                Offset(extent.end.0.saturating_sub(count)).max(extent.first)
            }
            Position::Time(_) => at_time.unwrap_or(extent.end),
        }
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Position, String> {
        let number = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<i64>().ok().filter(|_| plain)
        };
        let position = match text.strip_prefix('@').unwrap_or(text) {
            "earliest" | "beginning" | "start" => Some(Position::Earliest),
            "latest" | "end" => Some(Position::Latest),
            time if time.len() < text.len() => return PointInTime::parse(time).map(Position::Time),
            _ => match text.split_at_checked(1) {
                Some(("+", count)) => number(count).map(Position::AfterEarliest),
                Some(("-", count)) => number(count).map(Position::BeforeLatest),
                _ => number(text).map(Position::Offset),
            },
        };
        position.ok_or_else(|| {
            format!("'{text}' is no position; use an offset, start, end, +N, -N, or @ and a time")
        })
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let span = parse_span(text)?;
        match span.to {
            Some(to) if runs_back(span.from, to) => Err(format!(
                "'{text}' ends before it begins; write the earlier position first"
            )),
            _ => Ok(span),
        }
    }
}

/// Whether one position lies behind another, whatever the log holds.
fn runs_back(from: Position, to: Position) -> bool {
    use Position::{AfterEarliest, BeforeLatest, Earliest, Latest, Offset, Time};
    match (from, to) {
        (Offset(from), Offset(to)) => from > to,
        (AfterEarliest(from), AfterEarliest(to)) => from > to,
        (BeforeLatest(from), BeforeLatest(to)) => from < to,
        (Latest, BeforeLatest(before)) => before > 0,
        (AfterEarliest(after), Earliest) => after > 0,
        (Latest, Earliest) => true,
        (Time(from), Time(to)) => from.is_behind(to),
        _ => false,
    }
}

fn parse_span(text: &str) -> Result<Span, String> {
    let whole = match text.parse() {
        Ok(from) => return Ok(Span { from, to: None }),
        Err(error) => error,
    };
    // A time may hold colons itself, so each colon is tried as the one between two positions.
    let mut fault = whole;
    for (at, _) in text.match_indices(':') {
        let from = match &text[..at] {
            "" => Ok(Position::Earliest),
            from => from.parse(),
        };
        let to = match &text[at + 1..] {
            "" => Ok(None),
            to => to.parse().map(Some),
        };
        match (from, to) {
            (Ok(from), Ok(to)) => return Ok(Span { from, to }),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => fault = error,
            (Err(_), Err(_)) => {}
        }
    }
    Err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(text: &str) -> Position {
        text.parse().unwrap()
    }

    #[track_caller]
    fn span(text: &str) -> (Position, Option<Position>) {
        let Span { from, to } = text.parse().unwrap();
        (from, to)
    }

    const EXTENT: Extent = Extent {
        first: Offset(10),
        end: Offset(20),
    };

    #[test]
    fn positions_are_offsets_names_distances_or_times() {
        assert_eq!(position("earliest"), Position::Earliest);
        assert_eq!(position("end"), Position::Latest);
        assert_eq!(position("42"), Position::Offset(42));
        assert_eq!(position("+2"), Position::AfterEarliest(2));
        assert_eq!(position("-3"), Position::BeforeLatest(3));
        let at = Position::Time(PointInTime::At(1_700_000_000_000));
        assert_eq!(position("@1700000000000"), at);
        assert_eq!(position("@2023-11-14T22:13:20Z"), at);
        for text in [
            "",
            "@",
            "@soon",
            "somewhere",
            "+",
            "--1",
            "+-1",
            "1.5",
            "\u{661}",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_since_1970_are_never_taken_for_milliseconds() {
        for text in ["@1700000000", "@1700000000:end", ":@1700000000"] {
            let hint = text.parse::<Span>().unwrap_err();
            assert!(hint.contains("1700000000000"), "{text}: {hint}");
        }
    }

    #[test]
    fn a_span_runs_from_one_position_to_another() {
        let (ten, twenty) = (Position::Offset(10), Position::Offset(20));
        assert_eq!(span("10"), (ten, None));
        assert_eq!(span("10:20"), (ten, Some(twenty)));
        assert_eq!(span(":end"), (Position::Earliest, Some(Position::Latest)));
        assert_eq!(span("10:"), (ten, None));
        let noon = position("@2026-01-31T12:00:00Z");
        assert_eq!(span("@2026-01-31T12:00:00Z"), (noon, None));
        assert_eq!(
            span("@2026-01-31T12:00:00Z:@end"),
            (noon, Some(Position::Latest))
        );
        assert_eq!(
            span("@-1h:@2026-01-31T12:00:00+00:00"),
            (position("@-1h"), Some(noon))
        );
        assert!("10:20:30".parse::<Span>().is_err());
        assert!("a:b".parse::<Span>().is_err());
    }

    #[test]
    fn a_span_that_runs_backwards_is_refused() {
        for text in [
            "20:10",
            "end:start",
            "+5:+2",
            "-2:-5",
            "end:-1",
            "@-1h:@-2h",
            "@2026-01-31T12:00:00Z:@2026-01-30",
        ] {
            let refused = text.parse::<Span>().unwrap_err();
            assert!(
                refused.contains("ends before it begins"),
                "{text}: {refused}"
            );
        }
        for text in ["10:10", "-5:-2", "end:47", "47:end", "@2026-01-31:@-1h"] {
            assert!(text.parse::<Span>().is_ok(), "{text}");
        }
    }

    #[test]
    fn a_position_is_found_within_what_the_partition_holds() {
        let find = |text: &str, at_time| position(text).resolve(EXTENT, at_time).0;
        assert_eq!(find("start", None), 10);
        assert_eq!(find("end", None), 20);
        assert_eq!(find("+3", None), 13);
        assert_eq!(find("+30", None), 20);
        assert_eq!(find("-3", None), 17);
        assert_eq!(find("-30", None), 10);
        assert_eq!(find("5", None), 5);
        assert_eq!(find("@-1h", Some(Offset(12))), 12);
        assert_eq!(find("@-1h", None), 20);
    }
}
