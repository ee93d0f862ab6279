//! Results that are too large: plain text is cut behind a line and says so, anything else is refused.
//!
//! JSON is never cut, neither `structuredContent` nor a text that is JSON: half of it is worth nothing to
//! whoever parses it. Nor are images, audio and resources.

use super::tokens;
use crate::mcp::{Raw, elements, members, text};
use std::ops::Range;

/// What a result may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cap {
    pub(super) bytes: u64,
    pub(super) tokens: u64,
}

/// How large a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) bytes: u64,
    /// Estimated.
    pub(super) tokens: u64,
}

impl Size {
    pub(super) fn of(result: &[u8]) -> Self {
        Self {
            bytes: result.len() as u64,
            tokens: tokens::of_result(result),
        }
    }

    pub(super) fn fits(self, cap: Cap) -> bool {
        self.bytes <= cap.bytes && self.tokens <= cap.tokens
    }
}

/// Room for the words that say what was cut; a result that has no more is not worth cutting.
const MARKER: u64 = 320;
const MARKER_TOKENS: u64 = 90;
/// A cut moves back to the end of a line that is at most so far away.
const LINE: usize = 2048;

/// The line of an answer with less text in its result, which is too large; `None` when it cannot be cut.
/// `result` lies in `line`.
pub(super) fn cut(line: &[u8], result: Raw<'_>, cap: Cap) -> Option<Vec<u8>> {
    let mut content = None;
    for (key, value) in members(result.text) {
        match &*key {
            "content" => content = Some(value),
            "structuredContent" => return None,
            "resultType" if value.text != br#""complete""# => return None,
            _ => {}
        }
    }
    let content = content?;
    let at = result.start + content.start;
    let mut texts: Vec<Text> = Vec::new();
    for item in elements(content.text) {
        let Some(said) = plain_text(item) else {
            continue;
        };
        texts.push(Text {
            span: at + said.start..at + said.start + said.text.len(),
            tokens: tokens::of_text(said.text),
            said: text(said.text)?.into_owned(),
        });
    }
    // What is no plain text stays whole, and the texts share what it leaves.
    let whole = Size::of(result.text);
    let bytes: u64 = texts.iter().map(|text| text.span.len() as u64).sum();
    let weight: u64 = texts.iter().map(|text| text.tokens).sum();
    // Each text that is cut leaves its quotes, and what is rounded up once may be so twice.
    let each = texts.len() as u64;
    let rest = Cap {
        bytes: whole.bytes.saturating_sub(bytes) + 2 * each + MARKER,
        tokens: whole.tokens.saturating_sub(weight) + 2 * each + MARKER_TOKENS,
    };
    let mut room = Cap {
        bytes: cap.bytes.checked_sub(rest.bytes)?,
        tokens: cap.tokens.checked_sub(rest.tokens)?,
    };
    let mut out =
        Vec::with_capacity(line.len().min(usize::try_from(cap.bytes).unwrap_or(0)) + 1024);
    let (mut from, mut is_cut) = (0, false);
    for text in &texts {
        out.extend_from_slice(line.get(from..text.span.start)?);
        from = text.span.end;
        let size = text.span.len() as u64;
        if !is_cut && size <= room.bytes && text.tokens <= room.tokens {
            room.bytes -= size;
            room.tokens -= text.tokens;
            out.extend_from_slice(line.get(text.span.clone())?);
            continue;
        }
        let kept = text.kept(room)?;
        room = Cap {
            bytes: 0,
            tokens: 0,
        };
        let said = match is_cut {
            // One marker is enough; what is behind it is gone.
            true => String::new(),
            false => {
                let left: usize = texts.iter().map(|text| text.said.len()).sum();
                format!(
                    "{}\n[cut here: {} of {left} bytes of text are shown. Ask for less: a narrower query, a filter, a smaller range, or the next page.]",
                    kept.trim_end_matches('\n'),
                    shown(&texts, text, kept),
                )
            }
        };
        is_cut = true;
        serde_json::to_writer(&mut out, &said).ok()?;
    }
    out.extend_from_slice(line.get(from..)?);
    is_cut.then_some(out)
}

/// Bytes of text that are before the cut.
fn shown(all: &[Text], this: &Text, kept: &str) -> usize {
    let before = all.iter().take_while(|text| text.span != this.span);
    before.map(|text| text.said.len()).sum::<usize>() + kept.len()
}

#[derive(Debug)]
struct Text {
    /// Of the token in the line, with its quotes.
    span: Range<usize>,
    /// As it is written.
    tokens: u64,
    said: String,
}

impl Text {
    /// The start of the text that fits, up to the end of a line or at least of a character; `None` when
    /// the text is JSON.
    fn kept(&self, room: Cap) -> Option<&str> {
        if is_json(&self.said) {
            return None;
        }
        let (mut bytes, mut weight, mut end) = (2_u64, 0_u64, 0);
        for (at, letter) in self.said.char_indices() {
            bytes += written(letter);
            weight += if letter.is_ascii() {
                written(letter)
            } else {
                4
            };
            if bytes > room.bytes || weight.div_ceil(4) > room.tokens {
                break;
            }
            end = at + letter.len_utf8();
        }
        let kept = self.said.get(..end)?;
        let line = kept.rfind('\n').map(|at| at + 1);
        match line {
            Some(line) if end - line <= LINE => kept.get(..line),
            _ => Some(kept),
        }
    }
}

/// Bytes of a character in JSON, as this program writes it.
fn written(letter: char) -> u64 {
    match letter {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        other => other.len_utf8() as u64,
    }
}

/// Objects and arrays; a lone number or word is text like any other.
fn is_json(text: &str) -> bool {
    let text = text.trim();
    matches!(text.as_bytes().first(), Some(b'{' | b'['))
        && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// The token of `text` of a content item of that type, placed as the item is.
fn plain_text(item: Raw<'_>) -> Option<Raw<'_>> {
    let (mut is_text, mut said) = (false, None);
    for (key, value) in members(item.text) {
        match &*key {
            "type" => is_text = value.text == br#""text""#,
            "text" if value.text.first() == Some(&b'"') => {
                said = Some(Raw {
                    start: item.start + value.start,
                    text: value.text,
                });
            }
            _ => {}
        }
    }
    said.filter(|_| is_text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::{Direction, Kind, parse};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn answer(result: &Value) -> String {
        json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string()
    }

    /// The answer after the cut, proved again.
    fn cut_to(line: &str, cap: Cap) -> Option<Value> {
        let envelope = parse(line.as_bytes(), Direction::ToClient).unwrap();
        let Kind::Result { result, .. } = envelope.kind else {
            panic!("{line}")
        };
        let cut = cut(line.as_bytes(), result, cap)?;
        let envelope = parse(&cut, Direction::ToClient).unwrap();
        let Kind::Result { result, .. } = envelope.kind else {
            panic!("{line}")
        };
        assert!(
            Size::of(result.text).fits(cap),
            "{:?} {cap:?}",
            Size::of(result.text)
        );
        Some(serde_json::from_slice(&cut).unwrap())
    }

    const fn bytes(bytes: u64) -> Cap {
        Cap {
            bytes,
            tokens: u64::MAX,
        }
    }

    #[test]
    fn text_is_cut_behind_a_line_and_says_how_to_ask_for_less() {
        let text: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        let line = answer(&json!({ "content": [{ "type": "text", "text": text }], "x": 1.0 }));
        let cut = cut_to(&line, bytes(2000)).unwrap();
        let said = cut["result"]["content"][0]["text"].as_str().unwrap();
        let (kept, marker) = said.rsplit_once('\n').unwrap();
        assert!(
            text.starts_with(&format!("{kept}\n")),
            "whole lines: {kept}"
        );
        assert!(kept.len() > 1000, "{}", kept.len());
        assert!(marker.starts_with("[cut here: "), "{marker}");
        assert!(marker.contains(&format!("{} of {} bytes", kept.len() + 1, text.len())));
        assert!(marker.contains("narrower query"));
        assert_eq!(cut["result"]["x"], 1.0);
    }

    #[test]
    fn later_texts_go_and_what_is_no_text_stays() {
        let long = "a".repeat(5000);
        let item = |text: &str| json!({ "type": "text", "text": text });
        let image = json!({ "type": "image", "data": "AAAA", "mimeType": "image/png" });
        let line = answer(&json!({ "content": [item("first"), image, item(&long), item("last")] }));
        let cut = cut_to(&line, bytes(2000)).unwrap();
        let content = &cut["result"]["content"];
        assert_eq!(content[0]["text"], "first");
        assert_eq!(content[1], image);
        assert!(content[2]["text"].as_str().unwrap().contains("[cut here"));
        assert_eq!(content[3]["text"], "");
    }

    #[test]
    fn json_is_never_cut() {
        let rows = json!((0..1000).collect::<Vec<_>>());
        let text = |text: String| json!({ "content": [{ "type": "text", "text": text }] });
        assert_eq!(cut_to(&answer(&text(rows.to_string())), bytes(1500)), None);
        assert_eq!(
            cut_to(&answer(&text(format!("\n {rows} \n"))), bytes(1500)),
            None
        );
        let mut both = text("x".repeat(5000));
        both["structuredContent"] = json!({});
        assert_eq!(cut_to(&answer(&both), bytes(1500)), None);
        let mut asking = text("x".repeat(5000));
        asking["resultType"] = json!("input_required");
        assert_eq!(cut_to(&answer(&asking), bytes(1500)), None);
        // Text that only begins like JSON is text.
        assert!(
            cut_to(
                &answer(&text(format!("[{}", "x".repeat(5000)))),
                bytes(1500)
            )
            .is_some()
        );
    }

    #[test]
    fn what_cannot_become_small_enough_is_not_cut() {
        let image = json!({ "type": "image", "data": "A".repeat(5000), "mimeType": "image/png" });
        let text = json!({ "type": "text", "text": "x".repeat(5000) });
        assert_eq!(
            cut_to(&answer(&json!({ "content": [image, text] })), bytes(2000)),
            None
        );
        assert_eq!(
            cut_to(&answer(&json!({ "content": [text] })), bytes(100)),
            None
        );
        assert_eq!(
            cut_to(&answer(&json!({ "other": "x".repeat(5000) })), bytes(2000)),
            None
        );
    }

    proptest! {
        #[test]
        fn a_cut_is_a_start_of_the_text_at_a_character(
            text in "([a-z\"\\\\ ]|\n|é|漢|😀|\u{1}){600,1500}",
            cap in 1000_u64..3000,
            tokens in 300_u64..800,
        ) {
            prop_assume!(!is_json(&text));
            let line = answer(&json!({ "content": [{ "type": "text", "text": text }] }));
            let cap = Cap { bytes: cap, tokens };
            if let Some(cut) = cut_to(&line, cap) {
                let said = cut["result"]["content"][0]["text"].as_str().unwrap();
                if said != text {
                    let (kept, marker) = said.rsplit_once('\n').unwrap();
                    prop_assert!(text.starts_with(kept));
                    prop_assert!(marker.starts_with("[cut here: "));
                }
            }
        }
    }
}
