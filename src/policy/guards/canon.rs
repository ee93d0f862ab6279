//! One number for a JSON value, however it is spelt: members in any order, blanks, escapes, `1.0` for `1`.

use crate::mcp::{elements, members, text};
use ring::digest::{Context, SHA256};

/// Half of a SHA-256, which is far more than it takes to tell the calls of one session apart.
pub(super) type Sum = [u8; 16];

/// The number of `value`, which `mcp::parse` has proved.
pub(super) fn sum(value: &[u8]) -> Sum {
    let mut context = Context::new(&SHA256);
    feed(&mut context, value);
    finish(context)
}

/// The number of what a tool has answered: everything in its result but `_meta`, where servers put times
/// and numbers of requests.
pub(super) fn sum_of_result(result: &[u8]) -> Sum {
    let mut context = Context::new(&SHA256);
    for (key, value) in members(result) {
        if key != "_meta" {
            word(&mut context, b'k', key.as_bytes());
            word(&mut context, b'r', value.text);
        }
    }
    finish(context)
}

fn finish(context: Context) -> Sum {
    let digest = context.finish();
    let mut sum = Sum::default();
    for (to, from) in sum.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    sum
}

/// As deep as `parse` lets a value be.
fn feed(context: &mut Context, value: &[u8]) {
    match value.first() {
        Some(b'{') => {
            let mut all: Vec<_> = members(value).collect();
            all.sort_by(|(one, _), (two, _)| one.cmp(two));
            context.update(b"{");
            for (key, value) in all {
                word(context, b'k', key.as_bytes());
                feed(context, value.text);
            }
            context.update(b"}");
        }
        Some(b'[') => {
            context.update(b"[");
            for element in elements(value) {
                feed(context, element.text);
            }
            context.update(b"]");
        }
        Some(b'"') => match text(value) {
            Some(text) => word(context, b's', text.as_bytes()),
            None => word(context, b'r', value),
        },
        Some(b'-' | b'0'..=b'9') => number(context, value),
        _ => word(context, b'r', value),
    }
}

/// Integers of up to 64 bits as they are; others as the number that JavaScript would read.
fn number(context: &mut Context, value: &[u8]) {
    let text = std::str::from_utf8(value).unwrap_or_default();
    if let Ok(whole) = text.parse::<i64>() {
        return word(context, b'i', &whole.to_le_bytes());
    }
    let Ok(float) = text.parse::<f64>() else {
        return word(context, b'r', value);
    };
    // 2^53: below, every whole number has a float of its own.
    if float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 {
        let whole = format!("{float:.0}").parse::<i64>().unwrap_or_default();
        return word(context, b'i', &whole.to_le_bytes());
    }
    word(context, b'f', &float.to_bits().to_le_bytes());
}

/// With its kind and length, so that no two sequences of words are spelt alike.
fn word(context: &mut Context, kind: u8, bytes: &[u8]) {
    context.update(&[kind]);
    context.update(&bytes.len().to_le_bytes());
    context.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_value_has_one_number() {
        for (one, two) in [
            (
                r#"{"a":1,"b":[true,null]}"#,
                r#"{ "b" : [ true , null ] , "a" : 1.0 }"#,
            ),
            (r#"{"a":"x/y"}"#, r#"{"\u0061":"x\/y"}"#),
            ("[1e2]", "[100]"),
            ("-0.0", "0"),
            (r#"{"a":{"c":2,"b":1}}"#, r#"{"a":{"b":1,"c":2}}"#),
        ] {
            assert_eq!(sum(one.as_bytes()), sum(two.as_bytes()), "{one} {two}");
        }
    }

    #[test]
    fn other_values_have_other_numbers() {
        let all = [
            "{}",
            "[]",
            "null",
            "\"null\"",
            "0",
            "\"0\"",
            "1.5",
            "[1,2]",
            "[[1],2]",
            "[2,1]",
            r#"{"a":1}"#,
            r#"{"b":1}"#,
            r#"{"a":"1"}"#,
            r#"["a",1]"#,
            r#"{"a":[]}"#,
            "9007199254740993",
            "9007199254740992",
            "18446744073709551616",
        ];
        for (at, one) in all.iter().enumerate() {
            for two in &all[at + 1..] {
                assert_ne!(sum(one.as_bytes()), sum(two.as_bytes()), "{one} {two}");
            }
        }
    }

    #[test]
    fn a_result_is_the_same_whatever_its_meta_says() {
        let of = |text: &str| sum_of_result(text.as_bytes());
        let one = of(r#"{"content":[],"_meta":{"at":1}}"#);
        assert_eq!(one, of(r#"{"content":[],"_meta":{"at":2}}"#));
        assert_eq!(one, of(r#"{"content":[]}"#));
        assert_ne!(one, of(r#"{"content":[1]}"#));
        assert_ne!(one, of(r#"{"content":[],"isError":true}"#));
    }
}
