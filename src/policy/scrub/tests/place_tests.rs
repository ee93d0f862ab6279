//! Secrets that only their place gives away, and the same words in other places.

use super::*;

/// The text without what is taken out, as plain text and as a string of JSON.
fn clean(text: &str) -> String {
    let scrubber = scrubber();
    let line = serde_json::json!({ "text": text }).to_string();
    let (out, found) = redacted(&scrubber, &line);
    outside_is_kept(&line, &out, &found);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let in_json = value["text"].as_str().unwrap().to_owned();
    let mut found = Vec::new();
    scrubber.text(text.as_bytes(), &mut found);
    let out = scrubber.redact(text.as_bytes(), &found);
    // Tags differ where a value has an escape.
    assert_eq!(out.len(), in_json.len());
    in_json
}

#[test]
fn passwords_of_command_lines_and_files_are_found() {
    let password = "tR7uq-GGxk2sHwV";
    for text in [
        "curl -sS -u admin:@ https://x.example/",
        "curl --user 'admin:@' https://x.example/",
        "mysql -h db -u root -p@ app",
        "mysqldump --host db -p'@' app > x.sql",
        "sshpass -p @ ssh host",
        "redis-cli -h cache -a @ ping",
        "machine x.example login me password @",
        "machine x.example\n  login me\n  password @\n",
        "db.internal:5432:app:appuser:@\nnext",
        "Server=h;User Id=sa;Pwd=@;",
        "Authorization: token @",
        "{\"Authorization\": \"token @\"}",
        "Set-Cookie: session=@9f8e7d6c5b; HttpOnly",
        "Cookie: theme=dark; sid=@9f8e7d6c5b",
        "tool --token @ --verbose",
        "tool --api-key '@'",
    ] {
        let out = clean(&text.replace('@', password));
        assert!(!out.contains(password) && out.contains("CFD-"), "{out}");
        let (head, tail) = text.split_once('@').unwrap();
        assert!(out.starts_with(head), "{out}");
        let tail = tail.strip_prefix("9f8e7d6c5b").unwrap_or(tail);
        assert!(out.ends_with(tail), "{out}");
    }
}

#[test]
fn the_same_words_elsewhere_are_text() {
    for text in [
        "docker run -u 1000:1000 -p 8080:80 image7",
        "mkdir -p src/policy2/scrub",
        "curl -u \"$USER:$PASSWORD1\" https://x.example/",
        "mysql -h db -p$MYSQL_PASSWORD2",
        "we use mysql; then\nmkdir -pv2/x",
        "ports: 127.0.0.1:5432:5432",
        "postgres://h:5432/app",
        "the password generator2000 login",
        "Set-Cookie: theme=dark-mode-2024; Path=/",
        "the cookie banner=9f86d081884c7d659a2feaa0c55ad015",
        "the token 9f86d081884c7d659a2feaa0c55ad015 is a digest",
        "tool --commit 9f86d081884c7d659a2feaa0c55ad015",
        "tool --token refreshTokenProvider",
        "{\"auth\": \"bm90LWEtcGFpci1vZi10d28\"}",
        "Private-Lines: the lines of a private key",
    ] {
        assert_eq!(clean(text), text);
    }
}

#[test]
fn user_and_password_of_docker_and_npm_are_found() {
    let pair = STANDARD.encode("user:tRuqGGxk2sHwV");
    for text in [
        "{\"auths\": {\"r.example\": {\"auth\": \"@\"}}}",
        "//r.example/:_auth=@",
    ] {
        let out = clean(&text.replace('@', &pair));
        assert!(
            !out.contains(&pair) && out.contains("authorization"),
            "{out}"
        );
    }
}

#[test]
fn putty_keys_go_whole() {
    let lines = [Dice(31).word(64), Dice(32).word(44)];
    let text = format!(
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPrivate-Lines: 2\n{}\n{}\nPrivate-MAC: 00\n",
        lines[0], lines[1]
    );
    let out = clean(&text);
    assert!(lines.iter().all(|line| gone(&out, line, 0)), "{out}");
    assert!(
        out.contains("Lines: 2\nCFD-") && out.ends_with("\nPrivate-MAC: 00\n"),
        "{out}"
    );
    let cut = clean(text.split("\nPrivate-MAC").next().unwrap());
    assert!(lines.iter().all(|line| gone(&cut, line, 0)), "{cut}");
}

/// Sixteen random digits inside of a longer run, or the mark at another place, are something else.
#[test]
fn marks_count_only_where_they_belong() {
    let digest = "9f86d081884c7d659a2feaa0c55ad015";
    for text in [
        format!("{digest}-usb"),
        format!("a{digest}-us14"),
        format!("{}-us14", &digest[1..]),
        format!("{}AZDO{}", Dice(41).word(75), Dice(42).word(5)),
        format!("{}AZDO{}", Dice(43).word(76), Dice(44).word(5)),
    ] {
        assert_eq!(clean(&text), text);
    }
}
