//! Resource URIs as rules compare them.
//!
//! A deny list compares every form that a server could read the URI as; an allow list only accepts
//! a URI that has a single reading, so that `file:///srv/../etc` never passes as `file:///srv/*`.
//! Normalisation follows RFC 3986 §6.2 and, where servers are laxer than it, the WHATWG URL parser.

use super::names::{Denied, Glob, fold};
use crate::config::NameRules;

/// How often a URI is percent-decoded at most: a server decodes once, a framework before it once more.
const DECODINGS: usize = 3;

/// An allow list and a deny list of URIs.
#[derive(Debug, Clone, Default)]
pub(super) struct UriList {
    allow: Option<Box<[Glob]>>,
    deny: Box<[Glob]>,
}

impl UriList {
    pub(super) fn new(rules: &NameRules) -> Self {
        let mut deny = Vec::new();
        for pattern in &rules.deny {
            deny.push(Glob::new(&fold(pattern)));
            deny.push(Glob::new(&plain_form(pattern)));
        }
        Self {
            allow: rules
                .allow
                .as_ref()
                .map(|list| list.iter().map(|pattern| Glob::new(pattern)).collect()),
            deny: deny.into(),
        }
    }

    /// True when no URI can be denied.
    pub(super) fn is_open(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }

    /// True when a URI that cannot be read has to be denied.
    pub(super) fn is_closed(&self) -> bool {
        self.allow.is_some()
    }

    pub(super) fn denies(&self, uri: &str) -> Option<Denied> {
        if self.is_open() {
            return None;
        }
        if !self.deny.is_empty() && self.matches_deny(uri) {
            return Some(Denied::ByDeny);
        }
        let Some(allow) = &self.allow else {
            return None;
        };
        let single = has_one_reading(uri);
        let allowed = allow
            .iter()
            .any(|glob| glob.is_everything() || (single && glob.matches(uri)));
        (!allowed).then_some(Denied::ByAllow)
    }

    fn matches_deny(&self, uri: &str) -> bool {
        let any = |form: &str| self.deny.iter().any(|glob| glob.matches(form));
        if any(&fold(uri)) {
            return true;
        }
        let plain = plain_form(uri);
        // A server that opens a file ignores the query, the fragment and a slash at the end.
        let bare = plain.split(['?', '#']).next().unwrap_or_default();
        any(&plain) || any(bare) || any(bare.trim_end_matches('/'))
    }
}

/// The most reduced form of a URI: what is left when everything that a server may ignore is gone.
fn plain_form(uri: &str) -> String {
    let mut text = uri.to_owned();
    for _ in 0..DECODINGS {
        let decoded = percent_decoded(&text);
        if decoded == text {
            break;
        }
        text = decoded;
    }
    let text = fold(&text).replace('\\', "/");
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (scheme, rest),
        _ => ("", text.as_str()),
    };
    let (authority, path) = match rest.strip_prefix("//") {
        Some(after) => after.split_at(after.find('/').unwrap_or(after.len())),
        None => ("", rest),
    };
    // Whoever opens a file ignores the host, and `user@` and the default port name no other host.
    let host = if scheme == "file" {
        ""
    } else {
        let host = authority.rsplit('@').next().unwrap_or_default();
        match scheme {
            "http" => host.strip_suffix(":80").unwrap_or(host),
            "https" => host.strip_suffix(":443").unwrap_or(host),
            _ => host,
        }
    };
    let path = without_dot_segments(path);
    if scheme.is_empty() {
        path
    } else if scheme == "file" || rest.starts_with("//") {
        format!("{scheme}://{host}{path}")
    } else {
        format!("{scheme}:{path}")
    }
}

/// RFC 3986 §3.1; a single letter is a drive, not a scheme.
fn is_scheme(text: &str) -> bool {
    text.len() > 1
        && text.bytes().enumerate().all(|(at, byte)| {
            byte.is_ascii_alphabetic()
                || (at > 0 && (byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.')))
        })
}

/// Decodes each `%XX` once; what does not decode to UTF-8 is replaced, as lenient servers do.
pub(super) fn percent_decoded(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%'
            && let [high, low, tail @ ..] = after
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            bytes.push(high << 4 | low);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// RFC 3986 §3.3 lets a segment have parameters behind a `;`; Java servers drop them before they look
/// for dots, so `..;` is `..` there, and `..%3b` too where it was decoded before.
fn without_parameters(segment: &str) -> &str {
    let end = [";", "%3b", "%3B"]
        .into_iter()
        .filter_map(|mark| segment.find(mark))
        .min();
    segment
        .get(..end.unwrap_or(segment.len()))
        .unwrap_or_default()
}

/// RFC 3986 §5.2.4, with runs of slashes taken as one, as file systems do.
fn without_dot_segments(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match without_parameters(segment) {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ if segment.is_empty() => {}
            _ => kept.push(segment),
        }
    }
    let mut plain = String::with_capacity(path.len());
    for (at, segment) in kept.iter().enumerate() {
        if rooted || at > 0 {
            plain.push('/');
        }
        plain.push_str(segment);
    }
    // The slash at the end matters to patterns such as `file:///srv/*`.
    if path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..") {
        plain.push('/');
    }
    plain
}

/// True when no server can read `uri` as another one: no dot segments anywhere (also not in the
/// query, which a naive server takes as path), no backslash, no control, nothing invisible, and no
/// percent-encoded separator, dot, percent sign or control.
fn has_one_reading(uri: &str) -> bool {
    let spelled = uri
        .bytes()
        .all(|byte| byte >= 0x20 && byte != b'\\' && byte != 0x7f)
        && uri.trim() == uri
        && (uri.is_ascii() || fold_keeps_length(uri));
    spelled
        && uri
            .split(['/', '?', '#'])
            .map(without_parameters)
            .all(|part| part != "." && part != "..")
        && uri
            .match_indices('%')
            .all(|(at, _)| match uri.as_bytes().get(at + 1..at + 3) {
                Some([high, low]) => match (hex(*high), hex(*low)) {
                    (Some(high), Some(low)) => {
                        let byte = high << 4 | low;
                        byte >= 0x20
                            && !matches!(byte, b'.' | b'/' | b'\\' | b'%' | b'?' | b'#' | 0x7f)
                    }
                    _ => true,
                },
                _ => true,
            })
}

/// Beyond ASCII only text that is already in its compatibility form (else it has a second reading).
fn fold_keeps_length(uri: &str) -> bool {
    let lower: String = uri
        .chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect();
    fold(uri) == lower
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(allow: Option<&[&str]>, deny: &[&str]) -> UriList {
        UriList::new(&NameRules {
            allow: allow.map(|list| list.iter().map(ToString::to_string).collect()),
            deny: deny.iter().map(ToString::to_string).collect(),
        })
    }

    #[test]
    fn a_denied_file_has_no_second_spelling() {
        let list = list(None, &["file:///etc/passwd"]);
        for uri in [
            "file:///etc/passwd",
            "FILE:///etc/passwd",
            "file:///ETC/passwd",
            "file:/etc/passwd",
            "file://localhost/etc/passwd",
            "file://LOCALHOST/etc/passwd",
            "file://127.0.0.1/etc/passwd",
            "file:///etc//passwd",
            "file:////etc/passwd",
            "file:///etc/./passwd",
            "file:///srv/../etc/passwd",
            "file:///srv/..%2fetc/passwd",
            "file:///srv/..;/etc/passwd",
            "file:///srv/..%3Bx=1/etc/passwd",
            "file:///%65tc/passwd",
            "file:///%2565tc/passwd",
            "file:///etc%2Fpasswd",
            "file:///etc\\passwd",
            "file:///etc/passwd?x=1",
            "file:///etc/passwd#top",
            "file:///etc/passwd/",
            "file:///etc/passwd%00",
            " file:///etc/passwd",
            "file:///etc/pass\u{ad}wd",
            "file:///etc/ｐasswd",
            "file:///%2e%2e/etc/passwd",
            "fi\tle:///etc/passwd",
        ] {
            assert_eq!(list.denies(uri), Some(Denied::ByDeny), "{uri:?}");
        }
        assert_eq!(list.denies("file:///etc/passwd.bak"), None);
        assert_eq!(list.denies("file:///srv/etc/passwd"), None);
    }

    #[test]
    fn a_denied_host_has_no_second_spelling() {
        let list = list(None, &["https://internal.example/*"]);
        for uri in [
            "https://internal.example/a",
            "https://INTERNAL.example/a",
            "https://internal.example:443/a",
            "https://me@internal.example/a",
            "https://internal.example/",
        ] {
            assert_eq!(list.denies(uri), Some(Denied::ByDeny), "{uri}");
        }
        assert_eq!(
            list.denies("https://public.example/internal.example/a"),
            None
        );
    }

    #[test]
    fn an_allowed_directory_cannot_be_left() {
        let list = list(Some(&["file:///srv/*"]), &[]);
        assert_eq!(list.denies("file:///srv/a/b.txt"), None);
        assert_eq!(list.denies("file:///srv/a%20b.txt"), None);
        assert_eq!(list.denies("file:///srv/größe.txt"), None);
        for uri in [
            "file:///srv/../etc/passwd",
            "file:///srv/%2e%2e/etc/passwd",
            "file:///srv/.%2E/etc/passwd",
            "file:///srv/..;/etc/passwd",
            "file:///srv/..;a=1/etc/passwd",
            "file:///srv/..%3b/etc/passwd",
            "file:///srv/..%2fetc/passwd",
            "file:///srv/%252e%252e/etc/passwd",
            "file:///srv/..\\etc",
            "file:///srv/a?/../../../etc/passwd",
            "file:///srv/a#/../../../etc/passwd",
            "file:///srv/..",
            "file:///srv/a\u{0}",
            "file:///srv/a%00.txt",
            "file:///srv/.\u{ad}./etc",
            "file:///srv/．．/etc",
            "file:///SRV/a",
            "file:///etc/passwd",
            "/srv/a",
        ] {
            assert_eq!(list.denies(uri), Some(Denied::ByAllow), "{uri:?}");
        }
    }

    #[test]
    fn a_lone_star_allows_what_is_not_denied() {
        let list = list(Some(&["*"]), &["file:///etc/*"]);
        assert_eq!(list.denies("memo://x/../y"), None);
        assert_eq!(list.denies("file:///srv/../etc/x"), Some(Denied::ByDeny));
    }

    proptest! {
        #[test]
        fn percent_encoding_any_letter_changes_nothing(mask in any::<u32>()) {
            let list = list(None, &["file:///etc/passwd"]);
            let mut uri = String::from("file:///");
            for (at, c) in "etc/passwd".chars().enumerate() {
                if mask >> at & 1 == 1 {
                    uri.push_str(&format!("%{:02x}", u32::from(c)));
                } else {
                    uri.push(c);
                }
            }
            prop_assert_eq!(list.denies(&uri), Some(Denied::ByDeny));
        }

        #[test]
        fn whatever_passes_the_allow_list_stays_inside(tail in "[a./%25eE?#\\\\]{0,16}") {
            let list = list(Some(&["file:///srv/*"]), &[]);
            let uri = format!("file:///srv/{tail}");
            if list.denies(&uri).is_none() {
                prop_assert!(plain_form(&uri).starts_with("file:///srv/"), "{}", plain_form(&uri));
            }
        }
    }
}
