//! Stands outside of a sandbox while the probe is inside, and says what really happened.
//!
//! `outside PROBE COMMAND…` plants what the probe tries to reach, runs the command and prints one
//! JSON line for each act: what the probe says, and `effect`: whether it can be told from outside
//! that the act worked. In the command `{probe}`, `{targets}`, `{work}` and `{home}` are replaced,
//! and `{tcp}` by the port of a listener, `{other}` by one beside it.
//! The exit code is 1 when the command did not end by itself with 0.

#![expect(clippy::unwrap_used, reason = "a broken test program must fail loudly")]
#![expect(clippy::print_stdout, reason = "its output is its result")]
#![expect(unsafe_code, reason = "a terminal and open descriptors for the child")]

#[path = "support/planted.rs"]
mod planted;
#[path = "support/witness.rs"]
mod witness;

use planted::Planted;
use serde_json::Value;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use witness::{State, leftovers};

/// The longest that a run of the whole probe takes.
const PATIENCE: Duration = Duration::from_secs(240);
/// A process that is to be gone is gone by then.
const GRACE: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (probe, command) = args.split_first().unwrap();
    let list = Command::new(probe).arg("--list").output().unwrap();
    assert!(list.status.success(), "{list:?}");
    let acts = lines(&String::from_utf8(list.stdout).unwrap());
    let mut planted = Planted::new(Path::new(probe), &acts);
    let before = State::take(&mut planted, &acts);
    let (said, ended_well) = run(&planted, probe, command);
    std::thread::sleep(GRACE);
    let after = State::take(&mut planted, &acts);
    let alive = witness::beating(&planted, &acts);
    leftovers(planted.outside.path())
        .into_iter()
        .for_each(|pid| {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        });
    for mut line in lines(&said) {
        let act = line["act"].as_str().unwrap().to_owned();
        let told = line["got"].as_str().unwrap().contains(&planted.secret);
        let heard = {
            let heard = planted.heard.lock().unwrap();
            heard.lines().any(|line| line == act)
        };
        let harmed = before.differs(&after, &act);
        if line["category"] == "life" {
            // Who outlives the server cannot say so.
            line["through"] = alive.contains(&act).into();
        }
        line["effect"] = (told || heard || harmed || alive.contains(&act)).into();
        // What it read is the secret, of use to nobody.
        line.as_object_mut().unwrap().remove("got");
        println!("{line}");
    }
    ExitCode::from(u8::from(!ended_well))
}

fn lines(text: &str) -> Vec<Value> {
    let json = text.lines().filter(|line| line.starts_with('{'));
    json.filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Runs the command with a terminal of its own, two descriptors left open and a secret in its
/// environment; what the probe in it said, and whether it ended well.
fn run(planted: &Planted, probe: &str, command: &[String]) -> (String, bool) {
    let targets = planted.targets();
    let fill = |word: &String| {
        word.replace("{probe}", probe)
            .replace("{tcp}", &planted.tcp().to_string())
            .replace("{other}", &(planted.tcp() ^ 1).to_string())
            .replace("{targets}", &targets)
            .replace("{work}", planted.work.path().to_str().unwrap())
            .replace("{home}", planted.home.path().to_str().unwrap())
    };
    let words: Vec<String> = command.iter().map(fill).collect();
    let (ours, terminal) = terminal();
    let typed = planted.heard.clone();
    std::thread::spawn(move || {
        let mut ours = std::fs::File::from(ours);
        let mut bytes = [0; 1024];
        while let Ok(length @ 1..) = ours.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..length]).replace('\r', "");
            typed.lock().unwrap().push_str(&text);
        }
    });
    let open = [planted.open.0.as_raw_fd(), planted.open.1.as_raw_fd()];
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", planted.home.path())
        .env("XDG_RUNTIME_DIR", planted.home.path())
        .env("XDG_STATE_HOME", planted.home.path())
        .env("PROBE_SECRET", &planted.secret)
        .current_dir(planted.work.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let terminal_fd = terminal.as_raw_fd();
    // SAFETY: only calls that are safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            libc::ioctl(terminal_fd, libc::TIOCSCTTY, 0);
            libc::dup2(open[0], 10);
            libc::dup2(open[1], 11);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        drop(stdout.read_to_string(&mut text));
        text
    });
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begin.elapsed() > PATIENCE {
            drop(child.kill());
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = reader.join().unwrap();
    (text, status.is_some_and(|status| status.success()))
}

/// A pseudo terminal: our end and the other.
fn terminal() -> (OwnedFd, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let other = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
    (ours, other)
}
