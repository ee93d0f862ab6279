//! `cofferdam credentials` against sessions that run: what it shows, what it rehearses, what it ends.

use crate::rig::Rig;
use crate::rotation::{fingerprint, replace, start, value};
use crate::wire::{Wire, eventually, mark, refused_by, said};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A session with one credential, and its file.
fn session(inject: &str, more: &str) -> (Wire, PathBuf) {
    let rig = Rig::new().file("token", value(0)).file(
        "c.toml",
        format!(
            "[server]\nname = \"m\"\ncommand = [\"/bin/true\"]\n{more}\n[credentials.github]\nfile = \"token\"\ninject = {{ {inject} }}\n"
        ),
    );
    let file = rig.path().join("token");
    (start(rig, &["--config", "{dir}/c.toml"], &[]), file)
}

/// Exit code, stdout and stderr.
fn command(wire: &Wire, words: &[&str]) -> (i32, String, String) {
    let words = [&["credentials"], words, &["--server", "m"]].concat();
    let output = wire.rig().command(&words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(
        !format!("{out}{error}").contains("Zq7vLm2Xw9"),
        "{out}{error}"
    );
    (output.status.code().unwrap(), out, error)
}

fn listed(wire: &Wire) -> Value {
    let (code, out, error) = command(wire, &["list", "--format", "json"]);
    assert_eq!(code, 0, "{error}");
    let all: Value = serde_json::from_str(&out).unwrap();
    all[0].clone()
}

const ENV: &str = "env = \"TOKEN\"";
const ARGUMENT: &str = "argument = \"/token\"";
const FILE: &str = "file = \"token\", env = \"TOKEN_FILE\"";

#[test]
fn they_are_listed_by_age_and_generation_without_a_value() {
    let (mut wire, file) = session(ENV, "");
    wire.call("1", "token", &json!({}));
    let first = listed(&wire);
    assert_eq!(first["name"], "github");
    assert_eq!(first["inject"], "$TOKEN");
    assert_eq!(
        (&first["generation"], &first["state"]),
        (&json!(1), &json!("current"))
    );
    assert_eq!(first["holders"][0]["servers"], 1);
    replace(&file, &value(1));
    assert!(eventually(|| listed(&wire)["generation"] == 2));
    let second = listed(&wire);
    assert_eq!(second["previous"], first["fingerprint"]);
    assert!(eventually(|| {
        let holders = listed(&wire)["holders"].clone();
        holders.as_array().unwrap().len() == 1 && holders[0]["generation"] == 2
    }));
    let (code, out, _) = command(&wire, &[]);
    assert_eq!(code, 0);
    let print = second["fingerprint"].as_str().unwrap();
    assert!(
        out.contains(&format!("github: generation 2 ({print}), current")),
        "{out}"
    );
    assert_eq!(
        wire.rig()
            .again()
            .command(&["credentials"])
            .output()
            .unwrap()
            .status
            .code(),
        Some(64)
    );
    let rig = wire.rig().again();
    assert_eq!(wire.finish().code, 0);
    let output = rig
        .command(&["credentials", "--config", "c.toml"])
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        out.contains("no instance") && out.contains("can be read"),
        "{out}"
    );
}

#[test]
fn a_server_that_may_keep_its_value_is_pending() {
    let (mut wire, file) = session(ENV, "replace = \"never\"");
    wire.call("1", "token", &json!({}));
    replace(&file, &value(1));
    assert!(eventually(|| listed(&wire)["pending"] == 1));
    let (code, out, _) = command(&wire, &[]);
    assert!(code == 0 && out.contains("pending: 1 servers"), "{out}");
    // What it still holds is ended with it, and the next one gets the value in force.
    let (code, out, error) = command(&wire, &["revoke", "github", "--previous"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("none of them uses it"), "{out}");
    let answer = wire.call("2", "token", &json!({}));
    assert_eq!(said(&answer), fingerprint(&value(1)), "{answer}");
    assert_eq!(wire.metric("cofferdam_child_starts_total"), 2.0);
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_revoked_value_is_out_of_use_at_once_until_there_is_another() {
    for (inject, tool) in [(ENV, "token"), (FILE, "file")] {
        let (mut wire, file) = session(inject, "");
        assert_eq!(
            said(&wire.call("1", tool, &json!({}))),
            fingerprint(&value(0))
        );
        let server = wire.server();
        let (code, out, error) = command(&wire, &["revoke", "github"]);
        assert_eq!(code, 0, "{out}{error}");
        assert!(out.contains("has no other and waits for one"), "{out}");
        // The probe of the command said it; this is another.
        assert!(!std::path::Path::new(&format!("/proc/{server}")).exists());
        let refused = wire.call("2", tool, &json!({}));
        refused_by(&refused, "credentials.missing");
        assert!(
            said(&refused).starts_with("Credential problem"),
            "{refused}"
        );
        assert_eq!(wire.metric("cofferdam_credential_revoked"), 1.0);
        // The same value is none, in whatever way it is written again.
        replace(&file, &(value(0) + "\n"));
        std::thread::sleep(std::time::Duration::from_millis(200));
        refused_by(&wire.call("3", tool, &json!({})), "credentials.missing");
        replace(&file, &value(1));
        let mut id = 3;
        assert!(eventually(|| {
            id += 1;
            said(&wire.call(&id.to_string(), tool, &json!({}))) == fingerprint(&value(1))
        }));
        assert_eq!(wire.metric("cofferdam_credential_revoked"), 0.0);
        assert_eq!(wire.metric("cofferdam_child_starts_total"), 2.0);
        let stderr = wire.stderr();
        assert!(
            stderr.contains("was revoked; write another value into"),
            "{stderr}"
        );
        assert!(!stderr.contains("Zq7vLm2Xw9"), "{stderr}");
        let rig = wire.rig().again();
        assert_eq!(wire.finish().code, 0);

        // It does not start with it either.
        std::fs::write(&file, value(0)).unwrap();
        let mark = mark();
        let flags = ["--config", "{dir}/c.toml"];
        let wire = Wire::start(rig, &mark, &flags, &["/bin/true", &mark]);
        let over = wire.wait();
        assert_eq!(over.code, 78, "{}", over.text());
        assert!(over.text().contains("was revoked"), "{}", over.text());
    }
}

#[test]
fn a_revoked_argument_is_filled_into_no_call() {
    let (mut wire, file) = session(ARGUMENT, "");
    let call = json!({"key": 0});
    assert_eq!(
        said(&wire.call("1", "given", &call)),
        fingerprint(&value(0))
    );
    let (code, out, error) = command(&wire, &["revoke", "github"]);
    assert_eq!(code, 0, "{out}{error}");
    let answer = wire.call("2", "given", &call);
    refused_by(&answer, "credentials.missing");
    assert!(said(&answer).contains("do not retry"), "{answer}");
    // The server holds nothing, so it goes on with what needs none.
    assert_eq!(said(&wire.call("3", "work", &json!({"key": 7}))), "7");
    replace(&file, &value(1));
    assert!(eventually(
        || said(&wire.call("4", "given", &call)) == fingerprint(&value(1))
    ));
    assert_eq!(wire.metric("cofferdam_child_starts_total"), 1.0);
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_rotation_is_rehearsed_with_the_same_value() {
    let (mut wire, _) = session(ENV, "");
    assert_eq!(
        said(&wire.call("1", "token", &json!({}))),
        fingerprint(&value(0))
    );
    for round in 1..=2 {
        let (code, out, error) = command(&wire, &["rotate", "--test", "github"]);
        assert_eq!(code, 0, "{error}");
        assert!(out.contains("done in"), "{out}");
        let answer = wire.call(&format!("\"r{round}\""), "token", &json!({}));
        assert_eq!(said(&answer), fingerprint(&value(0)));
        assert_eq!(
            wire.metric("cofferdam_child_replacements_total"),
            f64::from(round)
        );
    }
    assert_eq!(listed(&wire)["generation"], 1);
    let (code, _, error) = command(&wire, &["rotate", "--test", "other"]);
    assert!(code == 69 && error.contains("`other`"), "{error}");
    let (code, _, _) = command(&wire, &["rotate", "github"]);
    assert_eq!(code, 64);
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn what_is_too_old_or_ends_is_seen() {
    let rig = Rig::new()
        .file("token", json!({"token": value(0), "expires_at": 1_000_000_000}).to_string())
        .file(
            "c.toml",
            "[credentials.github]\nfile = \"token\"\nkey = \"token\"\nrotate_every = \"1ms\"\ninject = { env = \"TOKEN\" }\n",
        );
    let mut wire = start(rig, &["--config", "{dir}/c.toml"], &[]);
    wire.call("1", "token", &json!({}));
    wire.until_stderr("generation 1 has ended");
    assert_eq!(
        wire.metric("cofferdam_credential_expiry_timestamp_seconds"),
        1e9
    );
    let due = wire.metric("cofferdam_credential_rotate_by_timestamp_seconds");
    assert_eq!(
        due,
        wire.metric("cofferdam_credential_loaded_timestamp_seconds")
    );
    let health = wire.admin("/health");
    assert!(health.contains("\"aged\": \"expired\""), "{health}");
    assert!(health.contains("\"age_seconds\": "), "{health}");
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn each_rotation_is_in_the_audit_log_without_its_value() {
    for (inject, tool, placed) in [(ENV, "token", true), (FILE, "file", false)] {
        let (mut wire, file) = session(inject, "");
        wire.call("1", tool, &json!({}));
        for round in 1..=2 {
            replace(&file, &value(round));
            let mut id = round * 1000;
            assert!(eventually(|| {
                id += 1;
                said(&wire.call(&id.to_string(), tool, &json!({}))) == fingerprint(&value(round))
            }));
        }
        let second = listed(&wire)["previous"].clone();
        std::fs::write(&file, "").unwrap();
        assert!(eventually(|| !listed(&wire)["problem"].is_null()));
        let third = listed(&wire)["fingerprint"].clone();
        let (code, _, error) = command(&wire, &["revoke", "github"]);
        assert_eq!(code, 0, "{error}");
        let state = wire.path().join("home/.local/state/cofferdam/m");
        let rig = wire.rig().again();
        assert_eq!(wire.finish().code, 0);
        let audit = std::fs::read_to_string(state.join("audit.jsonl")).unwrap();
        assert!(!audit.contains("Zq7vLm2Xw9"), "{audit}");
        let lines: Vec<Value> = audit
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &Value| line["direction"] == "credential")
            .collect();
        let of = |act: &str| {
            lines
                .iter()
                .filter(|it| it["type"] == act)
                .collect::<Vec<_>>()
        };
        let rotated = of("rotated");
        assert_eq!(rotated.len(), 2, "{lines:?}");
        assert_eq!(rotated[0]["previous"]["generation"], 1);
        assert_eq!(
            (&rotated[0]["generation"], &rotated[0]["fingerprint"]),
            (&json!(2), &second)
        );
        assert_eq!(rotated[1]["previous"]["fingerprint"], second);
        assert_eq!(rotated[1]["fingerprint"], third);
        assert_eq!(of("placed").len(), if placed { 2 } else { 0 }, "{lines:?}");
        assert!(of("placed").iter().all(|it| it["status"] == "success"));
        assert_eq!(of("kept")[0]["status"], "error");
        assert_eq!(of("revoked")[0]["fingerprint"], third);
        drop(rig);
    }
}

#[test]
fn a_credential_that_is_not_accepted_is_said_so_and_tried_no_more() {
    let (mut wire, file) = session(ENV, "");
    let fail = |wire: &mut Wire, id: u32| {
        let text = json!({"text": "GitHub said: 401 Unauthorized"});
        wire.call(&id.to_string(), "fail", &text)
    };
    for id in 1..=3 {
        let answer = fail(&mut wire, id);
        assert!(
            said(&answer).contains("The arguments are fine; do not retry"),
            "{answer}"
        );
        assert_eq!(
            answer["result"]["content"][1]["text"],
            "GitHub said: 401 Unauthorized"
        );
        assert_eq!(answer["result"]["isError"], true);
    }
    let before = std::fs::read_to_string(wire.path().join("notes/ledger")).unwrap();
    let answer = fail(&mut wire, 4);
    refused_by(&answer, "credentials.breaker");
    assert!(said(&answer).contains("do not retry"), "{answer}");
    let after = std::fs::read_to_string(wire.path().join("notes/ledger")).unwrap();
    assert_eq!(before, after, "the server was not asked");
    // Others work, and what others say in passing is nobody's problem.
    let text = json!({"text": "401 Unauthorized"});
    assert_eq!(said(&wire.call("5", "say", &text)), "401 Unauthorized");
    let failed = json!({"text": "no such file"});
    assert_eq!(said(&wire.call("6", "work", &json!({"key": 1}))), "1");
    let metrics = wire.admin("/metrics");
    for (outcome, count) in [("failed", 3), ("refused", 1)] {
        let line = format!(
            "cofferdam_credential_problems_total{{name=\"github\",outcome=\"{outcome}\"}} {count}"
        );
        assert!(metrics.contains(&line), "{metrics}");
    }
    wire.until_stderr("(http-401) in a call of fail; credential: github");
    // Another credential is another chance.
    replace(&file, &value(1));
    assert!(eventually(|| listed(&wire)["generation"] == 2));
    let answer = wire.call("7", "fail", &failed);
    assert_eq!(said(&answer), "no such file", "{answer}");
    let audit = wire
        .path()
        .join("home/.local/state/cofferdam/m/audit.jsonl");
    assert_eq!(wire.metric("cofferdam_child_replacements_total"), 1.0);
    let rig = wire.rig().again();
    assert_eq!(wire.finish().code, 0);
    let audit = std::fs::read_to_string(audit).unwrap();
    for rule in ["credentials.problem", "credentials.breaker"] {
        assert!(audit.contains(rule), "{audit}");
    }
    drop(rig);
}

/// As the server is told it: from behind, so that being told is not having it.
fn reversed(text: &str) -> Value {
    json!({"reversed": text.chars().rev().collect::<String>()})
}

#[test]
fn a_server_finds_no_value_that_it_was_not_given() {
    for flags in [&[][..], &["--off", "namespaces"]] {
        let rig = Rig::new()
            .file("given", value(1))
            .file("kept", value(2))
            .file("turned", value(3))
            .file(
            "c.toml",
            "[credentials.given]\nfile = \"given\"\ninject = { file = \"token\", env = \"TOKEN_FILE\" }\n\
             [credentials.kept]\nfile = \"kept\"\ninject = { argument = \"/token\" }\n\
             [credentials.turned]\nfile = \"turned\"\ninject = { env = \"TOKEN\" }\n",
        );
        let flags = [&["--config", "{dir}/c.toml"], flags].concat();
        let mut wire = start(rig, &flags, &[]);
        // What it was given it finds, so it can look.
        let answer = wire.call("1", "search", &reversed(&value(1)));
        assert!(!said(&answer).starts_with("found 0 "), "{answer}");
        let answer = wire.call("2", "search", &reversed(&value(2)));
        assert!(said(&answer).starts_with("found 0 of "), "{answer}");
        // A server of the next generation finds nothing of the one before, which may still be there.
        let token = said(&wire.call("3", "token", &json!({}))).to_owned();
        assert_eq!(token, fingerprint(&value(3)));
        replace(&wire.path().join("turned"), &value(4));
        let mut id = 10;
        assert!(eventually(|| {
            id += 1;
            said(&wire.call(&id.to_string(), "token", &json!({}))) == fingerprint(&value(4))
        }));
        let answer = wire.call("4", "search", &reversed(&value(3)));
        assert!(said(&answer).starts_with("found 0 of "), "{answer}");
        let answer = wire.call("5", "search", &reversed(&value(4)));
        // Its own it finds, where it may read its own environment at all: not on the floor.
        assert!(
            !flags.is_empty() || !said(&answer).starts_with("found 0 "),
            "{answer}"
        );
        assert_eq!(wire.finish().code, 0);
    }
}

/// Everything that a process could write to, as far as root can read it.
fn memory(pid: u32) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (from, to) = (number(from), number(to));
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        if let Ok(read) = memory.read_at(&mut bytes, from) {
            all.extend_from_slice(&bytes[..read]);
        }
    }
    all
}

#[test]
fn processes_of_ours_show_no_value_and_dump_no_core() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: foreign-memory: only root reads the memory of others");
        return;
    }
    for flags in [&[][..], &["--off", "namespaces"]] {
        let (rig, secret) = (Rig::new(), value(0));
        std::fs::write(rig.path().join("token"), &secret).unwrap();
        let flags = [&["--credential", "TOKEN={dir}/token"], flags].concat();
        let mut wire = start(rig, &flags, &[]);
        assert_eq!(
            said(&wire.call("1", "token", &json!({}))),
            fingerprint(&secret)
        );
        let holds = |bytes: &[u8]| {
            bytes
                .windows(secret.len())
                .any(|it| it == secret.as_bytes())
        };
        let server = u32::try_from(wire.server()).unwrap();
        let ours: Vec<u32> = std::iter::once(wire.pid())
            .chain(descendants(wire.pid()))
            .filter(|pid| *pid != server)
            .collect();
        assert!(ours.len() >= 4, "{ours:?}");
        let mut launchers = 0;
        for pid in ours {
            let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap();
            assert!(
                !holds(&read("cmdline")) && !holds(&read("environ")),
                "{pid}"
            );
            let limits = String::from_utf8(read("limits")).unwrap();
            let core = limits
                .lines()
                .find(|line| line.starts_with("Max core"))
                .unwrap();
            assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
            if String::from_utf8_lossy(&read("cmdline")).contains("__cell") {
                launchers += 1;
                assert!(!holds(&memory(pid)), "{pid} still holds it");
            }
        }
        assert!(launchers > 0);
        assert!(holds(&memory(server)), "the judge sees what is there");
        assert_eq!(wire.finish().code, 0);
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let children = children
        .split_whitespace()
        .map(|it| it.parse::<u32>().unwrap());
    children
        .flat_map(|child| [vec![child], descendants(child)].concat())
        .collect()
}

#[test]
fn a_credential_of_systemd_is_found() {
    let rig = Rig::new().file(
        "c.toml",
        "[credentials.github]\nfile = \"$CREDENTIALS_DIRECTORY/token\"\ninject = { env = \"TOKEN\" }\n\
         [server]\nname = \"m\"\ncommand = [\"/bin/true\"]\n",
    );
    let credentials = rig.path().join("systemd");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::write(credentials.join("token"), value(0)).unwrap();
    let check = |with: Option<&PathBuf>| {
        let mut command = rig.command(&["check", "--config", "c.toml"]);
        if let Some(directory) = with {
            command.env("CREDENTIALS_DIRECTORY", directory);
        }
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, text) = check(None);
    assert!(
        code == Some(78) && text.contains("CREDENTIALS_DIRECTORY is not set"),
        "{text}"
    );
    let (code, text) = check(Some(&credentials));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("/systemd/token, as $TOKEN"), "{text}");
}
