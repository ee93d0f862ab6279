//! Each source × way in × transport: the value changes ten times while calls go on, none of them fails, the
//! new value is in use soon, and whoever uses the old one after its end would be refused.
//!
//! A few of them in an ordinary run, all of them with `COFFERDAM_FULL=1`.

use crate::authority::Authority;
use crate::rig::Rig;
use crate::rotation::{USER, fingerprint, replace, value};
use crate::support::{example, full};
use crate::web::{self, Conn, Site, modern};
use crate::wire::{Wire, mark, rule, said};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Between two calls: more than 50 a second.
const PACE: Duration = Duration::from_millis(14);
/// The id of a call that the server never answers.
const IN_FLIGHT: u64 = 1_000_000;
/// From a change until a server that needs no start uses it.
const SOON: Duration = Duration::from_secs(1);

/// Where a value comes from; what is written lies below `s`.
#[derive(Clone, Copy)]
struct Source {
    name: &'static str,
    config: &'static str,
    write: fn(&Path, u32),
}

const SOURCES: [Source; 7] = [
    Source {
        name: "file",
        config: "file = \"s/token\"",
        write: |dir, round| replace(&dir.join("token"), &value(round)),
    },
    Source {
        name: "written in place",
        config: "file = \"s/token\"",
        write: |dir, round| std::fs::write(dir.join("token"), value(round) + "\n").unwrap(),
    },
    Source {
        name: "json",
        config: "file = \"s/all.json\"\nkey = \"token\"",
        write: |dir, round| {
            let text = json!({"other": round, "token": value(round)}).to_string();
            replace(&dir.join("all.json"), &text);
        },
    },
    Source {
        name: "dotenv",
        config: "file = \"s/.env\"\nkey = \"TOKEN\"",
        write: |dir, round| {
            let text = format!("# all\nOTHER=1\nTOKEN=\"{}\"\n", value(round));
            std::fs::write(dir.join(".env"), text).unwrap();
        },
    },
    Source {
        name: "projected",
        config: "file = \"s/token\"",
        write: |dir, round| {
            let version = format!("..{round}");
            std::fs::create_dir_all(dir.join(&version)).unwrap();
            std::fs::write(dir.join(&version).join("token"), value(round)).unwrap();
            let link = |target: &str, at: &str| {
                symlink(target, dir.join("tmp-link")).unwrap();
                std::fs::rename(dir.join("tmp-link"), dir.join(at)).unwrap();
            };
            link(&version, "..data");
            if !dir.join("token").exists() {
                link("..data/token", "token");
            }
            if let Some(old) = round.checked_sub(1) {
                std::fs::remove_dir_all(dir.join(format!("..{old}"))).unwrap();
            }
        },
    },
    Source {
        name: "systemd",
        config: "file = \"$CREDENTIALS_DIRECTORY/token\"",
        write: |dir, round| replace(&dir.join("token"), &value(round)),
    },
    Source {
        name: "directory",
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

const TENANT: Source = Source {
    name: "tenant",
    config: "file = \"s/{tenant}/token\"",
    write: |dir, round| {
        std::fs::create_dir_all(dir.join("acme")).unwrap();
        replace(&dir.join("acme/token"), &value(round));
    },
};

/// How it reaches the server, and the tool that says which one it has.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    inject: &'static str,
    replace: &'static str,
    tool: &'static str,
    /// For the server's command line.
    word: &'static str,
}

const OVERLAP: Way = Way {
    name: "env, overlap",
    inject: "env = \"TOKEN\"",
    replace: "overlap",
    tool: "token",
    word: "",
};
const SWAP: Way = Way {
    name: "env, swap",
    replace: "swap",
    ..OVERLAP
};
const FILE: Way = Way {
    name: "file",
    inject: "file = \"a/token\", env = \"TOKEN_FILE\"",
    tool: "file",
    ..OVERLAP
};
/// A server that reads its file again when it is told to.
const TOLD: Way = Way {
    name: "file and signal",
    inject: "file = \"deep/token\", env = \"TOKEN_FILE\", signal = \"USR1\"",
    tool: "kept",
    word: "reload",
    ..OVERLAP
};
const ARGUMENT: Way = Way {
    name: "argument",
    inject: "argument = \"/token\"",
    tool: "given",
    ..OVERLAP
};
const HEADER: Way = Way {
    name: "header",
    inject: "header = \"Authorization\"",
    ..OVERLAP
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Stdio,
    /// Behind the listener.
    Http,
    /// The same, in one session.
    Session,
    /// A server elsewhere, for a client on stdio and for clients of the listener.
    Url,
    HttpUrl,
}

impl Transport {
    fn listens(self) -> bool {
        matches!(self, Self::Http | Self::Session | Self::HttpUrl)
    }

    fn is_elsewhere(self) -> bool {
        matches!(self, Self::Url | Self::HttpUrl)
    }
}

#[derive(Clone, Copy)]
struct Case {
    source: Source,
    way: Way,
    transport: Transport,
    /// Milliseconds that the server needs to start.
    slow: u64,
    rounds: u32,
    flags: &'static [&'static str],
}

/// Calls on one of the transports; answers come in any order.
enum Load {
    Pipe(Box<Wire>),
    Site {
        site: Box<Site>,
        key: String,
        session: Option<String>,
        sender: Sender<(u64, Value)>,
        answers: Receiver<(u64, Value)>,
    },
}

impl Load {
    fn wire(&self) -> &Wire {
        match self {
            Self::Pipe(wire) => wire,
            Self::Site { site, .. } => &site.wire,
        }
    }

    fn begin(&mut self, id: u64, tool: &str) {
        match self {
            Self::Pipe(wire) => wire.begin(&id.to_string(), tool, &json!({"key": 0})),
            Self::Site {
                site,
                key,
                session,
                sender,
                ..
            } => {
                let (address, sender) = (site.address, sender.clone());
                let params = json!({"name": tool, "arguments": {"key": 0}});
                let request = match session {
                    None => modern(&json!(id), "tools/call", &params, key),
                    Some(session) => web::post(
                        &web::call(&json!(id), tool, &params["arguments"]),
                        &format!("{key}Mcp-Session-Id: {session}\r\n"),
                    ),
                };
                // Each is a client of its own: one that waits holds up no other.
                drop(std::thread::spawn(move || {
                    drop(sender.send((id, ask(address, &request))));
                }));
            }
        }
    }

    fn next(&mut self, patience: Duration) -> Option<(u64, Value)> {
        match self {
            Self::Pipe(wire) => {
                let message = wire.within(patience)?;
                Some((message["id"].as_u64()?, message))
            }
            Self::Site { answers, .. } => answers.recv_timeout(patience).ok(),
        }
    }
}

fn ask(address: SocketAddr, request: &str) -> Value {
    let mut conn = Conn::to(address);
    conn.send(request);
    let reply = conn.reply();
    match reply.header("content-type") {
        Some("application/json") => reply.json(),
        _ => reply.events().pop().unwrap_or_else(|| json!(reply.body)),
    }
}

/// The session of a case, when its first call is answered.
fn start(case: &Case, authority: Option<&Authority>) -> Load {
    let Case {
        source,
        way,
        transport,
        slow,
        flags: more,
        ..
    } = case;
    let rig = Rig::new();
    let dir = rig.path().join("s");
    std::fs::create_dir(&dir).unwrap();
    (source.write)(&dir, 0);
    let notes = rig.path().join("notes");
    std::fs::create_dir(&notes).unwrap();
    std::fs::set_permissions(&notes, PermissionsExt::from_mode(0o777)).unwrap();
    if case.flags.contains(&"namespaces") && nix::unistd::geteuid().is_root() {
        // Where owners are not translated the server's user needs to own it.
        std::os::unix::fs::chown(&notes, Some(USER), Some(USER)).unwrap();
    }
    let mark = mark();
    let mut config = format!(
        "[server]\nname = \"{mark}\"\nreplace = \"{}\"\n",
        way.replace
    );
    if let Some(authority) = authority {
        config += &format!("url = \"{}\"\n", authority.url);
    }
    let mut key = String::new();
    if transport.listens() {
        config += "[listen]\nhttp = \"127.0.0.1:0\"\n";
    }
    if source.config.contains("{tenant}") {
        config += "auth = \"required\"\n[identity]\nkeys = \"clients.json\"\n";
        let words = [
            "client",
            "add",
            "acme",
            "--tenant",
            "acme",
            "--keys",
            "clients.json",
        ];
        let output = rig.command(&words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        key = format!("Authorization: Bearer {}\r\n", text.trim());
    }
    config += &format!(
        "[credentials.github]\n{}\ninject = {{ {} }}\n",
        source.config, way.inject
    );
    let rig = rig.file("c.toml", config);
    let slow = format!("slow={slow}");
    let path = example("mortal").to_str().unwrap().to_owned();
    let mut flags = vec![
        "--config",
        "{dir}/c.toml",
        "--admin",
        "unix:{dir}/admin.sock",
    ];
    flags.extend(*more);
    let mut command = Vec::new();
    if !transport.is_elsewhere() {
        flags.extend(["--write", "{dir}/notes"]);
        command.extend([path.as_str(), &mark, "{dir}/notes", &slow, way.word]);
    }
    let systemd = format!("CREDENTIALS_DIRECTORY={}", dir.display());
    let mut wire = Wire::start_with(rig, &mark, &flags, &command, &[&systemd]);
    if transport.listens() {
        let (sender, answers) = channel();
        let site = Site::listening(wire);
        let session = (*transport == Transport::Session).then(|| site.initialize("2025-11-25"));
        return Load::Site {
            site: Box::new(site),
            key,
            session,
            sender,
            answers,
        };
    }
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
    wire.ask("\"hello\"", "initialize", &hello);
    wire.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    Load::Pipe(Box::new(wire))
}

/// Runs a case; what it says for people.
fn rotate(case: &Case) -> String {
    let Case {
        source,
        way,
        transport,
        slow,
        rounds,
        flags,
    } = case;
    let name = format!(
        "{} × {} × {transport:?} {flags:?}, {slow} ms",
        source.name, way.name
    );
    let signed = way.inject.starts_with("header");
    let authority = transport.is_elsewhere().then(|| Authority::start(signed));
    if let Some(authority) = &authority {
        authority.admit(&value(0));
    }
    let begun = Instant::now();
    let mut load = start(case, authority.as_ref());
    load.begin(0, way.tool);
    let first = load.next(Duration::from_secs(20));
    let (_, first) = first.unwrap_or_else(|| panic!("{name}: {}", load.wire().stderr()));
    assert_eq!(said(&first), fingerprint(&value(0)), "{name}: {first}");
    // What a start takes here; only a server that is replaced needs one.
    let start = match way.inject.starts_with("env") {
        true => begun.elapsed(),
        false => Duration::ZERO,
    };
    let dir = load.wire().path().join("s");
    let mut alive = BTreeSet::from([fingerprint(&value(0))]);
    let mut open: BTreeMap<u64, Instant> = BTreeMap::new();
    let (mut id, mut due) = (0, Instant::now());
    let (mut worst, mut calls, loaded) = (Duration::ZERO, 0_u32, Instant::now());
    for round in 1..=*rounds {
        let new = fingerprint(&value(round));
        alive.insert(new.clone());
        if let Some(authority) = &authority {
            authority.admit(&value(round));
        }
        (source.write)(&dir, round);
        let begun = Instant::now();
        let (mut seen, mut after): (Option<Instant>, u32) = (None, 0);
        loop {
            let now = Instant::now();
            if due <= now {
                id += 1;
                open.insert(id, now);
                load.begin(id, way.tool);
                // Lost time is caught up with: the load does not wait for answers.
                due += PACE;
            }
            let patience = due.saturating_duration_since(Instant::now());
            let Some((id, answer)) = load.next(patience) else {
                assert!(
                    begun.elapsed() < SOON + start + Duration::from_secs(10),
                    "{name}: round {round}: {new} is not in use; {}",
                    load.wire().stderr()
                );
                continue;
            };
            let sent = open
                .remove(&id)
                .unwrap_or_else(|| panic!("{name}: two answers: {answer}"));
            calls += 1;
            let said = said(&answer);
            // What no generation that is alive has made is refused: a call that failed.
            assert!(
                alive.contains(said) && answer["result"]["isError"].is_null(),
                "{name}: round {round}, call {id}: {answer}; {}",
                load.wire().stderr()
            );
            if said == new {
                seen.get_or_insert_with(Instant::now);
                after += 1;
            } else if let Some(seen) = seen {
                assert!(sent <= seen, "{name}: an old value came back");
            }
            let Some(seen) = seen else { continue };
            if after >= 5 && open.values().all(|sent| *sent > seen) {
                let took = seen.saturating_duration_since(begun);
                assert!(
                    took <= SOON + start,
                    "{name}: round {round}: in use after {took:?}, and a start takes {start:?}"
                );
                worst = worst.max(took);
                break;
            }
        }
        // From here on the old one is refused.
        alive = BTreeSet::from([new]);
        if let Some(authority) = &authority {
            authority.revoke(&value(round - 1));
        }
    }
    while !open.is_empty() {
        let (id, answer) = load.next(Duration::from_secs(10)).unwrap();
        open.remove(&id);
        assert!(alive.contains(said(&answer)), "{name}: {answer}");
        calls += 1;
    }
    let rate = f64::from(calls) / loaded.elapsed().as_secs_f64();
    assert!(rate >= 50.0, "{name}: {rate:.0} calls a second");
    if let Some(authority) = &authority {
        assert_eq!(authority.refusals(), 0, "{name}");
        if signed {
            let old = value(rounds - 1);
            let bare = format!(
                "POST /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {old}\r\nContent-Length: 2\r\n\r\n{{}}"
            );
            let place = authority
                .url
                .trim_start_matches("http://")
                .trim_end_matches("/mcp");
            let mut conn = Conn::to(place.parse().unwrap());
            conn.send(bare);
            assert_eq!(conn.reply().status, 401, "{name}: the old one is dead");
        }
    }
    let wire = load.wire();
    assert_eq!(
        wire.metric("cofferdam_credential_generation"),
        f64::from(rounds + 1),
        "{name}"
    );
    if matches!(transport, Transport::Stdio | Transport::Session) {
        let planned = match way.inject.starts_with("env") {
            true => f64::from(*rounds),
            false => 0.0,
        };
        assert_eq!(
            wire.metric("cofferdam_child_replacements_total"),
            planned,
            "{name}"
        );
        assert_eq!(wire.metric("cofferdam_child_starts_total"), planned + 1.0);
    }
    let shown = format!(
        "{}{}{}",
        wire.admin("/health"),
        wire.admin("/metrics"),
        wire.stderr()
    );
    assert!(!shown.contains("Zq7vLm2Xw9"), "{name}: a value was shown");
    if let Load::Pipe(wire) = load {
        let over = wire.finish();
        assert_eq!(over.code, 0, "{name}: {}", over.text());
    }
    format!("{name}: {calls} calls, {rate:.0} a second, in use after {worst:?} at most")
}

/// Runs cases on some lanes at a time.
fn run(cases: Vec<Case>, lanes: usize) {
    let left = Mutex::new(cases);
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                loop {
                    let case = left.lock().unwrap().pop();
                    let Some(case) = case else { return };
                    println!("{}", rotate(&case));
                }
            });
        }
    });
}

fn case(source: Source, way: Way, transport: Transport, slow: u64) -> Case {
    let rounds = if full() { 10 } else { 3 };
    Case {
        source,
        way,
        transport,
        slow,
        rounds,
        flags: &[],
    }
}

/// The same in the other cells.
fn elsewhere(case: Case) -> impl Iterator<Item = Case> {
    let floor: &[&str] = &["--off", "namespaces"];
    let root: &[&str] = &["--user", "root"];
    let root = nix::unistd::geteuid().is_root().then_some(root);
    [floor]
        .into_iter()
        .chain(root)
        .map(move |flags| Case { flags, ..case })
}

#[test]
fn every_source_rotates_under_load_by_every_way_on_every_transport() {
    use Transport::{Http, HttpUrl, Session, Stdio, Url};
    let [file, written, json, dotenv, projected, systemd, directory] = SOURCES;
    if !full() {
        let mut few = vec![
            case(file, OVERLAP, Stdio, 700),
            case(file, SWAP, Stdio, 300),
            case(dotenv, OVERLAP, Http, 300),
            case(json, OVERLAP, Stdio, 0),
            case(projected, FILE, Stdio, 0),
            case(systemd, HEADER, Url, 0),
            case(written, FILE, Http, 0),
            case(directory, ARGUMENT, Stdio, 0),
            case(projected, HEADER, HttpUrl, 0),
            case(TENANT, ARGUMENT, Http, 0),
            case(file, TOLD, Stdio, 0),
            case(file, OVERLAP, Session, 300),
            case(json, SWAP, Session, 0),
            case(dotenv, SWAP, Http, 0),
        ];
        few.extend(elsewhere(case(file, FILE, Stdio, 0)));
        return run(few, 2);
    }
    let mut all = Vec::new();
    for source in SOURCES {
        for transport in [Stdio, Http, Session] {
            all.extend([OVERLAP, SWAP, FILE, ARGUMENT].map(|way| case(source, way, transport, 0)));
        }
        for transport in [Url, HttpUrl] {
            all.extend([HEADER, ARGUMENT].map(|way| case(source, way, transport, 0)));
        }
    }
    all.extend([Http, HttpUrl].map(|transport| case(TENANT, ARGUMENT, transport, 0)));
    for way in [OVERLAP, FILE, TOLD, ARGUMENT] {
        all.extend(elsewhere(case(file, way, Stdio, 0)));
    }
    all.push(case(projected, TOLD, Stdio, 0));
    // A server that needs 2 s to start.
    for way in [OVERLAP, SWAP, FILE, ARGUMENT] {
        all.extend([Stdio, Http, Session].map(|transport| case(file, way, transport, 2000)));
    }
    run(all, 3);
}

/// Calls go on while the value in force is revoked, and while another one comes.
fn revoke_under_load(case: &Case) {
    let Case { way, transport, .. } = case;
    let name = format!("{} × {transport:?}", way.name);
    let signed = way.inject.starts_with("header");
    let authority = transport.is_elsewhere().then(|| Authority::start(signed));
    let admit = |round: u32| {
        if let Some(authority) = &authority {
            authority.admit(&value(round));
        }
    };
    admit(0);
    let mut load = start(case, authority.as_ref());
    let dir = load.wire().path().join("s");
    let mark = load.wire().mark.clone();
    let old = fingerprint(&value(0));
    let new = fingerprint(&value(1));
    let mut open: BTreeMap<u64, Instant> = BTreeMap::new();
    let (mut id, mut due) = (0, Instant::now());
    let begun = Instant::now();
    // What became of each call, by when it was sent.
    let mut over: Vec<(Instant, Value)> = Vec::new();
    let (mut ordered, mut order, mut revoked) = (false, None, None::<Instant>);
    let mut renewed = None;
    loop {
        let now = Instant::now();
        if due <= now {
            id += 1;
            open.insert(id, now);
            load.begin(id, way.tool);
            due += PACE;
        }
        let at = begun.elapsed();
        if !ordered && at > Duration::from_millis(400) {
            ordered = true;
            if way.tool != "given" && authority.is_none() {
                // One that is in flight when its server is ended.
                open.insert(IN_FLIGHT, now);
                load.begin(IN_FLIGHT, "hang");
            }
            let words = ["credentials", "revoke", "github", "--server", &mark];
            let mut command = load.wire().rig().command(&words);
            order = Some(std::thread::spawn(move || {
                (command.output().unwrap(), Instant::now())
            }));
        }
        if revoked.is_none()
            && order
                .as_ref()
                .is_some_and(std::thread::JoinHandle::is_finished)
            && let Some(order) = order.take()
        {
            let (output, done) = order.join().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{name}: {output:?}");
            assert!(said.contains("none of them uses it"), "{name}: {said}");
            revoked = Some(done);
        }
        if let Some(revoked) = revoked
            && renewed.is_none()
            && revoked.elapsed() > Duration::from_millis(300)
        {
            admit(1);
            (case.source.write)(&dir, 1);
            renewed = Some(Instant::now());
        }
        if let Some((id, answer)) = load.next(due.saturating_duration_since(Instant::now())) {
            if id == IN_FLIGHT {
                let text = answer.to_string();
                assert!(text.contains("outcome is unknown"), "{name}: {answer}");
            }
            let sent = open
                .remove(&id)
                .unwrap_or_else(|| panic!("{name}: twice: {answer}"));
            over.push((sent, answer));
        }
        let last = over.last().is_some_and(|(_, answer)| said(answer) == new);
        if last
            && over
                .iter()
                .filter(|(_, answer)| said(answer) == new)
                .count()
                > 20
        {
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{name}: {:?}; {}",
            over.last(),
            load.wire().stderr()
        );
    }
    while !open.is_empty() {
        let (id, answer) = load.next(Duration::from_secs(10)).unwrap();
        over.push((open.remove(&id).unwrap(), answer));
    }
    let (revoked, renewed) = (revoked.unwrap(), renewed.unwrap());
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for (sent, answer) in &over {
        let text = said(answer);
        let kind = match text {
            text if text == old => {
                assert!(*sent < revoked, "{name}: used after its end: {answer}");
                "old"
            }
            text if text == new => {
                assert!(*sent + Duration::from_secs(5) > renewed);
                "new"
            }
            // Whoever is not served is told why, and what to do.
            _ => {
                let rule = rule(answer);
                assert!(
                    rule.starts_with("credentials.")
                        || rule.starts_with("switch.")
                        || rule.starts_with("server."),
                    "{name}: {answer}"
                );
                rule
            }
        };
        *counts.entry(kind.to_owned()).or_default() += 1;
    }
    println!("{name}: {counts:?}");
    assert!(
        counts["old"] > 5 && counts["new"] > 5 && counts.len() > 2,
        "{name}: {counts:?}"
    );
    if let Some(authority) = &authority {
        assert_eq!(authority.refusals(), 0, "{name}: nothing is asked without");
    }
    let shown = format!(
        "{over:?}{}{}",
        load.wire().admin("/health"),
        load.wire().stderr()
    );
    assert!(!shown.contains("Zq7vLm2Xw9"), "{name}: a value was shown");
}

#[test]
fn a_value_is_revoked_under_load_and_each_call_is_answered() {
    use Transport::{Http, HttpUrl, Session, Stdio, Url};
    let file = SOURCES[0];
    let all = [
        (OVERLAP, Stdio),
        (FILE, Stdio),
        (ARGUMENT, Stdio),
        (OVERLAP, Http),
        (OVERLAP, Session),
        (FILE, Session),
        (ARGUMENT, Http),
        (HEADER, Url),
        (HEADER, HttpUrl),
        (ARGUMENT, Url),
    ];
    std::thread::scope(|scope| {
        for half in all.chunks(5) {
            scope.spawn(move || {
                for (way, transport) in half {
                    revoke_under_load(&case(file, *way, *transport, 0));
                }
            });
        }
    });
}
