//! How often something may happen: `60/min`.

use super::entries::{EntryError, shown};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// So many in such a time, evenly: as many at once as the number says, then one each `per / count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// From 1 to a million.
    pub count: u32,
    pub per: Duration,
}

/// The word that is written, the words that are read, seconds.
const UNITS: [(&str, &[&str], u64); 4] = [
    ("s", &["s", "sec", "second"], 1),
    ("min", &["m", "min", "minute"], 60),
    ("h", &["h", "hour"], 3600),
    ("day", &["d", "day"], 86_400),
];

const MOST: u32 = 1_000_000;

impl FromStr for Rate {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let wrong = || {
            EntryError::new(
                format!("`{}` is not a rate", shown(text)),
                "write a number and a time, as in `10/s`, `60/min`, `500/h` or `1000/day`",
            )
        };
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count: u32 = count.parse().map_err(|_| wrong())?;
        let (_, _, seconds) = UNITS
            .iter()
            .find(|(_, names, _)| names.contains(&unit))
            .ok_or_else(wrong)?;
        if !digits || count == 0 || count > MOST {
            return Err(wrong());
        }
        Ok(Self {
            count,
            per: Duration::from_secs(*seconds),
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(_, _, seconds)| *seconds == self.per.as_secs())
            .map_or("?", |(name, _, _)| name);
        write!(f, "{}/{unit}", self.count)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse()
            .map_err(|error: EntryError| de::Error::custom(format_args!("{error}\n{}", error.hint)))
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How often: \"10/s\", \"60/min\", \"500/h\", \"1000/day\".",
            "type": "string",
            "pattern": "^[0-9]+/(s|sec|second|m|min|minute|h|hour|d|day)$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_shown_as_they_are_read() {
        for (text, count, seconds, shown) in [
            ("60/min", 60, 60, "60/min"),
            ("1/m", 1, 60, "1/min"),
            ("10/s", 10, 1, "10/s"),
            ("500/hour", 500, 3600, "500/h"),
            ("1000/day", 1000, 86_400, "1000/day"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.count, rate.per.as_secs()), (count, seconds));
            assert_eq!(rate.to_string(), shown);
        }
        for text in [
            "",
            "60",
            "/min",
            "0/min",
            "-1/s",
            "+1/s",
            "1.5/s",
            "60/fortnight",
            "60 /min",
            "1000001/s",
            "60/min/s",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
