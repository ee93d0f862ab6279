//! The values that the server was given, in every spelling.

use super::*;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};

#[test]
fn given_values_are_found_in_every_form() {
    let values = [
        Dice(11).word(20),
        format!("p@ss/{}\"q\\<&> é", Dice(12).word(9)),
        format!("two\nlines {}", Dice(13).word(10)),
    ];
    for value in &values {
        let scrubber = Scrubber::new(
            SecretsMode::Redact,
            &[Secret::new("v", value.clone().into_bytes())],
        );
        let mut texts = vec![
            value.clone(),
            format!("x {value} y"),
            serde_json::to_string(value).unwrap(),
        ];
        texts.push(serde_json::to_string(&serde_json::to_string(value).unwrap()).unwrap());
        for before in ["", "a", "ab", "abc"] {
            let text = format!("{before}{value}, after");
            texts.push(STANDARD.encode(&text));
            texts.push(URL_SAFE.encode(&text));
            texts.push(STANDARD.encode(format!("{before}{value}")));
            texts.push(URL_SAFE_NO_PAD.encode(format!("{before}{value}")));
        }
        let hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
        texts.push(hex.to_uppercase());
        texts.push(format!("ab{hex}cd"));
        texts.push(
            value
                .bytes()
                .map(|b| match b {
                    b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
                    b => format!("%{b:02X}"),
                })
                .collect(),
        );
        for text in texts {
            let line = serde_json::json!({"text": text}).to_string();
            let (out, found) = redacted(&scrubber, &line);
            assert_eq!(found.len(), 1, "{line}");
            assert!(
                found[0].detector == "given" && out.len() < line.len() + 30,
                "{out}"
            );
            let after: serde_json::Value = serde_json::from_str(&out).unwrap();
            let after = after["text"].as_str().unwrap();
            for text in [after.to_owned(), decoded(after)] {
                assert!(gone(&text, value, 0), "{line} {out}");
            }
            outside_is_kept(&line, &out, &found);
        }
    }
}

#[test]
fn given_values_are_found_when_every_character_is_escaped() {
    let value = format!("p@ss/{}\"q\\<&> é\nend", Dice(14).word(9));
    let scrubber = Scrubber::new(
        SecretsMode::Redact,
        &[Secret::new("v", value.clone().into_bytes())],
    );
    let lower: String = value
        .encode_utf16()
        .map(|c| format!("\\u{c:04x}"))
        .collect();
    let upper: String = value
        .encode_utf16()
        .map(|c| format!("\\u{c:04X}"))
        .collect();
    let quotes = serde_json::to_string(&value)
        .unwrap()
        .replace("\\\"", "\\u0022");
    for text in [&lower, &upper, quotes.trim_matches('"')] {
        let line = format!(r#"{{"text":"a {text} b"}}"#);
        let (out, found) = redacted(&scrubber, &line);
        assert_eq!(found.len(), 1, "{line}");
        let after: serde_json::Value = serde_json::from_str(&out).unwrap();
        let after = after["text"].as_str().unwrap();
        assert!(gone(after, &value, 0) && after.starts_with("a "), "{out}");
        outside_is_kept(&line, &out, &found);
    }
}

#[test]
fn each_line_of_a_given_key_counts_by_itself() {
    let lines: Vec<String> = (20..24).map(|seed| Dice(seed).word(64)).collect();
    let value = format!(
        "-----BEGIN KEY-----\n{}\n-----END KEY-----\n",
        lines.join("\n")
    );
    let scrubber = Scrubber::new(SecretsMode::Redact, &[Secret::new("v", value.into_bytes())]);
    let mut found = Vec::new();
    for line in &lines {
        scrubber.text(line.as_bytes(), &mut found);
        assert_eq!(found.len(), 1, "{line}");
        assert_eq!(found[0].span, 0..line.len());
    }
    scrubber.text(b"-----BEGIN KEY-----", &mut found);
    assert_eq!(found, []);
}

/// What can still be read from base64 and hex around the placeholder.
fn decoded(text: &str) -> String {
    let kept: String = text
        .split("CFD-REDACTED-given-")
        .map(|p| p.get(10..).unwrap_or(p))
        .collect();
    String::from_utf8_lossy(&check::decode(kept.as_bytes())).into_owned()
}

#[test]
fn given_values_are_found_as_other_languages_escape_them() {
    let value = "pa\"ss<w>&'ör+d/42";
    let scrubber = Scrubber::new(
        SecretsMode::Redact,
        &[Secret::new("v", value.as_bytes().to_vec())],
    );
    for written in [
        r#"pa\"ss<w>&'ör+d\/42"#,
        r#"pa\"ss\u003cw\u003e\u0026'ör+d/42"#,
        r#"pa\"ss<w>&'\u00f6r+d/42"#,
        r#"pa\u0022ss\u003Cw\u003E\u0026\u0027\u00F6r\u002Bd/42"#,
    ] {
        let line = format!(r#"{{"text":"is {written}, yes"}}"#);
        let before: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(before["text"].as_str().unwrap().contains(value), "{line}");
        let (out, found) = redacted(&scrubber, &line);
        assert_eq!(found.len(), 1, "{line}");
        outside_is_kept(&line, &out, &found);
        serde_json::from_str::<serde_json::Value>(&out).unwrap();
    }
}

#[test]
fn short_values_need_word_boundaries_and_shorter_ones_are_ignored() {
    let secret = |name: &str, value: &str| Secret::new(name, value.as_bytes().to_vec());
    let scrubber = Scrubber::new(
        SecretsMode::Redact,
        &[secret("pin", "a1b2c"), secret("six", "k3y5et")],
    );
    assert_eq!(scrubber.ignored(), ["pin"]);
    assert_eq!(redacted(&scrubber, r#"{"a":"a1b2c xk3y5etx"}"#).1, []);
    assert_eq!(redacted(&scrubber, r#"{"a":"the k3y5et."}"#).1.len(), 1);
    assert_eq!(redacted(&scrubber, r#"{"a":"\nk3y5et"}"#).1.len(), 1);
}

#[test]
fn a_number_stays_a_number() {
    let scrubber = Scrubber::new(
        SecretsMode::Redact,
        &[Secret::new("account", b"4711081508".to_vec())],
    );
    let (out, found) = redacted(
        &scrubber,
        r#"{"a":4711081508,"b":"4711081508","c":[1,4711081508]}"#,
    );
    assert_eq!(found.len(), 3);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(value["a"].is_u64() && value["b"].is_string() && value["c"][1].is_u64());
    assert!(!out.contains("4711081508"));
    assert_eq!(
        redacted(&scrubber, r#"{"a":14711081508,"t":47110815080}"#).1,
        []
    );
}
