//! What the tests share: examples that are drawn from the shapes, and what must hold after each search.
//!
//! Examples are drawn from the shapes at run time; no credential is written in this file.

use super::check::{Check, base62, crc32, is_varied};
use super::table::{Detector, table};
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

mod cost_tests;
mod detector_tests;
mod frame_tests;
mod given_tests;
mod name_tests;

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
            let set: Vec<u8> = (0..128).filter(|b| piece.has(*b)).collect();
            let top = piece.max.min(piece.min + 8);
            let count = usize::from(piece.min) + dice.below(usize::from(top - piece.min) + 1);
            token.extend((0..count).map(|_| dice.pick(&set)));
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
        let before = match detector.check {
            Check::AfterDigits(count) => count,
            _ => 0,
        };
        let body = token.as_bytes()[before + prefix.len()..].to_vec();
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
