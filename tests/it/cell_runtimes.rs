//! Real interpreters in the cell: the host's own node, Python and git do what servers do.

use crate::support::{Ended, refusal_word, run, skip};
use cofferdam::config::{Cell, EgressRule};
use std::path::Path;
use std::process::Command;

fn has(program: &str) -> bool {
    let there = Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|out| out.status.success());
    if !there {
        skip(&format!("cell.runtime.{program}"), "it is not installed");
    }
    there
}

fn ok(ended: &Ended) -> &str {
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.stderr, "", "{ended:#?}");
    &ended.stdout
}

#[test]
fn node_runs_a_package_with_workers_children_and_code_generation() {
    if !has("node") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    std::fs::write(at("package.json"), "{\"name\":\"x\"}").unwrap();
    std::fs::write(
        at("node_modules/dep/index.js"),
        "module.exports = () => 'dep'",
    )
    .unwrap();
    let code = r#"
        const os = require('os'), fs = require('fs'), path = require('path');
        const { Worker } = require('worker_threads');
        const { spawnSync } = require('child_process');
        const net = require('net');
        const say = (...words) => console.log(...words);
        say(require('dep')());
        say(os.cpus().length > 0, os.totalmem() > 0, os.userInfo().uid >= 0, os.hostname().length > 0);
        say(process.memoryUsage().rss > 0, require('crypto').randomBytes(4).length);
        say(spawnSync(process.execPath, ['-p', '6*7']).stdout.toString().trim());
        say(spawnSync('/bin/sh', ['-c', 'echo out']).error?.code);
        const temporary = path.join(os.tmpdir(), 'x');
        fs.writeFileSync(temporary, 'y'); say(fs.readFileSync(temporary, 'utf8'));
        try { fs.readdirSync('/root'); say('read'); } catch (e) { say(e.code); }
        let sum = 0; for (let i = 0; i < 3e6; i++) sum += i % 7; say(sum > 0);
        say(new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])) instanceof WebAssembly.Module);
        const socket = net.connect(9, '127.0.0.1');
        socket.on('error', e => { say(e.code);
          new Worker("require('worker_threads').parentPort.postMessage(1)", { eval: true })
            .on('message', m => say('worker', m)); });
    "#;
    let script = at("dist/index.js");
    std::fs::write(&script, code).unwrap();
    let ended = run(&Cell::default(), &["node", script.to_str().unwrap()]);
    let no = refusal_word();
    let expected = format!(
        "dep\ntrue true true true\ntrue 4\n42\n{no}\ny\n{no}\ntrue\ntrue\nEACCES\nworker 1\n"
    );
    assert_eq!(ok(&ended), expected);
}

#[test]
fn node_lists_interfaces_and_connects_when_a_host_is_allowed() {
    if !has("node") {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let egress = vec![EgressRule {
        host: "localhost".into(),
        port,
    }];
    let code = format!(
        "console.log(Object.keys(require('os').networkInterfaces()).length > 0);
         require('net').connect({port}, '127.0.0.1', function () {{ console.log('connected'); this.destroy(); }});"
    );
    let ended = run(
        &Cell {
            egress,
            ..Cell::default()
        },
        &["node", "-e", &code],
    );
    assert_eq!(ok(&ended), "true\nconnected\n");
}

const PYTHON: &str = r"
import sys, os, ssl, json, subprocess, threading, socket, asyncio, tempfile, getpass, sqlite3, ctypes, hashlib
print(sys.prefix == sys.base_prefix or 'venv')
print(subprocess.run([sys.executable, '-c', 'print(42)'], capture_output=True, text=True).stdout.strip())
t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()
async def main():
    p = await asyncio.create_subprocess_exec(sys.executable, '-c', 'print(input())',
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    print((await p.communicate(b'async\n'))[0].decode().strip())
asyncio.run(main())
with tempfile.NamedTemporaryFile() as f: f.write(b'x'); print('file')
db = sqlite3.connect(os.path.join(tempfile.gettempdir(), 'x.db')); db.execute('create table t(a)'); db.commit(); print('sqlite')
print(len(os.listdir(os.path.expanduser('~'))) >= 0, bool(getpass.getuser()))
for act in (lambda: os.listdir('/root'), lambda: socket.socket(), lambda: subprocess.run(['/bin/sh', '-c', 'echo out'])):
    try: act(); print('worked')
    except (PermissionError, FileNotFoundError): print('refused')
";

const PYTHON_SAYS: &str = "42\nthread\nasync\nfile\nsqlite\nTrue True\nrefused\nrefused\nrefused\n";

#[test]
fn python_from_path_runs_even_behind_a_shim() {
    if !has("python3") {
        return;
    }
    let ended = run(&Cell::default(), &["python3", "-c", PYTHON]);
    assert_eq!(ok(&ended), format!("True\n{PYTHON_SAYS}"));
}

#[test]
fn a_console_script_of_a_virtual_environment_runs() {
    if !has("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let venv = dir.path().join("venv");
    let made = Command::new("python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        skip("cell.runtime.venv", "python3 -m venv does not work here");
        return;
    }
    let python = venv.join("bin/python");
    let script = venv.join("bin/server");
    std::fs::write(&script, format!("#!{}\n{PYTHON}", python.display())).unwrap();
    executable(&script);
    let ended = run(&Cell::default(), &[script.to_str().unwrap()]);
    assert_eq!(ok(&ended), format!("venv\n{PYTHON_SAYS}"));
}

#[test]
fn git_works_where_it_is_allowed() {
    if !has("git") {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let repo = work.path().join("repo");
    let git = |args: &[&str]| {
        let config = Cell {
            write: vec![work.path().to_owned()],
            ..Cell::default()
        };
        let mut command = vec!["git", "-C", repo.to_str().unwrap()];
        command.extend([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "init.defaultBranch=main",
        ]);
        command.extend(args);
        run(&config, &command)
    };
    std::fs::create_dir(&repo).unwrap();
    ok(&git(&["init", "-q"]));
    std::fs::write(repo.join("file"), "x").unwrap();
    ok(&git(&["add", "file"]));
    ok(&git(&["commit", "-qm", "first"]));
    ok(&git(&["gc", "-q"]));
    assert_eq!(ok(&git(&["log", "--format=%s"])), "first\n");
    assert_eq!(ok(&git(&["status", "--short"])), "");
}

#[test]
fn a_server_may_run_git_when_it_was_allowed_and_not_otherwise() {
    if !has("git") || !has("python3") {
        return;
    }
    let code = "import subprocess; print(subprocess.run(['git', '--version']).returncode)";
    let allowed = Cell {
        execute: vec!["git".into()],
        ..Cell::default()
    };
    assert!(ok(&run(&allowed, &["python3", "-uc", code])).ends_with("\n0\n"));
    let refused = run(&Cell::default(), &["python3", "-uc", code]);
    assert_eq!(refused.code, Some(1));
    assert!(
        ["PermissionError", "FileNotFoundError"]
            .iter()
            .any(|name| refused.stderr.contains(name)),
        "{}",
        refused.stderr
    );
}

#[test]
fn the_jvm_starts() {
    if !has("java") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("T.java");
    let code = "public class T { public static void main(String[] a) throws Exception {
        Thread t = new Thread(() -> System.out.println(Runtime.getRuntime().availableProcessors() > 0));
        t.start(); t.join(); } }";
    std::fs::write(&path, code).unwrap();
    let config = Cell {
        read: vec![dir.path().to_owned()],
        ..Cell::default()
    };
    assert_eq!(
        ok(&run(&config, &["java", path.to_str().unwrap()])),
        "true\n"
    );
}

fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
