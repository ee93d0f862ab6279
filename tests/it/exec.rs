//! `exec` passes streams, terminal and exit code through, and says what was denied.

use crate::rig::Rig;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn exec(rig: &Rig, flags: &[&str], program: &[&str]) -> Command {
    let words = [&["exec"], flags, &["--"], program].concat();
    let mut command = rig.command(&words);
    command
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn sh(rig: &Rig, script: &str) -> Output {
    exec(rig, &[], &["sh", "-c", script]).output().unwrap()
}

#[test]
fn the_exit_code_is_the_programs_own() {
    let rig = Rig::new().file("plain", "no program");
    assert_eq!(sh(&rig, "exit 0").status.code(), Some(0));
    assert_eq!(sh(&rig, "exit 7").status.code(), Some(7));
    assert_eq!(sh(&rig, "kill -9 $$").status.code(), Some(137));
    let missing = exec(&rig, &[], &["no-such-program"]).output().unwrap();
    assert_eq!(
        missing.status.code(),
        Some(127),
        "{}",
        text(&missing.stderr)
    );
    let plain = rig.path().join("plain");
    let plain = exec(&rig, &[], &[plain.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(plain.status.code(), Some(126), "{}", text(&plain.stderr));
}

#[test]
fn stdin_and_stdout_pass_untouched_and_nothing_is_added() {
    let rig = Rig::new();
    let mut child = exec(&rig, &[], &["cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stdout == bytes,
        "{} bytes came back",
        output.stdout.len()
    );
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_denial_is_refused_by_the_kernel_and_explained_with_its_flag() {
    let rig = Rig::new().file("secret", "hush");
    let secret = rig.path().join("secret");
    let secret = secret.to_str().unwrap();
    let denied = exec(&rig, &[], &["cat", secret]).output().unwrap();
    assert_eq!(
        (denied.status.code(), text(&denied.stdout)),
        (Some(1), String::new())
    );
    let flag = format!("cofferdam: denied: read {secret}: allow it with --read {secret}\n");
    assert!(
        text(&denied.stderr).ends_with(&flag),
        "{}",
        text(&denied.stderr)
    );
    // The flag does what it says.
    let allowed = exec(&rig, &["--read", secret], &["cat", secret])
        .output()
        .unwrap();
    assert_eq!(
        (allowed.status.code(), text(&allowed.stdout)),
        (Some(0), "hush".to_owned())
    );
}

#[test]
fn one_line_says_what_is_in_force_when_asked() {
    let output = exec(&Rig::new(), &["--verbose"], &["true"])
        .output()
        .unwrap();
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("landlock") && stderr.contains("seccomp"),
        "{stderr}"
    );
    // Where no controllers are delegated to us there is no limit for the tree as a whole.
    let floor = stderr.replace("cgroup MISSING", "");
    assert!(!floor.contains("MISSING"), "{stderr}");
}

#[test]
fn a_signal_reaches_the_program_and_its_answer_comes_back() {
    let rig = Rig::new();
    let script = "trap 'exit 42' TERM; echo up; while :; do sleep 0.05; done";
    let mut child = exec(&rig, &["--allow-exec", "sleep"], &["sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 3]).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[test]
fn on_a_terminal_the_program_has_one_of_its_own_and_ours_is_restored() {
    let rig = Rig::new();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    let size = Winsize {
        ws_row: 41,
        ws_col: 97,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size).unwrap();
    let stream = || Stdio::from(slave.try_clone().unwrap());

    let script =
        "test -t 0 && test -t 1 && test -t 2 && stty size && read x && echo got:$x; exit 5";
    let mut child = exec(&rig, &["--allow-exec", "stty"], &["sh", "-c", script])
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .spawn()
        .unwrap();
    let mut screen = std::fs::File::from(master);
    let (mut seen, mut typed) = (String::new(), false);
    let begin = Instant::now();
    while !seen.contains("got:hello") {
        assert!(begin.elapsed() < Duration::from_secs(20), "{seen}");
        let mut fds = [PollFd::new(&screen, PollFlags::IN)];
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        if poll(&mut fds, Some(&second)).unwrap() == 0 {
            continue;
        }
        let mut chunk = [0; 1024];
        let n = screen.read(&mut chunk).unwrap();
        seen.push_str(&text(&chunk[..n]));
        if seen.contains("41 97") && !typed {
            typed = true;
            let raw = !tcgetattr(&slave)
                .unwrap()
                .local_modes
                .contains(LocalModes::ICANON);
            assert!(raw, "our terminal passes every byte");
            screen.write_all(b"hello\r").unwrap();
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(
        tcgetattr(&slave)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON)
    );
    // What was typed is echoed once: by the inner terminal, not by ours as well.
    assert_eq!(seen.matches("hello").count(), 2, "{seen}");
}

#[test]
fn kill_9_of_ours_leaves_the_terminal_as_it_was() {
    let rig = Rig::new();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    let canonical = || {
        tcgetattr(&slave)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON)
    };
    let wait_until = |state: bool| {
        let begin = Instant::now();
        while canonical() != state {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "canonical is not {state}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let mut child = exec(&rig, &[], &["cat"])
        .stdin(Stdio::from(slave.try_clone().unwrap()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(false);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until(true);
}
