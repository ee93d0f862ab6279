//! Every detector with a good and a bad example, and planted secrets at every kind of place.
//!
//! Examples are drawn from the shapes at run time; no credential is written in this file.

use super::check::{Check, base62, crc32, is_varied};
use super::table::{Detector, table};
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;

mod cost_tests;

/// A small generator: the tests must draw the same examples each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    fn pick(&mut self, set: &[u8]) -> u8 {
        set[self.below(set.len())]
    }

    fn word(&mut self, length: usize) -> String {
        let set: Vec<u8> = (b'0'..=b'9')
            .chain(b'a'..=b'z')
            .chain(b'A'..=b'Z')
            .collect();
        (0..length).map(|_| char::from(self.pick(&set))).collect()
    }
}

/// A genuine example of `detector`: random, with its checksum and structure in order.
fn example(detector: &Detector, dice: &mut Dice) -> String {
    let prefix = detector.shape.prefix;
    for _ in 0..10_000 {
        let mut token = prefix.as_bytes().to_vec();
        for piece in &detector.shape.pieces {
            // Separators do not end words here: a body of hyphens would be no example.
            let all: Vec<u8> = (0..128).filter(|b| piece.has(*b)).collect();
            let plain: Vec<u8> = all
                .iter()
                .copied()
                .filter(u8::is_ascii_alphanumeric)
                .collect();
            let set = if plain.is_empty() { &all } else { &plain };
            let top = piece.max.min(piece.min + 8);
            let count = usize::from(piece.min) + dice.below(usize::from(top - piece.min) + 1);
            token.extend((0..count).map(|_| dice.pick(set)));
        }
        let mut token = String::from_utf8(token).unwrap();
        match detector.check {
            Check::GithubCrc => {
                let body = prefix.len()..prefix.len() + 30;
                let sum = base62(crc32(&token.as_bytes()[body.clone()]));
                token.truncate(body.end);
                token.push_str(std::str::from_utf8(&sum).unwrap());
            }
            Check::JwtHeader => {
                let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
                let rest = token.split_once('.').unwrap().1.to_owned();
                token = format!("{header}.{rest}");
            }
            Check::Contains(part) => token.insert_str(prefix.len() + 20, part),
            Check::Decodes(start) => {
                let tail = dice.word(60);
                token = format!("{prefix}{}", STANDARD.encode(format!("{start}{tail}")));
            }
            Check::Holds(part) => {
                let tail = dice.word(90);
                token = STANDARD.encode(format!("-----BEGIN {part}-----\n{tail}"));
            }
            Check::AfterDigits(count) => token.insert_str(0, &"7".repeat(count)),
            Check::None | Check::Mixed | Check::Alone => {}
        }
        let body = token.as_bytes()[prefix.len()..].to_vec();
        let good = match detector.check {
            Check::Mixed | Check::Alone | Check::AfterDigits(_) => {
                body.iter().any(u8::is_ascii_uppercase)
                    && body.iter().any(u8::is_ascii_lowercase)
                    && body.iter().any(u8::is_ascii_digit)
            }
            _ => true,
        };
        if good && is_varied(&body, detector.floor) {
            return token;
        }
    }
    panic!("no example for {}", detector.name);
}

fn scrubber() -> Scrubber {
    Scrubber::new(SecretsMode::Redact, &[])
}

fn redacted(scrubber: &Scrubber, line: &str) -> (String, Vec<Finding>) {
    let mut found = Vec::new();
    scrubber.json(line.as_bytes(), &mut found);
    let out = String::from_utf8(scrubber.redact(line.as_bytes(), &found)).unwrap();
    (out, found)
}

/// No piece of eight characters of `secret`, past its public prefix, is left in `out`.
fn gone(out: &str, secret: &str, public: usize) -> bool {
    let core = &secret.as_bytes()[public.min(secret.len())..];
    let window = 8.min(core.len());
    !core
        .windows(window)
        .any(|piece| memchr::memmem::find(out.as_bytes(), piece).is_some())
}

/// The value with every string replaced by its length class: what must stay.
fn shape(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let members: Vec<_> = map
                .iter()
                .map(|(k, v)| format!("{k}:{}", shape(v)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(shape).collect();
            format!("[{}]", items.join(","))
        }
        Value::String(_) => "s".into(),
        Value::Number(_) => "n".into(),
        other => other.to_string(),
    }
}

/// Asserts that what lies outside of the findings is untouched.
fn outside_is_kept(line: &str, out: &str, found: &[Finding]) {
    let (mut at, mut rest) = (0, out);
    for finding in found {
        assert!(finding.span.start >= at && finding.span.end > finding.span.start);
        let kept = &line[at..finding.span.start];
        rest = rest.strip_prefix(kept).unwrap();
        let length = rest
            .bytes()
            .take_while(|b| b.is_ascii_alphanumeric() || *b == b'-')
            .count();
        // The tail of the placeholder is ten characters; what follows it may be of the same kind.
        let marker = format!("CFD-REDACTED-{}-", finding.detector);
        let skip = if rest.starts_with(&marker) {
            marker.len() + 10
        } else {
            length
        };
        rest = &rest[skip..];
        at = finding.span.end;
    }
    assert_eq!(rest, &line[at..]);
}

#[test]
fn every_detector_finds_its_example_and_passes_a_near_miss() {
    let scrubber = scrubber();
    let mut dice = Dice(0x5EED);
    for detector in &table().detectors {
        for _ in 0..5 {
            let token = example(detector, &mut dice);
            let line = format!(r#"{{"text":"see {token} there"}}"#);
            let (out, found) = redacted(&scrubber, &line);
            assert!(!found.is_empty(), "{} {token}", detector.name);
            assert!(
                gone(&out, &token, detector.shape.prefix.len()),
                "{} {out}",
                detector.name
            );
            outside_is_kept(&line, &out, &found);
            // The mark is the same, but the body is filler.
            let prefix = detector.shape.prefix;
            let filler = format!(r#"{{"text":"see {prefix}{} there"}}"#, "x".repeat(48));
            assert_eq!(redacted(&scrubber, &filler).1, [], "{filler}");
            // Too short by one.
            let least = detector.shape.shortest();
            let short: String = token.chars().take(least.min(token.len()) - 1).collect();
            let (_, found) = redacted(&scrubber, &format!(r#"{{"text":"see {short} there"}}"#));
            let same = found.iter().any(|f| f.detector == detector.name);
            assert!(
                !same
                    || table()
                        .detectors
                        .iter()
                        .filter(|d| d.name == detector.name)
                        .count()
                        > 1,
                "{} {short}",
                detector.name
            );
        }
    }
}

#[test]
fn a_word_glued_to_the_prefix_is_another_word() {
    let scrubber = scrubber();
    let mut dice = Dice(7);
    for detector in table()
        .detectors
        .iter()
        .filter(|d| d.shape.prefix.starts_with("gh"))
    {
        let token = example(detector, &mut dice);
        assert_eq!(redacted(&scrubber, &format!(r#"{{"a":"x{token}"}}"#)).1, []);
    }
}

#[test]
fn a_wrong_checksum_is_no_github_token_unless_named() {
    let scrubber = scrubber();
    let body = Dice(3).word(36);
    let token = ["gh", "p_", &body].concat();
    assert_eq!(redacted(&scrubber, &format!(r#"{{"a":"{token}"}}"#)).1, []);
    assert_eq!(
        redacted(&scrubber, &format!(r#"{{"github_token":"{token}"}}"#))
            .1
            .len(),
        1
    );
}

/// All ways in which a token may stand in a line; the token's own characters need no escape.
fn placements(token: &str, pad: usize) -> Vec<String> {
    let unicode: String = token.bytes().map(|b| format!("\\u{b:04x}")).collect();
    let first: String = format!("\\u{:04x}{}", token.as_bytes()[0], &token[1..]);
    let x = " ".repeat(pad);
    vec![
        format!(r#"{{"text":"{x}{token}"}}"#),
        format!(r#"{{"text":"{x}line\n{token}\nnext"}}"#),
        format!(r#"{{"text":"{x}{{\"a\":\"{token}\",\"b\":1}}"}}"#),
        format!(r#"{{"text":"{x}{{\\\"a\\\":\\\"\\n{token}\\\"}}"}}"#),
        format!(r#"{{"text":"{x}a\\n{token}\\nb"}}"#),
        format!(r#"{{"text":"{x}\u003c{token}\u003e"}}"#),
        format!(r#"{{"text":"{x}{unicode}"}}"#),
        format!(r#"{{"text":"{x}{first}"}}"#),
        format!(r#"{{"{x}{token}":["{token}","{token}, and more"]}}"#),
        format!(r#"{{"text":"{x}x: {token}&y=1 ({token}) `{token}`"}}"#),
        format!(r#"{{"text":"{x}é{token}é"}}"#),
    ]
}

#[test]
fn every_detector_at_every_kind_of_place() {
    let scrubber = scrubber();
    let mut dice = Dice(0xC0FFEE);
    for detector in &table().detectors {
        let token = example(detector, &mut dice);
        for (index, line) in placements(&token, dice.below(80)).into_iter().enumerate() {
            let before: serde_json::Value = serde_json::from_str(&line).unwrap();
            let (out, found) = redacted(&scrubber, &line);
            assert!(
                gone(&out, &token, detector.shape.prefix.len()),
                "{} {index} {out}",
                detector.name
            );
            let whole = index != 6 || detector.check.looks_before();
            assert!(whole || !out.contains("\\u00"), "{} {out}", detector.name);
            outside_is_kept(&line, &out, &found);
            let after: serde_json::Value = serde_json::from_str(&out).unwrap();
            if index != 8 {
                assert_eq!(shape(&before), shape(&after), "{out}");
            }
            assert_eq!(
                redacted(&scrubber, &out).1,
                [],
                "placeholders are found again: {out}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn planted_secrets_are_removed_from_random_json(
        words in prop::collection::vec("[a-zA-Z0-9_é\"\\\\\n/=:.,{}-]{0,40}", 1..12),
        which in 0usize..10_000,
        seed in 1u64..u64::MAX,
        place in 0usize..12,
    ) {
        let scrubber = scrubber();
        let detectors = &table().detectors;
        let detector = &detectors[which % detectors.len()];
        let token = example(detector, &mut Dice(seed));
        let mut texts = words.clone();
        let place = place % texts.len();
        texts[place].push_str(" \n");
        texts[place].push_str(&token);
        texts[place].push('\n');
        let json = |texts: &[String]| serde_json::json!({"content": texts, "n": 1.5e3}).to_string();
        for line in [json(&texts), json(&[json(&texts)])] {
            let (out, found) = redacted(&scrubber, &line);
            prop_assert!(gone(&out, &token, detector.shape.prefix.len()), "{out}");
            outside_is_kept(&line, &out, &found);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok());
        }
    }

    #[test]
    fn any_json_stays_json_of_the_same_shape(text in "\\PC{0,200}", key in "[a-z_\"\\\\]{0,20}") {
        let scrubber = Scrubber::new(SecretsMode::Redact, &[Secret::new("v", b"nu0067abc".to_vec())]);
        let line = serde_json::json!({"k": {key: text}}).to_string();
        let (out, found) = redacted(&scrubber, &line);
        outside_is_kept(&line, &out, &found);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{out}");
    }
}

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

#[test]
fn escapes_are_never_cut() {
    let scrubber = Scrubber::new(
        SecretsMode::Redact,
        &[Secret::new("v", b"nightly42".to_vec())],
    );
    assert_eq!(redacted(&scrubber, r#"{"a":"\nightly42"}"#).1, []);
    assert_eq!(redacted(&scrubber, r#"{"a":"\nnightly42"}"#).1.len(), 1);
    assert_eq!(redacted(&scrubber, r#"{"a":"\\nightly42"}"#).1.len(), 1);
}

#[test]
fn private_keys_go_whole() {
    let scrubber = scrubber();
    let body = (0..6)
        .map(|i| Dice(i + 1).word(64))
        .collect::<Vec<_>>()
        .join("\n");
    let frame = |edge: &str| ["-----", edge, " RSA PRIVATE", " KEY-----"].concat();
    let whole = format!("{}\n{body}\n{}", frame("BEGIN"), frame("END"));
    let cut = format!("{}\n{body}", frame("BEGIN"));
    for key in [&whole, &cut] {
        let once =
            serde_json::json!({"text": format!("before {key}"), "after": "stays"}).to_string();
        let twice = serde_json::json!({"text": once, "after": "stays"}).to_string();
        for line in [once, twice] {
            let (out, found) = redacted(&scrubber, &line);
            assert!(gone(&out, &body, 0), "{out}");
            assert_eq!(found.len(), 1);
            assert!(out.contains("before CFD-REDACTED-private-key") && out.contains("stays"));
            serde_json::from_str::<serde_json::Value>(&out).unwrap();
        }
    }
    let public = whole.replace("PRIVATE", "PUBLIC");
    assert_eq!(
        redacted(&scrubber, &serde_json::json!({"t": public}).to_string()).1,
        []
    );
}

/// The corpus: a line of JSON in each, and the detectors that must fire, in order.
#[test]
fn the_corpus_holds() {
    let scrubber = scrubber();
    let corpus = include_str!("../../../tests/corpus/scrub.jsonl");
    for case in corpus.lines() {
        let case: serde_json::Value = serde_json::from_str(case).unwrap();
        // `@R20@` stands for twenty random characters, so that no line looks like a leak.
        let mut dice = Dice(0xABCDEF);
        let line = case["line"].as_str().unwrap();
        let mut line = line.replace("@PK@", &["PRIVATE", "KEY"].join(" "));
        while let Some(at) = line.find("@R") {
            let end = at + 2 + line[at + 2..].find('@').unwrap();
            let random = dice.word(line[at + 2..end].parse().unwrap());
            line.replace_range(at..=end, &random);
        }
        let (out, found) = redacted(&scrubber, &line);
        let names: Vec<_> = found.iter().map(|f| f.detector).collect();
        let expect: Vec<_> = case["found"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_str().unwrap())
            .collect();
        assert_eq!(names, expect, "{}: {line}\n{out}", case["why"]);
        serde_json::from_str::<serde_json::Value>(&out).unwrap();
    }
}

#[test]
fn off_finds_nothing() {
    let scrubber = Scrubber::new(
        SecretsMode::Off,
        &[Secret::new("v", b"longenough".to_vec())],
    );
    let mut found = vec![Finding {
        span: 0..1,
        detector: "given",
    }];
    scrubber.json(br#"{"a":"longenough"}"#, &mut found);
    assert_eq!(found, []);
}

#[test]
fn text_is_searched_too() {
    let scrubber = scrubber();
    let token = example(&table().detectors[0], &mut Dice(99));
    let mut found = Vec::new();
    for line in [
        format!("ERROR {token}"),
        format!("{{\\n{token}"),
        format!("key:\t{token}\x1b[0m"),
    ] {
        scrubber.text(line.as_bytes(), &mut found);
        assert_eq!(found.len(), 1, "{line}");
    }
}

#[test]
fn labels_are_few_and_sorted() {
    let names = detectors();
    assert!(names.is_sorted() && names.contains(&"github-pat") && names.contains(&"given"));
    assert!((60..200).contains(&names.len()), "{}", names.len());
}

#[test]
fn an_escape_behind_a_flag_is_no_value() {
    let scrubber = Scrubber::new(SecretsMode::Redact, &[]);
    for text in [
        "-url-password\u{5}o:m",
        "--password\nCorrect4Horse",
        "--password\tCorrect4Horse",
    ] {
        let line = serde_json::json!({ "result": { "text": text } }).to_string();
        let mut found = Vec::new();
        scrubber.json(line.as_bytes(), &mut found);
        let clean = scrubber.redact(line.as_bytes(), &found);
        assert!(
            serde_json::from_slice::<serde_json::Value>(&clean).is_ok(),
            "{text:?}"
        );
    }
    let mut found = Vec::new();
    scrubber.text(b"--password Correct4Horse", &mut found);
    assert_eq!(found.len(), 1);
}

/// Whoever masks a cursor breaks paging without a word.
#[test]
fn cursors_and_one_time_marks_are_left_alone() {
    let value = Dice(7).word(40);
    for name in [
        "deltaToken",
        "skipToken",
        "resumptionToken",
        "PagingToken",
        "since_token",
        "lockToken",
    ] {
        let line = serde_json::json!({ (name): value }).to_string();
        assert_eq!(redacted(&scrubber(), &line).0, line);
    }
    let secret = serde_json::json!({ "accessToken": value }).to_string();
    assert_ne!(redacted(&scrubber(), &secret).0, secret);
}
