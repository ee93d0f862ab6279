//! Flags of `client` and `tls`.

use super::{Format, told, unit};
use crate::config::{self, TimeSpan};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What `client` does.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientCommand {
    /// Make a key for a client and show it, once
    Add(ClientAdd),
    /// List the keys, without what they are
    List(ClientList),
    /// Refuse the keys of a client from now on
    Revoke(ClientRevoke),
}

/// Where the keys are.
#[derive(Debug, Clone, Args)]
pub struct ClientFile {
    /// File of keys; made when it is not there
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub keys: Option<PathBuf>,
    /// Configuration that names the file (`identity.keys`)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `client add`.
#[derive(Debug, Clone, Args)]
pub struct ClientAdd {
    /// Name of the client
    #[arg(value_parser = principal)]
    pub name: String,
    /// Tenant that it belongs to
    #[arg(long, value_parser = principal)]
    pub tenant: Option<String>,
    /// Scope that it has; may be repeated
    #[arg(long, value_name = "SCOPE", value_parser = scope)]
    pub scope: Vec<String>,
    /// Refuse the key after so long, as in 90d
    #[arg(long, value_name = "DURATION", value_parser = unit::<TimeSpan>)]
    pub expires: Option<TimeSpan>,
    #[command(flatten)]
    pub file: ClientFile,
}

/// Flags of `client list`.
#[derive(Debug, Clone, Args)]
pub struct ClientList {
    #[command(flatten)]
    pub file: ClientFile,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// Flags of `client revoke`.
#[derive(Debug, Clone, Args)]
pub struct ClientRevoke {
    /// Name of the client
    pub name: String,
    /// Only this key of it, as `list` shows it
    #[arg(long, value_name = "KEY", value_parser = key_id)]
    pub key: Option<String>,
    #[command(flatten)]
    pub file: ClientFile,
}

/// What `tls` does.
#[derive(Debug, Clone, Subcommand)]
pub enum TlsCommand {
    /// Make an authority, a certificate for the listener and some for clients, for a laptop or a test
    SelfSigned(SelfSigned),
}

/// Flags of `tls self-signed`.
#[derive(Debug, Clone, Args)]
pub struct SelfSigned {
    /// Where the files go; nothing in it is overwritten
    #[arg(long, value_name = "DIR", default_value = "tls")]
    pub dir: PathBuf,
    /// Name or address of the listener, besides localhost; may be repeated
    #[arg(long, value_name = "HOST")]
    pub host: Vec<String>,
    /// Client to make a certificate for; may be repeated
    #[arg(long, value_name = "NAME", default_value = "me", value_parser = file_name)]
    pub client: Vec<String>,
    /// Days until all of it is invalid
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=825))]
    pub days: u32,
}

fn principal(text: &str) -> Result<String, String> {
    if text == "*" {
        return Err("`*` means every client".to_owned());
    }
    told(config::principal_name(text)).map(|()| text.to_owned())
}

fn scope(text: &str) -> Result<String, String> {
    told(config::scope(text))
}

/// Becomes part of file names and of a URI.
fn file_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match !text.is_empty() && text.len() <= 64 && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("a name has up to 64 letters, digits, `-` and `_`".to_owned()),
    }
}

fn key_id(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    match text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text),
        false => Err(
            "a key is named by at least 8 hexadecimal digits, as `client list` shows them"
                .to_owned(),
        ),
    }
}
