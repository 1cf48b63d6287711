//! Points in time as people write them: `2026-01-31T12:00:00Z`, `2026-01-31`, `1769860800000`, or
//! `-1h` for an hour ago. Pure: what is relative stays so until somebody knows the time.

use std::time::Duration;

use crate::duration;

const MS_PER_MINUTE: i64 = 60_000;
const MS_PER_DAY: i64 = 24 * 60 * MS_PER_MINUTE;
/// Up to this many digits, a number of milliseconds would lie in 1970; it is one of seconds.
const SECONDS_DIGITS_MAX: usize = 10;

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointInTime {
    /// Milliseconds since the Unix epoch.
    At(i64),
    /// So long before now.
    Ago(Duration),
}

impl PointInTime {
    /// Milliseconds since the Unix epoch, if it is `now_ms` now.
    pub fn millis(self, now_ms: i64) -> i64 {
        match self {
            PointInTime::At(at) => at,
            PointInTime::Ago(ago) => {
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                now_ms.saturating_sub(ago).max(0)
            }
        }
    }

    /// Whether it lies behind another, whatever the time is.
    pub fn is_behind(self, other: PointInTime) -> bool {
        match (self, other) {
            (PointInTime::At(at), PointInTime::At(other)) => at > other,
            (PointInTime::Ago(ago), PointInTime::Ago(other)) => ago < other,
            _ => false,
        }
    }

    /// Parses a date, a date with a time, milliseconds since the Unix epoch, or how long ago.
    pub fn parse(text: &str) -> Result<PointInTime, String> {
        if let Some(ago) = text.strip_prefix('-') {
            return match duration::parse(ago) {
                Ok(ago_for) if !is_digits(ago) => Ok(PointInTime::Ago(ago_for)),
                _ => Err(format!(
                    "'{text}' is no time; with a unit, such as -30s or -1h, it is one"
                )),
            };
        }
        if is_digits(text) {
            return milliseconds(text).map(PointInTime::At);
        }
        if duration::parse(text).is_ok() {
            return Err(format!(
                "'{text}' is no time; write -{text} for so long ago"
            ));
        }
        civil(text).map(PointInTime::At).ok_or_else(|| {
            format!(
                "'{text}' is no time; write 2026-01-31T12:00:00Z (or with +01:00 for Z), \
                 2026-01-31, milliseconds since 1970, or -1h for an hour ago"
            )
        })
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn milliseconds(digits: &str) -> Result<i64, String> {
    if digits.len() <= SECONDS_DIGITS_MAX {
        return Err(format!(
            "{digits} would be milliseconds in early 1970; if it is seconds, write {digits}000"
        ));
    }
    let number = digits.parse();
    number.map_err(|_| format!("{digits} milliseconds are too many"))
}

/// A date, or a date and a time of day. Without an offset from UTC it is UTC.
fn civil(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let days = days_since_epoch(date)?;
    let within = time.map_or(Some(0), time_of_day)?;
    let at = days.checked_mul(MS_PER_DAY)?.checked_add(within)?;
    (at >= 0).then_some(at)
}

/// Exactly `width` digits.
fn number(text: &str, width: usize) -> Option<i64> {
    (text.len() == width && is_digits(text)).then(|| text.parse().ok())?
}

fn days_since_epoch(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4)?;
    let month = number(parts.next()?, 2)?;
    let day = number(parts.next()?, 2)?;
    if parts.next().is_some() || !(1..=12).contains(&month) || day < 1 {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if leap { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month - 1).ok()?;
    if day > lengths[month] {
        return None;
    }
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    Some(years + lengths[..month].iter().sum::<i64>() + day - 1)
}

/// Milliseconds after midnight UTC, which may be of the day before or after.
fn time_of_day(text: &str) -> Option<i64> {
    let (clock, offset_ms) = match text.find(['Z', 'z', '+', '-']) {
        Some(at) => (&text[..at], utc_offset(&text[at..])?),
        None => (text, 0),
    };
    let mut parts = clock.split(':');
    let hours = number(parts.next()?, 2).filter(|hours| *hours < 24)?;
    let minutes = number(parts.next()?, 2).filter(|minutes| *minutes < 60)?;
    let seconds_ms = parts.next().map_or(Some(0), seconds)?;
    if parts.next().is_some() {
        return None;
    }
    Some((hours * 60 + minutes) * MS_PER_MINUTE + seconds_ms - offset_ms)
}

/// Seconds with or without a fraction, as milliseconds.
fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole = number(whole, 2).filter(|seconds| *seconds < 60)?;
    if !is_digits(fraction) {
        return None;
    }
    let digits = fraction.chars().chain("00".chars()).take(3);
    Some(whole * 1_000 + digits.collect::<String>().parse::<i64>().ok()?)
}

/// `Z`, `+01:00`, `+0100` or `+01`.
fn utc_offset(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits = text.get(1..)?.replace(':', "");
    let (hours, minutes) = match digits.len() {
        2 => (number(&digits, 2)?, 0),
        4 => (number(&digits[..2], 2)?, number(&digits[2..], 2)?),
        _ => return None,
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * MS_PER_MINUTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn at(text: &str) -> i64 {
        match PointInTime::parse(text) {
            Ok(PointInTime::At(at)) => at,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn dates_and_times_with_or_without_offset_are_understood() {
        assert_eq!(at("1970-01-01"), 0);
        assert_eq!(at("2026-01-31"), 1_769_817_600_000);
        assert_eq!(at("2026-01-31T12:00:00Z"), 1_769_860_800_000);
        for same in [
            "2026-01-31 12:00",
            "2026-01-31t12:00:00.000z",
            "2026-01-31T13:00:00+01:00",
            "2026-01-31T07:00:00-0500",
            "2026-02-01T01:30:00+13:30",
        ] {
            assert_eq!(at(same), 1_769_860_800_000, "{same}");
        }
        assert_eq!(at("2026-01-31T12:00:00.5Z"), 1_769_860_800_500);
        assert_eq!(at("2000-02-29"), 951_782_400_000);
        assert_eq!(at("2024-12-31T23:59:59.999Z"), 1_735_689_599_999);
        assert_eq!(at("2100-03-01"), 4_107_542_400_000);
    }

    #[test]
    fn milliseconds_are_numbers_and_seconds_are_refused_with_a_hint() {
        assert_eq!(at("1769860800000"), 1_769_860_800_000);
        let hint = PointInTime::parse("1769860800").unwrap_err();
        assert!(hint.contains("1769860800000"), "{hint}");
        assert!(PointInTime::parse("0").is_err());
    }

    #[test]
    fn an_hour_ago_counts_back_from_now() {
        let ago = PointInTime::parse("-1h").unwrap();
        assert_eq!(ago, PointInTime::Ago(Duration::from_secs(3_600)));
        assert_eq!(ago.millis(5_000_000), 1_400_000);
        assert_eq!(ago.millis(1), 0);
        let hint = PointInTime::parse("1h").unwrap_err();
        assert!(hint.contains("-1h"), "{hint}");
        assert!(PointInTime::parse("-10").unwrap_err().contains("unit"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "soon",
            "-",
            "2026-13-01",
            "2026-02-29",
            "2026-00-10",
            "2026-01-00",
            "26-01-01",
            "2026-01-31T",
            "2026-01-31T24:00",
            "2026-01-31T12:60",
            "2026-01-31T12:00:60",
            "2026-01-31T12:00Zx",
            "2026-01-31T12:00+1",
            "2026-01-31T12:00:00.",
            "1969-12-31",
            "99999999999999999999",
            "2026-01-31T12:00:0\u{661}",
        ] {
            assert!(PointInTime::parse(text).is_err(), "{text}");
        }
    }
}
