//! Secrets that only their place gives away: `curl -u user:…`, `mysql -p…`, `.pgpass`, `.netrc`,
//! cookies, PuTTY keys.

use super::Finding;
use super::named::{gap_before, is_name, skip, skip_back};
use super::structure::is_key_text;
use super::value::{Frame, is_password, is_secret, read};
use memchr::memmem;

/// How far the program's name may stand before its flag, and a machine's before its password.
const NEAR: usize = 256;

/// The longest private part of a PuTTY key.
const PUTTY: usize = 16 << 10;

/// The shortest value of a cookie that is a secret: settings are shorter.
const COOKIE: usize = 20;

/// What stands before a secret, and what kind of place that is.
pub(super) const PLACES: [(&str, Place); 7] = [
    (" -u ", Place::Pair("curl")),
    (" --user ", Place::Pair("curl")),
    (" -p ", Place::Flag("sshpass")),
    (" -p", Place::Glued("mysql")),
    (" -a ", Place::Flag("redis-cli")),
    (":5432:", Place::PgPass),
    ("Private-Lines: ", Place::Putty),
];

/// A kind of place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// `user:password` behind a flag of this program.
    Pair(&'static str),
    /// A password behind a flag of this program.
    Flag(&'static str),
    /// The same, without a blank between.
    Glued(&'static str),
    /// `host:5432:database:user:password`, a line of libpq's password file.
    PgPass,
    /// The private part of a key in PuTTY's own format.
    Putty,
}

/// The secret in the place whose mark ends at `at`.
pub(super) fn placed(bytes: &[u8], place: Place, at: usize) -> Option<Finding> {
    let span = match place {
        Place::Pair(program) => {
            let value = argument(bytes, program, at)?;
            let colon = memchr::memchr(b':', bytes.get(value.clone())?)?;
            value.start + colon + 1..value.end
        }
        Place::Flag(program) | Place::Glued(program) => argument(bytes, program, at)?,
        Place::PgPass => {
            let line = read(bytes, at, None)?;
            let text = bytes.get(line.clone())?;
            let mut fields = text.splitn(3, |b| *b == b':');
            let (database, user) = (fields.next()?, fields.next()?);
            let password = fields.next()?;
            if database.is_empty() || user.is_empty() {
                return None;
            }
            line.end - password.len()..line.end
        }
        Place::Putty => return putty(bytes, at),
    };
    is_password(bytes.get(span.clone())?, true).then_some(Finding {
        span,
        detector: "password",
    })
}

/// The argument at `at` when `program` stands before it in the same line.
fn argument(bytes: &[u8], program: &str, at: usize) -> Option<std::ops::Range<usize>> {
    let before = bytes.get(at.saturating_sub(NEAR)..at)?;
    let start = memmem::rfind(before, program.as_bytes())?;
    if has_line_end(before.get(start..)?) {
        return None;
    }
    let slashes = skip(bytes, at, |b| b == b'\\') - at;
    let quote = bytes.get(at + slashes).copied();
    let open = quote
        .filter(|q| matches!(q, b'"' | b'\''))
        .map(|quote| Frame { quote, slashes });
    read(bytes, at + open.map_or(0, |_| slashes + 1), open)
}

fn has_line_end(text: &[u8]) -> bool {
    memchr::memchr(b'\n', text).is_some() || memmem::find(text, br"\n").is_some()
}

/// The private lines of a PuTTY key, whose number stands at `at`.
fn putty(bytes: &[u8], at: usize) -> Option<Finding> {
    let mut start = skip(bytes, at, |b| b.is_ascii_digit());
    if start == at {
        return None;
    }
    loop {
        let escape = skip(bytes, start, |b| b == b'\\');
        start = match bytes.get(escape)? {
            b'\n' | b'\r' if escape == start => start + 1,
            b'n' | b'r' if escape > start => escape + 1,
            _ => break,
        };
    }
    let rest = bytes.get(start..)?;
    if !is_key_text(rest.get(..64).unwrap_or(rest)) {
        return None;
    }
    let near = rest.get(..PUTTY).unwrap_or(rest);
    let mac = memmem::find(near, b"Private-MAC").unwrap_or(near.len());
    let end = match memchr::memchr(b'"', near.get(..mac)?) {
        Some(quote) => skip_back(bytes, start + quote, |b| b == b'\\'),
        // Cut off somewhere: an escape might be cut too.
        None if mac == near.len() && near.len() < rest.len() => return None,
        None => gap_before(bytes, start + mac),
    };
    Some(Finding {
        span: start..end,
        detector: "private-key",
    })
}

/// `machine NAME login NAME` stands before the word `password` at `at`: a line of `.netrc`.
pub(super) fn is_netrc(bytes: &[u8], at: usize) -> bool {
    let before = bytes.get(at.saturating_sub(NEAR)..at).unwrap_or_default();
    memmem::rfind(before, b"login ").is_some_and(|login| {
        let before = before.get(..login).unwrap_or_default();
        memmem::rfind(before, b"machine ").is_some()
    })
}

/// The value at `run` of a long random cookie (RFC 6265 §4.1, §4.2): its name and what follows stay.
pub(super) fn cookie(bytes: &[u8], run: usize) -> Option<Finding> {
    let name = skip_back(bytes, run.checked_sub(1)?, is_name);
    let before = bytes.get(name.saturating_sub(NEAR)..name)?;
    let header = memmem::rfind(before, b"ookie")?;
    let between = before.get(header + b"ookie".len()..)?;
    let colon = between
        .iter()
        .position(|b| !matches!(b, b'\\' | b'"' | b'\''))?;
    if between.get(colon) != Some(&b':') || has_line_end(between) {
        return None;
    }
    let span = read(bytes, run, None)?;
    let value = bytes.get(span.clone())?;
    (value.len() >= COOKIE && is_secret(value, true)).then_some(Finding {
        span,
        detector: "named-secret",
    })
}
