//! Root's server is somebody else: who, what it can still use, and when it does not start.

use crate::support::{cofferdam, namespaces_work, planned, run, skip};
use cofferdam::cell::LaunchMessage;
use cofferdam::config::Cell;
use nix::unistd::geteuid;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const NOBODY: u32 = 65534;

fn root_only() -> bool {
    let root = geteuid().is_root();
    if !root {
        skip("cell.user_of_root", "only root can become another user");
    }
    root
}

/// Of root, with the namespaces in which its files are mapped.
fn mapped() -> bool {
    root_only() && namespaces_work()
}

fn exec(words: &[&str]) -> Command {
    let mut command = Command::new(cofferdam());
    command.arg("exec").args(words);
    command
}

/// Whom a server is when nobody says so.
fn usual() -> u32 {
    let tmp = tempfile::tempdir().unwrap();
    let spec = planned(&Cell::default(), &["true"], tmp.path());
    let user = spec.user.unwrap();
    assert!(user.uid != 0 && user.gid != 0);
    user.uid
}

/// `status` fields that say who a process is.
fn identity(pid: i32) -> Option<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let known = lines.map(|(name, value)| {
        let words: Vec<&str> = value.split_whitespace().collect();
        (name.to_owned(), words.join(" "))
    });
    Some(known.collect())
}

/// A process and all below it.
fn tree(top: i32) -> Vec<i32> {
    let mut found = vec![top];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter();
        for task in tasks.flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .map(|n| n.parse::<i32>().unwrap()),
            );
        }
        at += 1;
    }
    found
}

#[test]
fn no_process_of_the_cell_is_root_and_each_has_no_power() {
    if !mapped() {
        return;
    }
    let code = "import os, pwd, grp, getpass\n\
        print(os.getresuid(), os.getresgid(), os.getgroups())\n\
        print(pwd.getpwuid(os.getuid()).pw_dir == os.environ['HOME'], getpass.getuser())\n\
        print(grp.getgrgid(os.getgid()).gr_name)\n\
        open(os.path.join(os.environ['HOME'], 'x'), 'w'); open('/tmp/x', 'w')\n\
        print(len(os.listdir('/proc/self/fd')) > 2, os.stat('/proc/self').st_uid == os.getuid())\n\
        for number in (0, 1000):\n    \
            try: os.setuid(number); print('changed')\n    \
            except OSError: pass\n\
        if os.fork() == 0: import time; time.sleep(60)\n\
        print('ready', flush=True); input()";
    let mut child = exec(&["--", "python3", "-c", code])
        .env_remove("USER")
        .env_remove("LOGNAME")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    let uid = usual();
    assert_eq!(
        line(),
        format!("({uid}, {uid}, {uid}) ({uid}, {uid}, {uid}) []")
    );
    assert_eq!(line(), "True cofferdam");
    assert_eq!(line(), "cofferdam");
    assert_eq!(line(), "True True");
    assert_eq!(line(), "ready");

    let all = tree(i32::try_from(child.id()).unwrap());
    let of_the_cell = |pid: &i32| {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.contains("__cell") || words.contains("python3")
    };
    // Ours, which python's words are an argument of, is not.
    let ours = |pid: &i32| {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.contains("\0exec\0")
    };
    let cell: Vec<i32> = all
        .into_iter()
        .filter(|pid| of_the_cell(pid) && !ours(pid))
        .collect();
    // Launcher, pid 1, the server and its child.
    assert_eq!(cell.len(), 4, "{cell:?}");
    for pid in cell {
        let facts = identity(pid).unwrap();
        let four = [uid; 4].map(|id| id.to_string()).join(" ");
        for (field, value) in [("Uid", &four), ("Gid", &four), ("Groups", &String::new())] {
            assert_eq!(&facts[field], value, "{pid} {field}: {facts:?}");
        }
        for field in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(facts[field], "0000000000000000", "{pid} {field}");
        }
    }
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// Who owns what, by path: all that a chown or chmod would change.
fn owners(top: &Path) -> BTreeMap<PathBuf, (u32, u32, u32, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![top.to_owned()];
    while let Some(path) = todo.pop() {
        let facts = path.symlink_metadata().unwrap();
        if facts.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap();
            todo.extend(entries.map(|entry| entry.unwrap().path()));
        }
        let changed = match facts.is_dir() {
            // What is made in a directory changes it; its owner and mode do not.
            true => (0, 0),
            false => (facts.ctime(), facts.ctime_nsec()),
        };
        let known = (facts.uid(), facts.gid(), facts.mode(), changed.0, changed.1);
        found.insert(path, known);
    }
    found
}

#[test]
fn what_is_roots_is_usable_what_it_makes_is_roots_and_nothing_is_chowned() {
    if !mapped() {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    for name in ["read", "write", "neither"] {
        let dir = host.path().join(name);
        std::fs::create_dir_all(dir.join("deep")).unwrap();
        std::fs::write(dir.join("secret"), "planted").unwrap();
        std::fs::write(dir.join("other"), "planted").unwrap();
        chown(dir.join("other"), Some(1000), Some(1000)).unwrap();
        for name in ["secret", "other", "deep", "."] {
            let path = dir.join(name);
            let mode = if path.is_dir() { 0o700 } else { 0o600 };
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
    }
    let before = owners(host.path());
    let config = Cell {
        read: vec![host.path().join("read")],
        write: vec![host.path().join("write")],
        ..Cell::default()
    };
    let code = format!(
        "import errno, os\n\
         os.chdir({:?})\n\
         def tried(act):\n    \
             try: return act()\n    \
             except OSError as error: return errno.errorcode[error.errno]\n\
         for name in ('read/secret', 'write/secret', 'read/other', 'neither/secret'):\n    \
             print(tried(lambda: open(name).read()), end=' ')\n\
         print(tried(lambda: os.chown('write/secret', 1000, 1000)), end=' ')\n\
         print(tried(lambda: open('read/made', 'w')), end=' ')\n\
         os.mkdir('write/deep/made'); open('write/deep/made/file', 'w').write('x')\n\
         os.symlink('file', 'write/deep/made/link'); os.mkfifo('write/deep/made/fifo')\n\
         open('write/secret', 'a').close(); os.rename('write/deep/made', 'write/made')\n\
         print(os.stat('write/made').st_uid == os.getuid())",
        host.path()
    );
    let ended = run(&config, &["python3", "-c", &code]);
    assert_eq!(
        ended.stdout, "planted planted EACCES ENOENT EPERM EROFS True\n",
        "{ended:?}"
    );
    let after = owners(host.path());
    for (path, facts) in &before {
        assert_eq!(after.get(path), Some(facts), "{path:?}");
    }
    let made: Vec<_> = after
        .iter()
        .filter(|(path, _)| !before.contains_key(*path))
        .collect();
    assert_eq!(made.len(), 4, "{made:?}");
    for (path, (uid, gid, ..)) in made {
        assert_eq!((*uid, *gid), (0, 0), "{path:?}");
    }
}

#[test]
fn the_private_directory_is_its_own_in_both_cells() {
    if !root_only() {
        return;
    }
    let uid = usual();
    for off in [&[][..], &["--off", "namespaces"]] {
        let words = ["--preset", "none", "--", "/usr/bin/touch"];
        let home = ["made"];
        let output = exec(&[off, &words, &home].concat()).output().unwrap();
        assert!(output.status.success(), "{off:?}: {}", text(&output));
        let words = ["-v", "--preset", "none", "--", "/usr/bin/id"];
        let output = exec(&[off, &words].concat()).output().unwrap();
        let shown = text(&output);
        assert!(shown.contains(&format!("uid={uid}")), "{off:?}: {shown}");
        assert!(
            shown.contains(&format!("as uid {uid},")),
            "{off:?}: {shown}"
        );
    }
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{:?}: {out}{err}", output.status.code())
}

#[test]
fn without_mapped_files_root_starts_nothing_that_its_user_could_not_use() {
    if !root_only() {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    let path = host.path().to_str().unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
    let floor = ["--off", "namespaces", "--preset", "none"];
    let tried = |more: &[&str]| {
        let words = [&floor, more, &["--", "/usr/bin/touch", "made"]].concat();
        exec(&words).output().unwrap()
    };
    let refused = |more: &[&str], named: &str| {
        let output = tried(more);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(77), "{more:?} {said}");
        assert!(
            said.contains(named) && said.contains("cell.user"),
            "{more:?} {said}"
        );
    };
    // Closed to others.
    refused(&["--read", path], path);
    refused(&["--write", path], path);
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    let before = owners(host.path());
    assert!(tried(&["--read", path]).status.success());
    // Open to others, but what is made there would be theirs.
    refused(&["--write", path], path);
    assert_eq!(owners(host.path()), before);

    let file = host.path().join("made");
    let here = |more: &[&str]| {
        let words = [&floor, more, &["--write", path, "--", "/usr/bin/touch"]].concat();
        let output = exec(&words).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let owner = file.metadata().unwrap().uid();
        std::fs::remove_file(&file).unwrap();
        owner
    };
    assert_eq!(here(&["--user", "root"]), 0);
    // Given to the user by the operator.
    chown(path, Some(1234), Some(1234)).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(here(&["--user", "1234"]), 1234);
    refused(&["--write", path, "--user", "1235"], path);
}

#[test]
fn a_file_system_that_maps_no_owners_is_read_as_it_is_and_never_written() {
    if !mapped() {
        return;
    }
    // The kernel's own, on every host, and root's to write.
    let path = "/sys/kernel";
    let listed = exec(&[
        "--read",
        path,
        "--preset",
        "none",
        "--",
        "/usr/bin/ls",
        path,
    ]);
    let listed = { listed }.output().unwrap();
    assert!(listed.status.success(), "{}", text(&listed));
    let output = exec(&["--write", path, "--preset", "none", "--", "/usr/bin/true"]);
    let output = { output }.output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains(path) && said.contains("cell.user"), "{said}");
}

#[test]
fn the_operator_says_who() {
    if !root_only() {
        return;
    }
    let who = |user: &str| {
        let config = Cell {
            user: Some(user.to_owned()),
            ..Cell::default()
        };
        let ended = run(&config, &["id", "-u"]);
        let Some(LaunchMessage::Entered(report)) = ended.messages.first() else {
            panic!("{ended:?}");
        };
        let uid = ended.stdout.trim().parse::<u32>().unwrap();
        assert_eq!(report.user, Some(uid));
        uid
    };
    assert_eq!(["root", "0", "1234"].map(who), [0, 0, 1234]);
    let output = exec(&["--user", "no-such-user", "--", "true"])
        .output()
        .unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("no-such-user") && said.contains("cell.user"),
        "{said}"
    );
}

#[test]
fn a_user_stays_who_he_is_and_can_ask_for_nobody_else() {
    let ours = geteuid();
    let uid = if ours.is_root() {
        NOBODY
    } else {
        ours.as_raw()
    };
    let open = |path: &Path| path.metadata().unwrap().permissions().mode() & 1 == 1;
    if !cofferdam().ancestors().all(open) {
        return skip(
            "cell.user_of_a_user",
            "the built programs lie where only root can reach them",
        );
    }
    let tried = |user: &[&str]| {
        let words = [user, &["--", "/usr/bin/id", "-u"]].concat();
        let mut command = exec(&words);
        command
            .current_dir("/")
            .env("HOME", "/nonexistent")
            .env_remove("XDG_RUNTIME_DIR");
        if ours.is_root() {
            command.uid(uid).gid(uid);
        }
        command.output().unwrap()
    };
    let own = uid.to_string();
    for user in [&[][..], &["--user", &own]] {
        let output = tried(user);
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(&own), "{said}");
    }
    for user in ["root", "1"] {
        let output = tried(&["--user", user]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("cell.user"), "{said}");
    }
}

#[test]
fn the_number_of_processes_binds_roots_server_too() {
    if !mapped() {
        return;
    }
    let code = "import os, time\n\
        made = 0\n\
        try:\n    \
            for _ in range(50):\n        \
                if os.fork() == 0: time.sleep(30); os._exit(0)\n        \
                made += 1\n\
        except OSError: pass\n\
        print(made)";
    let config = Cell {
        processes: Some(8),
        ..Cell::default()
    };
    let ended = run(&config, &["python3", "-c", code]);
    let made: u32 = ended.stdout.trim().parse().unwrap();
    assert!((4..=8).contains(&made), "{ended:?}");
}

#[test]
fn a_server_opens_its_own_ends_again() {
    if !mapped() {
        return;
    }
    let code = "import json\n\
        out = open('/dev/stdout', 'w')\n\
        for line in open('/dev/stdin'):\n    \
            result = {'protocolVersion': '2025-06-18', 'capabilities': {},\n              \
                      'serverInfo': {'name': 'again', 'version': '1'}}\n    \
            answer = {'jsonrpc': '2.0', 'id': json.loads(line)['id'], 'result': result}\n    \
            out.write(json.dumps(answer) + '\\n'); out.flush()";
    let mut child = Command::new(cofferdam())
        .args(["run", "--audit", "off", "--", "python3", "-c", code])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let asked = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":\
        {\"protocolVersion\":\"2025-06-18\",\"capabilities\":{},\
        \"clientInfo\":{\"name\":\"t\",\"version\":\"1\"}}}\n";
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(asked.as_bytes()).unwrap();
    let mut answer = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut answer).unwrap();
    drop(stdin);
    let said = text(&child.wait_with_output().unwrap());
    assert!(answer.contains("again"), "{answer}{said}");
    assert!(
        said.contains(&format!("as uid {} after", usual())),
        "{said}"
    );
}
