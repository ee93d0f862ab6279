//! Namespaces of the cell's own: what is inside, what is not, and what happens where there are none.

use crate::rig::Rig;
use crate::support::{Ended, cofferdam, example, namespaces_work, run, skip};
use cofferdam::cell::{LaunchMessage, Layer, LayerState};
use cofferdam::config::{Cell, EgressRule};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn python(config: &Cell, code: &str) -> String {
    let ended = run(config, &["python3", "-uc", code]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout
}

fn state(ended: &Ended, wanted: Layer) -> LayerState {
    let Some(LaunchMessage::Entered(report)) = ended.messages.first() else {
        panic!("no cell: {ended:?}");
    };
    let mut layers = report.layers.iter();
    layers
        .find(|(layer, _)| *layer == wanted)
        .unwrap()
        .1
        .clone()
}

/// Every mount of the cell: where, and its options.
fn mounts(config: &Cell) -> Vec<(String, String)> {
    let text = python(config, "print(open('/proc/self/mounts').read(), end='')");
    let line = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let mut word = || words.next().unwrap().to_owned();
        let at = word();
        word();
        (at, word())
    };
    text.lines().map(line).collect()
}

/// What only other processes' numbers, other mounts and the host's names forbid elsewhere.
#[test]
fn a_server_disposes_of_itself_and_of_no_device() {
    if !namespaces_work() {
        return;
    }
    let code = "
import ctypes, os, resource, socket, threading
us = os.getpid()
os.sched_setaffinity(us, os.sched_getaffinity(us))
os.setpriority(os.PRIO_PROCESS, us, 1)
resource.prlimit(us, resource.RLIMIT_CORE, (0, 0))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(1, 15, 0, 0, 0) == 0
assert libc.prctl(1, 0, 0, 0, 0) == -1
print(sorted({it[4][0] for it in socket.getaddrinfo('localhost', 80, type=socket.SOCK_STREAM)}))
for name in 'null', 'zero', 'full', 'urandom':
    path = '/dev/' + name
    for act in (lambda: os.chmod(path, 0o666)), (lambda: os.utime(path)):
        try:
            act()
            print('changed', path)
        except OSError:
            pass
open('/dev/null', 'w').write('nothing')
";
    let root = nix::unistd::geteuid().is_root();
    for user in [None, root.then(|| "root".to_owned())] {
        let config = Cell {
            user,
            ..Cell::default()
        };
        let said = python(&config, code);
        assert!(said.contains("127.0.0.1"), "{said}");
        assert!(!said.contains("changed"), "{said}");
    }
}

#[test]
fn the_tree_holds_what_is_granted_and_nothing_of_it_is_a_device_or_set_id() {
    if !namespaces_work() {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    for name in ["read", "write", "neither"] {
        std::fs::create_dir(host.path().join(name)).unwrap();
    }
    let [read, write] = ["read", "write"].map(|name| host.path().join(name));
    let config = Cell {
        read: vec![read.clone()],
        write: vec![write.clone()],
        ..Cell::default()
    };
    let all = mounts(&config);
    let options = |path: &Path| {
        let found = all.iter().find(|(at, _)| Path::new(at) == path);
        found
            .unwrap_or_else(|| panic!("{path:?} is not mounted: {all:?}"))
            .1
            .clone()
    };
    let has = |path: &Path, word: &str| options(path).split(',').any(|o| o == word);
    assert!(has(&read, "ro") && has(&write, "rw"), "{all:?}");
    assert!(has(Path::new("/"), "ro"), "{all:?}");
    for (at, options) in &all {
        let words: Vec<&str> = options.split(',').collect();
        assert!(words.contains(&"nosuid"), "{at} {options}");
        assert!(
            words.contains(&"nodev") || at.starts_with("/dev/"),
            "{at} {options}"
        );
    }
    let code = format!(
        "import os\n\
         for path in ('{0}/read', '{0}/write', '{0}/neither', '/home', '/srv', '/var', '/boot'):\n    \
             print(int(os.path.lexists(path)), end='')",
        host.path().display()
    );
    assert_eq!(python(&config, &code), "1100000");
}

#[test]
fn what_is_private_is_empty_writable_and_of_limited_size() {
    if !namespaces_work() {
        return;
    }
    let planted = tempfile::Builder::new()
        .prefix("planted")
        .tempfile_in("/tmp")
        .unwrap();
    let code = format!(
        "import os, errno\n\
         print([n for n in os.listdir('/tmp') if n.startswith('planted')], os.listdir('/dev/shm'))\n\
         for directory, size in (('/tmp', 256), ('/dev/shm', 64)):\n    \
             facts = os.statvfs(directory)\n    \
             print(facts.f_blocks * facts.f_frsize >> 20 == size, facts.f_files <= 65536)\n    \
             open(directory + '/own', 'w').write('x'); os.mkdir(directory + '/sub')\n\
         open('/tmp/exec', 'w').write('#!/bin/true'); os.chmod('/tmp/exec', 0o755)\n\
         try: os.execv('/tmp/exec', ['exec'])\n\
         except OSError as error: print(errno.errorcode[error.errno])\n\
         print(os.path.exists({:?}))",
        planted.path()
    );
    assert_eq!(
        python(&Cell::default(), &code),
        "[] []\nTrue True\nTrue True\nEACCES\nFalse\n"
    );
    assert!(!Path::new("/tmp/own").exists() && !Path::new("/dev/shm/own").exists());
}

#[test]
fn a_granted_place_below_tmp_is_the_hosts() {
    let host = tempfile::tempdir_in("/tmp").unwrap();
    let config = Cell {
        write: vec![host.path().to_owned()],
        ..Cell::default()
    };
    let path = host.path().join("kept");
    python(&config, &format!("open({path:?}, 'w').write('x')"));
    assert_eq!(std::fs::read_to_string(path).unwrap(), "x");
}

#[test]
fn the_server_makes_terminals_of_its_own() {
    if !namespaces_work() {
        return;
    }
    let code = "import os, pty, tty\n\
        main, other = pty.openpty(); tty.setraw(other); os.write(main, b'hello')\n\
        print(os.ttyname(other), os.read(other, 5), sorted(os.listdir('/dev/pts')))";
    assert_eq!(
        python(&Cell::default(), code),
        "/dev/pts/0 b'hello' ['0', 'ptmx']\n"
    );
}

#[test]
fn processes_network_and_names_are_the_cells_own() {
    if !namespaces_work() {
        return;
    }
    let code = "import os, socket\n\
        print(os.getpid(), os.getppid(), socket.gethostname())\n\
        print([n for n in os.listdir('/proc') if n.isdigit()])\n\
        print([l.split(':')[0].strip() for l in open('/proc/net/dev').readlines()[2:]])\n\
        print(open('/proc/self/uid_map').read().split()[2])\n\
        for path in ('/proc/kmsg', '/proc/sysrq-trigger', '/proc/kcore', '/proc/keys', '/proc/bus'):\n    \
            try: open(path).read(); print('read', path)\n    \
            except OSError: pass\n\
        try: open('/proc/sys/kernel/core_pattern', 'w'); print('written')\n\
        except OSError: pass";
    assert_eq!(
        python(&Cell::default(), code),
        "2 1 cofferdam\n['2']\n['lo']\n1\n"
    );
}

#[test]
fn orphans_are_reaped() {
    if !namespaces_work() {
        return;
    }
    let code = "import os, time\n\
        r, w = os.pipe()\n\
        if os.fork() == 0:\n    \
            if os.fork() == 0: os.write(w, b'x'); os._exit(0)\n    \
            os._exit(0)\n\
        os.wait(); os.read(r, 1)\n\
        for _ in range(200):\n    \
            left = [n for n in os.listdir('/proc') if n.isdigit()]\n    \
            if left == ['2']: break\n    \
            time.sleep(0.01)\n\
        print(left)";
    assert_eq!(python(&Cell::default(), code), "['2']\n");
}

#[test]
fn a_signal_to_the_launcher_reaches_the_server() {
    let rig = Rig::new();
    // `print` is not for handlers: the signal may come while the first line is being printed.
    let code = "import os, signal\n\
        def end(*_): os.write(1, b'asked\\n'); os._exit(5)\n\
        signal.signal(signal.SIGTERM, end); os.write(1, b'ready\\n'); signal.pause()";
    let mut child = rig
        .command(&["exec", "--", "python3", "-c", code])
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "asked");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn with_a_host_allowed_the_network_is_the_hosts_and_the_report_says_so() {
    if !namespaces_work() {
        return;
    }
    let config = Cell {
        egress: vec![EgressRule {
            host: "127.0.0.1".into(),
            port: 9,
        }],
        ..Cell::default()
    };
    let ended = run(&config, &["true"]);
    assert_eq!(state(&ended, Layer::Namespaces), LayerState::Enforced);
    let LayerState::Missing(reason) = state(&ended, Layer::NamespaceNet) else {
        panic!("{ended:?}");
    };
    assert!(reason.contains("hosts are allowed"), "{reason}");
}

/// `unshare` makes an outer user namespace and `prepare` spoils it; then our program runs in it.
fn spoiled(flags: &[&str], prepare: &str, arguments: &[&str]) -> Option<std::process::Output> {
    let script = format!("{prepare} || exit 99; exec \"$@\"");
    let rig = Rig::new();
    let mut command = Command::new("unshare");
    command
        .args(flags)
        .args(["sh", "-c", &script, "sh"])
        .arg(cofferdam())
        .args(arguments)
        .env("XDG_STATE_HOME", rig.path())
        .stdin(Stdio::null());
    let output = command.output().ok()?;
    if output.status.code() == Some(99) || output.stderr.starts_with(b"unshare") {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        skip("cell.namespaces", &why);
        return None;
    }
    Some(output)
}

#[test]
fn without_namespaces_the_floor_remains_and_the_reason_is_said() {
    const FORBID: &str = "echo 0 > /proc/sys/user/max_user_namespaces";
    // As a container does: a part of /proc is covered, so there can be no fresh one.
    const COVER: &str = "mount -t tmpfs none /proc/bus || mount -t tmpfs none /proc/irq";
    let cases = [
        (&["-Ur"][..], FORBID, "max_user_namespaces is 0"),
        (&["-Urmpf", "--mount-proc"], COVER, "/proc: "),
    ];
    for (flags, prepare, reason) in cases {
        let program = ["exec", "--", "true"];
        let Some(output) = spoiled(flags, prepare, &program) else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{prepare}: {text}");

        let required = ["exec", "--require", "namespaces", "--", "true"];
        let output = spoiled(flags, prepare, &required).unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(77), "{prepare}: {text}");
        assert!(text.contains("namespaces cannot be enforced"), "{text}");
        assert!(text.contains(reason), "{text}");

        let output = spoiled(flags, prepare, &["doctor"]).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("namespaces        not here: "), "{text}");
        assert!(text.contains(reason), "{text}");
    }
}

/// Pid 1 and the launcher stay for as long as the server does: they must not weigh.
#[test]
fn the_two_that_watch_are_small() {
    if !namespaces_work() {
        return;
    }
    let rig = Rig::new();
    let fake = example("daemonizer");
    let fake = fake.to_str().unwrap();
    let mut child = rig
        .command(&["exec", "--", fake, "daemons", "weight", "0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ours = children(child.id()).into_iter().flat_map(children);
    let mut sizes: Vec<(u32, u64)> = Vec::new();
    for launcher in ours {
        sizes.push((launcher, own_kib(launcher)));
        sizes.extend(
            children(launcher)
                .into_iter()
                .map(|init| (init, own_kib(init))),
        );
    }
    println!("KiB by pid: {sizes:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(sizes.len(), 2, "{sizes:?}");
    assert!(sizes.iter().all(|(_, kib)| *kib < 512), "{sizes:?}");
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split(' ')
        .filter_map(|word| word.trim().parse().ok())
        .collect()
}

/// Memory of its own, which is dirty, private and in no file. Pages of the program file are the page
/// cache's, and how many are touched together is a matter of how a build lies in it.
fn own_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let (mut total, mut dirty) = (0, 0);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let field = words.next();
        let kib: u64 = words.next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        match field {
            Some("Private_Dirty:") => dirty = kib,
            // Comes after it, for each mapping.
            Some("Anonymous:") => total += dirty.min(kib),
            _ => {}
        }
    }
    total
}
