//! The cell without namespaces: modes, times and watches only where the grants allow them.

use crate::rig::Rig;
use crate::support::{Ended, cofferdam, enter_as, planned, run, skip, spawn};
use crate::wire::eventually;
use cofferdam::cell::{LaunchMessage, Layer, LayerState};
use cofferdam::config::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A directory that is granted, and one beside it that is not, each with a file of mode 644.
struct Place {
    root: tempfile::TempDir,
    /// Whom it belongs to, when that is not us, and who the server is.
    user: Option<u32>,
}

/// One of ours and, when we are root, one of the user that its server may become.
fn places() -> Vec<Place> {
    let other = nix::unistd::geteuid().is_root().then_some(4321);
    let mut places = vec![Place::new(None)];
    places.extend(other.map(|user| Place::new(Some(user))));
    places
}

impl Place {
    fn new(user: Option<u32>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let give = |path: &Path| chown(path, user, user).unwrap();
        give(root.path());
        for dir in ["in", "out"] {
            std::fs::create_dir(root.path().join(dir)).unwrap();
            let file = root.path().join(dir).join("file");
            std::fs::write(&file, "x").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
            give(&root.path().join(dir));
            give(&file);
        }
        Self { root, user }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn config(&self) -> Cell {
        Cell {
            off: vec!["namespaces".into()],
            write: vec![self.at("in")],
            user: match self.user {
                Some(user) => Some(user.to_string()),
                None => nix::unistd::geteuid().is_root().then(|| "root".to_owned()),
            },
            ..Cell::default()
        }
    }

    /// Mode and time of modification of the file that is not granted.
    fn outside(&self) -> (u32, i64) {
        let facts = std::fs::metadata(self.at("out/file")).unwrap();
        (facts.mode() & 0o7777, facts.mtime())
    }
}

/// The real interpreter, not a shim; `None` without one.
fn python() -> Option<String> {
    let code = "import sys; print(sys.executable)";
    match Command::new("python3").args(["-c", code]).output() {
        Ok(out) => Some(String::from_utf8(out.stdout).unwrap().trim().to_owned()),
        Err(error) => {
            skip("cell.runtime.python3", &error.to_string());
            None
        }
    }
}

/// One that anybody can reach.
fn anybodys_python() -> Option<String> {
    let found = Path::new("/usr/bin/python3").is_file();
    if !found {
        skip("cell.runtime.python3", "not where anybody can reach it");
    }
    found.then(|| "/usr/bin/python3".to_owned())
}

fn is_supervised(ended: &Ended) -> bool {
    let Some(LaunchMessage::Entered(report)) = ended.messages.first() else {
        panic!("no cell: {ended:?}");
    };
    report
        .layers
        .contains(&(Layer::Supervision, LayerState::Enforced))
}

/// Runs a script on a place, which it finds in `argv[1]`; what it printed.
fn act(place: &Place, config: &Cell, script: &str) -> Option<String> {
    let python = match place.user {
        Some(_) => anybodys_python(),
        None => python(),
    }?;
    let root = place.root.path().to_str().unwrap();
    let ended = run(config, &[&python, "-c", script, root]);
    assert!(is_supervised(&ended), "{ended:?}");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    Some(ended.stdout)
}

const TRY: &str = "
import ctypes, os, shutil, subprocess, sys, threading
root = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
inside, outside = root + '/in/file', root + '/out/file'
def attempt(name, act):
    try: act(); print(name, 'done')
    except OSError as error: print(name, error.errno)
def raw(number, *args):
    if libc.syscall(number, *args) < 0: raise OSError(ctypes.get_errno(), '')
def watch(path):
    fd = libc.inotify_init1(0)
    if libc.inotify_add_watch(fd, path.encode(), 0x100) < 0: raise OSError(ctypes.get_errno(), path)
";

#[test]
fn honest_changes_inside_of_a_grant_work_by_every_name() {
    let script = format!(
        "{TRY}
os.chdir(root + '/in')
os.mkdir('sub')
here = os.open('.', os.O_RDONLY)
attempt('absolute', lambda: os.chmod(inside, 0o755))
attempt('relative', lambda: os.chmod('file', 0o700))
attempt('at', lambda: os.chmod('file', 0o711, dir_fd=here))
attempt('descriptor', lambda: os.chmod(os.open('file', os.O_RDONLY), 0o750))
attempt('by its name', lambda: os.chmod('/proc/self/fd/%d' % os.open('file', os.O_RDONLY), 0o751))
attempt('directory', lambda: os.chmod('sub/', 0o777))
attempt('sticky', lambda: os.chmod('sub', 0o1777))
print(oct(os.stat('file').st_mode & 0o7777), oct(os.stat('sub').st_mode & 0o7777))
attempt('times', lambda: os.utime(inside, (1, 2)))
attempt('times of a descriptor', lambda: os.utime(os.open('file', os.O_RDONLY), ns=(3, 4000000007)))
print(os.stat('file').st_atime_ns, os.stat('file').st_mtime_ns)
os.symlink('file', 'link')
attempt('times of a link', lambda: os.utime('link', (8, 9), follow_symlinks=False))
print(os.lstat('link').st_mtime, os.stat('file').st_mtime_ns)
attempt('touch', lambda: os.utime('file'))
attempt('copy', lambda: shutil.copy2('file', 'copy'))
gone = open('gone', 'w'); os.unlink('gone')
attempt('without a name', lambda: os.fchmod(gone.fileno(), 0o600))
attempt('watch', lambda: watch(root + '/in'))
attempt('nothing there', lambda: os.chmod('absent', 0o600))
attempt('no descriptor', lambda: os.fchmod(999, 0o600))
def thread():
    for n in range(2000): os.chmod('file', 0o600 + n % 2)
threads = [threading.Thread(target=thread) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(os.stat('file').st_mode & 0o7776 == 0o600)
"
    );
    let expected = "absolute done\nrelative done\nat done\ndescriptor done\nby its name done\n\
                    directory done\nsticky done\n0o751 0o1777\ntimes done\n\
                    times of a descriptor done\n3 4000000007\ntimes of a link done\n\
                    9.0 4000000007\ntouch done\ncopy done\nwithout a name done\nwatch done\n\
                    nothing there 2\nno descriptor 9\nTrue\n";
    for place in places() {
        if let Some(said) = act(&place, &place.config(), &script) {
            assert_eq!(said, expected, "{:?}", place.user);
        }
    }
}

/// What is granted of `/proc/self` is the server's own, and not the supervisor's above it.
#[test]
fn what_proc_says_of_itself_is_the_server_s_own() {
    let own = "
for name in ('maps', 'cgroup', 'status', 'limits'):
    attempt(name, lambda: open('/proc/self/' + name).read())
for name in ('cmdline', 'status', 'stat', 'comm'):
    try: open(f'/proc/{os.getppid()}/{name}').read(); print('above', name, 'was read')
    except OSError: pass
";
    for place in places() {
        if let Some(said) = act(&place, &place.config(), &format!("{TRY}{own}")) {
            let expected = "maps done\ncgroup done\nstatus done\nlimits done\n";
            assert_eq!(said, expected);
        }
    }
}

#[test]
fn outside_of_the_grants_nothing_is_changed_or_watched() {
    for place in places() {
        try_outside(&place);
    }
}

fn try_outside(place: &Place) {
    let before = place.outside();
    let script = format!(
        "{TRY}
os.symlink(outside, root + '/in/way')
os.symlink(root + '/out', root + '/in/dir')
deep = os.open(root + '/out', os.O_PATH)
bare = os.open(outside, os.O_PATH)
readable = os.open('/proc/self/exe', os.O_RDONLY)
for name, path in [('plain', outside), ('link', root + '/in/way'), ('dots', root + '/in/../out/file'),
                   ('through', root + '/in/dir/file'), ('magic', '/proc/self/fd/%d' % bare),
                   ('root', '/proc/self/root' + outside), ('cwd', '/proc/thread-self/cwd/' + outside)]:
    attempt(name, lambda: os.chmod(path, 0o600))
    attempt(name, lambda: os.utime(path, (1, 2)))
attempt('at', lambda: os.chmod('file', 0o600, dir_fd=deep))
attempt('empty', lambda: raw(452, bare, b'', 0o600, 0x1000))
attempt('touch', lambda: raw(280, bare, b'', None, 0x1000))
attempt('program', lambda: os.fchmod(readable, 0o755))
attempt('set-id', lambda: os.chmod(inside, 0o4755))
attempt('set-gid', lambda: raw(452, -100, inside.encode(), 0o2755, 0))
attempt('attribute', lambda: os.setxattr(outside, 'user.x', b'y'))
attempt('owner', lambda: os.chown(outside, 0, 0))
attempt('watch', lambda: watch(root + '/out'))
attempt('watch by a link', lambda: watch(root + '/in/dir'))
attempt('bad address', lambda: raw(90, 1, 0o600))
attempt('end of memory', lambda: raw(90, (1 << 64) - 1, 0o600))
attempt('long', lambda: raw(90, b'a' * 5000, 0o600))
attempt('the supervisor', lambda: os.kill(os.getppid(), 0))
attempt('its memory', lambda: open('/proc/%d/mem' % os.getppid(), 'rb'))
"
    );
    if cfg!(not(target_arch = "x86_64")) {
        return; // the numbers of the raw calls are those of x86-64
    }
    let Some(said) = act(place, &place.config(), &script) else {
        return;
    };
    let refused = |line: &str| line.rsplit(' ').next().is_some_and(|e| e != "done");
    assert!(said.lines().count() > 25, "{said}");
    assert!(said.lines().all(refused), "{said}");
    for line in [
        "plain 1",
        "watch 13",
        "watch by a link 13",
        "bad address 14",
        "end of memory 14",
        "long 36",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
    assert_eq!(place.outside(), before);
}

/// A name that changes all the time, and memory that does: what is judged is what is changed.
#[test]
fn a_race_between_names_never_reaches_what_is_not_granted() {
    let place = Place::new(None);
    let before = place.outside();
    let script = format!(
        "{TRY}
import mmap, signal
link = root + '/in/link'
os.symlink(inside, link)
shared = mmap.mmap(-1, 4096)
paths = [os.fsencode(p) + b'\\0' * (len(outside) + 1 - len(p)) for p in (inside, outside)]
shared[:len(paths[0])] = paths[0]
child = os.fork()
while child == 0:
    for target, path in zip((inside, outside), paths):
        os.symlink(target, link + '.new'); os.replace(link + '.new', link)
        for _ in range(20): shared[:len(path)] = path
address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
done = refused = 0
for n in range(20000):
    if n % 2: failed = libc.chmod(link.encode(), 0o640 | n % 8)
    else: failed = libc.chmod(ctypes.c_void_p(address), 0o640 | n % 8)
    if failed: refused += 1
    else: done += 1
os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
print(done > 100, refused > 100, done + refused)
"
    );
    if let Some(said) = act(&place, &place.config(), &script) {
        assert_eq!(said, "True True 20000\n");
    }
    assert_eq!(place.outside(), before);
}

#[test]
fn an_ordinary_user_is_supervised_too() {
    let Some(python) = python() else { return };
    if !nix::unistd::geteuid().is_root() {
        return skip(
            "cell.ordinary_user",
            "the other tests run as an ordinary user already",
        );
    }
    let reachable = |path: &Path| {
        let mut above = path.ancestors();
        above.all(|path| path.metadata().unwrap().permissions().mode() & 1 == 1)
    };
    // Root's own may lie in its home.
    let python = match reachable(Path::new(&python)) {
        true => python,
        false => "/usr/bin/python3".to_owned(),
    };
    if !reachable(&cofferdam()) || !Path::new(&python).exists() {
        return skip(
            "cell.ordinary_user",
            "the built programs lie where only root can reach them",
        );
    }
    let place = Place::new(None);
    let before = place.outside();
    let tmp = tempfile::tempdir().unwrap();
    let script = format!(
        "{TRY}
attempt('inside', lambda: os.chmod(inside, 0o600))
attempt('watch', lambda: watch(root + '/in'))
attempt('outside', lambda: os.chmod(outside, 0o600))
"
    );
    let root = place.root.path().to_str().unwrap();
    let spec = planned(&place.config(), &[&python, "-c", &script, root], tmp.path());
    for path in [
        place.root.path().to_owned(),
        place.at("in"),
        place.at("out"),
        place.at("in/file"),
        place.at("out/file"),
        tmp.path().to_owned(),
    ] {
        chown(path, Some(65534), Some(65534)).unwrap();
    }
    for entry in std::fs::read_dir(tmp.path()).unwrap() {
        chown(entry.unwrap().path(), Some(65534), Some(65534)).unwrap();
    }
    let ended = enter_as(Some(65534), &spec);
    assert!(is_supervised(&ended), "{ended:?}");
    assert_eq!(ended.stdout, "inside done\nwatch done\noutside 1\n");
    assert_eq!(place.outside(), before);
}

/// As in most pods: the supervisor may neither copy memory by a call nor borrow a descriptor.
#[test]
fn where_looking_is_refused_it_works_as_well() {
    let Some(python) = python() else { return };
    let place = Place::new(None);
    let before = place.outside();
    let script = format!(
        "{TRY}
import select
def events(fd):
    ready = select.select([fd], [], [], 2)[0]
    return len(os.read(fd, 4096)) > 0 if ready else None
def instance(flags):
    fd = libc.inotify_init1(flags)
    if fd < 0: raise OSError(ctypes.get_errno(), '')
    return fd
def add(fd, path):
    if libc.inotify_add_watch(fd, path.encode(), 0x100) < 0: raise OSError(ctypes.get_errno(), path)
attempt('mode', lambda: os.chmod(inside, 0o600))
attempt('mode outside', lambda: os.chmod(outside, 0o600))
fds = [instance(0o4000 | 0o2000000) for _ in range(100)]
print(os.get_blocking(fds[-1]), os.get_inheritable(fds[-1]))
os.mkdir(root + '/in/a'); os.mkdir(root + '/in/b')
moved = os.dup(fds[80])
attempt('watch', lambda: add(moved, root + '/in/a'))
attempt('watch', lambda: add(fds[90], root + '/in/b'))
attempt('watch outside', lambda: add(fds[90], root + '/out'))
attempt('too old', lambda: add(fds[0], root + '/in/a'))
attempt('no watcher', lambda: add(1, root + '/in/a'))
attempt('not open', lambda: add(999, root + '/in/a'))
open(root + '/in/a/new', 'w')
print(events(fds[80]))
try: os.read(fds[90], 4096)
except BlockingIOError: print('silent')
open(root + '/in/b/new', 'w')
print(events(fds[90]))
"
    );
    let refusing = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/refusing.py");
    let mut command = Command::new("python3");
    command
        .arg(refusing)
        .arg("pidfd_getfd,process_vm_readv")
        .arg(cofferdam())
        .args(["exec", "--off", "namespaces", "--require", "supervision"]);
    if nix::unistd::geteuid().is_root() {
        command.args(["--user", "root"]);
    }
    command.arg("--write").arg(place.at("in"));
    command.args(["--", &python, "-c", &script]);
    let output = command.arg(place.root.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = "mode done\nmode outside 1\nFalse False\nwatch done\nwatch done\n\
                    watch outside 13\ntoo old 22\nno watcher 22\nnot open 9\n\
                    True\nsilent\nTrue\n";
    assert_eq!(said, expected, "{stderr}");
    assert_eq!(place.outside(), before);
}

/// Who wanted what, and the words that would allow it, while the server still runs.
#[test]
fn a_refusal_is_told_at_once_and_once() {
    let Some(python) = python() else { return };
    let place = Place::new(None);
    let script = format!(
        "{TRY}
for _ in range(50): attempt('mode', lambda: os.chmod(outside, 0o600))
attempt('watch', lambda: watch(root + '/out'))
print('ready', flush=True)
sys.stdin.read()
"
    );
    let mut command = Command::new(cofferdam());
    command.args(["exec", "--off", "namespaces"]);
    if nix::unistd::geteuid().is_root() {
        command.args(["--user", "root"]);
    }
    command.args(["--", &python, "-c", &script]);
    command
        .arg(place.root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(&mut command);
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    while stdout.next().unwrap().unwrap() != "ready" {}
    let begin = Instant::now();
    let told: Vec<String> = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .filter(|line| line.contains("supervision"))
        .take(2)
        .collect();
    let took = begin.elapsed();
    drop(child.stdin.take());
    child.wait().unwrap();
    let out = place.at("out").canonicalize().unwrap();
    let out = out.display();
    let [mode, watch] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert!(
        mode.contains(&format!("denied: change the mode of {out}/file by python3"))
            && mode.ends_with(&format!(
                "layer supervision: allow it with --write {out}/file"
            )),
        "{mode}"
    );
    assert!(
        watch.contains(&format!("denied: watch {out} by"))
            && watch.ends_with(&format!("allow it with --read {out}")),
        "{watch}"
    );
    println!("told after {took:?}");
    assert!(took < Duration::from_millis(50), "{took:?}");
}

/// In a session: the log, the audit file and the metrics have it while the server runs.
#[test]
fn a_refusal_is_logged_audited_and_counted() {
    let Some(python) = python() else { return };
    let (place, rig) = (Place::new(None), Rig::new());
    let (audit, socket) = (rig.path().join("audit.jsonl"), rig.path().join("admin"));
    let script =
        format!("{TRY}\nattempt('mode', lambda: os.chmod(outside, 0o600))\nsys.stdin.read()");
    let mut command = rig.command(&["run", "--off", "namespaces"]);
    if nix::unistd::geteuid().is_root() {
        command.args(["--user", "root"]);
    }
    let admin = format!("unix:{}", socket.display());
    command.args(["--admin", &admin, "--audit", audit.to_str().unwrap()]);
    command.args(["--", &python, "-c", &script]);
    command
        .arg(place.root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = spawn(&mut command);
    let counted = || {
        let Ok(mut stream) = UnixStream::connect(&socket) else {
            return false;
        };
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.contains("cofferdam_cell_denials_total{what=\"write\"} 1")
    };
    let counted = eventually(counted);
    let audited = || {
        let text = std::fs::read_to_string(&audit).unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.contains("\"cell\""))
            .map(ToOwned::to_owned);
        line.map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap())
    };
    assert!(eventually(|| audited().is_some()));
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let denied = "denied: change the mode of ";
    assert!(counted && stderr.contains(denied), "{stderr}");
    let line = audited().unwrap();
    assert_eq!(
        (&line["rule"], &line["status"]),
        (&"cell.write".into(), &"refused".into())
    );
    assert!(
        line["detail"].as_str().unwrap().starts_with(denied),
        "{line}"
    );
}

#[test]
fn the_end_of_the_server_and_a_switch_are_passed_on() {
    let Some(python) = python() else { return };
    let place = Place::new(None);
    let die = "import os; os.kill(os.getpid(), 15)";
    let ended = run(&place.config(), &[&python, "-c", die]);
    assert_eq!((is_supervised(&ended), ended.code), (true, None));
    let ended = run(&place.config(), &[&python, "-c", "raise SystemExit(7)"]);
    assert_eq!(ended.code, Some(7));

    let off = Cell {
        off: vec!["namespaces".into(), "supervision".into()],
        ..place.config()
    };
    let code = "import os, sys; os.chmod(sys.argv[1], 0o600)";
    let outside = place.at("out/file");
    let ended = run(&off, &[&python, "-c", code, outside.to_str().unwrap()]);
    assert!(!is_supervised(&ended), "{ended:?}");
    assert_eq!((ended.code, place.outside().0), (Some(0), 0o600));
}

/// Where nothing would confine the supervisor there is none, and whoever requires one is told.
#[test]
fn what_cannot_be_supervised_does_not_start_when_it_is_required() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/refusing.py");
    let said = |words: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(&script).arg("landlock_create_ruleset");
        command.arg(cofferdam()).args(["exec", "-v"]);
        for layer in ["landlock", "landlock-net", "landlock-scopes"] {
            command.args(["--optional", layer]);
        }
        let output = command
            .args(words)
            .args(["--", "/bin/echo", "started"])
            .output();
        let output = output.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), stderr)
    };
    if python().is_none() {
        return;
    }
    let floor = ["--off", "namespaces"];
    let (code, stderr) = said(&floor);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stderr.contains("supervision MISSING (nothing would confine"),
        "{stderr}"
    );
    let (code, stderr) = said(&[&floor[..], &["--require", "supervision"]].concat());
    assert_eq!(code, Some(77), "{stderr}");
    assert!(
        stderr.contains("supervision cannot be enforced"),
        "{stderr}"
    );
}

/// Whoever may write to a device does not own it.
#[test]
fn no_mode_and_no_time_of_a_device_is_changed() {
    for place in places() {
        let script = "
import os
for act in (lambda: os.chmod('/dev/null', 0o666)), (lambda: os.utime('/dev/null')):
    try:
        act()
        print('changed')
    except OSError as error:
        print(error.errno)
open('/dev/null', 'w').write('nothing')
";
        let Some(said) = act(&place, &place.config(), script) else {
            return;
        };
        assert_eq!(said, "1\n1\n");
    }
}
