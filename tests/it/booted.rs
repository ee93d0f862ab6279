//! The unit under a real systemd: this machine's own root below an overlay, booted by `systemd-nspawn`.
//!
//! Ready, reload, the watchdog's kill and what follows, a stop with fifty calls in flight, nothing left.
//! With `COFFERDAM_FULL=1` only: it boots a system.

use crate::support::{cofferdam, example, full, skip};
use crate::web::{Conn, modern};
use crate::wire::{eventually, rule, said};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// nspawn's own filter knows nothing of landlock.
const FILTER: &str =
    "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self";
const UNIT: &str = "cofferdam@it";

/// A booted system; ended and unmounted when it is dropped.
struct Machine {
    nspawn: Child,
    leader: u32,
    root: PathBuf,
    _dir: TempDir,
}

impl Machine {
    /// # Errors
    /// Why this machine cannot boot one.
    fn boot(prepare: impl FnOnce(&Path)) -> Result<Self, String> {
        let dir = TempDir::with_prefix("cofferdam-boot-").unwrap();
        let part = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let [upper, work, root] = ["upper", "work", "root"].map(part);
        let layers = format!(
            "lowerdir=/,upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        let mount = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &layers])
            .arg(&root)
            .output();
        match mount {
            Ok(output) if output.status.success() => {}
            other => return Err(format!("an overlay cannot be mounted: {other:?}")),
        }
        let id = format!("{:032x}\n", 0x3d12_19c7_c4c5_404a_aa1f_6d2a_48ad_fd01_u128);
        std::fs::write(root.join("etc/machine-id"), id).unwrap();
        prepare(&root);
        let nspawn = Command::new("systemd-nspawn")
            .arg("-D")
            .arg(&root)
            .args([
                "--register=no",
                "--keep-unit",
                "--private-network",
                "--boot",
                FILTER,
            ])
            .args(["--", "--unit=basic.target"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let nspawn = match nspawn {
            Ok(nspawn) => nspawn,
            Err(error) => {
                unmount(&root);
                return Err(format!("systemd-nspawn: {error}"));
            }
        };
        let mut machine = Self {
            nspawn,
            leader: 0,
            root,
            _dir: dir,
        };
        let pid = machine.nspawn.id();
        let up = eventually(|| {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let leader = children.unwrap_or_default().trim().parse().unwrap_or(0);
            machine.leader = leader;
            leader > 0
                && machine
                    .run(&["systemctl", "is-system-running"])
                    .1
                    .contains("running")
        });
        up.then_some(machine)
            .ok_or_else(|| "it does not boot".to_owned())
    }

    /// A command inside: whether it succeeded, and all that it said.
    fn run(&self, words: &[&str]) -> (bool, String) {
        let output = Command::new("nsenter")
            .args(["-t", &self.leader.to_string()])
            .args(["-m", "-u", "-i", "-n", "-p", "-r", "-w"])
            .args(words)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    fn systemctl(&self, verb: &str) -> (bool, String) {
        self.run(&["systemctl", verb, UNIT])
    }

    fn show(&self, property: &str) -> String {
        let (_, text) = self.run(&["systemctl", "show", UNIT, "--value", "-p", property]);
        text.trim().to_owned()
    }

    fn journal(&self) -> String {
        self.run(&["journalctl", "-u", UNIT, "--no-pager", "-o", "cat"])
            .1
    }

    /// A connection to the listener inside.
    fn connect(&self) -> Conn<UnixStream> {
        let path = format!("/proc/{}/root/run/cofferdam/it/mcp.sock", self.leader);
        let stream = UnixStream::connect(path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Conn {
            reader: BufReader::new(stream),
        }
    }

    fn begin(&self, id: u32, tool: &str, arguments: &Value) -> Conn<UnixStream> {
        let mut conn = self.connect();
        let params = json!({"name": tool, "arguments": arguments});
        conn.send(modern(&json!(id), "tools/call", &params, ""));
        conn
    }

    fn call(&self, id: u32, tool: &str, arguments: &Value) -> Value {
        self.begin(id, tool, arguments).reply().json()
    }

    /// What of the unit runs, with host pids: the processes of the container that are ours.
    fn ours(&self) -> Vec<(u32, String)> {
        let mut all = crate::wire::processes("booted-mark");
        all.extend(crate::wire::processes("cofferdam __"));
        all.extend(crate::wire::processes("/etc/cofferdam/it.toml"));
        let pids = self.container();
        all.retain(|(pid, _)| pids.contains(pid));
        all
    }

    /// Every process of the container.
    fn container(&self) -> Vec<u32> {
        let mut found = vec![self.leader];
        let mut at = 0;
        while let Some(pid) = found.get(at) {
            let tasks = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let tasks = tasks.unwrap_or_default();
            found.extend(
                tasks
                    .split_whitespace()
                    .map(|it| it.parse::<u32>().unwrap()),
            );
            at += 1;
        }
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its init ends with it, and everything inside with that.
        self.nspawn.kill().ok();
        self.nspawn.wait().ok();
        if self.leader > 0 {
            let leader = Pid::from_raw(i32::try_from(self.leader).unwrap());
            kill(leader, Signal::SIGKILL).ok();
            eventually(|| kill(leader, None).is_err());
        }
        unmount(&self.root);
    }
}

fn unmount(root: &Path) {
    drop(Command::new("umount").arg("-l").arg(root).output());
}

fn config(text: &str) -> String {
    format!(
        "[server]\nname = \"it\"\ncommand = [\"/usr/bin/fake-server\", \"booted-mark\"]\n[listen]\nhttp = \"unix:/run/cofferdam/it/mcp.sock\"\n{text}"
    )
}

#[test]
fn the_unit_starts_reloads_recovers_and_stops_under_systemd() {
    if !full() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("unit.booted", "only root can boot a system");
    }
    let machine = Machine::boot(|root| {
        let unit = include_str!("../../systemd/cofferdam@.service");
        std::fs::write(root.join("etc/systemd/system/cofferdam@.service"), unit).unwrap();
        // The watchdog in seconds rather than half a minute; all else is as it is shipped.
        let more = root.join("etc/systemd/system/cofferdam@.service.d");
        std::fs::create_dir(&more).unwrap();
        std::fs::write(more.join("test.conf"), "[Service]\nWatchdogSec=3\n").unwrap();
        std::fs::create_dir_all(root.join("etc/cofferdam")).unwrap();
        std::fs::write(root.join("etc/cofferdam/it.toml"), config("")).unwrap();
        std::fs::copy(cofferdam(), root.join("usr/bin/cofferdam")).unwrap();
        std::fs::copy(example("hostile"), root.join("usr/bin/fake-server")).unwrap();
    });
    let machine = match machine {
        Ok(machine) => machine,
        Err(why) => return skip("unit.booted", &why),
    };
    let write = |text: &str| {
        std::fs::write(machine.root.join("etc/cofferdam/it.toml"), config(text)).unwrap();
    };
    let echo = |id: u32| machine.call(id, "echo", &json!({"text": "x"}));

    // Ready means that the server runs in its cell.
    let (started, text) = machine.systemctl("start");
    assert!(started, "{text}{}", machine.journal());
    assert_eq!(machine.show("StatusText"), "serving");
    assert_eq!(said(&echo(1)), "x");
    let journal = machine.journal();
    for layer in ["landlock ABI", "seccomp", "no-new-privs", "capabilities"] {
        assert!(journal.contains(layer), "no {layer} in {journal}");
    }
    assert!(machine.ours().len() >= 5, "{:?}", machine.ours());

    // Reload says what became of it; a bad file changes nothing.
    write("[tools.echo]\nallow = false\n");
    let (reloaded, text) = machine.systemctl("reload");
    assert!(reloaded, "{text}{}", machine.journal());
    assert_eq!(rule(&echo(2)), "tools.deny");
    write("[tools.echo]\nallow = flase\n");
    assert!(!machine.systemctl("reload").0);
    assert_eq!(rule(&echo(3)), "tools.deny");
    assert_eq!(machine.show("ActiveState"), "active");
    // Without being told, as soon as the file stands still.
    write("");
    assert!(
        eventually(|| said(&echo(4)) == "x"),
        "{}",
        machine.journal()
    );

    // One that hangs is killed, and the next one says what nobody knows.
    let main: u32 = machine.show("MainPID").parse().unwrap();
    let before = machine.ours();
    let hangs = machine.begin(5, "hang", &json!({}));
    assert_eq!(said(&echo(6)), "x");
    assert!(machine.run(&["kill", "-STOP", &main.to_string()]).0);
    let begun = Instant::now();
    assert!(
        eventually(|| machine.show("NRestarts") == "1" && machine.show("ActiveState") == "active"),
        "{}",
        machine.journal()
    );
    println!("watchdog: back after {:?}", begun.elapsed());
    drop(hangs);
    assert_ne!(machine.show("MainPID"), main.to_string());
    assert_eq!(said(&echo(7)), "x");
    let gone = |(pid, _): &(u32, String)| !Path::new(&format!("/proc/{pid}")).exists();
    assert!(eventually(|| before.iter().all(gone)), "{before:?}");
    let journal = machine.journal();
    assert!(
        journal.contains("the outcome of 1 calls is unknown"),
        "{journal}"
    );

    // A stop lets fifty calls finish; then nothing is left.
    let mut calls: Vec<_> = (100..150)
        .map(|id| machine.begin(id, "late", &json!({"ms": 1000})))
        .collect();
    assert_eq!(said(&echo(8)), "x");
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| {
            let begun = Instant::now();
            (machine.systemctl("stop"), begun.elapsed())
        });
        for call in &mut calls {
            assert_eq!(said(&call.reply().json()), "late");
        }
        let ((stopped, text), took) = stopping.join().unwrap();
        assert!(stopped, "{text}");
        println!("stop: {took:?}");
        assert!(took < Duration::from_secs(8), "{took:?}");
    });
    assert_eq!(
        machine.show("ActiveState"),
        "inactive",
        "{}",
        machine.journal()
    );
    assert_eq!(machine.show("Result"), "success");
    assert_eq!(machine.ours(), []);
    assert!(!machine.root.join("run/cofferdam/it").exists());
}
