//! cofferdam's own message process: what it can do once it is caged, were it taken over, and that
//! sessions do not notice.

use crate::rig::Rig;
use crate::support::{cofferdam, example, skip};
use crate::wire::{Wire, eventually};
use nix::unistd::geteuid;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const NOBODY: u32 = 65534;
/// What the act is told to leave alone when it is refused.
const SECRET: &str = "a credential of somebody else";

/// What a message process that was taken over would like to reach, and a user who may.
struct Scene {
    _dir: tempfile::TempDir,
    root: PathBuf,
    tcp: TcpListener,
    _unix: UnixListener,
    stranger: Child,
    user: Option<u32>,
}

impl Scene {
    fn plant(user: Option<u32>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        for name in ["outside", "state"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        std::fs::write(root.join("outside/secret"), SECRET).unwrap();
        std::fs::write(root.join("outside/victim"), "x").unwrap();
        std::fs::write(root.join("state/audit.jsonl"), "{}\n").unwrap();
        let unix = UnixListener::bind(root.join("socket")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(root.join("outside/secret"), mode).unwrap();
        let mut sleep = Command::new("sleep");
        sleep.arg("120").stdout(Stdio::null()).stdin(Stdio::null());
        if let Some(user) = user {
            sleep.uid(user).gid(user);
            for name in [
                "",
                "outside",
                "state",
                "socket",
                "outside/secret",
                "outside/victim",
                "state/audit.jsonl",
            ] {
                chown(root.join(name), Some(user), Some(user)).unwrap();
            }
        }
        Self {
            _dir: dir,
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            _unix: unix,
            stranger: sleep.spawn().unwrap(),
            root,
            user,
        }
    }

    /// One act: what it printed, and the signal that ended it.
    fn play(&self, act: &str, state: &str) -> (String, Option<i32>) {
        let targets = json!({
            "outside": self.root.join("outside"), "audit": self.root.join("state/audit.jsonl"),
            "unix": self.root.join("socket"), "tcp": self.tcp.local_addr().unwrap().port(),
            "stranger": self.stranger.id(),
        });
        let mut command = Command::new(example("taken"));
        command
            .args([act, state, &targets.to_string()])
            .env_clear()
            .env("HOME", &self.root)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir(&self.root);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(
            output.status.success() || output.status.signal().is_some(),
            "{act}, {state}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        (said, output.status.signal())
    }

    /// From outside: nothing that a refused act could have changed has changed.
    fn is_untouched(&self, act: &str) {
        let secret = self.root.join("outside/secret");
        assert_eq!(secret.metadata().unwrap().mode() & 0o777, 0o600, "{act}");
        assert_eq!(std::fs::read_to_string(secret).unwrap(), SECRET, "{act}");
        let log = std::fs::read_to_string(self.root.join("state/audit.jsonl"));
        assert_eq!(log.unwrap(), "{}\n", "{act}");
        let names = |name: &str| std::fs::read_dir(self.root.join(name)).unwrap().count();
        assert_eq!((names("outside"), names("state")), (2, 1), "{act}");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.stranger.kill());
        drop(self.stranger.wait());
    }
}

/// Acts on the memory of the spawner.
const HIDDEN: [&str; 4] = [
    "trace the spawner",
    "read the spawner's memory",
    "read the spawner's environment",
    "open the spawner's memory",
];

fn every_act_is_refused(user: Option<u32>) {
    let list = Command::new(example("taken")).arg("list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let mut acts: Vec<&str> = list.lines().collect();
    assert_eq!(acts.pop(), Some("restart"));
    assert!(acts.len() > 40, "{} acts", acts.len());
    let caged = Scene::plant(user);
    for act in acts {
        let (free, _) = Scene::plant(user).play(act, "free");
        // The spawner hides its memory from everybody but root, cage or not.
        let hidden = HIDDEN.contains(&act) && user.is_some();
        if hidden {
            // EPERM, and EACCES where a file stands for it.
            assert!(free.contains("(os error 1"), "{free}");
        } else if free != "through" {
            skip(&format!("own.{act}"), &format!("without the cage: {free}"));
        }
        let (said, signal) = caged.play(act, "caged");
        let refused = said.contains("(os error 1)") && signal.is_none();
        let killed = said.is_empty() && signal == Some(libc::SIGSYS);
        assert!(refused || killed, "{act}: {said:?}, {signal:?}");
        caged.is_untouched(act);
    }
    let kept = caged.play("restart", "caged");
    assert_eq!(kept, ("through".to_owned(), None));
}

#[test]
fn a_message_process_that_was_taken_over_gets_nowhere() {
    every_act_is_refused(None);
}

#[test]
fn nor_does_that_of_an_ordinary_user() {
    let open = |path: &Path| path.metadata().unwrap().permissions().mode() & 1 == 1;
    if !geteuid().is_root() {
        return skip("own.as_a_user", "only root can start another user's");
    }
    if !example("taken").ancestors().all(open) {
        return skip(
            "own.as_a_user",
            "the built programs lie where only root can reach them",
        );
    }
    every_act_is_refused(Some(NOBODY));
}

/// `/proc/PID/task/*/status` of each thread, and the fields that say what confines it.
fn threads(pid: u32) -> Vec<[String; 8]> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default()
            .trim_matches([':', '\t'])
            .to_owned()
    };
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(path.join("status")).unwrap();
        let names = [
            "Name",
            "NoNewPrivs",
            "Seccomp",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapAmb",
            "CapBnd",
        ];
        names.map(|name| field(&text, name))
    };
    tasks.map(|task| read(task.unwrap().path())).collect()
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The address after `health and metrics on`.
fn admin(wire: &Wire) -> String {
    wire.until_stderr("health and metrics on ");
    let text = wire.stderr();
    let rest = text.split("health and metrics on ").nth(1).unwrap();
    rest.lines().next().unwrap().trim().to_owned()
}

#[test]
fn every_thread_is_caged_and_a_session_does_not_notice() {
    let flags = [
        "--restart",
        "never",
        "--admin",
        "127.0.0.1:0",
        "--audit",
        "{dir}/audit.jsonl",
    ];
    let rig = Rig::new();
    // Old lines, and room for none more: the first flush asks for a rotation.
    let audit = rig.path().join("audit.jsonl");
    std::fs::File::create(&audit)
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    let mut wire = Wire::in_rig(rig, &flags, &[]);
    wire.alive();
    let address = admin(&wire);

    let none = "0000000000000000";
    let all = threads(wire.pid());
    assert_eq!(all.len(), 2, "the loop and the admin thread: {all:?}");
    for thread in &all {
        let [_, rest @ ..] = thread;
        let [
            privs,
            filter,
            inherited,
            permitted,
            effective,
            ambient,
            bounding,
        ] = rest;
        assert_eq!((&**privs, &**filter), ("1", "2"), "{thread:?}");
        for set in [inherited, permitted, effective, ambient] {
            assert_eq!(set, none, "{thread:?}");
        }
        // Only a privileged process can empty it; for others nothing is in it that no_new_privs
        // would let them have.
        assert!(bounding == none || !geteuid().is_root(), "{thread:?}");
    }

    assert!(eventually(|| audit.with_extension("jsonl.1").exists()));
    for round in 0..20 {
        wire.alive();
        let health = get(&address, "/health");
        assert!(health.starts_with("HTTP/1.1 200"), "{round}: {health}");
        let body: Value = serde_json::from_str(health.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let own = body["self"]["layers"].as_object().unwrap();
        assert_eq!(own.len(), 6, "{own:?}");
        assert!(own.values().all(|state| state == "enforced"), "{own:?}");
        let metrics = get(&address, "/metrics");
        assert!(metrics.contains("cofferdam_self_enforced{layer=\"seccomp\"} 1"));
    }
    // A message larger than every buffer and pipe, and a flood of stderr.
    let big = "x".repeat(900 << 10);
    let answer = wire.call("7", "echo", &json!({ "text": big }));
    assert_eq!(crate::wire::said(&answer), big);
    wire.call("8", "stderr_flood", &json!({ "lines": 100 }));
    wire.begin("9", "exit", &json!({ "code": 7 }));
    let (over, rig) = wire.wait_in_rig();
    assert_eq!(over.code, 7, "{}", over.text());
    assert!(!over.text().contains("without"), "{}", over.text());
    let lines = std::fs::read_to_string(rig.path().join("audit.jsonl")).unwrap();
    assert!(lines.lines().count() > 20 && lines.starts_with('{'));
}

#[test]
fn signals_and_the_death_of_the_spawner_end_a_caged_session() {
    let mut wire = Wire::hostile(&["--admin", "unix:{dir}/admin.sock"], &[]);
    wire.alive();
    let socket = wire.rig.path().join("admin.sock");
    assert!(socket.exists());
    wire.terminate();
    let (over, rig) = wire.wait_in_rig();
    assert_eq!(over.code, 0, "{}", over.text());
    assert!(!rig.path().join("admin.sock").exists(), "it is removed");

    for dead in ["guardian", "spawner"] {
        let mut wire = Wire::hostile(&[], &[]);
        wire.alive();
        let child = |pid: u32| -> u32 {
            let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            text.unwrap().split(' ').next().unwrap().parse().unwrap()
        };
        let guardian = child(wire.pid());
        let victim = if dead == "guardian" {
            guardian
        } else {
            child(guardian)
        };
        let victim = nix::unistd::Pid::from_raw(i32::try_from(victim).unwrap());
        nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).unwrap();
        let over = wire.wait();
        assert_eq!(over.code, 70, "{dead}: {}", over.text());
    }
}

/// The filter alone leaves nothing to open either; what is missing is said, and nothing refused that
/// the operator has listed.
#[test]
fn without_landlock_it_says_so_and_goes_on() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/refusing.py");
    let rig = Rig::new();
    let mut command = Command::new("python3");
    command.arg(script).arg("landlock_create_ruleset");
    command.arg(cofferdam()).arg("run");
    for layer in ["landlock", "landlock-net", "landlock-scopes"] {
        command.args(["--optional", layer]);
    }
    let output = command
        .args(["--audit", "off", "--", "cat"])
        .env("HOME", rig.path())
        .current_dir(rig.path())
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return skip("cell.runtime.python3", &error.to_string()),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    for layer in ["landlock", "landlock-net", "landlock-scopes"] {
        let line = format!("cofferdam itself runs without {layer}: ");
        assert_eq!(stderr.matches(&line).count(), 1, "{stderr}");
    }
    assert!(!stderr.contains("itself runs without seccomp"), "{stderr}");
}
