//! Escapes, private keys, the corpus: what stands around a secret.

use super::*;

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
    let corpus = include_str!("../../../../tests/corpus/scrub.jsonl");
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
fn slashes_of_php_hide_nothing() {
    let scrubber = scrubber();
    let word = |seed, length| Dice(seed).word(length);
    let key = [
        &["-----BEGIN PRIVATE", " KEY-----\n"].concat(),
        "MIIE/",
        &word(8, 59),
        "\n",
        &["-----END PRIVATE", " KEY-----"].concat(),
    ]
    .concat();
    for (text, detector) in [
        (
            format!(
                "https://hooks.slack.com/services/T{0}/B{0}/{1}",
                word(5, 8),
                word(6, 24)
            ),
            "slack-webhook",
        ),
        (
            format!(
                "https://discord.com/api/webhooks/1234567890123456789/{}",
                word(7, 68)
            ),
            "discord-webhook",
        ),
        (key, "private-key"),
    ] {
        let line = serde_json::json!({ "text": text }).to_string();
        let slashed = line.replace('/', r"\/");
        for line in [line, slashed] {
            let (out, found) = redacted(&scrubber, &line);
            assert_eq!(found.len(), 1, "{line}");
            assert_eq!(found[0].detector, detector);
            outside_is_kept(&line, &out, &found);
            serde_json::from_str::<serde_json::Value>(&out).unwrap();
        }
    }
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
