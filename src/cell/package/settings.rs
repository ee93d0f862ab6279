//! What the install cell is told about the network: registry, CA and proxy, never the user's files.
//!
//! The user's configuration of npm, pip and uv holds tokens, so the files are not readable in the
//! cell. We read them here and hand over the values that say where the registry is and how it is
//! reached. A credential passes only when `packages.token_env` names its variable.
//!
//! Configuration in the working directory (`.npmrc`, `uv.toml` of a project) is not read: a checked
//! out repository must not choose the registry of the user's tools.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The largest configuration file that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// Proxies, in the spellings that curl, npm, pip and uv know. A proxy is passed with its password:
/// without it nothing can be reached.
const PROXY: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];
const PLAIN: &[&str] = &["NO_PROXY", "no_proxy"];
/// Certificates of authorities: public, and files or directories that the cell must read.
const CA: &[&str] = &[
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
];

/// Settings for one install cell.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) env: BTreeMap<String, String>,
    /// Files and directories that the settings name: certificates, local package directories.
    pub(super) read: Vec<PathBuf>,
    /// TCP ports of everything that may be asked.
    pub(super) ports: Vec<u16>,
    /// A credential was found and left out; said when the install is refused.
    pub(super) left_out: bool,
}

impl Settings {
    /// The settings that every tool knows.
    pub(super) fn common(env: &BTreeMap<String, String>) -> Self {
        let mut all = Self::default();
        for name in PROXY {
            if let Some(value) = env.get(*name).filter(|value| !value.is_empty()) {
                all.env.insert((*name).to_owned(), value.clone());
                all.add_port(value);
            }
        }
        for name in PLAIN {
            if let Some(value) = env.get(*name) {
                all.env.insert((*name).to_owned(), value.clone());
            }
        }
        for name in CA {
            if let Some(value) = env.get(*name).filter(|value| !value.is_empty()) {
                all.env.insert((*name).to_owned(), value.clone());
                all.read.extend(value.split(':').map(PathBuf::from));
            }
        }
        // Names over TCP when an answer is large.
        all.ports.push(53);
        all
    }

    /// Keeps the port of an address or of several, and the path of a local one.
    pub(super) fn reach(&mut self, value: &str) {
        for word in value.split_whitespace() {
            match word.strip_prefix("file://") {
                Some(path) => self.read.push(PathBuf::from(path)),
                None if word.starts_with('/') => self.read.push(PathBuf::from(word)),
                None => self.add_port(word),
            }
        }
    }

    /// Keeps the ports of a value that may be anything else as well.
    pub(super) fn reach_if_address(&mut self, value: &str) {
        if value.contains("://") {
            self.reach(value);
        }
    }

    /// `value` without user names and passwords in its addresses, unless the variable is named.
    pub(super) fn clean(&mut self, value: &str, named: bool) -> String {
        if named {
            return value.to_owned();
        }
        let words: Vec<String> = value
            .split_whitespace()
            .map(|word| match strip_user(word) {
                Some(stripped) => {
                    self.left_out = true;
                    stripped
                }
                None => word.to_owned(),
            })
            .collect();
        words.join(" ")
    }

    fn add_port(&mut self, address: &str) {
        if let Some(port) = port_of(address)
            && !self.ports.contains(&port)
        {
            self.ports.push(port);
        }
    }
}

/// The value of each `key = value` line in `text`, with the section it is in; lines that go on
/// (indented) belong to the one before, as in pip's files.
pub(super) fn ini(text: &str) -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut items: Vec<(String, String, String)> = Vec::new();
    for line in text.lines() {
        let tidy = line.trim();
        if tidy.is_empty() || tidy.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t'])
            && !tidy.contains('=')
            && let Some(last) = items.last_mut()
        {
            last.2.push(' ');
            last.2.push_str(tidy);
        } else if let Some(name) = tidy
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name.trim().to_owned();
        } else if let Some((key, value)) = tidy.split_once('=') {
            let value = value.trim();
            let bare = value
                .strip_prefix('"')
                .and_then(|inner| inner.strip_suffix('"'))
                .unwrap_or(value);
            items.push((section.clone(), key.trim().to_owned(), bare.to_owned()));
        }
    }
    items
}

/// A configuration file, or nothing when there is none that can be read. A broken file of another
/// tool is that tool's to report; the install then says what is missing.
pub(super) fn read_file(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The user's configuration directory.
pub(super) fn config_home(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    match env
        .get("XDG_CONFIG_HOME")
        .filter(|value| value.starts_with('/'))
    {
        Some(dir) => Some(PathBuf::from(dir)),
        None => env.get("HOME").map(|home| Path::new(home).join(".config")),
    }
}

/// The TCP port of `scheme://user@host:port/path`.
fn port_of(address: &str) -> Option<u16> {
    // uv writes `name=address` for an index with a name.
    let address = match (address.find('='), address.find("://")) {
        (Some(equal), Some(scheme)) if equal < scheme => address.get(equal + 1..)?,
        _ => address,
    };
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    let scheme = scheme.rsplit('+').next().unwrap_or(scheme);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let port = match host.rsplit_once(':') {
        Some((before, port)) if !before.contains(':') || before.ends_with(']') => port.parse().ok(),
        _ => None,
    };
    port.or(match scheme {
        "https" => Some(443),
        "http" => Some(80),
        "socks4" | "socks5" | "socks5h" => Some(1080),
        _ => None,
    })
}

/// The address without `user:password@`; `None` when it has none.
fn strip_user(address: &str) -> Option<String> {
    let (scheme, rest) = address.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (_, host) = authority.rsplit_once('@')?;
    Some(format!("{scheme}://{host}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_of_the_address() {
        let cases = [
            ("https://h/x", Some(443)),
            ("http://u:p@h:4873/", Some(4873)),
            ("http://[::1]:81/", Some(81)),
            ("http://[::1]/", Some(80)),
            ("proxy:3128", Some(3128)),
            ("socks5h://h", Some(1080)),
            ("corp=https://h:8443/simple", Some(8443)),
            ("file:///x", None),
        ];
        for (address, port) in cases {
            assert_eq!(port_of(address), port, "{address}");
        }
    }

    #[test]
    fn passwords_in_addresses_stay_here_unless_named() {
        let mut settings = Settings::default();
        assert_eq!(
            settings.clean("https://u:p@h/x http://i/", false),
            "https://h/x http://i/"
        );
        assert!(settings.left_out);
        assert_eq!(settings.clean("https://u:p@h/x", true), "https://u:p@h/x");
    }

    #[test]
    fn ini_files_of_npm_and_pip_are_read() {
        let text = "a=1\n; c\n[global]\nindex-url = \"https://h/\"\nfind-links =\n  /x\n  /y\n";
        let expected = [
            ("", "a", "1"),
            ("global", "index-url", "https://h/"),
            ("global", "find-links", " /x /y"),
        ]
        .map(|(s, k, v)| (s.to_owned(), k.to_owned(), v.to_owned()));
        assert_eq!(ini(text), expected);
    }
}
