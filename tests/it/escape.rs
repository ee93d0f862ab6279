//! The escape suite: what a hostile server tries, first without a cell and then in one, as this user
//! and, when that is root, as an ordinary one. A program that stands outside says what really
//! happened to what was planted there.

use crate::support::{cofferdam, example, namespaces_work, skip};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Acts that must work without a cell, so that their failure in one says something.
const AS_ROOT: usize = 100;
const AS_USER: usize = 80;
/// Of these, so many whose effect can be told from outside.
const TOLD_FROM_OUTSIDE: usize = 60;

const NOBODY: u32 = 65534;

/// What gets through on the floor alone; `docs/limits.md` has each with its reason.
const THROUGH_THE_FLOOR: [(&str, &str); 4] = [
    ("readlink", "landlock has no right for it"),
    ("run_by_the_loader", LOADER),
    ("stat", "landlock has no right for it"),
    ("whether_it_is_there", "numbers of processes are the host's"),
];
/// And in the cell with namespaces.
const THROUGH_NAMESPACES: [(&str, &str); 0] = [];
const LOADER: &str = "the loader must be executable, and maps what can be read";
/// The kernel does not apply RLIMIT_NPROC to uid 0, which root keeps on the floor when told to.
const THROUGH_AS_ROOT: [(&str, &str); 2] = [
    ("processes_without_end", "no limit for uid 0"),
    ("threads_without_end", "no limit for uid 0"),
];

#[derive(Debug)]
struct Act {
    category: String,
    /// It says that it worked, or somebody outside can tell.
    through: bool,
    seen: bool,
    effect: bool,
    errno: i64,
}

type Acts = BTreeMap<String, Act>;

fn acts(user: Option<u32>, command: &[&str]) -> Acts {
    let mut outside = Command::new(example("outside"));
    outside.arg(example("probe")).args(command);
    if let Some(user) = user {
        outside.uid(user).gid(user).current_dir("/");
    }
    let output = outside.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    let act = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let is = |key: &str| line[key].as_bool().unwrap();
        let act = Act {
            category: line["category"].as_str().unwrap().to_owned(),
            through: is("through") || is("effect"),
            seen: is("seen"),
            effect: is("effect"),
            errno: line["errno"].as_i64().unwrap(),
        };
        (line["act"].as_str().unwrap().to_owned(), act)
    };
    let text = String::from_utf8(output.stdout).unwrap();
    let acts: Acts = text.lines().map(act).collect();
    assert_eq!(acts.len(), text.lines().count(), "a name comes twice");
    acts
}

fn bare(user: Option<u32>) -> Acts {
    acts(user, &["{probe}", "{targets}"])
}

fn enclosed(user: Option<u32>, cell: &[&str]) -> Acts {
    let program = cofferdam();
    let limits = ["--write", "{work}", "--processes", "20", "--memory", "1GiB"];
    let head = [program.to_str().unwrap(), "exec"];
    let tail = ["--", "{probe}", "{targets}"];
    acts(user, &[&head, cell, &limits, &tail].concat())
}

/// Everything that must hold without a cell: enough acts work, and whoever looks from outside sees
/// what they did; what does not work on this machine is named.
fn judge_bare(acts: &Acts, least: usize) {
    let hostile = || acts.iter().filter(|(_, act)| act.category != "honest");
    let through = hostile().filter(|(_, act)| act.through).count();
    let effects = hostile().filter(|(_, act)| act.effect).count();
    println!(
        "without a cell {through} of {} work, {effects} seen from outside",
        hostile().count()
    );
    assert!(through >= least, "only {through} acts work without a cell");
    assert!(
        effects >= TOLD_FROM_OUTSIDE,
        "only {effects} are seen from outside"
    );
    let silent: Vec<_> = hostile()
        .filter(|(_, act)| act.seen && act.through && !act.effect)
        .collect();
    assert!(
        silent.is_empty(),
        "worked, and nobody outside can tell: {silent:#?}"
    );
    for (name, act) in hostile().filter(|(_, act)| !act.through) {
        println!(
            "does not work without a cell either: {name} (errno {})",
            act.errno
        );
    }
    all_honest_work(acts);
}

fn all_honest_work(acts: &Acts) {
    let honest: Vec<_> = acts
        .iter()
        .filter(|(_, act)| act.category == "honest")
        .collect();
    assert!(honest.len() >= 12, "only {} honest acts", honest.len());
    let broken: Vec<_> = honest.iter().filter(|(_, act)| !act.through).collect();
    assert!(broken.is_empty(), "honest, and refused: {broken:#?}");
}

fn judge(bare: &Acts, cell: &Acts, known: &[(&str, &str)]) {
    assert!(bare.keys().eq(cell.keys()), "not the same acts");
    let hostile = cell.iter().filter(|(_, act)| act.category != "honest");
    let through: BTreeSet<&str> = hostile
        .filter(|(_, act)| act.through)
        .map(|(name, _)| name.as_str())
        .collect();
    let known: BTreeSet<&str> = known.iter().map(|(name, _)| *name).collect();
    let more: Vec<_> = through.difference(&known).collect();
    assert!(more.is_empty(), "got through: {more:?}");
    let fewer: Vec<_> = known.difference(&through).collect();
    assert!(
        fewer.is_empty(),
        "listed, and stopped: take off the list {fewer:?}"
    );
    all_honest_work(cell);
}

/// A host that cannot enforce the floor cannot be asked whether it holds.
fn host_is_able() -> bool {
    let missing = ::cofferdam::cell::probe().missing;
    if !missing.is_empty() {
        skip("cell.floor", &format!("{missing:?}"));
    }
    missing.is_empty()
}

/// Whether another user can start what was built: every directory above lets others through.
fn reachable(path: &Path) -> bool {
    path.ancestors()
        .all(|path| path.metadata().unwrap().permissions().mode() & 1 == 1)
}

fn escape(user: Option<u32>) {
    let root = user.is_none() && nix::unistd::geteuid().is_root();
    let bare = bare(user);
    judge_bare(&bare, if root { AS_ROOT } else { AS_USER });
    let (of_root, stays) = match root {
        // What is planted is root's, and nothing maps owners there.
        true => (&THROUGH_AS_ROOT[..], &["--user", "root"][..]),
        false => (&[][..], &[][..]),
    };
    let floor = enclosed(user, &[&["--off", "namespaces"], stays].concat());
    judge(&bare, &floor, &[&THROUGH_THE_FLOOR, of_root].concat());
    if namespaces_work() {
        let inside = enclosed(user, &["--require", "namespaces"]);
        judge(&bare, &inside, &THROUGH_NAMESPACES);
    }
}

#[test]
fn nothing_that_works_without_a_cell_gets_through() {
    if host_is_able() {
        escape(None);
    }
}

#[test]
fn an_ordinary_user_is_held_too() {
    if !host_is_able() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return skip(
            "cell.ordinary_user",
            "the other test runs as an ordinary user already",
        );
    }
    if !["probe", "outside"]
        .into_iter()
        .all(|name| reachable(&example(name)))
        || !reachable(&cofferdam())
    {
        return skip(
            "cell.ordinary_user",
            "the built programs lie where only root can reach them",
        );
    }
    escape(Some(NOBODY));
}

fn through(acts: &Acts) -> Vec<&str> {
    let hostile = acts.iter().filter(|(_, act)| act.category != "honest");
    hostile
        .filter(|(_, act)| act.through)
        .map(|(name, _)| name.as_str())
        .collect()
}

/// Nothing but `exec --`: no file, no configuration, no directory to write.
#[test]
fn without_any_flag_nothing_gets_through() {
    if !host_is_able() || !namespaces_work() {
        return;
    }
    let program = cofferdam();
    let words = [
        program.to_str().unwrap(),
        "exec",
        "--",
        "{probe}",
        "{targets}",
    ];
    let cell = acts(None, &words);
    assert_eq!(through(&cell), [""; 0]);
    assert!(cell.values().all(|act| !act.effect));
}

/// What a host that is allowed opens by itself; the second list is what somebody outside can tell of.
fn opened(cell: &[&str], host: &str) -> (Vec<String>, Vec<String>) {
    opened_by(cell, &["--allow-host", host])
}

fn opened_by(cell: &[&str], flags: &[&str]) -> (Vec<String>, Vec<String>) {
    let closed = enclosed(None, cell);
    let closed = through(&closed);
    let acts = enclosed(None, &[cell, flags].concat());
    let more = through(&acts)
        .into_iter()
        .filter(|name| !closed.contains(name));
    let more: Vec<String> = more.map(Into::into).collect();
    let told = more.iter().filter(|name| acts[*name].effect);
    let told = told.cloned().collect();
    (more, told)
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A server on HTTP has sockets: it can make them, and nobody outside can tell.
#[test]
fn a_server_that_may_listen_reaches_nobody() {
    if !host_is_able() {
        return;
    }
    let floor = match nix::unistd::geteuid().is_root() {
        true => &["--off", "namespaces", "--user", "root"][..],
        false => &["--off", "namespaces"][..],
    };
    let flags = ["--url", "http://127.0.0.1:18080/mcp"];
    let sockets = ["ipv6_socket", "netlink_route"];
    assert_eq!(opened_by(floor, &flags), (owned(&sockets), vec![]));
    if namespaces_work() {
        // In a network of its own a port that it gets by listening leads nowhere.
        let all = ["ipv6_socket", "listen_without_bind", "netlink_route"];
        let own = ["--require", "namespace-net"];
        assert_eq!(opened_by(&own, &flags), (owned(&all), vec![]));
    }
}

#[test]
fn an_allowed_port_opens_that_port_and_nothing_else() {
    if !host_is_able() {
        return;
    }
    // What is planted is root's, and nothing maps owners on the floor.
    let floor = match nix::unistd::geteuid().is_root() {
        true => &["--off", "namespaces", "--user", "root"][..],
        false => &["--off", "namespaces"][..],
    };
    // Every way of connecting that is left is one that landlock sees, and all lead to the port.
    let port = [
        "ipv6_socket",
        "netlink_route",
        "say_by_tcp",
        "tcp_connect",
        "tcp_mapped_connect",
    ];
    let told = owned(&["say_by_tcp"]);
    assert_eq!(
        opened(floor, "localhost:{tcp}"),
        (owned(&port), told.clone())
    );
    let sockets = owned(&["ipv6_socket", "netlink_route"]);
    assert_eq!(opened(floor, "localhost:{other}"), (sockets, vec![]));
    if !namespaces_work() {
        return;
    }
    // In a network of its own the server may listen and send datagrams to itself: nobody outside hears
    // of anything but of the port.
    let itself = [
        "listen",
        "listen_without_bind",
        "say_by_udp",
        "say_by_udp6",
        "udp_send",
    ];
    let mut all = owned(&[&port[..], &itself].concat());
    all.sort();
    let own = ["--require", "namespace-net"];
    assert_eq!(opened(&own, "localhost:{tcp}"), (all, told));
    let mut other = owned(&[&["ipv6_socket", "netlink_route"][..], &itself].concat());
    other.sort();
    assert_eq!(opened(&own, "localhost:{other}"), (other, vec![]));
}
