//! What keeps a server and whoever calls it from harming each other: the types of `[breaker]`,
//! `[retry]`, `[repeats]`, `[budget]`, and of what a result may hold.

use super::entries::{EntryError, Word, shown};
use super::rates::Rate;
use super::units::ByteSize;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A whole number of hundredths, from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

/// When calls stop because too many of them fail. `None` in [`super::Config`]: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// The time that counts. Default 60 s.
    pub window: Duration,
    /// Calls in that time below which nothing stops. Default 10.
    pub calls: u32,
    /// The share of them that has to fail. Default 50 %.
    pub failures: Percent,
    /// From then until calls are tried again. Default 30 s.
    pub pause: Duration,
    /// Calls that are tried at one time, and that have to succeed. Default 1.
    pub probes: u32,
    /// A result with `isError` counts as a failure. Default false: most say that an argument is wrong.
    pub tool_errors: bool,
}

/// How often calls may be made again because a server was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Of the requests that were passed on. Default 10 %.
    pub share: Percent,
    /// As often in any case. Default 60/min.
    pub floor: Rate,
}

/// When the same call with the same answer is one too many. `None` in [`super::Config`]: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    /// Answers that were the same. Default 10.
    pub calls: u32,
    /// Within so long. Default 5 min.
    pub window: Duration,
    pub action: RepeatAction,
}

/// What happens to a call that has been made too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RepeatAction {
    /// The model is told to stop.
    #[default]
    Refuse,
    /// The operator is told.
    Warn,
}

/// What may be used up. Everything is optional; nothing is limited by what is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    pub calls: Option<u64>,
    /// Of arguments and results together.
    pub bytes: Option<ByteSize>,
    /// Estimated, of arguments and results together.
    pub tokens: Option<u64>,
    /// After so long it begins anew. `None`: never.
    pub per: Option<Duration>,
    /// Tokens in one minute that the operator is told of.
    pub alert: Option<u64>,
}

/// Budgets of a whole session and of a client; those of a tool are in its rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budgets {
    /// Of one session; where clients share a process, of one client of it.
    pub session: Option<Budget>,
    /// Of one client, whatever the number of its sessions.
    pub client: Option<Budget>,
}

/// What becomes of a tool result that is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// Text is cut behind a line, and says so; what is no plain text is refused.
    #[default]
    Truncate,
    Refuse,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            calls: 10,
            failures: Percent(50),
            pause: Duration::from_secs(30),
            probes: 1,
            tool_errors: false,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            share: Percent(10),
            floor: Rate {
                count: 60,
                per: Duration::from_secs(60),
            },
        }
    }
}

impl Default for Repeats {
    fn default() -> Self {
        Self {
            calls: 10,
            window: Duration::from_secs(300),
            action: RepeatAction::default(),
        }
    }
}

impl Word for RepeatAction {
    const WORDS: &'static [(&'static str, Self)] =
        &[("refuse", Self::Refuse), ("warn", Self::Warn)];
}

impl Word for Overlong {
    const WORDS: &'static [(&'static str, Self)] =
        &[("truncate", Self::Truncate), ("refuse", Self::Refuse)];
}

impl FromStr for Percent {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let number = text
            .strip_suffix('%')
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .filter(|number| *number <= 100);
        number.map(Self).ok_or_else(|| {
            EntryError::new(
                format!("`{}` is not a share", shown(text)),
                "write a whole number from 0% to 100%, as in `50%`",
            )
        })
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse()
            .map_err(|error: EntryError| de::Error::custom(format_args!("{error}\n{}", error.hint)))
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A share: \"50%\".",
            "type": "string",
            "pattern": "^[0-9]{1,3}%$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_and_at_most_all() {
        for (text, number) in [("0%", 0), ("50%", 50), ("100%", 100)] {
            let share: Percent = text.parse().unwrap();
            assert_eq!((share.0, share.to_string().as_str()), (number, text));
        }
        for text in ["", "%", "50", "101%", "-1%", "+1%", "1.5%", "50 %", "٣%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
