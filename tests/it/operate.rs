//! What operators do to what runs: look at it, give it another configuration, end it in order.

use crate::rig::Rig;
use crate::support::example;
use crate::web::Site;
use crate::wire::{Wire, eventually, mark, refused_by, rule, said};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The server is given it, so that it is looked for exactly.
const TOKEN: &str = "tok-9-Zq7vLm2Xw9Kd";

/// The fake server `hostile` as `it`, with a configuration file that says this.
fn start(text: &str, flags: &[&str]) -> Wire {
    start_in(Rig::new(), text, flags)
}

fn start_in(rig: Rig, text: &str, flags: &[&str]) -> Wire {
    let rig = rig.file("c.toml", config(text));
    let flags = [&["--config", "{dir}/c.toml"], flags].concat();
    Wire::in_rig(rig, &flags, &[])
}

fn config(text: &str) -> String {
    format!("[server]\nname = \"it\"\n{text}")
}

fn write(wire: &Wire, text: &str) {
    std::fs::write(wire.path().join("c.toml"), config(text)).unwrap();
}

/// Exit code and stdout of a command, as another program of the same user.
fn cofferdam(wire: &Wire, words: &[&str]) -> (i32, String) {
    let output = wire.rig().command(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), format!("{text}{errors}"))
}

fn statuses(wire: &Wire) -> Vec<Value> {
    let (code, text) = cofferdam(wire, &["status", "it", "--json"]);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn sockets(wire: &Wire) -> Vec<PathBuf> {
    let all = std::fs::read_dir(wire.path().join("run/cofferdam"));
    all.map_or_else(
        |_| Vec::new(),
        |all| all.map(|it| it.unwrap().path()).collect(),
    )
}

#[test]
fn every_instance_is_found_and_says_how_it_is_and_nothing_of_it_is_left() {
    let mut first = start("", &[]);
    first.alive();
    let mut second = start_in(first.rig().again(), "owner = \"ops@example.com\"\n", &[]);
    second.alive();
    second.begin("\"waits\"", "hang", &json!({}));
    second.alive();
    let all = statuses(&first);
    let mut pids: Vec<u64> = all.iter().map(|it| it["pid"].as_u64().unwrap()).collect();
    pids.sort_unstable();
    let mut expected = vec![u64::from(first.pid()), u64::from(second.pid())];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    let of = |wire: &Wire| {
        let all = statuses(wire);
        let pid = json!(wire.pid());
        all.into_iter().find(|it| it["pid"] == pid).unwrap()["answer"].clone()
    };
    let (one, two) = (of(&first), of(&second));
    assert_eq!(
        (&one["phase"], &two["phase"]),
        (&json!("serving"), &json!("serving"))
    );
    assert!(one["server"]["pid"].is_number(), "{one}");
    assert_eq!(two["open"][0]["target"], "hang", "{two}");
    assert_eq!(one["figures"]["in_flight"], 0, "{one}");
    assert_eq!(two["figures"]["in_flight"], 1, "{two}");
    assert_eq!(two["figures"]["requests"], 3, "{two}");

    let (code, text) = cofferdam(&first, &["status"]);
    assert_eq!(code, 0);
    for words in [
        "● it  serving",
        "1 open",
        "oldest      hang, open for ",
        "landlock ABI",
        "ops@example.com",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(!text.contains('\u{1b}'), "no terminal, no colours");

    let socket = sockets(&first);
    assert_eq!(socket.len(), 2, "{socket:?}");
    for path in socket {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    // One ends in order, of the other everything is killed that could clear away.
    second.kill_guardian();
    let over = second.wait();
    assert_eq!(over.code, 70, "{}", over.text());
    assert_eq!(statuses(&first).len(), 1);
    let rig = first.rig().again();
    assert_eq!(first.finish().code, 0);
    let left: Vec<_> = std::fs::read_dir(rig.path().join("run/cofferdam"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let none = rig.command(&["status", "it"]).output().unwrap();
    assert_eq!(none.status.code(), Some(69));
    let none = rig.command(&["status", "--json"]).output().unwrap();
    assert_eq!(
        (none.status.code(), none.stdout.as_slice()),
        (Some(0), &b"[]\n"[..])
    );
}

#[test]
fn a_watcher_sees_what_changes_and_nobody_who_watches_wakes_up_what_is_idle() {
    let mut wire = start("", &[]);
    wire.alive();
    let mut watching = wire
        .rig()
        .command(&["status", "it", "--watch=1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut until = |words: &str| {
        let begun = Instant::now();
        while !lines.next().unwrap().unwrap().contains(words) {
            assert!(begun.elapsed() < Duration::from_secs(20), "no {words}");
        }
    };
    until("0 open");
    wire.begin("\"waits\"", "hang", &json!({}));
    until("1 open");
    watching.kill().unwrap();
    watching.wait().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let switches = || -> u64 {
        let all = crate::wire::processes(&wire.mark);
        let ours = all.iter().filter(|(_, line)| line.contains("cofferdam"));
        let each = ours.map(|(pid, _)| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = text.lines().find(|line| line.starts_with("voluntary_ctxt"));
            let number = line.unwrap().split_whitespace().nth(1).unwrap();
            number.parse::<u64>().unwrap()
        });
        each.sum()
    };
    let before = switches();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(switches(), before, "it wakes up while nothing happens");
}

#[test]
fn a_configuration_is_taken_at_once_and_calls_in_flight_finish_on_theirs() {
    let given = format!("TOKEN={TOKEN}");
    let mut wire = start(
        "",
        &["--admin", "unix:{dir}/admin.sock", "--allow-env", &given],
    );
    wire.alive();
    wire.begin("1", "hang", &json!({}));
    wire.alive();
    write(
        &wire,
        "[scrub]\nsecrets = \"off\"\n[tools.secret]\nallow = false\n",
    );
    let (code, text) = cofferdam(&wire, &["reload", "it"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("at once: scrub, tools"), "{text}");
    wire.until_stderr("protects less than before: scrub.secrets allows more");
    refused_by(&wire.call("2", "secret", &json!({})), "tools.deny");
    // One answer to what was asked before, one to what was asked after.
    let says = |id: &str| {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":\"{TOKEN}\"}}]}}}}\n"
        )
    };
    wire.emit("3", format!("{}{}", says("1"), says("@ID@")));
    let (old, new) = (wire.answer("1"), wire.answer("3"));
    assert!(said(&old).starts_with("CFD-REDACTED"), "{old}");
    assert_eq!(said(&new), TOKEN, "{new}");

    // A file that cannot be used changes nothing, and says so.
    for (bad, words) in [
        ("[tools.secret]\nalow = true\n", "alow"),
        ("[cell]\nread = [\"/nowhere/at/all\"]\n", "/nowhere/at/all"),
        ("[[[", "not valid"),
    ] {
        write(&wire, bad);
        let (code, text) = cofferdam(&wire, &["reload", "it"]);
        assert_eq!(code, 78, "{text}");
        assert!(
            text.contains(words) && text.contains("what was in force stays"),
            "{text}"
        );
        refused_by(&wire.call("4", "secret", &json!({})), "tools.deny");
        assert_eq!(wire.metric("cofferdam_config_last_reload_successful"), 0.0);
    }
    wire.until_stderr("what was in force stays");
    let reload = statuses(&wire)[0]["answer"]["reload"].clone();
    assert!(
        reload["ok"] == false && reload["error"].is_string(),
        "{reload}"
    );

    // What cannot change while it runs is named, and stays.
    write(&wire, "[audit]\nfile = \"other.jsonl\"\n");
    let (code, text) = cofferdam(&wire, &["reload", "--pid", &wire.pid().to_string()]);
    assert_eq!(code, 0, "{text}");
    for words in [
        "not before cofferdam is started again: audit.file",
        "tools.\"secret\" is allowed",
    ] {
        assert!(text.contains(words), "{words} in {text:?}");
    }
    assert_eq!(wire.metric("cofferdam_config_last_reload_successful"), 1.0);
    let answer = wire.call("5", "secret", &json!({}));
    assert!(answer["result"]["isError"] != true, "{answer}");
    let rig = wire.rig().again();
    assert_eq!(wire.finish().code, 0);
    let audit = rig
        .path()
        .join("home/.local/state/cofferdam/it/audit.jsonl");
    let lines: Vec<Value> = std::fs::read_to_string(audit)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let reloads: Vec<&str> = lines
        .iter()
        .filter(|line| line["direction"] == "operator" && line["type"] == "reload")
        .map(|line| line["status"].as_str().unwrap())
        .collect();
    assert_eq!(reloads, ["success", "error", "error", "error", "success"]);
    let policies: std::collections::BTreeSet<&str> = lines
        .iter()
        .map(|line| line["policy"].as_str().unwrap())
        .collect();
    // The last one is the first again.
    assert_eq!(policies.len(), 2, "each line names the policy in force");
}

/// The fake server that can be replaced, with a configuration file that says this.
fn mortal(text: &str, flags: &[&str]) -> Wire {
    mortal_with(text, flags, &[])
}

fn mortal_with(text: &str, flags: &[&str], server: &[&str]) -> Wire {
    let rig = Rig::new().file("c.toml", config(text));
    let flags = [&["--config", "{dir}/c.toml"], flags].concat();
    Wire::mortal(rig, &flags, server)
}

/// The configuration of one round: each is another policy, some are another cell.
fn round_of(round: u32) -> String {
    format!(
        "[limits]\nrequest = \"{}KiB\"\n[tools.never]\nallow = false\n[cell]\nenv = [\"ROUND={}\"]\n",
        64 + round,
        round / 20
    )
}

#[test]
fn a_hundred_reloads_under_load_lose_nothing() {
    let mut wire = mortal(&round_of(0), &["--admin", "unix:{dir}/admin.sock"]);
    wire.greet(&json!({}));
    let manager = wire.rig().again();
    let mut reloading = std::thread::spawn(move || {
        for round in 1..=100 {
            let text = config(&round_of(round));
            let new = manager.path().join("new.toml");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, manager.path().join("c.toml")).unwrap();
            let done = manager.command(&["reload", "it"]).output().unwrap();
            assert_eq!(done.status.code(), Some(0), "{done:?}");
        }
    });
    let (mut id, mut ended) = (0, false);
    while !ended {
        ended = reloading.is_finished();
        // Several at a time, so that there is always one in flight.
        for more in 1..=8 {
            wire.begin(&(id + more).to_string(), "work", &json!({"key": id + more}));
        }
        for more in 1..=8 {
            let answer = wire.answer(&(id + more).to_string());
            assert_eq!(said(&answer), (id + more).to_string(), "{answer}");
        }
        id += 8;
    }
    std::mem::replace(&mut reloading, std::thread::spawn(|| {}))
        .join()
        .unwrap();
    println!("{id} calls during 100 reloads");
    assert!(id > 100);
    assert!(eventually(|| wire
        .metric("cofferdam_child_replacements_total")
        >= 5.0));
    assert!(wire.metric("cofferdam_child_replacements_total") <= 6.0);
    assert_eq!(wire.metric("cofferdam_config_last_reload_successful"), 1.0);
    // Each ran once, whatever was replaced meanwhile.
    let ledger = std::fs::read_to_string(wire.path().join("notes/ledger")).unwrap();
    assert_eq!(ledger.lines().count(), id);
    let big = "x".repeat(150 * 1024);
    let answer = wire.call("\"big\"", "work", &json!({"key": 1, "pad": big}));
    assert!(said(&answer) == "1", "the last limit is the one in force");
    let over = wire.finish();
    assert_eq!(over.code, 0, "{}", over.text());
}

#[test]
fn reloads_behind_the_listener_lose_nothing_and_change_what_they_say() {
    let wire = mortal("", &["--listen", "127.0.0.1:0"]);
    let site = Site::around(wire);
    let work = |id: u32| {
        let reply = site.call(&json!(id), "work", &json!({"key": id}));
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    };
    let mut id = 0;
    for round in 1..=20 {
        write(&site.wire, &round_of(round * 10));
        let reloading = site.wire.rig().command(&["reload", "it"]).spawn().unwrap();
        for _ in 0..10 {
            id += 1;
            assert_eq!(said(&work(id)), id.to_string());
        }
        let status = reloading.wait_with_output().unwrap().status;
        assert_eq!(status.code(), Some(0));
    }
    write(
        &site.wire,
        "[tools.work]\nallow = false\n[limits]\nrequest = \"1KiB\"\n",
    );
    let (code, text) = cofferdam(&site.wire, &["reload", "it"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(rule(&work(1000)), "tools.deny");
    let big = site.call(&json!(1001), "work", &json!({"pad": "x".repeat(2000)}));
    assert_eq!(big.status, 413, "{big:?}");
    write(&site.wire, "[tools.work]\nallow = flase\n");
    assert_eq!(cofferdam(&site.wire, &["reload", "it"]).0, 78);
    assert_eq!(rule(&work(1002)), "tools.deny");
}

#[test]
fn a_request_that_waits_for_the_tool_list_is_not_lost_by_a_reload() {
    let site = Site::around(mortal_with("", &["--listen", "127.0.0.1:0"], &["slow=700"]));
    let mut waits = site.connect();
    let params = json!({"name": "work", "arguments": {"key": 1}});
    waits.send(crate::web::modern(&json!(1), "tools/call", &params, ""));
    std::thread::sleep(Duration::from_millis(150));
    write(&site.wire, &round_of(20));
    assert_eq!(cofferdam(&site.wire, &["reload", "it"]).0, 0);
    assert_eq!(said(&waits.reply().json()), "1");
}

#[test]
fn a_change_of_the_cell_is_a_planned_replacement_and_not_the_end() {
    let rig = Rig::new();
    let path = rig.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let rig = rig.file("c.toml", config(&round_of(0)));
    let program = example("mortal").to_str().unwrap().to_owned();
    let mark = mark();
    std::fs::create_dir(rig.path().join("notes")).unwrap();
    let notify = format!("NOTIFY_SOCKET={}", path.display());
    let mut wire = Wire::start_with(
        rig,
        &mark,
        &["--config", "{dir}/c.toml"],
        &[&program, &mark, "{dir}"],
        &[&notify],
    );
    wire.greet(&json!({}));
    write(&wire, &round_of(20));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(wire.pid()).unwrap()),
        nix::sys::signal::Signal::SIGHUP,
    )
    .unwrap();
    wire.until_stderr("the server was replaced within");
    assert_eq!(said(&wire.call("1", "work", &json!({"key": 1}))), "1");
    let mut told = String::new();
    let mut bytes = [0; 4096];
    while let Ok(got) = manager.recv(&mut bytes) {
        told.push_str(&String::from_utf8_lossy(&bytes[..got]));
        told.push('\n');
    }
    assert!(told.contains("RELOADING=1\nMONOTONIC_USEC="), "{told}");
    assert!(told.ends_with("READY=1\nSTATUS=serving\n"), "{told}");
    assert!(!told.contains("STOPPING=1"), "{told}");
    assert_eq!(wire.finish().code, 0);
    while let Ok(got) = manager.recv(&mut bytes) {
        told.push_str(&String::from_utf8_lossy(&bytes[..got]));
    }
    assert!(told.contains("STOPPING=1"), "{told}");
}

#[test]
fn a_drained_session_answers_what_is_open_refuses_what_is_new_and_ends() {
    let mut wire = start("", &[]);
    wire.alive();
    for id in 1..=50 {
        wire.begin(&id.to_string(), "late", &json!({"ms": 700}));
    }
    wire.alive();
    let begun = Instant::now();
    let draining = wire
        .rig()
        .command(&["drain", "it"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wire.until_stderr("draining: nothing new is begun; 50 requests are open");
    refused_by(
        &wire.call("51", "echo", &json!({"text": "?"})),
        "server.unavailable",
    );
    for id in 1..=50 {
        assert_eq!(said(&wire.answer(&id.to_string())), "late");
    }
    let over = wire.wait();
    assert_eq!(over.code, 0, "{}", over.text());
    let done = draining.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.code() == Some(0) && text.contains("it has ended"),
        "{text}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_takes_too_long_to_drain_is_answered_by_us() {
    let mut wire = start("", &[]);
    wire.alive();
    wire.begin("1", "hang", &json!({}));
    wire.alive();
    let (code, text) = cofferdam(&wire, &["drain", "it", "--within", "300ms"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(wire.answer("1")["result"]["isError"], true);
    let over = wire.wait();
    assert_eq!(over.code, 0, "{}", over.text());
}

#[test]
fn the_listener_drains_too() {
    let rig = Rig::new().file("c.toml", config(""));
    let site = Site::in_rig(rig, &["--config", "{dir}/c.toml"], &[]);
    let mut waits = site.connect();
    let params = json!({"name": "late", "arguments": {"ms": 700}});
    waits.send(crate::web::modern(&json!(1), "tools/call", &params, ""));
    std::thread::sleep(Duration::from_millis(200));
    let drain = ["drain", "it"];
    let draining = site
        .wire
        .rig()
        .command(&drain)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    site.wire
        .until_stderr("draining: nothing new is begun; 1 requests are open");
    let refused = site.call(&json!(2), "echo", &json!({"text": "?"}));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(said(&waits.reply().json()), "late");
    let done = draining.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(0));
}

/// How many processes of a session that are not ours there are, and how many of them stand still:
/// stopped by a signal, or held by the freezer of their cgroup.
fn still(wire: &Wire) -> (usize, usize) {
    let all = crate::wire::processes(&wire.mark);
    let servers: Vec<u32> = all
        .iter()
        .filter(|(_, line)| !line.contains("cofferdam"))
        .map(|(pid, _)| *pid)
        .collect();
    let stands = |pid: &&u32| {
        let read =
            |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let stat = read("stat");
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        state.starts_with('T')
            || ["get_signal", "do_freezer_trap"].contains(&read("wchan").as_str())
    };
    (servers.len(), servers.iter().filter(stands).count())
}

#[test]
fn a_frozen_server_stands_still_is_written_down_and_goes_on_where_it_was() {
    for flags in [&[][..], &["--off", "namespaces"], &["--off", "cgroup"]] {
        let rig = Rig::new();
        std::fs::write(rig.path().join("token"), TOKEN).unwrap();
        let credential = ["--credential", "TOKEN={dir}/token"];
        let mut wire = start_in(rig, "", &[&credential, flags].concat());
        wire.alive();
        wire.call("1", "echo", &json!({"text": "before"}));
        wire.begin("2", "late", &json!({"ms": 500}));
        wire.alive();
        let begun = Instant::now();
        let (code, text) = cofferdam(&wire, &["freeze", "it", "--json"]);
        assert_eq!(code, 0, "{text}");
        println!("frozen after {:?}", begun.elapsed());
        assert_eq!(still(&wire), (1, 1), "{flags:?}");
        refused_by(
            &wire.call("3", "echo", &json!({"text": "?"})),
            "switch.server",
        );
        let status = statuses(&wire)[0]["answer"].clone();
        assert_eq!(status["phase"], "frozen", "{status}");
        assert_ne!(
            cofferdam(&wire, &["freeze", "it"]).0,
            0,
            "it is frozen already"
        );

        let answers: Value = serde_json::from_str(&text).unwrap();
        let path = answers[0]["answer"]["pack"].as_str().unwrap().to_owned();
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(path).unwrap();
        assert!(!text.contains(TOKEN), "a value was written down");
        let pack: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(pack["instance"]["open"][0]["target"], "late", "{pack:#}");
        assert_eq!(pack["credentials"][0]["generation"], 1, "{pack:#}");
        assert!(pack["credentials"][0]["fingerprint"].is_string());
        assert!(
            pack["tools"]["echo"]["request_bytes"].as_u64() > Some(0),
            "{pack:#}"
        );
        assert!(!pack["processes"].as_array().unwrap().is_empty());
        let timeline = pack["timeline"].as_array().unwrap();
        assert!(
            timeline.iter().any(|line| line["type"] == "freeze"),
            "{pack:#}"
        );

        // Longer than the call would have taken.
        std::thread::sleep(Duration::from_millis(700));
        refused_by(
            &wire.call("4", "echo", &json!({"text": "?"})),
            "switch.server",
        );
        let early = wire.others();
        assert!(early.is_empty(), "it has gone on by itself: {early:?}");
        assert_eq!(cofferdam(&wire, &["resume", "it"]).0, 0);
        wire.until_stderr("the server goes on");
        assert_eq!(said(&wire.answer("2")), "late");
        wire.alive();
        assert_eq!(statuses(&wire)[0]["answer"]["phase"], "serving");

        assert_eq!(cofferdam(&wire, &["freeze", "it"]).0, 0);
        assert_eq!(cofferdam(&wire, &["kill", "it"]).0, 0);
        assert!(
            eventually(|| still(&wire).0 == 0),
            "it can be killed as it stands"
        );
        assert_eq!(cofferdam(&wire, &["resume", "it"]).0, 0);
        wire.until_stderr("switched on again");
        wire.alive();
        let over = wire.finish();
        assert_eq!(over.code, 0, "{}", over.text());
    }
}

#[test]
fn a_client_that_leaves_a_frozen_server_leaves_nothing() {
    let mut wire = start("", &[]);
    wire.alive();
    assert_eq!(cofferdam(&wire, &["freeze", "it"]).0, 0);
    let over = wire.finish();
    assert_eq!(over.code, 0, "{}", over.text());
    assert!(over.took < Duration::from_secs(4), "{:?}", over.took);
}

#[test]
fn the_listener_s_servers_stand_still_too() {
    let rig = Rig::new().file("c.toml", config(""));
    let site = Site::in_rig(rig, &["--config", "{dir}/c.toml"], &[]);
    assert_eq!(
        said(&site.call(&json!(1), "echo", &json!({"text": "a"})).json()),
        "a"
    );
    assert_eq!(cofferdam(&site.wire, &["freeze", "it"]).0, 0);
    assert_eq!(still(&site.wire), (1, 1));
    assert_eq!(
        site.call(&json!(2), "echo", &json!({"text": "a"})).status,
        503
    );
    assert_eq!(cofferdam(&site.wire, &["resume", "it"]).0, 0);
    site.wire.until_stderr("the servers go on");
    assert_eq!(
        said(&site.call(&json!(3), "echo", &json!({"text": "b"})).json()),
        "b"
    );
}
