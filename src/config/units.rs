//! Sizes and durations as people write them: `1MiB`, `64KiB`, `30s`, `10m`.
//!
//! Both types parse once and are valid from then on. A bare `1M` or `1K` is refused instead of
//! guessed: half of the world reads it as 10^6, the other half as 2^20.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes. Written as `512`, `512B`, `64KiB`, `1MiB` (powers of 1024) or `64kB`, `1MB`
/// (powers of 1000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A length of time. Written as a number and a unit: `500ms`, `30s`, `10m`, `1h`, `2d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan(pub Duration);

/// Processors, in thousandths. Written as `2`, `1.5` or `0.25`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cores(pub u64);

/// Why a size or duration is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("`{text}` is not a size")]
    Size { text: String, hint: &'static str },
    #[error("`{text}` is not a duration")]
    Time { text: String, hint: &'static str },
    #[error("`{text}` is not a number of processors")]
    Cores { text: String, hint: &'static str },
    #[error("`{text}` is too large to count")]
    Overflow { text: String, hint: &'static str },
}

impl UnitError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Size { hint, .. }
            | Self::Time { hint, .. }
            | Self::Cores { hint, .. }
            | Self::Overflow { hint, .. } => hint,
        }
    }
}

const SIZE_HINT: &str = "write a whole number and a unit, as in `512B`, `64KiB` or `1MiB`";
const SIZE_AMBIGUOUS: &str =
    "write `KiB`, `MiB`, `GiB` (powers of 1024) or `kB`, `MB`, `GB` (powers of 1000)";
const TIME_HINT: &str = "write a whole number and a unit, as in `500ms`, `30s`, `10m` or `1h`";

const CORES_HINT: &str = "write a number with at most three decimals, as in \"2\" or \"1.5\"";

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

/// Largest first, so that a value is shown in the largest unit that divides it.
const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Digits, then letters; `None` when the text does not start with a digit.
fn split(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    (!number.is_empty()).then(|| (number, unit.trim_start_matches(' ')))
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = |hint| UnitError::Size {
            text: text.to_owned(),
            hint,
        };
        let (number, unit) = split(text).ok_or_else(|| wrong(SIZE_HINT))?;
        let factor = if unit.is_empty() {
            1
        } else if let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
            *factor
        } else if [
            "k", "m", "g", "t", "kib", "mib", "gib", "tib", "mb", "gb", "tb",
        ]
        .contains(&unit.to_ascii_lowercase().as_str())
        {
            return Err(wrong(SIZE_AMBIGUOUS));
        } else {
            return Err(wrong(SIZE_HINT));
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| UnitError::Overflow {
                text: text.to_owned(),
                hint: SIZE_HINT,
            })
    }
}

impl FromStr for Cores {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Cores {
            text: text.to_owned(),
            hint: CORES_HINT,
        };
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) || !(1..=3).contains(&part.len()) {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let part: u64 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
        let all = whole.checked_mul(1000).and_then(|n| n.checked_add(part));
        all.map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in SIZE_UNITS.iter().filter(|(unit, _)| unit.len() == 3) {
            if self.0 >= *factor && self.0.is_multiple_of(*factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for TimeSpan {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Time {
            text: text.to_owned(),
            hint: TIME_HINT,
        };
        let (number, unit) = split(text).ok_or_else(wrong)?;
        let (_, factor) = TIME_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(*factor))
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(|| UnitError::Overflow {
                text: text.to_owned(),
                hint: TIME_HINT,
            })
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        for (unit, factor) in TIME_UNITS {
            let factor = u128::from(factor);
            if ms >= factor && ms.is_multiple_of(factor) {
                return write!(f, "{}{unit}", ms / factor);
            }
        }
        write!(f, "{ms}ms")
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"1MiB\" or a number of bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
        text.parse().map_err(unit_error)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteSize, E> {
        u64::try_from(number)
            .map(ByteSize)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
        Ok(ByteSize(number))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct CoresVisitor;

impl Visitor<'_> for CoresVisitor {
    type Value = Cores;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of processors such as \"1.5\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Cores, E> {
        text.parse().map_err(unit_error)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Cores, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Cores, E> {
        self.visit_str(&number.to_string())
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CoresVisitor)
    }
}

struct TimeVisitor;

impl Visitor<'_> for TimeVisitor {
    type Value = TimeSpan;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"30s\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<TimeSpan, E> {
        text.parse().map_err(unit_error)
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TimeVisitor)
    }
}

/// The hint travels behind a line feed, because a serde error is one string; `diagnose` splits it.
fn unit_error<E: de::Error>(error: UnitError) -> E {
    E::custom(format_args!("{error}\n{}", error.hint()))
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes: 512, \"512B\", \"64KiB\", \"1MiB\" (powers of 1024), \"64kB\", \"1MB\" (powers of 1000).",
            "type": ["string", "integer"],
            "pattern": "^[0-9]+ *(B|kB|KB|MB|GB|KiB|MiB|GiB|TiB)?$",
            "minimum": 0
        })
    }
}

impl JsonSchema for Cores {
    fn schema_name() -> Cow<'static, str> {
        "Cores".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of processors: 2, 1.5, \"0.25\".",
            "type": ["string", "number"],
            "pattern": "^[0-9]+([.][0-9]{1,3})?$",
            "minimum": 0
        })
    }
}

impl JsonSchema for TimeSpan {
    fn schema_name() -> Cow<'static, str> {
        "TimeSpan".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A length of time: \"500ms\", \"30s\", \"10m\", \"1h\", \"2d\".",
            "type": "string",
            "pattern": "^[0-9]+ *(ms|s|m|h|d)$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn processors_have_up_to_three_decimals() {
        for (text, thousandths, shown) in [
            ("2", 2000, "2"),
            ("1.5", 1500, "1.5"),
            ("0.25", 250, "0.25"),
            ("10.000", 10_000, "10"),
            ("0.001", 1, "0.001"),
        ] {
            assert_eq!(text.parse(), Ok(Cores(thousandths)));
            assert_eq!(Cores(thousandths).to_string(), shown);
        }
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "1.2345",
            "-1",
            "1,5",
            "500m",
            "1e3",
            "99999999999999999999",
        ] {
            assert!(text.parse::<Cores>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_parse_in_both_systems() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("64KiB", 65_536),
            ("64kB", 64_000),
            ("1MiB", 1_048_576),
            ("1MB", 1_000_000),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn ambiguous_and_broken_sizes_are_refused() {
        for text in ["1M", "1k", "1mb", "1kib"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert_eq!(error.hint(), SIZE_AMBIGUOUS, "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1 MiB!", "1MiB ", " 1", "٣MiB"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert_eq!(error.hint(), SIZE_HINT, "{text}");
        }
        assert!(matches!(
            "99999999999TiB".parse::<ByteSize>(),
            Err(UnitError::Overflow { .. })
        ));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("500ms".parse(), Ok(TimeSpan(Duration::from_millis(500))));
        assert_eq!("30s".parse(), Ok(TimeSpan(Duration::from_secs(30))));
        assert_eq!("10m".parse(), Ok(TimeSpan(Duration::from_secs(600))));
        assert_eq!("1h".parse(), Ok(TimeSpan(Duration::from_secs(3600))));
        for text in ["30", "", "s", "1.5s", "30S", "30 sec", "1h30m"] {
            assert!(text.parse::<TimeSpan>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(bytes: u64, ms in 0u64..u64::MAX / 2) {
            let size = ByteSize(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let time = TimeSpan(Duration::from_millis(ms));
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text: String) {
            text.parse::<ByteSize>().ok();
            text.parse::<TimeSpan>().ok();
        }
    }
}
