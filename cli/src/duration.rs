//! Durations as people type and read them: `250ms`, `10s`, `5m`, `1h`, `7d`.

use std::time::Duration;

/// Parses a whole number with a unit; without one it means seconds, which the help of every option
/// that takes a duration says.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let expected = || {
        format!(
            "'{text}' is no duration; write a whole number with ms, s, m, h or d, as 250ms or 10s"
        )
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(expected()),
    };
    number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("'{text}' is too long a time"))
}

/// A duration for people, in milliseconds below ten seconds and in seconds above.
pub fn show(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1_000.0;
    if milliseconds < 10.0 {
        format!("{milliseconds:.1} ms")
    } else if milliseconds < 10_000.0 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_multiply_and_seconds_are_the_default() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("2d"), Ok(Duration::from_secs(172_800)));
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in [
            "",
            "s",
            "-1s",
            "1.5s",
            "10 s",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("soon").unwrap_err().contains("10s"));
    }

    #[test]
    fn people_see_the_digits_that_matter() {
        assert_eq!(show(Duration::from_micros(2_340)), "2.3 ms");
        assert_eq!(show(Duration::from_millis(387)), "387 ms");
        assert_eq!(show(Duration::from_millis(12_340)), "12.3 s");
    }
}
