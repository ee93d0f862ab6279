//! Every detector with a good and a bad example, and planted secrets at every kind of place.

use super::*;
use proptest::prelude::*;

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

/// Where base64 has `/` and `+` is chance: many draws for each of those that may have no long run.
#[test]
fn a_body_without_a_long_run_is_found() {
    let scrubber = scrubber();
    let mut dice = Dice(0xB64);
    let mut short = 0;
    for detector in &table().detectors {
        for _ in 0..150 {
            let token = example(detector, &mut dice);
            let runs = runs::long_runs_slowly(token.as_bytes());
            if runs.first().is_some_and(|(start, _)| *start == 0) {
                continue;
            }
            short += usize::from(runs.is_empty());
            let line = format!(r#"{{"text":"see {token} there"}}"#);
            let (out, _) = redacted(&scrubber, &line);
            assert!(gone(&out, &token, detector.shape.prefix.len()), "{out}");
        }
    }
    assert!(short > 0, "the draws never had what this is about");
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
    // PHP writes its slashes so; prefixes have none but one, which is not found then.
    let slash = if token.contains("//") { "/" } else { r"\/" };
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
        format!(r#"{{"text":"{x}{}"}}"#, token.replace('/', slash)),
        format!(r#"{{"text":"{x}a\u0026b={token}\u003cbr\u003e"}}"#),
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
