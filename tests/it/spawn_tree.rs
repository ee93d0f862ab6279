//! Whatever is killed, in whatever order, nothing that was started is left.

use crate::rig::Rig;
use crate::support::namespaces_work;
use crate::wire::eventually;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Everything must be gone after this long. Killing takes a few milliseconds; the rest is for a
/// machine on which other tests run.
const PATIENCE: Duration = Duration::from_secs(5);

fn daemonizer() -> PathBuf {
    let bin = Path::new(env!("CARGO_BIN_EXE_cofferdam"));
    bin.parent().unwrap().join("examples/daemonizer")
}

/// One `exec` of the daemonizer with a marker that no other process has.
pub(crate) struct Run {
    rig: Rig,
    pub(crate) marker: String,
    pub(crate) outer: Child,
    _stdout: BufReader<ChildStdout>,
}

fn command(rig: &Rig, words: &[&str]) -> Command {
    let mut command = rig.command(words);
    let runtime = rig.path().join("run");
    std::fs::create_dir_all(&runtime).unwrap();
    command
        .env("XDG_RUNTIME_DIR", runtime)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command
}

fn marker() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "marker-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The cell as it is where the kernel gives no namespaces.
pub(crate) const FLOOR: &[&str] = &["--off", "namespaces"];
/// The best cell that this host has.
pub(crate) const BEST: &[&str] = &[];

impl Run {
    fn start(kind: &str, number: &str) -> Self {
        Self::start_in(BEST, kind, number)
    }

    pub(crate) fn start_in(cell: &[&str], kind: &str, number: &str) -> Self {
        let (rig, marker, fake) = (Rig::new(), marker(), daemonizer());
        let fake = fake.to_str().unwrap();
        let program = ["--allow-exec", fake, "--", fake, kind, &marker, number];
        let mut outer = command(&rig, &[&["exec"], cell, &program].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(outer.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self {
            rig,
            marker,
            outer,
            _stdout: stdout,
        }
    }

    pub(crate) fn outer_pid(&self) -> i32 {
        i32::try_from(self.outer.id()).unwrap()
    }

    pub(crate) fn guardian_pid(&self) -> i32 {
        self.child_of(self.outer_pid())
    }

    pub(crate) fn spawner_pid(&self) -> i32 {
        self.child_of(self.guardian_pid())
    }

    fn child_of(&self, pid: i32) -> i32 {
        pids(&self.marker)
            .into_iter()
            .find(|&p| parent(p) == Some(pid))
            .unwrap()
    }

    fn main_pid(&self) -> i32 {
        let spawner = self.spawner_pid();
        let started = |p: i32| parent(p) == Some(spawner) || is_launcher(parent(p).unwrap_or(0));
        let main = |p: &i32| started(*p) && words(*p).contains("daemons");
        pids(&self.marker).into_iter().find(main).unwrap()
    }

    /// Our processes between the spawner and the server: pid 1 of the cell and the launcher.
    pub(crate) fn between(&self) -> Vec<i32> {
        let above = |pid: &i32| parent(*pid).filter(|p| is_launcher(*p));
        std::iter::successors(above(&self.main_pid()), above).collect()
    }

    /// Waits until no process with the marker lives; how long that took.
    fn gone(&mut self) -> Duration {
        let begin = Instant::now();
        loop {
            drop(self.outer.try_wait());
            let left = pids(&self.marker);
            if left.is_empty() {
                return begin.elapsed();
            }
            let told: Vec<String> = left.iter().map(|p| format!("{p}: {}", words(*p))).collect();
            assert!(begin.elapsed() < PATIENCE, "still there: {told:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn directories(&self) -> usize {
        std::fs::read_dir(self.rig.path().join("run"))
            .unwrap()
            .count()
    }
}

impl Drop for Run {
    /// A failed test leaves nothing behind: these are processes that it started.
    fn drop(&mut self) {
        pids(&self.marker).into_iter().for_each(kill);
        drop(self.outer.wait());
    }
}

pub(crate) fn words(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

pub(crate) fn is_launcher(pid: i32) -> bool {
    words(pid).contains(" __cell ")
}

/// Living processes: a zombie has no command line.
pub(crate) fn pids(marker: &str) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = all.filter_map(|e| e.file_name().to_str()?.parse().ok());
    numbers
        .filter(|p| words(*p).split(' ').any(|word| word == marker))
        .collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

#[test]
fn kill_9_of_any_one_process_ends_all_and_cleans_up() {
    for cell in [BEST, FLOOR] {
        for victim in [
            "outer",
            "guardian",
            "spawner",
            "main",
            "init",
            "launcher",
            "supervisor",
        ] {
            let mut run = Run::start_in(cell, "daemons", "0");
            // Message process, guardian, spawner, main, three helpers.
            // A helper that is being executed has no command line for a moment.
            assert!(eventually(|| pids(&run.marker).len() == 7));
            let between = run.between();
            let inside = cell == BEST && namespaces_work();
            assert_eq!(between.len(), if inside { 2 } else { 1 });
            kill(match (victim, between.as_slice()) {
                ("outer", _) => run.outer_pid(),
                ("guardian", _) => run.guardian_pid(),
                ("spawner", _) => run.spawner_pid(),
                ("init", [init, _]) => *init,
                ("launcher", [_, launcher]) | ("supervisor", [launcher]) => *launcher,
                _ => run.main_pid(),
            });
            let took = run.gone();
            println!("killed {victim}: all gone after {took:?}");
            assert_eq!(run.directories(), 0, "killed {victim}");
            let left: Vec<i32> = between.into_iter().filter(|p| is_launcher(*p)).collect();
            assert!(left.is_empty(), "killed {victim}, left {left:?}");
        }
    }
}

#[test]
fn a_supervisor_that_stands_still_holds_up_no_end() {
    for victim in ["outer", "spawner", "supervisor"] {
        let mut run = Run::start_in(FLOOR, "daemons", "0");
        assert!(eventually(|| pids(&run.marker).len() == 7));
        let [supervisor] = run.between()[..] else {
            panic!("who stands above the server?")
        };
        let stop = rustix::process::Pid::from_raw(supervisor).unwrap();
        rustix::process::kill_process(stop, rustix::process::Signal::STOP).unwrap();
        kill(match victim {
            "outer" => run.outer_pid(),
            "spawner" => run.spawner_pid(),
            _ => supervisor,
        });
        run.gone();
        assert!(!is_launcher(supervisor), "killed {victim}");
    }
}

#[test]
fn kill_9_of_two_processes_in_any_order_ends_all() {
    for order in [
        ["outer", "main"],
        ["main", "outer"],
        ["spawner", "main"],
        ["main", "spawner"],
        ["outer", "spawner"],
        ["spawner", "outer"],
        ["outer", "guardian"],
        ["guardian", "outer"],
        ["guardian", "main"],
    ] {
        let mut run = Run::start("daemons", "0");
        let pid = |name| match name {
            "outer" => run.outer_pid(),
            "guardian" => run.guardian_pid(),
            "spawner" => run.spawner_pid(),
            _ => run.main_pid(),
        };
        let victims = order.map(pid);
        victims.into_iter().for_each(kill);
        println!("killed {order:?}: all gone after {:?}", run.gone());
    }
}

/// The one case that needs namespaces to be complete. On the floor the server goes with the spawner,
/// and what it detached before may stay. The next run removes the directory.
#[test]
fn kill_9_of_guardian_and_spawner_at_once_still_ends_the_server() {
    both_at_once(FLOOR, false);
}

#[test]
fn in_a_pid_namespace_kill_9_of_guardian_and_spawner_at_once_ends_all() {
    if namespaces_work() {
        both_at_once(BEST, true);
    }
}

fn both_at_once(cell: &[&str], whole: bool) {
    let mut run = Run::start_in(cell, "daemons", "0");
    let (guardian, spawner, main) = (run.guardian_pid(), run.spawner_pid(), run.main_pid());
    // The guardian cannot act while it is stopped, so this is as good as the same moment.
    let stop = rustix::process::Pid::from_raw(guardian).unwrap();
    rustix::process::kill_process(stop, rustix::process::Signal::STOP).unwrap();
    kill(spawner);
    kill(guardian);
    let begin = Instant::now();
    while words(main).contains(&run.marker) {
        assert!(begin.elapsed() < PATIENCE, "the server outlived both");
        std::thread::sleep(Duration::from_millis(2));
    }
    if !whole {
        pids(&run.marker).into_iter().for_each(kill);
    }
    run.gone();
    assert_eq!(run.directories(), 1);
    let next = command(&run.rig, &["exec", "--", "true"]).status().unwrap();
    assert!(next.success());
    assert_eq!(run.directories(), 0, "the next run swept");
}

/// The message process can do nothing for its tree (it is caged, and here it is stopped), the
/// spawner is dead: the guardian ends all.
#[test]
fn kill_9_of_message_process_and_spawner_at_once_leaves_nothing() {
    let mut run = Run::start("daemons", "0");
    let (outer, spawner) = (run.outer_pid(), run.spawner_pid());
    let stop = rustix::process::Pid::from_raw(outer).unwrap();
    rustix::process::kill_process(stop, rustix::process::Signal::STOP).unwrap();
    kill(spawner);
    kill(outer);
    println!("killed both: all gone after {:?}", run.gone());
    assert_eq!(run.directories(), 0);
}

#[test]
fn detached_helpers_end_with_the_server_and_its_code_is_kept() {
    let (rig, marker, fake) = (Rig::new(), marker(), daemonizer());
    let fake = fake.to_str().unwrap();
    // `output` reads to the end of the pipes: it would hang if a helper still held them.
    let words = ["exec", "--allow-exec", fake, "--", fake, "quit", &marker];
    let output = command(&rig, &words).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(pids(&marker), Vec::<i32>::new());
}

#[test]
fn a_wide_tree_and_processes_that_live_for_microseconds_are_caught() {
    for (kind, number) in [("tree", "4"), ("comets", "0")] {
        let mut run = Run::start(kind, number);
        std::thread::sleep(Duration::from_millis(100));
        kill(run.outer_pid());
        println!("{kind}: all gone after {:?}", run.gone());
        assert_eq!(run.directories(), 0);
    }
}
