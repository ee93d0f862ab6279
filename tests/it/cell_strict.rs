//! Allow lists of system calls: real servers live on theirs, and what is not on it does not exist.

use crate::rig::Rig;
use crate::support::{Ended, cofferdam, example, run, skip};
use cofferdam::config::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A list of `tests/fixtures/syscalls`.
fn list(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fixtures/syscalls").join(name)
}

fn strict(name: &str) -> Cell {
    Cell {
        syscalls: Some(list(name)),
        ..Cell::default()
    }
}

fn is_able(program: &str) -> bool {
    if !cofferdam::cell::probe().seccomp {
        skip("cell.floor", "no seccomp");
        return false;
    }
    let there = Command::new(program).arg("--version").output();
    let there = there.is_ok_and(|out| out.status.success());
    if !there {
        skip(&format!("cell.runtime.{program}"), "it is not installed");
    }
    there
}

fn ok(ended: &Ended) -> &str {
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:#?}"
    );
    &ended.stdout
}

/// The real interpreter, past version managers that start it through a shell.
fn python() -> String {
    let code = "import os, sys; print(os.path.realpath(sys.executable))";
    let out = Command::new("python3").args(["-c", code]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_plain_server_answers_on_its_list() {
    if !is_able("true") {
        return;
    }
    let rig = Rig::new();
    let echo = example("echo");
    let list = list("plain.toml");
    let words = [
        "exec",
        "--syscalls",
        list.to_str().unwrap(),
        "--",
        echo.to_str().unwrap(),
    ];
    let mut child = Command::new(cofferdam())
        .args(words)
        .current_dir(rig.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, r#"{{"jsonrpc":"2.0","id":1,"method":"ping"}}"#).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("\"id\":1,\"result\""), "{output:?}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn python_lives_on_its_list_and_nothing_else_exists() {
    if !is_able("python3") {
        return;
    }
    let code = r"
import asyncio, errno, os, tempfile, threading
thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()
asyncio.run(asyncio.sleep(0.01))
with tempfile.NamedTemporaryFile() as file: file.write(b'x'); print('file')
for act in (lambda: os.symlink('a', 'b'), lambda: os.kill(os.getpid(), 0), os.sched_yield):
    try: act(); print('exists')
    except OSError as error: print(errno.errorcode[error.errno])
try: os.chmod(os.path.expanduser('~'), 0o4700); print('exists')
except OSError as error: print(errno.errorcode[error.errno])
";
    let ended = run(&strict("python.toml"), &[&python(), "-c", code]);
    assert_eq!(ok(&ended), "thread\nfile\nENOSYS\nENOSYS\nENOSYS\nENOSYS\n");
}

#[test]
fn node_lives_on_its_list_and_nothing_else_exists() {
    if !is_able("node") {
        return;
    }
    let code = r"
const fs = require('fs'), os = require('os'), path = require('path');
const file = path.join(os.tmpdir(), 'x');
fs.writeFileSync(file, 'file'); console.log(fs.readFileSync(file, 'utf8'));
fs.unlinkSync(file); fs.readdirSync(os.tmpdir());
for (const act of [() => fs.symlinkSync('a', file), () => fs.chownSync(file, 0, 0)])
  try { act(); console.log('exists'); } catch (error) { console.log(error.code); }
new (require('worker_threads').Worker)('1', { eval: true }).on('exit', () => console.log('worker'));
";
    let ended = run(&strict("node.toml"), &["node", "-e", code]);
    assert_eq!(ok(&ended), "file\nENOSYS\nENOSYS\nworker\n");
}

#[test]
fn a_list_cannot_widen_the_cell() {
    if !is_able("python3") {
        return;
    }
    let rig = Rig::new();
    let text = std::fs::read_to_string(list("python.toml")).unwrap();
    let more = "chroot = \"x\"\nptrace = \"x\"\nchmod = \"x\"\nfchmodat = \"x\"\nsocket = \"x\"\n";
    let wide = rig.path().join("wide.toml");
    std::fs::write(&wide, text + "\n" + more).unwrap();
    let code = r"
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(0, 0, 0, 0), errno.errorcode[ctypes.get_errno()])
home = os.path.expanduser('~')
os.chmod(home, 0o700)
for act in (lambda: os.chroot('/'), lambda: os.chmod(home, 0o4700), lambda: socket.socket()):
    try: act(); print('exists')
    except OSError as error: print(errno.errorcode[error.errno])
";
    let config = Cell {
        syscalls: Some(wide),
        ..Cell::default()
    };
    let ended = run(&config, &[&python(), "-c", code]);
    assert_eq!(ok(&ended), "-1 EPERM\nEPERM\nEPERM\nEACCES\n");
}

#[test]
fn what_is_wrong_with_a_list_is_said_with_its_line() {
    let rig = Rig::new().file(
        "calls.toml",
        "# mine\nread = \"files\"\nopnat = \"files\"\n",
    );
    let shown = rig.run(&["exec", "--syscalls", "calls.toml", "--", "/bin/true"]);
    assert!(shown.starts_with("exit: 78\n"), "{shown}");
    assert!(
        shown.contains("calls.toml:3: opnat is not a system call"),
        "{shown}"
    );
    assert!(shown.contains("cell.syscalls"), "{shown}");

    let shown = rig.run(&["exec", "--syscalls", "absent.toml", "--", "/bin/true"]);
    assert!(shown.starts_with("exit: 78\n"), "{shown}");
    assert!(
        shown.contains("absent.toml") && shown.contains("--syscalls"),
        "{shown}"
    );
}
