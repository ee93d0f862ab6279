//! The door of the listener: its certificates, its public URL, and that callers are known.

use super::{Builder, Overrides};
use crate::config::access::{Access, Tls};
use crate::config::diagnose::{Place, Problem};
use crate::config::entries::{EntryError, shown};
use crate::config::raw::{self, At};
use crate::config::{Auth, Listen};

impl Builder<'_> {
    pub(super) fn tls(&mut self, written: Option<&At<raw::Tls>>) -> Option<Tls> {
        let written = written?;
        let raw = written.value();
        let place = Place::File(written.span());
        for (key, present) in [("cert", raw.cert.is_some()), ("key", raw.key.is_some())] {
            if !present {
                self.problems.push(
                    Problem::new(place.clone(), format!("`listen.tls.{key}` is missing"))
                        .hint("write `tls = { cert = \"tls.crt\", key = \"tls.key\" }`; `cofferdam tls self-signed` makes a pair for a laptop"),
                );
            }
        }
        if raw.client_ca.is_none() {
            let needs = [
                ("client_crl", raw.client_crl.as_ref().map(At::span)),
                ("client_auth", raw.client_auth.as_ref().map(At::span)),
            ];
            for (key, span) in needs {
                if let Some(span) = span {
                    self.problems.push(Problem::new(
                        Place::File(span),
                        format!("`listen.tls.{key}` needs `client_ca`"),
                    ));
                }
            }
        }
        let cert = self.file_path("listen.tls.cert", raw.cert.as_ref());
        let key = self.file_path("listen.tls.key", raw.key.as_ref());
        Some(Tls {
            cert: cert.unwrap_or_default(),
            key: key.unwrap_or_default(),
            client_ca: self.file_path("listen.tls.client_ca", raw.client_ca.as_ref()),
            client_crl: self.file_path("listen.tls.client_crl", raw.client_crl.as_ref()),
            client_auth: self
                .only("listen.tls.client_auth", raw.client_auth.as_ref())
                .unwrap_or_default(),
            min_version: self
                .only("listen.tls.min_version", raw.min_version.as_ref())
                .unwrap_or_default(),
        })
    }

    /// Nobody is anonymous where others can reach the listener, and nothing is in clear text there.
    /// Brings the public URL into its one form. An address that a flag gives is looked at when it starts:
    /// the command line is not wrong, what the file says does not fit it.
    pub(super) fn door(
        &mut self,
        raw: &raw::Raw,
        flags: &Overrides,
        listen: Option<&mut Listen>,
        access: &Access,
    ) {
        let Some(listen) = listen else { return };
        let written = raw.listen.as_ref();
        let place = |at: Option<std::ops::Range<usize>>| at.map_or(Place::Absent, Place::File);
        if let Some(url) = &listen.public_url {
            match public_url(url) {
                Ok(url) => listen.public_url = Some(url),
                Err(error) => {
                    let at = written.and_then(|raw| raw.public_url.as_ref());
                    self.note(Err(error), &place(at.map(At::span)));
                }
            }
        }
        let (known, local) = (access.can_identify(), listen.is_local());
        let mut wrong = |at: Option<std::ops::Range<usize>>, message: &str, hint: &str| {
            self.problems
                .push(Problem::new(place(at), message).hint(hint));
        };
        let listens = || Some(written?.http.as_ref()?.span());
        let open = !local && flags.listen.is_none();
        if open && listen.tls.is_none() {
            wrong(
                listens(),
                "a listener that others can reach needs `listen.tls`",
                "write `tls = { cert = \"tls.crt\", key = \"tls.key\" }`, or listen on 127.0.0.1",
            );
        }
        const SAY_WHO: &str = "write [identity] with `keys` or `jwt`, or a client with `san`; `cofferdam client add` makes keys";
        if open && !known {
            wrong(
                listens(),
                "a listener that others can reach needs to know its clients",
                SAY_WHO,
            );
        } else if listen.auth == Auth::Required && !known {
            let at = written.and_then(|raw| raw.auth.as_ref()).map(At::span);
            wrong(at, "`listen.auth` requires what nobody could show", SAY_WHO);
        }
    }
}

/// RFC 8707 §2 and the MCP authorization chapter: absolute, no fragment, no query; one form of each.
fn public_url(text: &str) -> Result<String, EntryError> {
    let wrong = |hint| {
        EntryError::new(
            format!("`{}` is not a URL that clients can use", shown(text)),
            hint,
        )
    };
    const HINT: &str = "write it as clients do, as in `https://mcp.example.com/mcp`";
    let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong(HINT))?;
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]%!$&'()*+,;=".contains(&byte);
    if rest.contains(['?', '#', '@']) || !rest.bytes().all(allowed) {
        return Err(wrong("it has no user, query or fragment"));
    }
    let end = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let loopback = ["localhost", "127.", "[::1]"]
        .iter()
        .any(|known| host.starts_with(known));
    match scheme.to_ascii_lowercase().as_str() {
        _ if host.is_empty() => Err(wrong(HINT)),
        "http" if !loopback => Err(wrong("it starts with `https://`")),
        scheme @ ("http" | "https") => Ok(format!(
            "{scheme}://{}{}",
            host.to_ascii_lowercase(),
            path.trim_end_matches('/')
        )),
        _ => Err(wrong(HINT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_has_one_form() {
        for (text, form) in [
            ("https://mcp.example.com/mcp", "https://mcp.example.com/mcp"),
            (
                "HTTPS://MCP.example.com/Mcp/",
                "https://mcp.example.com/Mcp",
            ),
            ("https://x:8443", "https://x:8443"),
            ("http://localhost:8080/mcp", "http://localhost:8080/mcp"),
            ("http://[::1]:80/", "http://[::1]:80"),
        ] {
            assert_eq!(public_url(text).as_deref(), Ok(form), "{text}");
        }
        for text in [
            "",
            "x",
            "https://",
            "https:///mcp",
            "http://example.com/mcp",
            "ftp://x/",
            "https://u@x/",
            "https://x/?a",
            "https://x/#a",
            "https://x/\"",
            "https://x/a b",
            "https://é/",
        ] {
            assert!(public_url(text).is_err(), "{text}");
        }
    }
}
