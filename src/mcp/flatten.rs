//! An HTTP body as one line: line breaks and tabs between tokens are legal JSON, and a line of stdio
//! holds none.

use memchr::{memchr, memchr2, memchr3};
use std::borrow::Cow;

/// The body with CR, LF and TAB outside of strings as blanks. Inside of strings they stay, for
/// [`parse`](super::parse) to refuse; so does every other control byte.
#[must_use]
pub fn flatten(body: &[u8]) -> Cow<'_, [u8]> {
    if memchr3(b'\r', b'\n', b'\t', body).is_none() {
        return Cow::Borrowed(body);
    }
    let mut line = body.to_vec();
    let mut at = 0;
    while let Some(rest) = line.get_mut(at..) {
        // Up to the next string.
        let plain = memchr(b'"', rest).unwrap_or(rest.len());
        for byte in rest.iter_mut().take(plain) {
            if matches!(byte, b'\r' | b'\n' | b'\t') {
                *byte = b' ';
            }
        }
        if plain == rest.len() {
            break;
        }
        at = string_end(&line, at + plain + 1);
    }
    Cow::Owned(line)
}

/// The offset behind the closing quote of the string whose text begins at `at`.
fn string_end(line: &[u8], mut at: usize) -> usize {
    while let Some(found) = line.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        let quote = line.get(at + found) == Some(&b'"');
        at += found + if quote { 1 } else { 2 };
        if quote {
            return at;
        }
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::{Direction, parse};

    #[test]
    fn breaks_between_tokens_become_blanks() {
        let body =
            b"{\r\n\t\"jsonrpc\": \"2.0\",\n \"id\":1,\"method\":\"a\\\\\",\r\"params\":{}\n}\n";
        let line = flatten(body);
        assert!(line.iter().all(|byte| *byte >= 0x20));
        assert_eq!(line.len(), body.len());
        assert!(parse(&line, Direction::ToServer).is_ok());
    }

    #[test]
    fn breaks_inside_of_strings_stay_and_are_refused() {
        for body in [
            &b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\rb\"}"[..],
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\\\"\nb\"}",
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\"}\x0b",
            b"\"\n",
            b"\"\\",
        ] {
            assert!(
                parse(&flatten(body), Direction::ToServer).is_err(),
                "{body:?}"
            );
        }
        assert!(matches!(flatten(b"{}"), Cow::Borrowed(_)));
    }
}
