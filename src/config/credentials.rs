//! Secrets of the server that come from files, and how they reach it.

use super::EntryError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Members of a pointer: arguments are not nested deeper than people write them.
const MOST_MEMBERS: usize = 8;

/// A secret of the server that comes from a file, and changes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// What people call it.
    pub name: String,
    /// Absolute.
    pub file: PathBuf,
    /// Member of a JSON object, or name in a file of KEY=value lines. `None`: the whole file.
    pub key: Option<String>,
    /// How the value reaches the server.
    pub inject: Inject,
    /// What the file must say that it is for, if it says so at all.
    pub environment: Option<String>,
    /// How long a value that was replaced may still be in use.
    pub overlap: Duration,
    /// How old a value may become before it is reported. `None`: any age.
    pub rotate_every: Option<Duration>,
}

/// Stands for the tenant of whoever asks, as one part of a path.
const TENANT: &str = "{tenant}";

impl Credential {
    /// True when each tenant has a value of its own.
    #[must_use]
    pub fn is_by_tenant(&self) -> bool {
        self.file.iter().any(|part| part == TENANT)
    }

    /// When a value that is in force `since` then should be another, in seconds since 1970.
    #[must_use]
    pub fn rotate_by(&self, since: u64) -> Option<u64> {
        self.rotate_every.map(|every| since + every.as_secs())
    }

    /// The directory that has an entry for each tenant.
    #[must_use]
    pub fn tenants(&self) -> Option<PathBuf> {
        let above = self.file.iter().take_while(|part| *part != TENANT);
        self.is_by_tenant().then(|| above.collect())
    }

    /// The one of this tenant: `NAME/TENANT`.
    #[must_use]
    pub fn of_tenant(&self, tenant: &str) -> Self {
        let parts = self.file.iter().map(|part| match part == TENANT {
            true => OsStr::new(tenant),
            false => part,
        });
        Self {
            name: format!("{}/{tenant}", self.name),
            file: parts.collect(),
            ..self.clone()
        }
    }

    /// True when that is the name of this one, or of this one for some tenant.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        name.split_once('/').map_or(name, |(name, _)| name) == self.name
    }
}

/// The place at which the value of a credential meets the server. Whoever adds one says here when
/// the server may hold it ([`Inject::is_held`]) and what another value costs ([`Inject::replaces`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inject {
    /// A variable of the server; another value is another process.
    Env { variable: String },
    /// A file in the server's private directory, replaced in one step.
    File {
        /// Below the directory of such files: no `..`, not absolute.
        path: PathBuf,
        /// The variable that says where the file is.
        variable: Option<String>,
        /// What the server gets when the file has changed.
        signal: Option<Signal>,
    },
    /// An argument of tool calls, which clients neither see nor send.
    Argument {
        pointer: Pointer,
        /// Names of tools; `*` stands for any run of characters.
        tools: Vec<String>,
    },
    /// A header of each request to a server elsewhere.
    Header {
        /// In lower case.
        name: String,
        /// `{}` is the value.
        format: String,
    },
}

impl Inject {
    /// The variable of the server that it takes, with whatever in it.
    #[must_use]
    pub fn variable(&self) -> Option<&str> {
        match self {
            Self::Env { variable } => Some(variable),
            Self::File { variable, .. } => variable.as_deref(),
            Self::Argument { .. } | Self::Header { .. } => None,
        }
    }

    /// The header, if it is one.
    #[must_use]
    pub fn header(&self) -> Option<&str> {
        match self {
            Self::Header { name, .. } => Some(name),
            Self::Env { .. } | Self::File { .. } | Self::Argument { .. } => None,
        }
    }

    /// True when another value needs another process.
    #[must_use]
    pub fn replaces(&self) -> bool {
        matches!(self, Self::Env { .. })
    }

    /// True when a process of the server has the value from its start, or can read it at any time.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Env { .. } | Self::File { .. })
    }
}

/// Where it goes, in a few words for people.
impl fmt::Display for Inject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env { variable } => write!(f, "${variable}"),
            Self::File { path, variable, .. } => {
                write!(f, "the file {}", path.display())?;
                match variable {
                    Some(variable) => write!(f, " (${variable})"),
                    None => Ok(()),
                }
            }
            Self::Argument { pointer, tools } => {
                write!(f, "the argument {pointer} of {}", tools.join(", "))
            }
            Self::Header { name, .. } => write!(f, "the header {name}"),
        }
    }
}

/// What a server may be told by when a file of it has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Signal {
    #[serde(rename = "HUP")]
    Hangup,
    #[serde(rename = "USR1")]
    User1,
    #[serde(rename = "USR2")]
    User2,
}

/// What the age of a value asks for, the gravest that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aged {
    /// Older than `rotate_every`.
    Overdue,
    /// It says that it ends within a day.
    Expiring,
    /// It says that it has ended.
    Expired,
}

/// A JSON pointer (RFC 6901) into the arguments of a call, through objects alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    members: Box<[String]>,
}

impl Pointer {
    /// Names of members, the outermost first; at least one.
    #[must_use]
    pub fn members(&self) -> &[String] {
        &self.members
    }

    /// True when one leads to the other, or to the same place. Case makes no difference.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut pairs = self.members.iter().zip(&*other.members);
        pairs.all(|(one, two)| one.eq_ignore_ascii_case(two))
    }
}

impl FromStr for Pointer {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let hint = "write a slash before each name, as in `/token` or `/auth/token`";
        let Some(rest) = text.strip_prefix('/') else {
            return Err(EntryError::new("it does not begin with a slash", hint));
        };
        let members: Option<Box<[String]>> = rest.split('/').map(unescaped).collect();
        let members = members.filter(|members| members.iter().all(|name| !name.is_empty()));
        match members {
            Some(members) if members.len() <= MOST_MEMBERS => Ok(Self { members }),
            _ => Err(EntryError::new("it is not a path of names", hint)),
        }
    }
}

/// RFC 6901 §3: `~1` is a slash, `~0` a tilde, and a tilde stands for nothing else.
fn unescaped(part: &str) -> Option<String> {
    let mut plain = String::with_capacity(part.len());
    let mut letters = part.chars();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '~' => match letters.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            letter if letter.is_control() => return None,
            letter => letter,
        });
    }
    Some(plain)
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.members
            .iter()
            .try_for_each(|name| write!(f, "/{}", name.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_paths_of_names() {
        let read = |text: &str| text.parse::<Pointer>();
        for text in ["/token", "/auth/token", "/a~1b/c~0d", "/ü"] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
        assert_eq!(read("/a~1b").unwrap().members(), ["a/b"]);
        for text in ["", "token", "/", "/a//b", "/a/", "/~2", "/a~", "/a\nb"] {
            assert!(read(text).is_err(), "{text:?}");
        }
        assert!(read(&"/a".repeat(9)).is_err());
    }

    #[test]
    fn a_tenant_has_a_file_of_its_own() {
        let one = Credential {
            name: "c".to_owned(),
            file: "/s/{tenant}/token".into(),
            key: None,
            inject: Inject::Argument {
                pointer: "/t".parse().unwrap(),
                tools: Vec::new(),
            },
            environment: None,
            overlap: Duration::ZERO,
            rotate_every: None,
        };
        assert_eq!(one.tenants(), Some("/s".into()));
        let of = one.of_tenant("acme");
        assert_eq!(
            (&*of.name, of.file.to_str()),
            ("c/acme", Some("/s/acme/token"))
        );
        assert!(one.is_called("c/acme") && one.is_called("c") && !one.is_called("d/acme"));
        assert_eq!(of.tenants(), None);
    }

    #[test]
    fn one_place_is_inside_another_whatever_its_case() {
        let at = |text: &str| text.parse::<Pointer>().unwrap();
        assert!(at("/auth").overlaps(&at("/Auth/token")));
        assert!(at("/auth/token").overlaps(&at("/auth/token")));
        assert!(!at("/auth/token").overlaps(&at("/auth/user")));
    }
}
