//! A server on HTTP that runs in the cell: in a network of its own and on the floor, honest and not.

use crate::rig::Rig;
use crate::support::{cofferdam, example, free_port, namespaces_work, skip};
use crate::web::Site;
use crate::wire::{Wire, eventually, mark, processes, refused_by, said};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const FLOOR: [&str; 2] = ["--off", "namespaces"];
const NOBODY: u32 = 65534;

/// The two kinds of cells, where both can be had.
fn tiers() -> Vec<&'static [&'static str]> {
    let mut all: Vec<&[&str]> = vec![&FLOOR];
    if namespaces_work() {
        all.push(&["--require", "namespace-net"]);
    }
    all
}

/// The fake server at an address with this port, with these arguments.
fn serve_in(rig: Rig, port: u16, flags: &[&str], server: &[&str]) -> Wire {
    let mark = mark();
    let url = format!("http://127.0.0.1:{port}/mcp");
    let flags = [&["--url", &*url, "--name", "it"], flags].concat();
    let program = example("serving").to_str().unwrap().to_owned();
    let mut command = vec![program.as_str()];
    let usual = format!("127.0.0.1:{port}");
    if !server.first().is_some_and(|word| word.contains(':')) {
        command.push(&usual);
    }
    command.extend(server);
    command.push(&mark);
    Wire::start(rig, &mark, &flags, &command)
}

fn serve(port: u16, flags: &[&str], server: &[&str]) -> Wire {
    serve_in(Rig::new(), port, flags, server)
}

fn hello() -> Value {
    json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}})
}

fn greet(wire: &mut Wire) {
    let answer = wire.ask("\"hello\"", "initialize", &hello());
    let name = &answer["result"]["serverInfo"]["name"];
    assert_eq!(name, "elsewhere", "{answer}; {}", wire.stderr());
    wire.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
}

/// What the server says of an act.
fn act(wire: &mut Wire, words: &str) -> String {
    said(&wire.call(&format!("\"{words}\""), "act", &json!({ "act": words }))).to_owned()
}

/// Where the server says that it listens.
fn place(wire: &Wire) -> u16 {
    wire.until_stderr("listens on ");
    let said = wire.stderr();
    let rest = said.rsplit("listens on ").next().unwrap();
    let address = rest.split_whitespace().next().unwrap();
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// The processes that make connections to a server with this port.
fn dialers(number: u16) -> Vec<Pid> {
    let all = processes(&format!(" inside {number} "));
    all.iter()
        .map(|(pid, _)| Pid::from_raw(i32::try_from(*pid).unwrap()))
        .collect()
}

fn is_open(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[test]
fn a_session_in_the_cell_goes_as_with_any_server() {
    let root = nix::unistd::geteuid().is_root();
    for user in [None, root.then_some(NOBODY)] {
        for tier in tiers() {
            let rig = match user {
                Some(user) => Rig::new().of(user),
                None => Rig::new(),
            };
            let mut wire = serve_in(rig, free_port(), tier, &[]);
            greet(&mut wire);
            for text in ["one", "two"] {
                let answer = wire.call(&format!("\"{text}\""), "echo", &json!({ "text": text }));
                assert_eq!(said(&answer), text);
            }
            let over = wire.finish();
            let said = over.text();
            assert_eq!(over.code, 0, "{said}");
            assert!(over.took < Duration::from_millis(1200), "{:?}", over.took);
            // Both streams of the server are its log, and the session was given back.
            for line in [
                "[it] hello from stdout",
                "[it] hello from stderr",
                "\"DELETE\"",
            ] {
                assert!(said.contains(line), "{line}: {said}");
            }
            let floor = tier == FLOOR;
            assert_eq!(said.contains("any program on this host"), floor, "{said}");
        }
    }
}

#[test]
fn it_listens_on_its_own_port_and_reaches_nothing() {
    for tier in tiers() {
        let number = free_port();
        let mut wire = serve(number, tier, &[]);
        greet(&mut wire);
        let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let there = outside.local_addr().unwrap().port();
        for words in [
            format!("listen 127.0.0.1:{}", free_port()),
            format!("listen 0.0.0.0:{}", free_port()),
            format!("listen [::1]:{}", free_port()),
            "listen 127.0.0.1:0".to_owned(),
            format!("connect 127.0.0.1:{there}"),
            format!("connect 127.0.0.1:{number}"),
        ] {
            assert_eq!(act(&mut wire, &words), "EACCES", "{words} {tier:?}");
        }
        if tier == FLOOR {
            let listening = || {
                let all = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
                let all = all.map(Result::unwrap_or_default).concat();
                all.lines().filter(|line| line.contains(" 0A ")).count()
            };
            // A socket that has no address gets one by listening; there is no right of landlock for that.
            let before = listening();
            assert_eq!(act(&mut wire, "listen-unbound"), "EACCES");
            assert_eq!(act(&mut wire, "listen 127.0.0.1:0"), "EACCES");
            // Who wanted to listen elsewhere is told with certainty.
            wire.until_stderr("denied: listen on port 2");
            wire.until_stderr("by serving (pid ");
            wire.until_stderr("--url http://127.0.0.1:2");
            assert!(
                listening() <= before + 1,
                "other tests listen too, but not that often"
            );
            assert_eq!(act(&mut wire, "listen 192.0.2.1:1"), "EACCES");
            assert_eq!(
                act(&mut wire, &format!("listen 192.0.2.1:{number}")),
                "EACCES"
            );
        }
        assert_eq!(wire.finish().code, 0);
    }
}

#[test]
fn nobody_outside_reaches_a_network_of_its_own() {
    if !namespaces_work() {
        return;
    }
    for address in ["127.0.0.1", "0.0.0.0"] {
        let number = free_port();
        let mut wire = serve(number, &[], &[&format!("{address}:{number}")]);
        greet(&mut wire);
        assert_eq!(place(&wire), number);
        assert!(!is_open(number), "{address}:{number} answers on the host");
        for name in ["/proc/net/tcp", "/proc/net/tcp6"] {
            let all = std::fs::read_to_string(name).unwrap_or_default();
            assert!(!all.contains(&format!(":{number:04X} ")), "{all}");
        }
        // The judge sees what is open.
        let open = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        assert!(is_open(number));
        drop(open);
        assert_eq!(wire.finish().code, 0);
    }
}

#[test]
fn on_the_floor_it_is_on_loopback_under_another_number() {
    let number = free_port();
    // It asks for all addresses.
    let mut wire = serve(number, &FLOOR, &[&format!("0.0.0.0:{number}")]);
    greet(&mut wire);
    let outside = place(&wire);
    assert!(outside != number && is_open(outside) && !is_open(number));
    let all = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let wanted = format!(":{outside:04X} ");
    let mut ours = all
        .lines()
        .filter(|line| line.contains(" 0A ") && line.contains(&wanted));
    let line = ours.next().unwrap();
    assert!(line.contains(&format!(" 0100007F{wanted}")), "{line}");
    assert_eq!(ours.next(), None);
    // Another server may use the same number at the same time.
    let mut other = serve(number, &FLOOR, &[]);
    greet(&mut other);
    assert_eq!(act(&mut wire, "variable NONE"), "");
    assert_eq!(other.finish().code, 0);
    assert_eq!(wire.finish().code, 0);
    assert!(!is_open(outside));
}

#[test]
fn it_may_name_its_address_in_any_way() {
    let six = TcpListener::bind("[::1]:0").is_ok();
    for tier in tiers() {
        let mut names = vec!["127.0.0.1", "localhost", "0.0.0.0"];
        if six {
            names.extend(["[::1]", "[::]"]);
        }
        for name in names {
            let number = free_port();
            let mut wire = serve(number, tier, &[&format!("{name}:{number}")]);
            greet(&mut wire);
            if tier == FLOOR {
                assert_ne!(place(&wire), number);
            }
            assert_eq!(wire.finish().code, 0, "{name}");
        }
    }
}

#[test]
fn a_server_with_allowed_hosts_listens_too() {
    for tier in tiers() {
        let (number, other) = (free_port(), free_port());
        let flags = [tier, &["--allow-host", "api.invalid:443"]].concat();
        let mut wire = serve(number, &flags, &[]);
        greet(&mut wire);
        let listened = act(&mut wire, &format!("listen 127.0.0.1:{other}"));
        // In a network of its own, where hosts are allowed, its loopback is its own.
        let floor = tier == FLOOR;
        assert_eq!(listened, if floor { "EACCES" } else { "done" });
        assert!(!is_open(other));
        assert_eq!(
            act(&mut wire, &format!("connect 192.0.2.1:{number}")),
            if floor { "EACCES" } else { "ECONNREFUSED" }
        );
        assert_eq!(wire.finish().code, 0);
    }
}

/// Pid 1 makes sockets for whoever asks outside, and has no other power.
#[test]
fn pid_1_can_do_nothing_but_make_sockets() {
    if !namespaces_work() {
        return;
    }
    let mut wire = serve(free_port(), &[], &[]);
    greet(&mut wire);
    let status = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = |text: &str, name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    };
    let first = value(&status(&wire.server().to_string()), "PPid");
    let facts = status(&first);
    for (name, expected) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
    ] {
        assert_eq!(value(&facts, name), expected, "{name}: {facts}");
    }
    // What it holds: the signals, its ends of the pairs to the launcher, to whoever connects and to the
    // spawner, and nothing of the host's.
    let held = std::fs::read_dir(format!("/proc/{first}/fd")).unwrap();
    let held: Vec<String> = held
        .map(|entry| {
            std::fs::read_link(entry.unwrap().path())
                .unwrap()
                .display()
                .to_string()
        })
        .filter(|target| target != "/dev/null")
        .collect();
    let sockets = held.iter().filter(|it| it.starts_with("socket:")).count();
    let signals = held.iter().filter(|it| it.contains("signalfd")).count();
    assert_eq!((sockets, signals, held.len()), (3, 1, 4), "{held:?}");
    assert_eq!(wire.finish().code, 0);
}

/// Somebody on the host has the port that the server names, and takes what comes.
#[test]
fn nobody_takes_the_place_of_a_server_that_does_not_listen_yet() {
    let number = free_port();
    let impostor = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
    impostor.set_nonblocking(true).unwrap();
    for tier in tiers() {
        let mut wire = serve(number, tier, &["late=1500"]);
        let begun = Instant::now();
        greet(&mut wire);
        assert!(begun.elapsed() >= Duration::from_millis(1000));
        assert!(
            impostor.accept().is_err(),
            "a connection went to the impostor"
        );
        assert_eq!(wire.finish().code, 0);
    }
    assert!(
        is_open(number) && impostor.accept().is_ok(),
        "it would have noticed"
    );
}

#[test]
fn a_server_that_never_listens_is_an_error_that_says_so() {
    let mut waiting: Vec<Wire> = tiers()
        .into_iter()
        .map(|tier| {
            let mut wire = serve(free_port(), tier, &["never"]);
            wire.request("1", "initialize", &hello());
            wire
        })
        .collect();
    // It is given 30 s to start.
    std::thread::sleep(Duration::from_secs(15));
    for wire in &mut waiting {
        let answer = wire.answer("1");
        assert_eq!(
            answer["error"]["data"]["rule"], "server.unavailable",
            "{answer}"
        );
        wire.until_stderr("the server in the cell is not reached");
    }
    for wire in waiting {
        assert_eq!(wire.finish().code, 0);
    }
}

#[test]
fn a_server_that_ends_is_replaced_and_the_session_goes_on() {
    for tier in tiers() {
        let number = free_port();
        let mut wire = serve(number, tier, &[]);
        greet(&mut wire);
        for round in 0..3 {
            let id = format!("\"exit {round}\"");
            let answer = wire.call(&id, "act", &json!({"act": "exit 3"}));
            refused_by(&answer, "server.gone");
            let id = format!("\"again {round}\"");
            let answer = wire.call(&id, "echo", &json!({"text": "again"}));
            assert_eq!(said(&answer), "again", "{answer}");
        }
        // Who makes the connections is lost: so is the server, and both come again.
        let [dialer] = dialers(number)[..] else {
            panic!("not one that connects: {:?}", dialers(number));
        };
        nix::sys::signal::kill(dialer, nix::sys::signal::Signal::SIGKILL).unwrap();
        assert!(eventually(|| wire
            .stderr()
            .matches("hello from stdout")
            .count()
            == 5));
        wire.alive();
        let over = wire.finish();
        assert_eq!(over.code, 0, "{}", over.text());
        assert_eq!(over.text().matches("hello from stdout").count(), 5);
        assert_eq!(dialers(number), []);
    }
}

/// Some servers take the end of their stdin for that of whoever has started them.
#[test]
fn its_stdin_is_open_until_it_is_to_end() {
    for tier in tiers() {
        let mut wire = serve(free_port(), tier, &["listening", "deaf"]);
        greet(&mut wire);
        wire.alive();
        assert!(!wire.stderr().contains("stdin has ended"));
        let over = wire.finish();
        assert!(
            over.text().contains("stdin has ended: Ok(0)"),
            "{}",
            over.text()
        );
        assert!(over.took < Duration::from_millis(1200), "{:?}", over.took);
        assert_eq!(over.code, 0);
    }
}

#[test]
fn whatever_is_open_when_it_ends_is_answered_once() {
    for tier in tiers() {
        let mut wire = serve(free_port(), tier, &[]);
        greet(&mut wire);
        for id in 1..=50 {
            wire.begin(&id.to_string(), "hang", &json!({}));
        }
        assert!(eventually(|| wire
            .stderr()
            .matches("\"name\":\"hang\"")
            .count()
            == 50));
        wire.begin("51", "act", &json!({"act": "exit 1"}));
        for id in 1..=51 {
            refused_by(&wire.answer(&id.to_string()), "server.gone");
        }
        wire.alive();
        assert_eq!(wire.others(), Vec::<Value>::new());
        assert_eq!(wire.finish().code, 0);
    }
}

#[test]
fn what_stands_still_goes_on() {
    for tier in tiers() {
        let mut wire = serve(free_port(), tier, &[]);
        greet(&mut wire);
        let turn = |wire: &Wire, word: &str| {
            let output = wire.rig().command(&[word, "it"]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        turn(&wire, "freeze");
        wire.begin("1", "echo", &json!({"text": "late"}));
        std::thread::sleep(Duration::from_millis(300));
        turn(&wire, "resume");
        // Asked while it stood still, this is answered by us or by the server, once.
        assert!(wire.answer("1")["result"].is_object());
        let mut id = 1;
        assert!(eventually(|| {
            id += 1;
            said(&wire.call(&id.to_string(), "echo", &json!({"text": "on"}))) == "on"
        }));
        assert_eq!(wire.stderr().matches("hello from stdout").count(), 1);
        assert_eq!(wire.finish().code, 0);
    }
}

#[test]
fn a_server_that_does_not_want_to_end_is_ended_in_time() {
    for tier in tiers() {
        let mut wire = serve(free_port(), tier, &["deaf"]);
        greet(&mut wire);
        let over = wire.finish();
        assert_eq!(over.code, 0, "{}", over.text());
        assert!(over.took < Duration::from_secs(2), "{:?}", over.took);

        let number = free_port();
        let mut wire = serve(number, tier, &["deaf"]);
        greet(&mut wire);
        wire.kill_message_process();
        wire.nothing_is_left(Duration::from_secs(1));
        assert!(eventually(|| dialers(number).is_empty()));
    }
}

#[test]
fn one_that_cannot_start_ends_with_its_code() {
    for tier in tiers() {
        let flags = [tier, &["--restart", "never"]].concat();
        let mut wire = serve(free_port(), &flags, &["exit=7"]);
        wire.request("1", "initialize", &hello());
        let answer = wire.answer("1");
        assert!(answer["error"].is_object(), "{answer}");
        assert_eq!(wire.wait().code, 7);
    }
}

const CREDENTIALS: &str = "[server]\nreplace = \"REPLACE\"\n\
    [credentials.v]\nfile = \"token\"\ninject = { env = \"TOKEN\" }\n\
    [credentials.h]\nfile = \"header\"\ninject = { header = \"Authorization\" }\n";

#[test]
fn it_gets_variables_and_headers_and_new_ones() {
    for tier in tiers() {
        for replace in ["swap", "overlap"] {
            let rig = Rig::new()
                .file("c.toml", CREDENTIALS.replace("REPLACE", replace))
                .file("token", "tok-0-Zq7vLm2Xw9")
                .file("header", "head-0-Pq8wNn3Yx0");
            let flags = [tier, &["--config", "{dir}/c.toml", "--scrub", "off"]].concat();
            let mut wire = serve_in(rig, free_port(), &flags, &[]);
            greet(&mut wire);
            assert_eq!(act(&mut wire, "variable TOKEN"), "tok-0-Zq7vLm2Xw9");
            let new = wire.path().join("new");
            std::fs::write(&new, "tok-1-Zq7vLm2Xw9").unwrap();
            std::fs::rename(&new, wire.path().join("token")).unwrap();
            wire.until_stderr("the server was replaced");
            assert_eq!(act(&mut wire, "variable TOKEN"), "tok-1-Zq7vLm2Xw9");
            let beside = wire.stderr().contains("the next server is ready");
            assert_eq!(beside, replace == "overlap", "{}", wire.stderr());
            let over = wire.finish();
            assert_eq!(over.code, 0, "{}", over.text());
            // The fake logs the headers that it got; what it logs is searched for values all the same.
            assert!(
                over.text().contains("\"authorization\":\"Bearer "),
                "{}",
                over.text()
            );
        }
    }
}

#[test]
fn the_switch_ends_it_at_once_and_another_one_goes_on() {
    for tier in tiers() {
        let number = free_port();
        let mut wire = serve(number, tier, &["deaf"]);
        greet(&mut wire);
        wire.begin("1", "hang", &json!({}));
        wire.until_stderr("\"name\":\"hang\"");
        let turn = |wire: &Wire, word: &str| {
            let output = wire.rig().command(&[word, "it"]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        let begun = Instant::now();
        turn(&wire, "kill");
        assert_eq!(wire.answer("1")["result"]["isError"], true);
        let serving = |wire: &Wire| {
            let all = processes(&wire.mark);
            all.iter().any(|(_, line)| !line.contains(" run "))
        };
        assert!(eventually(|| !serving(&wire) && dialers(number).is_empty()));
        assert!(begun.elapsed() < Duration::from_secs(2));
        refused_by(
            &wire.call("2", "echo", &json!({"text": "?"})),
            "switch.server",
        );
        turn(&wire, "resume");
        wire.until_stderr("switched on");
        assert_eq!(said(&wire.call("3", "echo", &json!({"text": "on"}))), "on");
        assert_eq!(wire.finish().code, 0);
    }
}

#[test]
fn behind_a_listener_each_session_has_one_and_both_eras_are_served() {
    for tier in tiers() {
        let flags = [
            tier,
            &[
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "unix:{dir}/admin.sock",
            ],
        ]
        .concat();
        let site = Site::around(serve(free_port(), &flags, &[]));
        let first = site.initialize("2025-11-25");
        let second = site.initialize("2025-06-18");
        let pid = json!({"act": "pid"});
        let mut pids = Vec::new();
        for session in [&first, &second] {
            let reply = site.post(session, &crate::web::call(&json!(1), "act", &pid));
            pids.push(said(&reply.json()).to_owned());
        }
        let reply = site.call(&json!("m"), "act", &pid);
        let answer = reply.json();
        assert_eq!(reply.status, 200, "{answer}; {}", site.wire.stderr());
        pids.push(said(&answer).to_owned());
        let echo = json!({"text": "hello"});
        assert_eq!(said(&site.call(&json!(2), "echo", &echo).json()), "hello");
        if tier == FLOOR {
            pids.sort();
            pids.dedup();
            assert_eq!(pids.len(), 3, "each has a process of its own");
        }
        let said = site.wire.stderr();
        assert_eq!(said.matches("hello from stdout").count(), 3, "{said}");
        let health = site.wire.admin("/health");
        let health: Value = serde_json::from_str(health.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(health["upstream"]["answers"], true, "{health}");
        assert!(health["cell"]["layers"]["landlock"].is_string(), "{health}");
        site.wire.terminate();
        let over = site.wire.wait();
        assert_eq!(over.code, 0, "{}", over.text());
    }
}

#[test]
fn on_the_floor_nothing_starts_without_the_supervisor() {
    let wire = serve(
        free_port(),
        &[&FLOOR[..], &["--off", "supervision"]].concat(),
        &[],
    );
    let over = wire.wait();
    assert_eq!(over.code, 77, "{}", over.text());
    assert!(
        over.text().contains("needs namespaces or the supervisor"),
        "{}",
        over.text()
    );
    assert!(!over.text().contains("SIGABRT"), "{}", over.text());
}

#[test]
fn what_cannot_be_is_refused_and_what_is_is_shown() {
    let rig = Rig::new();
    for (url, word) in [
        ("https://mcp.example.com/mcp", "cannot be at"),
        ("http://10.0.0.1:8080/mcp", "cannot be at"),
        ("http://127.0.0.1/mcp", "may not listen on port 80"),
    ] {
        let said = rig.run(&["run", "--url", url, "--", "/bin/true"]);
        assert!(
            said.starts_with("exit: 64\n") && said.contains(word),
            "{said}"
        );
    }
    let url = "http://127.0.0.1:8080/mcp";
    let shown = rig.run(&["check", "--url", url, "--", "/bin/true"]);
    for word in [
        &format!("{url} in the cell"),
        "/bin/true",
        "transport",
        "preset",
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
}

/// Where a filter around us does not let descriptors be borrowed, as in most pods.
#[test]
fn the_supervisor_holds_sockets_that_it_cannot_borrow() {
    let number = free_port();
    let code = format!(
        "import asyncio, socket, sys
def tried(act):
    try: act(); return 'done'
    except OSError as error: return error.errno
async def serve():
    async def talk(reader, writer): writer.write(b'hello'); writer.close()
    server = await asyncio.start_server(talk, '0.0.0.0', {number})
    held = server.sockets[0]
    print(tried(lambda: socket.socket(fileno=socket.dup(held.fileno())).listen(7)))
    print(held.getsockname())
    other = socket.socket()
    print(tried(lambda: other.listen(1)), tried(lambda: other.bind(('127.0.0.1', {number} + 1))))
    print(tried(lambda: other.bind(('192.0.2.1', {number}))), tried(lambda: other.bind(('127.0.0.1', 0))))
    print(tried(lambda: socket.socketpair()[0].listen(1)), tried(lambda: open('/dev/null').fileno() and other.connect(('127.0.0.1', {number}))))
    sys.stdout.flush()
    async with server: await asyncio.sleep(30)
asyncio.run(serve())"
    );
    let refusing = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/refusing.py");
    let mut command = Command::new("python3");
    command
        .arg(refusing)
        .arg("pidfd_getfd,process_vm_readv")
        .arg(cofferdam());
    command.args(["exec", "--off", "namespaces"]);
    command.args(["--url", &format!("http://127.0.0.1:{number}/")]);
    if nix::unistd::geteuid().is_root() {
        command.args(["--user", "root"]);
    }
    command.args(["--", "python3", "-c", &code]);
    let mut child = crate::support::spawn(command.stdout(std::process::Stdio::piped()));
    let mut stdout = child.stdout.take().unwrap();
    let mut text = String::new();
    let mut piece = [0; 512];
    while text.lines().count() < 5 {
        let got = stdout.read(&mut piece).unwrap();
        assert!(got > 0, "{text}");
        text.push_str(std::str::from_utf8(&piece[..got]).unwrap());
    }
    let mut heard = String::new();
    let talked = TcpStream::connect((Ipv4Addr::LOCALHOST, number))
        .and_then(|mut stream| stream.read_to_string(&mut heard));
    drop(child.kill());
    drop(child.wait());
    assert_eq!(
        text,
        format!("done\n('127.0.0.1', {number})\n13 13\n13 13\n13 13\n")
    );
    assert!(talked.is_ok() && heard == "hello", "{talked:?} {heard}");
}

fn node() -> Option<PathBuf> {
    let list = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&list).map(|dir| dir.join("node"));
    all.find(|path| path.is_file())
}

#[test]
fn one_that_listens_elsewhere_is_told_what_would_allow_it() {
    let Some(node) = node() else {
        return skip("http_inside.official", "no node");
    };
    for tier in tiers() {
        let (mark, number, other) = (mark(), free_port(), free_port());
        let url = format!("http://127.0.0.1:{number}/mcp");
        let code = format!("require('http').createServer().listen({other}, '127.0.0.1')");
        let flags = [&["--url", &*url, "--restart", "never"], tier].concat();
        let words = [node.to_str().unwrap(), "-e", &code, &mark];
        let mut wire = Wire::start(Rig::new(), &mark, &flags, &words);
        wire.request("1", "initialize", &hello());
        assert!(wire.answer("1")["error"].is_object());
        let over = wire.wait();
        let words = format!("allow it with --url http://127.0.0.1:{other}/mcp");
        assert_eq!(over.text().matches(&words).count(), 1, "{}", over.text());
        assert_eq!(over.code, 1);
    }
}

/// What the official SDKs make, of both languages.
#[test]
fn official_servers_work_in_both_cells() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixtures = root.join("target/fixtures");
    let everything = "npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    let everything = fixtures.join(everything);
    let python = fixtures.join("pypi/bin/python");
    let (Some(node), true, true) = (node(), everything.is_file(), python.is_file()) else {
        return skip("http_inside.official", "no node or no pinned packages");
    };
    let script = root.join("tests/servers/listening.py");
    let owner = nix::unistd::geteuid().is_root();
    for tier in tiers() {
        for (program, script, name) in [
            (&node, &everything, "mcp-servers/everything"),
            (&python, &script, "listening"),
        ] {
            let (mark, number) = (mark(), free_port().to_string());
            let url = format!("http://127.0.0.1:{number}/mcp");
            let given = format!("PORT={number}");
            let mut flags = vec!["--url", &*url, "--name", "it", "--allow-env", &given];
            flags.extend(tier);
            if owner && tier == FLOOR {
                // The interpreter may lie where only root gets to.
                flags.extend(["--user", "root"]);
            }
            let word = if name == "listening" {
                &*number
            } else {
                "streamableHttp"
            };
            let [program, script] = [program, script].map(|path| path.to_str().unwrap());
            let mut wire = Wire::start(Rig::new(), &mark, &flags, &[program, script, word, &mark]);
            let answer = wire.ask("0", "initialize", &hello());
            let said_so = &answer["result"]["serverInfo"]["name"];
            assert_eq!(said_so, name, "{answer}; {}", wire.stderr());
            wire.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
            let answer = wire.call("1", "echo", &json!({"message": "hi"}));
            assert_eq!(said(&answer), "Echo: hi", "{answer}");
            let over = wire.finish();
            assert_eq!(over.code, 0, "{}", over.text());
        }
    }
}

/// What is connected to the port on the floor by somebody else is not taken for the cell's.
#[test]
fn who_connects_by_himself_is_no_client_of_ours() {
    let mut wire = serve(free_port(), &FLOOR, &[]);
    greet(&mut wire);
    let mut stranger = TcpStream::connect((Ipv4Addr::LOCALHOST, place(&wire))).unwrap();
    let body = r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"echo","arguments":{"text":"stranger"}}}"#;
    let request = format!(
        "POST /mcp HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stranger.write_all(request.as_bytes()).unwrap();
    let mut piece = [0; 1024];
    // That it can is what SECURITY.md says of the floor; that its answer stays with it is the point.
    assert!(stranger.read(&mut piece).unwrap() > 0);
    assert_eq!(act(&mut wire, "variable NONE"), "");
    assert!(wire.others().is_empty());
    assert_eq!(wire.finish().code, 0);
}
