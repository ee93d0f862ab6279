//! Honest things that servers do, with the host's own interpreters: all work in both cells, but for
//! a list with reasons. What needs no interpreter is among the acts of the probe.

use crate::support::{namespaces_work, run, skip};
use cofferdam::config::Cell;
use std::process::Command;

const PYTHON: [(&str, &str); 14] = [
    (
        "threads",
        "import threading; l = []; t = threading.Thread(target=l.append, args=(1,)); t.start(); t.join(); print(l == [1])",
    ),
    (
        "pool_of_threads",
        "from concurrent.futures import ThreadPoolExecutor as P; print(list(P(4).map(abs, [-1, 2])) == [1, 2])",
    ),
    (
        "subprocess_of_itself",
        "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'print(7)'], capture_output=True).stdout == b'7\\n')",
    ),
    (
        "asyncio",
        "import asyncio\nasync def f():\n    r, w = await asyncio.gather(asyncio.sleep(0.01, 1), asyncio.to_thread(lambda: 2))\n    return r + w == 3\nprint(asyncio.run(f()))",
    ),
    (
        "asyncio_subprocess",
        "import asyncio, sys\nasync def f():\n    p = await asyncio.create_subprocess_exec(sys.executable, '-c', 'print(1)', stdout=-1)\n    return (await p.communicate())[0] == b'1\\n'\nprint(asyncio.run(f()))",
    ),
    (
        "multiprocessing_pipe",
        "import multiprocessing as m\nc = m.get_context('fork')\na, b = c.Pipe()\np = c.Process(target=b.send, args=(5,)); p.start(); print(a.recv() == 5); p.join()",
    ),
    (
        "multiprocessing_lock_and_queue",
        "import multiprocessing as m\nc = m.get_context('fork')\nq, l = c.Queue(), c.Lock()\ndef f():\n    with l: q.put(5)\np = c.Process(target=f); p.start(); print(q.get() == 5); p.join()",
    ),
    (
        "temporary_files",
        "import tempfile, os\nwith tempfile.TemporaryDirectory() as d:\n    p = os.path.join(d, 'x'); open(p, 'w').write('y'); print(open(p).read() == 'y')",
    ),
    (
        "file_locks",
        "import fcntl, tempfile\nf = tempfile.TemporaryFile(); fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_EX); print(True)",
    ),
    (
        "timers",
        "import threading; e = threading.Event(); threading.Timer(0.01, e.set).start(); print(e.wait(5))",
    ),
    (
        "alarm",
        "import signal; l = []; signal.signal(signal.SIGALRM, lambda *_: l.append(1)); signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause(); print(l == [1])",
    ),
    (
        "database",
        "import sqlite3, tempfile, os\nd = tempfile.mkdtemp(); c = sqlite3.connect(os.path.join(d, 'x.db')); c.execute('pragma journal_mode=wal'); c.execute('create table t(a)'); c.execute('insert into t values (1)'); c.commit(); print(c.execute('select a from t').fetchone() == (1,))",
    ),
    (
        "shared_mapping",
        "import mmap, os\nm = mmap.mmap(-1, 4096)\nif os.fork() == 0: m[0] = 7; os._exit(0)\nos.wait(); print(m[0] == 7)",
    ),
    (
        "end_a_child",
        "import os, signal, time\np = os.fork()\nif p == 0: time.sleep(60)\nos.kill(p, signal.SIGTERM); print(os.waitpid(p, 0)[1] == 15)",
    ),
];

const NODE: [(&str, &str); 5] = [
    (
        "worker_threads",
        "const {Worker} = require('worker_threads'); new Worker(\"require('worker_threads').parentPort.postMessage(1)\", {eval: true}).on('message', m => console.log(m === 1 ? 'True' : m))",
    ),
    (
        "child_process",
        "console.log(require('child_process').execFileSync(process.execPath, ['-p', '6*7']).toString() === '42\\n' ? 'True' : 'no')",
    ),
    (
        "fork_with_messages",
        "const f = require('path').join(require('os').tmpdir(), 'c.js'); require('fs').writeFileSync(f, 'process.send(3)'); const c = require('child_process').fork(f); c.on('message', m => { console.log(m === 3 ? 'True' : m); c.disconnect() })",
    ),
    (
        "file_watcher",
        "const fs = require('fs'), d = fs.mkdtempSync(require('os').tmpdir() + '/w'); const w = fs.watch(d, () => { console.log('True'); w.close() }); setTimeout(() => fs.writeFileSync(d + '/x', ''), 20)",
    ),
    (
        "timers_and_promises",
        "require('timers/promises').setTimeout(10, 'True').then(console.log)",
    ),
];

/// What the floor alone refuses, and why.
const NOT_ON_THE_FLOOR: [(&str, &str); 1] = [(
    "multiprocessing_lock_and_queue",
    "sem_open makes a file in /dev/shm, which is shared with every process of the host",
)];

fn all(config: &Cell, allowed_to_fail: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (program, flag, programs) in [("python3", "-c", &PYTHON[..]), ("node", "-e", &NODE[..])] {
        if Command::new(program).arg("--version").output().is_err() {
            skip(&format!("cell.runtime.{program}"), "it is not installed");
            continue;
        }
        for (name, code) in programs {
            let ended = run(config, &[program, flag, code]);
            let worked = ended.code == Some(0) && ended.stdout == "True\n";
            let listed = allowed_to_fail.iter().any(|(listed, _)| listed == name);
            if worked == listed {
                wrong.push(format!("{program} {name}: worked: {worked}, {ended:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn honest_things_work_in_the_whole_cell() {
    if namespaces_work() {
        all(&Cell::default(), &[]);
    }
}

#[test]
fn honest_things_work_on_the_floor() {
    let floor = Cell {
        off: vec!["namespaces".into()],
        // Nothing maps root's files there.
        user: nix::unistd::geteuid().is_root().then(|| "root".to_owned()),
        ..Cell::default()
    };
    all(&floor, &NOT_ON_THE_FLOOR);
}
