//! Sizes and rates as people type them: `100`, `16KiB`, `1MB`; `50000`, `30MB`. Pure.

use std::str::FromStr;

use ottla_model::limits::BATCH_BYTES_MAX;

/// Units and how many bytes they stand for, longest spelling first.
const UNITS: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount(pub u64);

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Amount, String> {
        let expected = || {
            format!(
                "'{text}' is no size; write a whole number with B, KB, MB, GB, KiB, MiB or GiB, as \
                 16KiB"
            )
        };
        let unit = UNITS.iter().find(|(unit, _)| text.ends_with(unit));
        let (digits, factor) = match unit {
            Some((unit, factor)) => (&text[..text.len() - unit.len()], *factor),
            None => (text, 1),
        };
        let whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = whole.then(|| digits.parse::<u64>().ok()).flatten();
        let bytes = number.and_then(|number| number.checked_mul(factor));
        bytes.map(Amount).ok_or_else(expected)
    }
}

/// Parses the size of a batch or of what must fit into one.
pub fn batch_bytes(text: &str) -> Result<usize, String> {
    let Amount(bytes) = text.parse()?;
    let fitting = usize::try_from(bytes).ok();
    let fitting = fitting.filter(|bytes| *bytes <= BATCH_BYTES_MAX);
    fitting
        .ok_or_else(|| format!("{bytes} bytes are more than a batch may have ({BATCH_BYTES_MAX})"))
}

/// How much is sent in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    Records(u64),
    Bytes(u64),
}

impl Rate {
    /// Records a second, if each has so many bytes.
    pub fn records_per_second(self, record_bytes: usize) -> f64 {
        match self {
            Rate::Records(records) => records as f64,
            Rate::Bytes(bytes) => bytes as f64 / record_bytes.max(1) as f64,
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let expected = || {
            format!("'{text}' is no rate; write records a second as 5000 or bytes a second as 30MB")
        };
        let trimmed = text.strip_suffix("/s").unwrap_or(text);
        let Amount(number) = trimmed.parse().map_err(|_| expected())?;
        if number == 0 {
            return Err(expected());
        }
        Ok(if trimmed.ends_with('B') {
            Rate::Bytes(number)
        } else {
            Rate::Records(number)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_a_size_with_a_unit_and_a_limit() {
        assert_eq!(batch_bytes("2MiB"), Ok(2 << 20));
        assert_eq!(batch_bytes("16384"), Ok(16_384));
        let refused = batch_bytes("1GiB").unwrap_err();
        assert!(refused.contains("more than a batch may have"), "{refused}");
        assert!(batch_bytes("2 MiB").unwrap_err().contains("no size"));
    }

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        let parsed = |text: &str| text.parse::<Amount>().map(|amount| amount.0);
        assert_eq!(parsed("100"), Ok(100));
        assert_eq!(parsed("100B"), Ok(100));
        assert_eq!(parsed("1KiB"), Ok(1024));
        assert_eq!(parsed("2MB"), Ok(2_000_000));
        assert_eq!(parsed("4GiB"), Ok(4 << 30));
        for nonsense in [
            "",
            "KiB",
            "-1",
            "1.5MB",
            "1 KiB",
            "1TB",
            "99999999999GiB",
            "+5",
        ] {
            assert!(parsed(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn a_rate_counts_records_unless_it_names_bytes() {
        assert_eq!("5000".parse(), Ok(Rate::Records(5_000)));
        assert_eq!("5000/s".parse(), Ok(Rate::Records(5_000)));
        assert_eq!("30MB/s".parse(), Ok(Rate::Bytes(30_000_000)));
        assert!("0".parse::<Rate>().is_err());
        assert!("fast".parse::<Rate>().unwrap_err().contains("30MB"));
        assert_eq!(Rate::Bytes(1_024_000).records_per_second(1_024), 1_000.0);
    }
}
