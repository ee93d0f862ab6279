//! Flags of `credentials`.

use super::{Error, Format, resolve_named};
use crate::config::Config;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What `credentials` does; without a word it lists.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CredentialsArgs {
    #[command(subcommand)]
    pub command: Option<CredentialsCommand>,
    #[command(flatten)]
    pub list: CredentialsList,
}

#[derive(Debug, Clone, Subcommand)]
pub enum CredentialsCommand {
    /// List them, with age and generation, for every instance that runs
    List(CredentialsList),
    /// Rehearse a rotation: what another value would cause happens, with the same value
    Rotate(CredentialsRotate),
    /// Take a value out of use, at once and for good, and see that nobody has it any more
    Revoke(CredentialsRevoke),
}

/// Whose credentials.
#[derive(Debug, Clone, Default, Args)]
pub struct Whose {
    /// Name of the server, as `run` shows it
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub server: Option<String>,
    /// Configuration file of the server, in place of its name
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Whose {
    /// The configuration, as far as it is known: of a server that is named, its places alone. `None`
    /// when neither was said.
    ///
    /// # Errors
    /// As for [`resolve_named`].
    pub fn resolve(&self) -> Result<Option<Config>, Error> {
        if self.server.is_none() && self.config.is_none() {
            return Ok(None);
        }
        resolve_named(self.server.as_deref(), self.config.as_deref()).map(Some)
    }
}

/// Flags of `credentials list`.
#[derive(Debug, Clone, Args)]
pub struct CredentialsList {
    #[command(flatten)]
    pub whose: Whose,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// Flags of `credentials rotate`.
#[derive(Debug, Clone, Args)]
pub struct CredentialsRotate {
    /// Name of the credential
    pub name: String,
    /// Only rehearse; to rotate is to write another value into the file
    #[arg(long, required = true)]
    pub test: bool,
    #[command(flatten)]
    pub whose: Whose,
}

/// Flags of `credentials revoke`.
#[derive(Debug, Clone, Args)]
pub struct CredentialsRevoke {
    /// Name of the credential
    pub name: String,
    /// The value before the one in force
    #[arg(long, conflicts_with = "fingerprint")]
    pub previous: bool,
    /// Another value than the one in force, by its fingerprint
    #[arg(long, value_name = "DIGITS")]
    pub fingerprint: Option<String>,
    #[command(flatten)]
    pub whose: Whose,
}
