//! Text from outside, made fit to be shown.

/// Text from outside, with control characters spelled out: a file or a path must not write to the
/// terminal.
pub(super) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => safe.extend(c.escape_debug()),
            false => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(printable("é \u{1b}[2J\n\u{9b}"), "é \\u{1b}[2J\\n\\u{9b}");
    }
}
