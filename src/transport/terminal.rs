//! Makes bytes of a server safe to print for a person.
//!
//! A terminal runs what it is sent: escape sequences can retitle the window, rewrite earlier lines,
//! fill the clipboard, or be answered as if the person had typed. Whatever could be such a sequence
//! is removed whole; stray controls and broken UTF-8 are shown as `\xNN`.

use std::fmt::Write as _;

/// The text of `bytes` that a terminal only prints. LF stays, TAB becomes a space.
#[must_use]
pub fn sanitize(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        sanitize_text(chunk.valid(), &mut out);
        for byte in chunk.invalid() {
            show(*byte, &mut out);
        }
    }
    out
}

/// The same on one line: LF becomes a space, so that no name can begin a line of its own.
#[must_use]
pub fn one_line(text: &str) -> String {
    sanitize(text.as_bytes()).replace('\n', " ")
}

fn sanitize_text(text: &str, out: &mut String) {
    let mut rest = text.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '\n' => out.push(letter),
            '\t' => out.push(' '),
            '\u{1b}' => rest = after_escape(rest.as_str()).chars(),
            '\u{9b}' => rest = after_parameters(rest.as_str()).chars(),
            // DCS, SOS, OSC, PM, APC in their one-character forms.
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => {
                rest = after_command(rest.as_str()).chars();
            }
            '\0'..='\u{1f}' | '\u{7f}' | '\u{80}'..='\u{9f}' => {
                show(u8::try_from(u32::from(letter)).unwrap_or(0), out);
            }
            _ if reorders_or_hides(letter) => {
                // Writing to a String cannot fail.
                let _infallible = write!(out, "\\u{{{:x}}}", u32::from(letter));
            }
            _ => out.push(letter),
        }
    }
}

/// Bidirectional controls and line breaks that only some programs know: they make text look like
/// another text.
fn reorders_or_hides(letter: char) -> bool {
    matches!(letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    ) || ('\u{e0000}'..='\u{e007f}').contains(&letter)
}

fn show(byte: u8, out: &mut String) {
    let _infallible = write!(out, "\\x{byte:02x}");
}

/// What follows an escape sequence (ECMA-48 §5.3 and §5.4); `rest` begins after its ESC.
fn after_escape(rest: &str) -> &str {
    let mut letters = rest.chars();
    match letters.next() {
        Some('[') => after_parameters(letters.as_str()),
        Some(']' | 'P' | 'X' | '^' | '_') => after_command(letters.as_str()),
        Some(' '..='/') => {
            let body = letters
                .as_str()
                .trim_start_matches(|c| (' '..='/').contains(&c));
            strip_first(body, |c| ('0'..='~').contains(&c))
        }
        Some('0'..='~') => letters.as_str(),
        _ => rest,
    }
}

/// After `ESC [`: parameters, intermediates, one final letter.
fn after_parameters(rest: &str) -> &str {
    let body = rest.trim_start_matches(|c| (' '..='?').contains(&c));
    strip_first(body, |c| ('@'..='~').contains(&c))
}

/// After `ESC ]` and its like: everything up to BEL or the string terminator. One that does not end
/// hides only its own line: nothing of what follows may vanish.
fn after_command(rest: &str) -> &str {
    let line = rest
        .find('\n')
        .map_or(rest, |end| rest.get(..end).unwrap_or(rest));
    let ends = ["\u{7}", "\u{1b}\\", "\u{9c}"];
    let end = ends
        .iter()
        .filter_map(|end| Some(line.find(end)? + end.len()))
        .min()
        .unwrap_or(line.len());
    rest.get(end..).unwrap_or_default()
}

fn strip_first(text: &str, what: impl Fn(char) -> bool) -> &str {
    text.strip_prefix(what).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    fn clean(text: &str) -> String {
        sanitize(text.as_bytes())
    }

    #[test]
    fn sequences_vanish_and_text_stays() {
        for (given, wanted) in [
            ("plain\ttext\n", "plain text\n"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b[?2004hx\x1b[>4;2m", "x"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]52;c;aGk=\x1b\\after", "after"),
            ("\x1bPq#0\x1b\\after", "after"),
            ("\x1b]8;;http://evil/\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1b]never ends\nnext", "\nnext"),
            ("\x1b(Bx\x1b#8y\x1bcz", "xyz"),
            ("a\u{9b}31mb\u{9d}0;t\u{9c}c", "abc"),
            (
                "bell\x07 back\x08 cr\r nul\0 del\x7f",
                "bell\\x07 back\\x08 cr\\x0d nul\\x00 del\\x7f",
            ),
            ("\u{202e}abc\u{2066}", "\\u{202e}abc\\u{2066}"),
            ("nel\u{85}x", "nel\\x85x"),
            ("\x1b", ""),
            ("\x1b[", ""),
            ("\x1b[31", ""),
            ("grün 漢字 👍", "grün 漢字 👍"),
        ] {
            assert_eq!(clean(given), wanted, "{given:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_shown() {
        assert_eq!(sanitize(b"a\xff\xc0\x9bb"), "a\\xff\\xc0\\x9bb");
        // An eight-bit CSI of a terminal in a one-byte character set.
        assert_eq!(sanitize(b"\x9b31m"), "\\x9b31m");
        assert_eq!(one_line("a\ncofferdam: b\x1b[2J"), "a cofferdam: b");
    }

    proptest! {
        #[test]
        fn nothing_that_a_terminal_runs_is_left(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = sanitize(&bytes);
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        }

        #[test]
        fn printable_ascii_is_unchanged(text in "[ -~\n]{0,200}") {
            prop_assert_eq!(clean(&text), text);
        }
    }
}
