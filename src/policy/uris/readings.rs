//! What one server or another makes of a URI, each reading in its most reduced form.
//!
//! RFC 3986 §6.2 and the WHATWG URL Standard differ, and programs differ from both: in how often they
//! decode, where a path ends, what a `\` is. What is denied must be found in whichever of them counts.

use super::host;
use super::{percent_decoded, without_parameters};
use crate::policy::names::fold;
use std::borrow::Cow;

/// How often a URI is percent-decoded at most: a server decodes once, a framework before it once more.
const DECODINGS: usize = 3;

/// A URI of more bytes has to be taken for a denied one (RFC 9110 §4.1 asks for 8000).
const LONGEST: usize = 8 * 1024;

/// So has one that can be read in more ways: nobody writes such a one in good faith.
const MOST: usize = 128;

/// Where the path ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// Nowhere: a naive server knows no query.
    Path,
    /// Before the query, which is kept with the fragment.
    Whole,
    /// The same without the fragment.
    Query,
    /// Before the query, which is ignored: whoever opens a file does that.
    Nothing,
}

/// What becomes of `.` and `..`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dots {
    Kept,
    Removed,
    /// And of `..;x` too: Java servers drop parameters (RFC 3986 §3.3) before they look for dots.
    WithParameters,
}

/// A way to read.
#[derive(Clone, Copy)]
struct Reader {
    tail: Tail,
    dots: Dots,
    habits: u8,
}

/// A run of slashes is one, as for file systems.
const MERGES: u8 = 1;
/// `\` is `/`, as for the WHATWG parser.
const BACKSLASH: u8 = 2;
/// What nobody sees is not there when dots are looked for.
const INVISIBLE: u8 = 4;
/// The host of a file is the start of its path, as for who takes `file://` away and opens the rest.
const HOSTLESS: u8 = 8;

/// The most reduced form of a pattern: what is left when everything that a server may ignore is gone.
pub(super) fn plain_form(uri: &str) -> String {
    let mut text = fold(uri).into_owned();
    for _ in 0..DECODINGS {
        text = fold(&percent_decoded(&text)).into_owned();
    }
    let plain = Reader {
        tail: Tail::Whole,
        dots: Dots::WithParameters,
        habits: MERGES | BACKSLASH | INVISIBLE,
    };
    plain.read(&text)
}

/// True when `hit` is true of a reading, or when there are too many to tell.
pub(super) fn any(uri: &str, hit: impl Fn(&str) -> bool) -> bool {
    if uri.len() > LONGEST {
        return true;
    }
    // The WHATWG parser takes these out before it reads anything.
    let mut text = uri.replace(['\t', '\r', '\n'], "");
    let mut left = MOST;
    for _ in 0..=DECODINGS {
        for reader in readers(&text) {
            if left == 0 || hit(&reader.read(&text)) {
                return true;
            }
            left -= 1;
        }
        let decoded = percent_decoded(&text);
        if decoded == text {
            break;
        }
        text = decoded;
    }
    false
}

/// The ways in which `text` can be read differently, and no others: almost every URI has but one.
fn readers(text: &str) -> impl Iterator<Item = Reader> {
    let (_, path) = text.split_once("://").unwrap_or(("", text));
    let tails = match text.contains(['?', '#']) {
        true => &[Tail::Path, Tail::Whole, Tail::Query, Tail::Nothing][..],
        false => &[Tail::Path],
    };
    let dotted = ["/.", "\\.", ":.", "%2"].iter().any(|it| text.contains(it));
    let odd = !text.bytes().all(|byte| byte.is_ascii_graphic());
    let dots = match (dotted || odd, text.contains([';', '%'])) {
        (false, _) => &[Dots::Removed][..],
        (true, false) => &[Dots::Removed, Dots::Kept],
        (true, true) => &[Dots::Removed, Dots::WithParameters, Dots::Kept],
    };
    let backslash = text.contains('\\');
    let possible = [
        (MERGES, path.contains("//") || backslash),
        (BACKSLASH, backslash),
        (INVISIBLE, odd),
        (HOSTLESS, is_file(text)),
    ];
    let possible = possible.iter().filter(|(_, it)| *it);
    let possible = possible.fold(0, |all, (habit, _)| all | habit);
    let habits = (0..16_u8).filter(move |habits| habits & !possible == 0);
    habits.flat_map(move |habits| {
        tails.iter().flat_map(move |&tail| {
            let reader = move |&dots| Reader { tail, dots, habits };
            dots.iter().map(reader)
        })
    })
}

/// True for a file with a host.
fn is_file(text: &str) -> bool {
    let rest = text.trim_start().get(5..).unwrap_or_default();
    let slash = |c| c == '/' || c == '\\';
    let host = rest
        .strip_prefix(slash)
        .and_then(|it| it.strip_prefix(slash));
    host.is_some_and(|host| !host.is_empty() && !host.starts_with(slash))
        && text.trim_start().to_ascii_lowercase().starts_with("file:")
}

impl Reader {
    const fn has(self, habit: u8) -> bool {
        self.habits & habit != 0
    }

    fn read(self, text: &str) -> String {
        let mut text = Cow::Borrowed(text);
        if self.has(INVISIBLE) {
            text = fold(&text).into_owned().into();
        }
        if self.has(BACKSLASH) && text.contains('\\') {
            text = text.replace('\\', "/").into();
        }
        let read = match text.split_once(':') {
            Some((scheme, rest)) => {
                let scheme = fold(scheme);
                match &*scheme {
                    "file" => self.file(rest),
                    "http" | "https" | "ws" | "wss" | "ftp" => self.special(&scheme, rest),
                    other if is_scheme(other) => self.other(other, rest),
                    _ => self.path(&text),
                }
            }
            None => self.path(&text),
        };
        match fold(&read) {
            Cow::Borrowed(_) => read,
            Cow::Owned(folded) => folded,
        }
    }

    /// Whoever opens a file ignores the host; without slashes the path starts at the root all the same.
    fn file(self, rest: &str) -> String {
        let path = match rest.strip_prefix("//") {
            Some(hosted) if self.has(HOSTLESS) => hosted,
            Some(hosted) => self.after_authority(hosted).1,
            None => rest,
        };
        let root = if path.starts_with('/') { "" } else { "/" };
        format!("file://{}", self.path(&format!("{root}{path}")))
    }

    /// However many slashes there are, the next is the authority (WHATWG URL §4.4); `user@` and the
    /// default port name no other host.
    fn special(self, scheme: &str, rest: &str) -> String {
        let (authority, path) = self.after_authority(rest.trim_start_matches('/'));
        let host = host::plain(scheme, authority);
        // A star at the end of a pattern's host may stand for the path too.
        let root = if path.starts_with('/') || path.is_empty() && host.ends_with('*') {
            ""
        } else {
            "/"
        };
        format!("{scheme}://{host}{}", self.path(&format!("{root}{path}")))
    }

    /// Of no scheme that everybody knows, so as RFC 3986 says.
    fn other(self, scheme: &str, rest: &str) -> String {
        match rest.strip_prefix("//") {
            Some(hosted) => {
                let (authority, path) = self.after_authority(hosted);
                let host = authority.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}{}", self.path(path))
            }
            None => format!("{scheme}:{}", self.path(rest)),
        }
    }

    fn after_authority(self, text: &str) -> (&str, &str) {
        let end = match self.tail {
            Tail::Path => text.find('/'),
            _ => text.find(['/', '?', '#']),
        };
        text.split_at(end.unwrap_or(text.len()))
    }

    /// The path and what is kept behind it.
    fn path(self, text: &str) -> String {
        let text = match self.tail {
            Tail::Query => text.split('#').next().unwrap_or_default(),
            _ => text,
        };
        let end = match self.tail {
            Tail::Path => None,
            _ => text.find(['?', '#']),
        };
        let (path, tail) = text.split_at(end.unwrap_or(text.len()));
        let mut plain = self.segments(path);
        if self.tail != Tail::Nothing {
            plain.push_str(tail);
        }
        plain
    }

    /// RFC 3986 §5.2.4.
    fn segments(self, path: &str) -> String {
        let (root, inside) = match path.strip_prefix('/') {
            Some(inside) => ("/", inside),
            None => ("", path),
        };
        let mut kept: Vec<&str> = Vec::new();
        let mut ends_open = false;
        for segment in inside.split('/') {
            ends_open = segment.is_empty();
            let name = match self.dots {
                Dots::Kept => "",
                Dots::Removed => segment,
                Dots::WithParameters => without_parameters(segment),
            };
            match dots(name) {
                Some(back) => {
                    ends_open = true;
                    if back {
                        kept.pop();
                    }
                }
                None if segment.is_empty() && self.has(MERGES) => {}
                None => kept.push(segment),
            }
        }
        // An empty last segment stands for the slash before it, which matters to patterns such as
        // `file:///srv/*`.
        if kept.last().is_some_and(|last| last.is_empty()) {
            kept.pop();
        }
        let mut plain = format!("{root}{}", kept.join("/"));
        if ends_open && !plain.ends_with('/') && !kept.is_empty() {
            plain.push('/');
        }
        plain
    }
}

/// Whether a segment is `..` (true) or `.` (false), also where a dot is written `%2e`, as the WHATWG
/// parser has it.
fn dots(segment: &str) -> Option<bool> {
    match segment {
        "." => return Some(false),
        ".." => return Some(true),
        _ if !segment.contains('%') || segment.len() > 6 => return None,
        _ => {}
    }
    match &*segment.to_ascii_lowercase() {
        "%2e" => Some(false),
        ".%2e" | "%2e." | "%2e%2e" => Some(true),
        _ => None,
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
