//! Credentials that change while a server works: no call is lost, and the new value is used soon.

use crate::rig::Rig;
use crate::support::example;
use crate::wire::{Wire, eventually, refused_by, said};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The fake server's own way to say which token it has.
pub(crate) fn fingerprint(token: &str) -> String {
    let sum = token.bytes().fold(7_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    format!("token {sum}")
}

/// Whom root's server runs as.
const USER: u32 = 0x7fff_c0de;

pub(crate) fn value(round: u32) -> String {
    format!("tok-{round}-Zq7vLm2Xw9")
}

pub(crate) fn start(rig: Rig, flags: &[&str], server: &[&str]) -> Wire {
    if flags.contains(&"namespaces") && nix::unistd::geteuid().is_root() {
        // Where owners are not translated the server's user needs to own it.
        std::fs::create_dir_all(rig.path().join("notes")).unwrap();
        std::os::unix::fs::chown(rig.path().join("notes"), Some(USER), Some(USER)).unwrap();
    }
    let flags = [&["--admin", "unix:{dir}/admin.sock"], flags].concat();
    let mut wire = Wire::mortal(rig, &flags, server);
    wire.greet(&json!({}));
    wire
}

/// How a source puts another value in its place.
struct Source {
    name: &'static str,
    config: &'static str,
    write: fn(&Path, u32),
}

pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

const SOURCES: [Source; 6] = [
    Source {
        name: "a file that is renamed into place",
        config: "file = \"s/token\"",
        write: |dir, round| replace(&dir.join("token"), &value(round)),
    },
    Source {
        name: "a file that is written in place",
        config: "file = \"s/token\"",
        write: |dir, round| std::fs::write(dir.join("token"), value(round) + "\n").unwrap(),
    },
    Source {
        name: "a member of JSON",
        config: "file = \"s/all.json\"\nkey = \"token\"",
        write: |dir, round| {
            let text = json!({"other": round, "token": value(round)}).to_string();
            replace(&dir.join("all.json"), &text);
        },
    },
    Source {
        name: "a line of .env",
        config: "file = \"s/.env\"\nkey = \"TOKEN\"",
        write: |dir, round| {
            let text = format!("# all\nOTHER=1\nTOKEN=\"{}\"\n", value(round));
            std::fs::write(dir.join(".env"), text).unwrap();
        },
    },
    Source {
        name: "a projected secret",
        config: "file = \"s/token\"",
        write: |dir, round| {
            let version = format!("..{round}");
            std::fs::create_dir_all(dir.join(&version)).unwrap();
            std::fs::write(dir.join(&version).join("token"), value(round)).unwrap();
            let link = |target: &str, at: &str| {
                std::os::unix::fs::symlink(target, dir.join("tmp-link")).unwrap();
                std::fs::rename(dir.join("tmp-link"), dir.join(at)).unwrap();
            };
            link(&version, "..data");
            if !dir.join("token").exists() {
                link("..data/token", "token");
            }
        },
    },
    Source {
        name: "another directory in the same place",
        config: "file = \"s/token\"",
        write: |dir, round| {
            let (new, old) = (dir.with_extension("new"), dir.with_extension("old"));
            std::fs::create_dir_all(&new).unwrap();
            std::fs::write(new.join("token"), value(round)).unwrap();
            std::fs::remove_dir_all(&old).ok();
            std::fs::rename(dir, &old).unwrap();
            std::fs::rename(&new, dir).unwrap();
        },
    },
];

/// How the value reaches the server, and the tool that shows which one it has.
struct Way {
    inject: &'static str,
    word: &'static str,
    tool: &'static str,
    arguments: &'static str,
    replaces: bool,
}

const ENV: Way = Way {
    inject: "env = \"TOKEN\"",
    word: "",
    tool: "token",
    arguments: "{}",
    replaces: true,
};
const WAYS: [Way; 3] = [
    Way {
        inject: "file = \"token\", env = \"TOKEN_FILE\"",
        word: "",
        tool: "file",
        arguments: "{}",
        replaces: false,
    },
    Way {
        inject: "file = \"deep/token\", env = \"TOKEN_FILE\", signal = \"USR1\"",
        word: "reload",
        tool: "kept",
        arguments: "{}",
        replaces: false,
    },
    Way {
        inject: "argument = \"/token\"",
        word: "",
        tool: "given",
        arguments: "{\"key\":0}",
        replaces: false,
    },
];

fn rotate_under_load(source: &Source, way: &Way, flags: &[&str], rounds: u32, slow: u64) {
    let rig = Rig::new();
    let dir: PathBuf = rig.path().join("s");
    std::fs::create_dir(&dir).unwrap();
    (source.write)(&dir, 0);
    let rig = rig.file(
        "c.toml",
        format!(
            "[credentials.github]\n{}\ninject = {{ {} }}\n",
            source.config, way.inject
        ),
    );
    let slow_word = format!("slow={slow}");
    let flags = [&["--config", "{dir}/c.toml"], flags].concat();
    let mut wire = start(rig, &flags, &[&slow_word, way.word]);
    let arguments: Value = serde_json::from_str(way.arguments).unwrap();
    let mut id = 0;
    for round in 0..=rounds {
        let expected = fingerprint(&value(round));
        if round > 0 {
            (source.write)(&dir, round);
        }
        let begun = Instant::now();
        let mut seen = None;
        // 50 calls a second, and some more after the new value has come.
        let mut after = 0;
        while after < 5 {
            id += 1;
            let answer = wire.call(&id.to_string(), way.tool, &arguments);
            let said = said(&answer);
            assert!(
                said.starts_with("token "),
                "{}: call {id}: {answer}",
                source.name
            );
            if said == expected {
                seen.get_or_insert_with(|| begun.elapsed());
                after += 1;
            } else {
                assert!(seen.is_none(), "{}: an old value came back", source.name);
            }
            assert!(
                begun.elapsed() < Duration::from_millis(4000 + 2 * slow),
                "{}: round {round}: {said} and not {expected}; {}",
                source.name,
                wire.stderr()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("{}: round {round}: {:?}", source.name, seen.unwrap());
    }
    let replaced = wire.metric("cofferdam_child_replacements_total");
    let planned = if way.replaces { f64::from(rounds) } else { 0.0 };
    assert_eq!(replaced, planned, "{}", source.name);
    let starts = wire.metric("cofferdam_child_starts_total");
    assert_eq!(starts, planned + 1.0);
    let everything = format!(
        "{}{}{}",
        wire.admin("/health"),
        wire.admin("/metrics"),
        wire.stderr()
    );
    assert!(!everything.contains("Zq7vLm2Xw9"), "a value was shown");
    let over = wire.finish();
    assert_eq!(over.code, 0, "{}", over.text());
}

#[test]
fn every_source_rotates_under_load_without_a_failed_call() {
    let rounds = if crate::support::full() { 10 } else { 3 };
    for source in &SOURCES {
        rotate_under_load(source, &ENV, &[], rounds, 0);
    }
}

#[test]
fn a_server_that_starts_slowly_loses_no_call_either() {
    let (rounds, slow) = if crate::support::full() {
        (10, 2000)
    } else {
        (2, 700)
    };
    rotate_under_load(&SOURCES[0], &ENV, &[], rounds, slow);
}

#[test]
fn files_and_arguments_change_and_the_server_stays() {
    let rounds = if crate::support::full() { 10 } else { 3 };
    for way in &WAYS {
        for flags in [&[][..], &["--off", "namespaces"], &["--user", "root"]] {
            if flags.contains(&"root") && !nix::unistd::geteuid().is_root() {
                continue;
            }
            rotate_under_load(&SOURCES[0], way, flags, rounds, 0);
        }
    }
    for source in &SOURCES[1..] {
        rotate_under_load(source, &WAYS[0], &[], 2, 0);
        rotate_under_load(source, &WAYS[2], &[], 2, 0);
    }
}

#[test]
fn a_file_is_the_server_s_own_and_can_only_be_read() {
    for flags in [&[][..], &["--off", "namespaces"]] {
        let rig = Rig::new().file("token", value(0)).file(
            "c.toml",
            "[credentials.github]\nfile = \"token\"\ninject = { file = \"a/token\", env = \"TOKEN_FILE\" }\n",
        );
        let flags = [&["--config", "{dir}/c.toml"], flags].concat();
        let mut wire = start(rig, &flags, &[]);
        let expected = "mode 400 mine true write false replace false beside false";
        assert_eq!(said(&wire.call("1", "sight", &json!({}))), expected);
        replace(&wire.path().join("token"), &value(1));
        let mut id = 1;
        assert!(eventually(|| {
            id += 1;
            said(&wire.call(&id.to_string(), "file", &json!({}))) == fingerprint(&value(1))
        }));
        assert_eq!(said(&wire.call("0", "sight", &json!({}))), expected);
        assert_eq!(wire.finish().code, 0);
    }
}

#[test]
fn an_argument_is_filled_in_and_never_seen() {
    let rig = Rig::new().file("token", value(0)).file(
        "c.toml",
        "[credentials.github]\nfile = \"token\"\ninject = { argument = \"/token\" }\n\
         [audit]\nfile = \"audit.jsonl\"\npayloads = \"redacted\"\n",
    );
    let mut wire = start(rig, &["--config", "{dir}/c.toml"], &[]);
    let listed = wire.ask("1", "tools/list", &json!({}));
    let tools = listed["result"]["tools"].as_array().unwrap();
    let given = tools.iter().find(|tool| tool["name"] == "given").unwrap();
    let schema = &given["inputSchema"];
    assert_eq!(schema["required"], json!(["key"]));
    assert_eq!(schema["properties"], json!({"key": {"type": "integer"}}));
    let answer = wire.call("2", "given", &json!({"key": 0}));
    assert_eq!(said(&answer), fingerprint(&value(0)));
    let answer = wire.call("3", "given", &json!({"key": 1}));
    assert!(said(&answer).starts_with("it is CFD-REDACTED"), "{answer}");
    for mine in [
        json!({"key": 0, "token": "mine-all"}),
        json!({"key": 0, "TOKEN": 1}),
    ] {
        refused_by(&wire.call("4", "given", &mine), "credentials.argument");
    }
    refused_by(&wire.call("5", "given", &json!({})), "schema.arguments");
    // What the schema does not have goes to the server as the client sent it.
    let answer = wire.call("6", "work", &json!({"key": 7, "token": "mine"}));
    assert_eq!(said(&answer), "7");
    let everything = format!("{}{}", wire.admin("/health"), wire.admin("/metrics"));
    let dir = wire.path().to_owned();
    let (over, _rig) = {
        wire.close_input();
        wire.wait_in_rig()
    };
    assert_eq!(over.code, 0, "{}", over.text());
    let audit = std::fs::read_to_string(dir.join("audit.jsonl")).unwrap();
    assert!(audit.contains("credentials.argument"), "{audit}");
    for text in [&audit, &over.text(), &everything] {
        assert!(!text.contains("Zq7vLm2Xw9"), "a value was shown: {text}");
    }
}

fn simple(flags: &[&str]) -> (Wire, PathBuf) {
    let rig = Rig::new();
    let file = rig.path().join("token");
    std::fs::write(&file, value(0)).unwrap();
    let flags = [flags, &["--credential", "TOKEN={dir}/token"]].concat();
    (start(rig, &flags, &[]), file)
}

fn credential(wire: &Wire) -> Value {
    let health = wire.admin("/health");
    let body = health.split("\r\n\r\n").nth(1).unwrap_or(&health);
    let health: Value = serde_json::from_str(body).unwrap();
    health["credentials"][0].clone()
}

#[test]
fn what_is_no_value_replaces_none_and_the_same_value_restarts_nothing() {
    let (mut wire, file) = simple(&[]);
    assert_eq!(
        said(&wire.call("1", "token", &json!({}))),
        fingerprint(&value(0))
    );
    let large = "x".repeat(70_000);
    for bad in ["", " \n", large.as_str(), "a\0b"] {
        std::fs::write(&file, bad).unwrap();
        assert!(
            eventually(|| !credential(&wire)["problem"].is_null()),
            "{bad:.5}"
        );
        assert_eq!(
            said(&wire.call("2", "token", &json!({}))),
            fingerprint(&value(0))
        );
        std::fs::write(&file, value(0) + "\n").unwrap();
        assert!(
            eventually(|| credential(&wire)["problem"].is_null()),
            "{bad:.5}"
        );
    }
    std::fs::remove_file(&file).unwrap();
    assert!(eventually(|| !credential(&wire)["problem"].is_null()));
    assert_eq!(credential(&wire)["generation"], 1);
    assert_eq!(wire.metric("cofferdam_child_starts_total"), 1.0);
    assert!(wire.stderr().contains("generation 1 stays in force"));
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn old_and_new_values_are_taken_out_of_what_the_server_says() {
    let (mut wire, file) = simple(&[]);
    let clean = |answer: &Value| {
        let text = said(answer).to_owned();
        assert!(text.starts_with("the token is CFD-REDACTED"), "{text}");
    };
    clean(&wire.call("1", "leak", &json!({})));
    replace(&file, &value(1));
    assert!(eventually(|| credential(&wire)["generation"] == 2));
    clean(&wire.call("2", "leak", &json!({})));
    // The old value, as the client's own words come back from the server.
    let ledger = std::fs::read_to_string(wire.path().join("notes/log")).unwrap();
    assert!(!ledger.contains("Zq7vLm2Xw9"));
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_call_in_flight_is_waited_for_and_a_server_that_may_not_be_replaced_is_not() {
    let (mut wire, file) = simple(&[]);
    // Never answered in the first life, so the replacement waits for it as long as it may.
    wire.begin("1", "hang", &json!({}));
    std::thread::sleep(Duration::from_millis(200));
    replace(&file, &value(1));
    wire.until_stderr("the server is replaced");
    wire.begin("2", "token", &json!({}));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(wire.metric("cofferdam_child_starts_total"), 1.0);
    let server = nix::unistd::Pid::from_raw(wire.server());
    nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL).unwrap();
    refused_by(&wire.answer("1"), "server.gone");
    assert_eq!(said(&wire.answer("2")), fingerprint(&value(1)));
    assert_eq!(wire.finish().code, 0);

    let rig = Rig::new().file("c.toml", "[server]\nreplace = \"never\"\n");
    let file = rig.path().join("token");
    std::fs::write(&file, value(0)).unwrap();
    let flags = [
        "--config",
        "{dir}/c.toml",
        "--credential",
        "TOKEN={dir}/token",
    ];
    let mut wire = start(rig, &flags, &[]);
    assert_eq!(
        said(&wire.call("1", "token", &json!({}))),
        fingerprint(&value(0))
    );
    replace(&file, &value(1));
    wire.until_stderr("keeps the old one until its session ends");
    assert_eq!(
        said(&wire.call("2", "token", &json!({}))),
        fingerprint(&value(0))
    );
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn without_its_credential_the_server_does_not_start() {
    let rig = Rig::new();
    let path = example("mortal").to_str().unwrap().to_owned();
    let words = [
        "run",
        "--credential",
        "TOKEN=nowhere",
        "--",
        &path,
        "x",
        "y",
    ];
    let output = rig.command(&words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("nowhere"), "{text}");
}
