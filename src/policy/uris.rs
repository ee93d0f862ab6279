//! Resource URIs as rules compare them.
//!
//! A deny list compares every form that a server could read the URI as; an allow list only accepts
//! a URI that has a single reading, so that `file:///srv/../etc` never passes as `file:///srv/*`.
//! Normalisation follows RFC 3986 §6.2 and, where servers are laxer than it, the WHATWG URL parser.

mod host;
mod readings;

use self::readings::plain_form;
use super::names::{Denied, Glob, fold};
use crate::config::NameRules;

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
        any(&fold(uri)) || readings::any(uri, |form| any(form) || any(form.trim_end_matches('/')))
    }
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
            "file:etc/passwd",
            "file:./etc/passwd",
            "file:..\\etc\\passwd",
            "file:%2fetc/passwd",
            "file://etc/passwd",
            "file:///%65tc/passwd?/../../x",
            "file:etc/passwd#/../../x",
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

    fn list_of_address() -> UriList {
        list(None, &["http://127.0.0.1/*"])
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
            "https://internal.example",
            "https://internal.example?a",
            "https://internal.example#a",
            "https:internal.example/a",
            "https:/internal.example/a",
            "https:///internal.example/a",
            "https:\\\\internal.example\\a",
            "https://internal.example\\a",
            "https://internal.example:0443/a",
            "https://internal.example:/a",
            "https://internal。example/a",
            "https://internal．example/a",
            "https://internal｡example/a",
            "https://internal.example./a",
            "https://%69nternal.example/a",
            "https://internal%E3%80%82example/a",
            "https://a:b@internal.example:/a",
            "ht\ntps://internal.exam\tple/a",
            "https://public.example#@internal.example/a",
            "https://public.example\\@internal.example/a",
        ] {
            assert_eq!(list.denies(uri), Some(Denied::ByDeny), "{uri}");
        }
        assert_eq!(
            list.denies("https://public.example/internal.example/a"),
            None
        );
        assert_eq!(list.denies("https://internal.example:8443/a"), None);
        assert_eq!(list.denies("http://internal.example/a"), None);
        let list = list_of_address();
        for uri in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/x",
            "http://127.1/x",
            "http:0177.0.0.1",
            "http://[::ffff:127.0.0.1]/x",
        ] {
            assert_eq!(list.denies(uri), Some(Denied::ByDeny), "{uri}");
        }
        assert_eq!(list.denies("http://127.0.0.2/"), None);
    }

    #[test]
    fn what_one_reader_leaves_is_not_left_for_another() {
        let list = list(None, &["https://internal.example/secret/*"]);
        for uri in [
            // A server that decodes once has this in one segment.
            "https:internal.example/secret/x%2f..%2f..%2fpublic",
            "https://internal.example:0443/%73ecret/x%2f..%2f..%2fpublic",
            "https:internal.example/a/%2e%2e/secret/x%2f..%2f..",
            // The WHATWG parser takes back an empty segment, too.
            "https:internal.example/a/../secret//../x",
            // Only Java servers take this for `..`.
            "https:internal.example/secret/..;/public",
            "https:internal.example/a/..;/secret/x",
            "https:internal.example/secret/.\u{ad}./public",
            "https://internal.example:443/secret/x\\..\\..\\public",
            "https://internal.example:443/public\\..\\secret\\x",
            "https:internal.example/%73ecret/a?/../../public",
        ] {
            assert_eq!(list.denies(uri), Some(Denied::ByDeny), "{uri:?}");
        }
        for uri in [
            "https://internal.example/public/secret/x",
            "https://internal.example/public?to=/secret/x",
            "https://internal.example/public%20a;b/.c//d?e=%2f..%2ff#g",
        ] {
            assert_eq!(list.denies(uri), None, "{uri:?}");
        }
    }

    #[test]
    fn what_has_too_many_readings_is_denied() {
        let list = list(None, &["file:///etc/*"]);
        let long = |length| format!("file:///srv/{}", "a".repeat(length));
        assert_eq!(list.denies(&long(8000)), None);
        assert_eq!(list.denies(&long(9000)), Some(Denied::ByDeny));
        let odd = "file://h/srv//a\\b/./c;d\u{ad}%25252e?e#f";
        assert_eq!(list.denies(odd), Some(Denied::ByDeny));
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
        fn no_spelling_of_the_whatwg_parser_passes(
            scheme in "(h|H)(t|T)tp", slashes in "[/\\\\]{0,4}", user in "(|a@|a:b@)",
            host in "(internal|%69nternal|INTERNAL)(\\.|%2e|。|．)example(|\\.)|127\\.0\\.0\\.1|127\\.1|0x7f\\.1|2130706433|0177\\.0\\.1",
            port in "(|:|:80|:080|:81)", path in "(|[/\\\\](secret|public|[.]{1,2}|%2e%2e|%2E[.])([/\\\\](secret|[.]{1,2}|%2e|x|)){0,3})",
            tail in "(|[?#][./a]{0,4})",
        ) {
            let text = format!("{scheme}:{slashes}{user}{host}{port}{path}{tail}");
            let denied = ["http://internal.example/secret/", "http://127.0.0.1/"];
            let list = list(None, &["http://internal.example/secret/*", "http://127.0.0.1/*"]);
            let read = url::Url::parse(&text);
            prop_assume!(read.is_ok());
            let read = read.unwrap().to_string().replace("example./", "example/");
            if denied.iter().any(|it| read.starts_with(it)) {
                prop_assert_eq!(list.denies(&text), Some(Denied::ByDeny), "{}", read);
            }
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
