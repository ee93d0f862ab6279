//! As a systemd unit: what the service manager is told, and when. The manager here is a socket.

use crate::rig::Rig;
use crate::support::example;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Unit {
    manager: UnixDatagram,
    child: Child,
    said: Vec<String>,
}

impl Unit {
    fn start(rig: &Rig, watchdog: Option<u64>) -> Self {
        let path = rig.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let server = example("hostile").to_str().unwrap().to_owned();
        let words = [
            "run",
            "--name",
            "unit",
            "--listen",
            "127.0.0.1:0",
            "--",
            &server,
            "unit-mark",
        ];
        let mut command = rig.command(&words);
        command.env("NOTIFY_SOCKET", &path).stderr(Stdio::null());
        if let Some(usec) = watchdog {
            command.env("WATCHDOG_USEC", usec.to_string());
        }
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        Self {
            manager,
            child,
            said: Vec::new(),
        }
    }

    /// Waits until it has said so.
    fn until(&mut self, words: &str) {
        let begun = Instant::now();
        let mut bytes = [0; 4096];
        while !self.said.iter().any(|said| said.contains(words)) {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "no {words} in {:?}",
                self.said
            );
            if let Ok(got) = self.manager.recv(&mut bytes) {
                self.said
                    .push(String::from_utf8_lossy(&bytes[..got]).into_owned());
            }
        }
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

#[test]
fn it_says_when_it_is_ready_alive_and_stopping_and_a_reload_does_not_end_it() {
    let rig = Rig::new();
    let mut unit = Unit::start(&rig, Some(400_000));
    unit.until("READY=1");
    unit.said.clear();
    for _ in 0..3 {
        unit.until("WATCHDOG=1");
        unit.said.clear();
    }
    unit.signal(nix::sys::signal::Signal::SIGHUP);
    unit.until("WATCHDOG=1");
    assert_eq!(unit.child.try_wait().unwrap(), None);
    unit.signal(nix::sys::signal::Signal::SIGUSR1);
    unit.until("switched off");
    unit.signal(nix::sys::signal::Signal::SIGTERM);
    unit.until("STOPPING=1");
    assert_eq!(unit.child.wait().unwrap().code(), Some(0));
}

#[test]
fn without_a_watchdog_nothing_is_said_twice() {
    let rig = Rig::new();
    let mut unit = Unit::start(&rig, None);
    unit.until("READY=1");
    std::thread::sleep(Duration::from_millis(500));
    let mut bytes = [0; 64];
    assert!(unit.manager.recv(&mut bytes).is_err(), "silence");
    unit.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(unit.child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_unit_file_is_one_that_systemd_takes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("systemd/cofferdam@.service")).unwrap();
    for line in [
        "Type=notify",
        "WatchdogSec=30",
        "KillMode=mixed",
        "OOMPolicy=continue",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}");
    }
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("cofferdam@x.service");
    std::fs::write(
        &unit,
        text.replace("/usr/bin/cofferdam", env!("CARGO_BIN_EXE_cofferdam")),
    )
    .unwrap();
    let verified = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&unit)
        .output();
    let Ok(output) = verified else {
        println!("skipped: no systemd-analyze here");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let about_it: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("cofferdam@x"))
        .collect();
    assert!(output.status.success() && about_it.is_empty(), "{said}");
}
