//! Credentials that change while a server works: what is read, where it goes, and what is shown of it.

use crate::rig::Rig;
use crate::support::{example, full};
use crate::wire::{Wire, eventually, refused_by, said};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The fake server's own way to say which token it has.
pub(crate) fn fingerprint(token: &str) -> String {
    let sum = token.bytes().fold(7_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    format!("token {sum}")
}

/// Whom root's server runs as.
pub(crate) const USER: u32 = 0x7fff_c0de;

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

pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
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

#[test]
fn a_call_that_waits_for_its_turn_goes_out_with_what_is_in_force_then() {
    let rig = Rig::new().file("token", value(0)).file(
        "c.toml",
        "[server]\nname = \"m\"\n[credentials.github]\nfile = \"token\"\ninject = { argument = \"/token\" }\n\
         [limits]\nconcurrency = 1\nwait = \"20s\"\n",
    );
    let mut wire = start(rig, &["--config", "{dir}/c.toml"], &[]);
    let file = wire.path().join("token");
    wire.ask("1", "tools/list", &json!({}));
    wire.begin("2", "ask", &json!({}));
    let asked = wire.next().unwrap();
    assert_eq!(asked["method"], "roots/list", "{asked}");
    for id in ["3", "4"] {
        wire.begin(id, "given", &json!({"key": 0}));
    }
    assert!(eventually(
        || wire.metric("cofferdam_requests_waiting") == 2.0
    ));
    replace(&file, &value(1));
    assert!(eventually(|| credential(&wire)["generation"] == 2));
    wire.send(format!(
        r#"{{"jsonrpc":"2.0","id":{},"result":{{"roots":[]}}}}"#,
        asked["id"]
    ));
    wire.answer("2");
    for id in ["3", "4"] {
        assert_eq!(said(&wire.answer(id)), fingerprint(&value(1)));
    }
    // One that has none any more is answered, and its place is free for the next.
    wire.begin("5", "ask", &json!({}));
    let asked = wire.next().unwrap();
    wire.begin("6", "given", &json!({"key": 0}));
    wire.begin("7", "work", &json!({"key": 7}));
    assert!(eventually(
        || wire.metric("cofferdam_requests_waiting") == 2.0
    ));
    let revoke = ["credentials", "revoke", "github", "--server", "m"];
    let revoked = wire.rig().command(&revoke).output().unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    wire.send(format!(
        r#"{{"jsonrpc":"2.0","id":{},"result":{{"roots":[]}}}}"#,
        asked["id"]
    ));
    refused_by(&wire.answer("6"), "credentials.missing");
    assert_eq!(said(&wire.answer("7")), "7");
    let log = std::fs::read_to_string(wire.path().join("notes/log")).unwrap();
    assert_eq!(log.matches(&value(1)).count(), 2, "{log}");
    assert!(!log.contains(&value(0)), "{log}");
    assert_eq!(wire.finish().code, 0);
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
fn half_a_value_replaces_none_while_its_writer_has_the_file_open() {
    let (mut wire, file) = simple(&[]);
    let half = |path: &Path| {
        let mut writer = std::fs::File::create(path).unwrap();
        writer.write_all(&value(1).as_bytes()[..8]).unwrap();
        writer
    };
    // In the place of the old file, and in the old file with something else going on beside it.
    for (round, is_new) in [(1, true), (2, false)] {
        if is_new {
            std::fs::remove_file(&file).unwrap();
        }
        let mut writer = half(&file);
        std::fs::write(wire.path().join("beside"), "x").unwrap();
        // Long enough to be reported, and for many looks at it.
        assert!(eventually(|| !credential(&wire)["problem"].is_null()));
        let id = round.to_string();
        let had = fingerprint(&value((round - 1) * 10));
        assert_eq!(said(&wire.call(&id, "token", &json!({}))), had);
        let rest = value(round * 10);
        writer.set_len(0).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&writer, rest.as_bytes(), 0).unwrap();
        writer.flush().unwrap();
        drop(writer);
        assert!(eventually(|| {
            said(&wire.call("0", "token", &json!({}))) == fingerprint(&rest)
        }));
        assert_eq!(credential(&wire)["problem"], Value::Null);
    }
    assert_eq!(wire.metric("cofferdam_child_starts_total"), 3.0);

    // A FIFO in its place holds nobody: the switch works.
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(eventually(|| !credential(&wire)["problem"].is_null()));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(wire.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
    assert!(eventually(|| {
        wire.call("7", "token", &json!({}))
            .to_string()
            .contains("switched this server off")
    }));
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

/// In a mount namespace of its own: another mount in the place of the watched directory, or of the file,
/// and the old one back. No event tells of it.
fn swap_mounts(tell: impl Fn(&Wire), within: Duration) {
    use nix::mount::{MsFlags, mount, umount};
    use nix::sched::{CloneFlags, unshare};
    let none: Option<&str> = None;
    // This thread alone; what it starts is in there too.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).unwrap();
    let rig = Rig::new().file("other", value(2));
    let dir = rig.path().join("s");
    let over = rig.path().join("over");
    for (directory, round) in [(&dir, 0), (&over, 1)] {
        std::fs::create_dir(directory).unwrap();
        std::fs::write(directory.join("token"), value(round)).unwrap();
    }
    let file = rig.path().join("other");
    let mut wire = start(rig, &["--credential", "TOKEN={dir}/s/token"], &[]);
    let bind = |from: &Path, to: &Path| {
        mount(Some(from), to, none, MsFlags::MS_BIND, none).unwrap();
    };
    let token = dir.join("token");
    let steps: [(&dyn Fn(), u32); 4] = [
        (&|| bind(&over, &dir), 1),
        (&|| bind(&file, &token), 2),
        (&|| umount(&token).unwrap(), 1),
        (&|| umount(&dir).unwrap(), 0),
    ];
    let mut id = 0;
    for (act, round) in steps {
        act();
        let begun = std::time::Instant::now();
        tell(&wire);
        loop {
            id += 1;
            let answer = wire.call(&id.to_string(), "token", &json!({}));
            let said = said(&answer);
            if said == fingerprint(&value(round)) {
                break;
            }
            assert!(said.starts_with("token "), "{answer}");
            assert!(begun.elapsed() < within, "{round}: {}", wire.stderr());
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("found after {:?}", begun.elapsed());
    }
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_mount_in_the_place_of_the_directory_is_found() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: mounts: only root may mount");
        return;
    }
    let hang_up = |wire: &Wire| {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(wire.pid()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    };
    let swap = std::thread::spawn(move || swap_mounts(hang_up, Duration::from_secs(3)));
    swap.join().unwrap();
    if full() {
        let swap = std::thread::spawn(|| swap_mounts(|_| {}, Duration::from_secs(60)));
        swap.join().unwrap();
    }
}
