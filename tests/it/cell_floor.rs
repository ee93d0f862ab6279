//! The hostile probe, bare and in the cell: what works bare must fail in the cell, and what every
//! honest server does must work.

use crate::support::{bare, cofferdam, enter_as, example, planned, skip};
use ::cofferdam::cell::{LaunchMessage, Layer, LayerReport, LayerState};
use ::cofferdam::config::{Cell, EgressRule};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use tempfile::TempDir;

type Acts = BTreeMap<String, (String, bool, i64)>;

/// What the probe tries to reach, all of it alive.
struct Targets {
    outside: TempDir,
    work: TempDir,
    tcp: TcpListener,
    udp: UdpSocket,
    _unix: UnixListener,
    _hidden: UnixListener,
    _datagram: UnixDatagram,
    name: String,
    shared: PathBuf,
    victim: Child,
}

impl Targets {
    fn plant() -> Self {
        let outside = tempfile::tempdir().unwrap();
        let dir = outside.path();
        for name in ["secret", "victim", "own", "unlinked"] {
            std::fs::write(dir.join(name), "planted").unwrap();
        }
        std::fs::create_dir(dir.join("dir")).unwrap();
        std::os::unix::fs::symlink("secret", dir.join("link")).unwrap();
        let work = tempfile::tempdir().unwrap();
        let name = format!("probe-{}", dir.file_name().unwrap().to_str().unwrap());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self {
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            _unix: UnixListener::bind(dir.join("socket")).unwrap(),
            _hidden: UnixListener::bind_addr(&address).unwrap(),
            shared: {
                let path = Path::new("/dev/shm").join(&name);
                std::fs::write(&path, "planted").unwrap();
                path
            },
            _datagram: UnixDatagram::bind(dir.join("datagram")).unwrap(),
            victim: Command::new("sleep").arg("60").spawn().unwrap(),
            name,
            outside,
            work,
        }
    }

    fn argument(&self) -> String {
        json!({
            "outside": self.outside.path(),
            "work": self.work.path(),
            "tcp": self.tcp.local_addr().unwrap().port(),
            "udp": self.udp.local_addr().unwrap().port(),
            "unix": self.outside.path().join("socket"),
            "abstract": self.name,
            "shared": self.shared.file_name().unwrap().to_str().unwrap(),
            "pid": self.victim.id(),
        })
        .to_string()
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.shared));
        self.victim.kill().unwrap();
        self.victim.wait().unwrap();
    }
}

/// Each act with its category, whether it got through, and the errno.
fn acts(stdout: &str) -> Acts {
    let lines = stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            let errno = line["errno"].as_i64().unwrap();
            (
                text("act"),
                (text("category"), line["through"].as_bool().unwrap(), errno),
            )
        })
        .collect()
}

fn in_cell(config: &Cell, targets: &Targets) -> Acts {
    in_cell_as(None, config, targets)
}

/// The cell of that user, who owns what was planted: only the cell stands in the way.
fn in_cell_as(user: Option<u32>, config: &Cell, targets: &Targets) -> Acts {
    let write = vec![targets.work.path().to_owned()];
    let config = Cell {
        write,
        ..config.clone()
    };
    let tmp = tempfile::tempdir().unwrap();
    let probe = example("probe");
    let spec = planned(
        &config,
        &[probe.to_str().unwrap(), &targets.argument()],
        tmp.path(),
    );
    if let Some(user) = user {
        for root in [targets.outside.path(), targets.work.path(), tmp.path()] {
            give(root, user);
        }
    }
    let ended = enter_as(user, &spec);
    let [LaunchMessage::Entered(report)] = ended.messages.as_slice() else {
        panic!("the cell was not entered: {ended:?}");
    };
    let floor = report
        .layers
        .iter()
        .filter(|(layer, _)| !Layer::DEGRADES.contains(layer));
    for (layer, state) in floor {
        assert_eq!(*state, LayerState::Enforced, "{layer:?}");
    }
    let asked = config.off.is_empty();
    if asked && !has_namespaces(report) {
        skip("cell.namespaces", &format!("{report:?}"));
    }
    assert!(asked || !has_namespaces(report), "{report:?}");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    acts(&ended.stdout)
}

fn has_namespaces(report: &LayerReport) -> bool {
    let inside = (Layer::Namespaces, LayerState::Enforced);
    report.layers.contains(&inside)
}

/// The cell as it is where the kernel gives no namespaces.
fn floor_alone() -> Cell {
    Cell {
        off: vec!["namespaces".into()],
        // Nothing maps root's files there, and what is planted is root's.
        user: nix::unistd::geteuid().is_root().then(|| "root".to_owned()),
        ..Cell::default()
    }
}

/// A host that cannot enforce the floor cannot be asked whether it holds.
fn host_is_able() -> bool {
    let missing = ::cofferdam::cell::probe().missing;
    if !missing.is_empty() {
        skip("cell.floor", &format!("{missing:?}"));
    }
    missing.is_empty()
}

#[test]
fn nothing_that_works_bare_gets_through() {
    if !host_is_able() {
        return;
    }
    let outside = Targets::plant();
    let bare = acts(&bare(&example("probe"), &[&outside.argument()]));
    let cell = in_cell(&Cell::default(), &Targets::plant());
    judge(&bare, &cell, &Cell::default());
}

#[test]
fn the_floor_alone_holds_as_well() {
    if !host_is_able() {
        return;
    }
    let outside = Targets::plant();
    let bare = acts(&bare(&example("probe"), &[&outside.argument()]));
    let cell = in_cell(&floor_alone(), &Targets::plant());
    judge(&bare, &cell, &floor_alone());
}

#[test]
fn an_ordinary_user_is_held_too() {
    if !host_is_able() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return skip(
            "cell.ordinary_user",
            "the other tests run as an ordinary user already",
        );
    }
    if !reachable(&example("probe")) || !reachable(&cofferdam()) {
        return skip(
            "cell.ordinary_user",
            "the built programs lie where only root can reach them",
        );
    }
    let outside = Targets::plant();
    let bare = acts(&bare(&example("probe"), &[&outside.argument()]));
    for config in [Cell::default(), floor_alone()] {
        let cell = in_cell_as(Some(NOBODY), &config, &Targets::plant());
        judge(&bare, &cell, &config);
    }
}

const NOBODY: u32 = 65534;

/// Whether every directory above lets others through.
fn reachable(path: &Path) -> bool {
    path.ancestors()
        .all(|path| path.metadata().unwrap().permissions().mode() & 1 == 1)
}

fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        let entries = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries
            .filter(|entry| !entry.is_symlink())
            .for_each(|entry| give(&entry, user));
    }
}

/// What only a file tree of the cell's own stops: landlock has no right for these.
const STOPPED_BY_THE_TREE: [&str; 5] = ["stat", "readlink", "chmod", "utime", "inotify"];

fn judge(bare: &Acts, cell: &Acts, config: &Cell) {
    // Which of the two cells this is: the tree makes the host's file vanish for every call.
    let inside = config.off.is_empty() && cell["stat"].2 == i64::from(libc::ENOENT);
    assert_eq!(
        bare.keys().collect::<Vec<_>>(),
        cell.keys().collect::<Vec<_>>()
    );
    assert!(cell.len() > 120, "only {} acts", cell.len());
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for (act, (category, through, errno)) in cell {
        let worked_bare = bare[act].1;
        let count = counts.entry(category).or_default();
        count.0 += u32::from(worked_bare);
        count.1 += u32::from(*through);
        match category.as_str() {
            "uncovered" if inside && STOPPED_BY_THE_TREE.contains(&act.as_str()) => {
                let says = format!("{act} got through, or does not work outside");
                wrong.extend((*through || !worked_bare).then_some(says));
            }
            "honest" | "uncovered" if !through => wrong.push(format!("{act} fails with {errno}")),
            "honest" | "uncovered" => {}
            _ if *through => wrong.push(format!("{act} got through")),
            _ if !worked_bare => skip(&format!("cell.{act}"), "it does not work outside of a cell"),
            _ => {}
        }
    }
    println!("category: worked bare, got through in the cell: {counts:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_allowed_port_opens_that_port_and_nothing_else() {
    if !host_is_able() {
        return;
    }
    let targets = Targets::plant();
    let port = targets.tcp.local_addr().unwrap().port();
    let allow = |port| Cell {
        egress: vec![EgressRule {
            host: "localhost".into(),
            port,
        }],
        ..Cell::default()
    };
    let open = in_cell(&allow(port), &targets);
    let through = |acts: &Acts| -> Vec<String> {
        let hostile = acts.iter().filter(|(_, (category, through, _))| {
            *through && category != "honest" && category != "uncovered"
        });
        hostile.map(|(act, _)| act.clone()).collect()
    };
    // Every way of connecting that is left is one that landlock sees, and all lead to the port.
    let honest = ["tcp_connect", "tcp_mapped_connect"];
    assert_eq!(
        through(&open),
        [&["ipv6_socket", "netlink_route"], &honest[..]].concat()
    );

    let other = in_cell(&allow(port ^ 1), &Targets::plant());
    assert_eq!(through(&other), ["ipv6_socket", "netlink_route"]);
    for act in honest {
        assert_eq!(other[act].2, i64::from(libc::EACCES), "{act}");
    }
}

#[test]
fn a_cell_with_datagrams_has_udp_and_still_no_other_way_out() {
    if !host_is_able() {
        return;
    }
    let targets = Targets::plant();
    let egress = vec![EgressRule {
        host: "localhost".into(),
        port: 443,
    }];
    let write = vec![targets.work.path().to_owned()];
    let tmp = tempfile::tempdir().unwrap();
    let config = Cell {
        egress,
        write,
        ..Cell::default()
    };
    let probe = example("probe");
    let mut spec = planned(
        &config,
        &[probe.to_str().unwrap(), &targets.argument()],
        tmp.path(),
    );
    spec.datagrams = true;
    let cell = acts(&enter_as(None, &spec).stdout);
    let network = cell
        .iter()
        .filter(|(_, (category, ..))| category == "network");
    let through: Vec<&String> = network
        .filter(|(_, act)| act.1)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(through, ["ipv6_socket", "netlink_route", "udp_send"]);
}
