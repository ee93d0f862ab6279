//! How many tokens a text costs a model, estimated: no tokenizer is right for all models, and a budget
//! needs an order of magnitude.
//!
//! Four characters of English or code are about one token in the vocabularies in use (the rule of thumb
//! that their makers publish); a character beyond ASCII is about one token by itself, which is right for
//! Chinese and Japanese and too much for accented Latin, so the estimate errs towards more.

use crate::mcp::{elements, members};

/// ASCII characters in one token.
const ASCII: u64 = 4;
/// What an image costs a model at most, whatever its size: models scale it down.
const IMAGE: u64 = 1_600;

/// Tokens of bytes that are UTF-8, rounded up.
pub(super) fn of_text(text: &[u8]) -> u64 {
    let mut all = 0_u64;
    let mut wide = 0_u64;
    for byte in text {
        all += 1;
        // The first byte of a character beyond ASCII, and those that follow it.
        wide += u64::from(*byte >= 0xC0);
        all -= u64::from(*byte >= 0x80);
    }
    all.div_ceil(ASCII) + wide
}

/// Tokens of a result: its text as it is written, its images by number.
pub(super) fn of_result(result: &[u8]) -> u64 {
    let mut sum = 0;
    for (key, value) in members(result) {
        if key == "content" && value.text.first() == Some(&b'[') {
            for item in elements(value.text) {
                let is_image = item
                    .member("type")
                    .is_some_and(|kind| kind.text == br#""image""#);
                sum += match is_image {
                    true => IMAGE,
                    false => of_text(item.text),
                };
            }
        } else if key != "_meta" {
            sum += of_text(value.text);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_letters_or_one_wide_character_are_a_token() {
        for (text, tokens) in [
            ("", 0),
            ("a", 1),
            ("abcd", 1),
            ("abcde", 2),
            ("漢字", 2),
            ("né", 2),
        ] {
            assert_eq!(of_text(text.as_bytes()), tokens, "{text}");
        }
    }

    #[test]
    fn an_image_costs_what_a_model_makes_of_it() {
        let big = "A".repeat(1 << 20);
        let image =
            format!(r#"{{"content":[{{"type":"image","data":"{big}","mimeType":"image/png"}}]}}"#);
        assert_eq!(of_result(image.as_bytes()), IMAGE);
        let text = r#"{"content":[{"type":"text","text":"abcd"}],"_meta":{"x":"abcdabcdabcd"}}"#;
        assert_eq!(of_result(text.as_bytes()), 8);
    }
}
