//! What the listener needs: certificates that can be used, keys of clients, keys of an issuer.

use super::{Finding, path_finding};
use crate::cli::exit::Exit;
use crate::config::{AdminAddr, Config, read_file};
use crate::identity::{Certificate, Jwks, KeyBook};
use crate::transport::tls::{ServerPem, ServerSettings, ServerTls, TlsError, certificates};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Bytes of a file of keys or certificates.
const MOST: u64 = 1 << 20;

/// What would keep it from starting.
pub(super) fn fatal(config: &Config) -> Vec<Finding> {
    let mut all = Vec::new();
    let Some(listen) = &config.listen else {
        return all;
    };
    let wrong = |message: String, hint: Option<&str>| Finding {
        message,
        hint: hint.map(str::to_owned),
        exit: Some(Exit::CONFIG),
    };
    if !listen.is_local() {
        let address = &listen.http;
        if !config.access.can_identify() {
            all.push(wrong(
                format!("`{address}` (listen.http) is not a loopback address, and no identity is configured"),
                Some("listen on 127.0.0.1, or write [identity]: whoever reaches another address could use the server"),
            ));
        }
        if listen.tls.is_none() {
            all.push(wrong(
                format!("`{address}` (listen.http) is not a loopback address, and there is no `listen.tls`"),
                Some("listen on 127.0.0.1, or write `tls` into [listen]: `cofferdam tls self-signed` makes what it needs"),
            ));
        }
    }
    if let Some(tls) = &listen.tls {
        let settings = ServerSettings::new(tls, Vec::new());
        match ServerPem::read(tls).and_then(|texts| ServerTls::new(settings, &texts)) {
            Ok(_) => {}
            Err(TlsError::Read { path, source }) => {
                let mut finding = path_finding("listen.tls", &path, &source);
                finding.hint =
                    Some("`cofferdam tls self-signed` makes a set for a laptop".to_owned());
                all.push(finding);
            }
            Err(error) => all.push(wrong(format!("`listen.tls` cannot be used: {error}"), None)),
        }
    }
    let identity = &config.access.identity;
    if let Some(path) = &identity.keys {
        match read_file(path, MOST) {
            Err(error) => {
                let mut finding = path_finding("identity.keys", path, &error);
                finding.hint =
                    Some("`cofferdam client add NAME` makes it, with a key in it".to_owned());
                all.push(finding);
            }
            Ok(bytes) => {
                if let Err(error) = KeyBook::parse(&bytes) {
                    let path = path.display();
                    all.push(wrong(
                        format!("`{path}` (identity.keys) cannot be used: {error}"),
                        None,
                    ));
                }
            }
        }
    }
    if let Some(path) = identity.jwt.as_ref().and_then(|jwt| jwt.jwks.file()) {
        match read_file(path, MOST) {
            Err(error) => all.push(path_finding("identity.jwt.jwks", path, &error)),
            Ok(bytes) => {
                if let Err(error) = Jwks::parse(&bytes) {
                    let path = path.display();
                    let message = format!("`{path}` (identity.jwt.jwks) cannot be used: {error}");
                    all.push(wrong(
                        message,
                        Some("save what the issuer serves at its `jwks_uri`"),
                    ));
                }
            }
        }
    }
    all
}

/// What would not, and is worth a word.
pub(super) fn notable(config: &Config) -> Vec<Finding> {
    const SOON: u64 = 14 * 24 * 3600;
    let note = |message: String| Finding {
        message,
        hint: None,
        exit: None,
    };
    let mut all = Vec::new();
    let Some(listen) = &config.listen else {
        return all;
    };
    if config.admits_anonymous() {
        let who = match &listen.http {
            AdminAddr::Tcp(_) => "every program of this host (or pod) can use the server",
            AdminAddr::Unix(_) => "programs of this user can use the server",
        };
        all.push(note(format!("identity: none; {who}")));
    }
    if !listen.is_local() && listen.public_url.is_none() {
        let address = &listen.http;
        all.push(note(format!(
            "without `listen.public_url`, requests are served whose Host is `{address}` or this host, and no other name"
        )));
    }
    let Some(tls) = &listen.tls else { return all };
    if let Some(until) = valid_until(&tls.cert) {
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
        let path = tls.cert.display();
        if until <= now {
            all.push(note(format!("the certificate {path} has expired")));
        } else if until - now < SOON {
            let days = (until - now).div_ceil(24 * 3600);
            all.push(note(format!(
                "the certificate {path} expires in {days} days"
            )));
        }
    }
    let open = std::fs::metadata(&tls.key).is_ok_and(|file| file.permissions().mode() & 0o077 != 0);
    if open {
        let path = tls.key.display();
        all.push(note(format!(
            "others than its owner can use the key {path}"
        )));
    }
    all
}

fn valid_until(path: &Path) -> Option<u64> {
    let chain = certificates("the certificate", &read_file(path, MOST).ok()?).ok()?;
    Some(Certificate::parse(chain.first()?).ok()?.valid_until())
}
