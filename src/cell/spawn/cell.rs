//! One cell from its sealed spec to its end: launching, listening to the launcher, naming the exit.

use super::companion::{Companion, spawn};
use super::dialer::{self, Door};
use super::into::spawn_into;
use super::protocol::{Exit, Facts, Mode};
use super::refusals::Refusals;
use super::relay::{self, Relay};
use super::server::ancestors;
use super::stdio::{Ends, pass_on};
use super::tempdir::{TempDir, random_name};
use crate::cell::cgroup::{self, Around, Leaf};
use crate::cell::{
    CellCgroup, CellSpec, LaunchFailure, LaunchMessage, Layer, LayerReport, LayerState,
    MESSAGE_LIMIT, seal_spec,
};
use rustix::event::Timespec;
use rustix::process::{Pid, Signal, WaitStatus, getpid, kill_process};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A launcher that has not entered its cell after this long never will.
pub(super) const START_LIMIT: Duration = Duration::from_secs(20);

/// Why a cell did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The plan, the package or the launcher says no; the code is the one to exit with.
    #[error("{message}")]
    Refused { exit_code: u8, message: String },
    #[error("cannot {doing}: {source}")]
    Os {
        doing: &'static str,
        source: io::Error,
    },
    #[error("the launcher said nothing for {seconds} s")]
    Slow { seconds: u64 },
    #[error("it did not end within {seconds} s")]
    Endless { seconds: u64 },
    /// Nobody waits for the result any more: the message process is gone.
    #[error("cofferdam is ending")]
    Abandoned,
}

impl StartError {
    /// The exit code of DESIGN §7 for this cause.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { exit_code, .. } => *exit_code,
            Self::Os { .. } => 70,
            Self::Slow { .. } | Self::Endless { .. } | Self::Abandoned => 75,
        }
    }
}

/// What of a launcher is ours: its pid and the descriptor on which it reports.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) pid: Pid,
    status: Option<io::PipeReader>,
    heard: Vec<u8>,
    deadline: Instant,
    /// Where a supervisor tells what it refused.
    pub(super) refusals: Refusals,
}

/// What the launcher said in the end.
pub(super) type Verdict = Result<LayerReport, LaunchFailure>;

impl Launched {
    /// A process that reports as a launcher does.
    pub(super) fn new(pid: Pid, status: io::PipeReader) -> Self {
        Self {
            pid,
            status: Some(status),
            heard: Vec::new(),
            deadline: Instant::now() + START_LIMIT,
            refusals: Refusals::none(),
        }
    }

    /// Starts `cofferdam __cell` on a sealed copy of `spec`; `egress` is where it hands out the
    /// sockets of its network.
    pub(super) fn start(
        spec: &CellSpec,
        stdin: Stdio,
        stdout: Stdio,
        stderr: Stdio,
        leaf: Option<&Leaf>,
        egress: Option<OwnedFd>,
    ) -> Result<Self, StartError> {
        let os = |doing| move |source| StartError::Os { doing, source };
        let mut spec = spec.clone();
        let (refusals, told) = Refusals::of(&mut spec).map_err(os("make a socket pair"))?;
        let sealed = seal_spec(&spec);
        spec.wipe();
        let sealed = sealed.map_err(os("seal the spec of the cell"))?;
        let (status, theirs) = io::pipe().map_err(os("make a pipe"))?;
        let theirs = OwnedFd::from(theirs);
        rustix::io::ioctl_fionbio(&status, true).map_err(|e| os("set up a pipe")(e.into()))?;
        pass_on(&sealed).map_err(os("pass on a descriptor"))?;
        pass_on(&theirs).map_err(os("pass on a descriptor"))?;
        egress
            .iter()
            .try_for_each(pass_on)
            .map_err(os("pass on a descriptor"))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("cofferdam")
            .arg("__cell")
            .arg(sealed.as_raw_fd().to_string())
            .arg(theirs.as_raw_fd().to_string())
            .args(egress.iter().map(|fd| fd.as_raw_fd().to_string()))
            .env_clear()
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        let pid = match leaf {
            // Where it does not work the launcher sees that it is outside, and says so.
            Some(leaf) => spawn_into(leaf.fd(), &mut command).or_else(|_| spawn(&mut command)),
            None => spawn(&mut command),
        };
        let pid = pid.map_err(os("start the launcher"))?;
        drop(told);
        let deadline = Instant::now() + START_LIMIT;
        Ok(Self {
            pid,
            status: Some(status),
            heard: Vec::new(),
            deadline,
            refusals,
        })
    }

    /// What to poll, until the launcher has said everything.
    pub(super) fn status(&self) -> Option<&io::PipeReader> {
        self.status.as_ref()
    }

    /// When to give up, until the launcher has said everything.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.status.is_some().then_some(self.deadline)
    }

    /// Listens to the end: what was entered, if anything was.
    pub(super) fn entered(mut self) -> Option<LayerReport> {
        let mut heard = Vec::new();
        let status = self.status.take()?;
        rustix::io::ioctl_fionbio(&status, false).ok()?;
        let limit = u64::try_from(2 * MESSAGE_LIMIT).ok()?;
        status.take(limit).read_to_end(&mut heard).ok()?;
        entry(&heard)
    }

    /// Reads what there is; the verdict once the launcher closed its end (by executing the server
    /// or by ending). `ended` says that it is dead, so that there is nothing to wait for.
    pub(super) fn listen(&mut self, ended: bool) -> Option<Verdict> {
        let status = self.status.as_mut()?;
        let mut chunk = [0; 4096];
        let closed = loop {
            match status.read(&mut chunk) {
                Ok(0) => break true,
                Ok(n) => self
                    .heard
                    .extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break ended,
                Err(_) => break true,
            }
            if self.heard.len() > 2 * MESSAGE_LIMIT {
                break true;
            }
        };
        if !closed {
            return None;
        }
        self.status = None;
        Some(judge(&std::mem::take(&mut self.heard)))
    }
}

/// What the launcher entered, also when it could not execute the program after that.
fn entry(heard: &[u8]) -> Option<LayerReport> {
    heard.split(|&b| b == b'\n').find_map(|line| {
        let message = LaunchMessage::decode(line).ok()?;
        match message {
            LaunchMessage::Entered(report) => Some(report),
            LaunchMessage::Failed(_) => None,
        }
    })
}

/// Reads the launcher's lines: `Entered` alone means that the server's program runs.
fn judge(heard: &[u8]) -> Verdict {
    let mut entered = None;
    for line in heard.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        match LaunchMessage::decode(line) {
            Ok(LaunchMessage::Entered(report)) => entered = Some(report),
            Ok(LaunchMessage::Failed(failure)) => return Err(failure),
            Err(error) => {
                let text = format!("the launcher's report cannot be read: {error}");
                return Err(LaunchFailure { code: 70, text });
            }
        }
    }
    entered.ok_or_else(|| LaunchFailure {
        code: 70,
        text: "the launcher ended before it entered the cell".into(),
    })
}

/// A cell that the message process asked for.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) number: u32,
    pub(super) launched: Launched,
    pub(super) verdict: Option<Verdict>,
    pub(super) exit: Option<WaitStatus>,
    pub(super) facts: Facts,
    /// Killed and removed with the cell, before the directory.
    pub(super) leaf: Option<Leaf>,
    /// What the kernel had killed around us for want of memory when the cell started.
    memory_kills: u64,
    /// The ends for the message process, until `Started` takes them.
    pub(super) ours: Vec<OwnedFd>,
    /// Makes its connections, if it has a network of its own from which any lead out.
    pub(super) relay: Option<Relay>,
    /// Makes the connections to it, if it is a server on HTTP.
    dialer: Option<Companion>,
    /// Keeps its stdin open.
    held: Option<OwnedFd>,
    /// For the operator, if it turns out to have the host's network.
    pub(super) floor_warnings: Vec<String>,
    /// Removed with the cell, after its last process.
    pub(super) directory: TempDir,
}

impl Cell {
    /// The processes that are the cell's own from the start.
    pub(super) fn processes(&self) -> impl Iterator<Item = Pid> {
        let relay = self.relay.as_ref().map(|relay| &relay.companion);
        let companions = relay.into_iter().chain(&self.dialer);
        let numbers = companions.filter_map(Companion::pid);
        [self.launched.pid].into_iter().chain(numbers)
    }

    /// The processes beside it.
    pub(super) fn companions(&mut self) -> impl Iterator<Item = &mut Companion> {
        let relay = self.relay.as_mut().map(|relay| &mut relay.companion);
        relay.into_iter().chain(&mut self.dialer)
    }

    /// Whether this is its private directory.
    pub(super) fn lies_in(&self, directory: &Path) -> bool {
        self.directory.path() == directory
    }

    /// Removes what is left of it, within that time; false when a sweep has to do the rest.
    pub(super) fn clear(self, patience: Duration) -> bool {
        let Self {
            directory, leaf, ..
        } = self;
        drop(leaf);
        directory.clear(patience)
    }

    /// Whether its connections are made for it, so that hosts are allowed by name.
    fn is_apart(&self) -> bool {
        let apart = (Layer::NamespaceNet, LayerState::Enforced);
        let by_name = |report: &LayerReport| report.by_name || report.layers.contains(&apart);
        matches!(&self.verdict, Some(Ok(report)) if by_name(report))
    }

    /// What the operator should hear about the network that it has come to have.
    pub(super) fn network_warnings(&mut self) -> Vec<String> {
        let warnings = std::mem::take(&mut self.floor_warnings);
        if self.is_apart() {
            Vec::new()
        } else {
            warnings
        }
    }

    /// Whether its relay has ended before it; true once.
    pub(super) fn has_lost_its_relay(&mut self) -> bool {
        let gone = |relay: &Relay| relay.events().is_none();
        let lost = self.is_apart() && self.exit.is_none() && self.relay.as_ref().is_some_and(gone);
        if lost {
            self.relay = None;
        }
        lost
    }

    /// Whether nobody can reach the server any more, because the message process has hung up or whoever
    /// connects was lost; true once.
    pub(super) fn has_lost_its_dialer(&mut self) -> bool {
        let gone = |dialer: &Companion| dialer.pid().is_none();
        let lost = self.exit.is_none() && self.dialer.as_ref().is_some_and(gone);
        if lost {
            self.dialer = None;
            self.held = None;
        }
        lost
    }

    /// One without an enclosure, because what runs in its place is ours.
    pub(super) fn bare(
        number: u32,
        launched: Launched,
        facts: Facts,
        ours: Vec<OwnedFd>,
        directory: TempDir,
    ) -> Self {
        Self {
            relay: None,
            dialer: None,
            held: None,
            floor_warnings: Vec::new(),
            number,
            launched,
            verdict: None,
            exit: None,
            facts,
            leaf: None,
            memory_kills: u64::MAX,
            ours,
            directory,
        }
    }

    pub(super) fn start(
        number: u32,
        mut spec: CellSpec,
        facts: Facts,
        mode: Mode,
        directory: TempDir,
    ) -> Result<Self, StartError> {
        let os = |doing| move |source| StartError::Os { doing, source };
        let mut ends = match (mode, spec.serves) {
            (Mode::Run, Some(_)) => Ends::serving(spec.user.as_ref()),
            _ => Ends::new(mode, spec.user.as_ref()),
        }
        .map_err(os("make the cell's pipes"))?;
        spec.terminal = ends.terminal;
        spec.parent = getpid().as_raw_nonzero().get();
        let (control, inside) = relay::way_out(&spec)
            .map_err(os("make a way out of the cell"))?
            .unzip();
        let door = match mode {
            Mode::Run => Door::of(&mut spec)?,
            Mode::Exec => None,
        };
        let (door, theirs) = door.unzip();
        let around = Around::us();
        let leaf = limit_tree(&mut spec, &around);
        let memory_kills = around.memory_kills();
        let (stdin, stdout, stderr) = (ends.stdin, ends.stdout, ends.stderr);
        // The launcher first: it is what the server waits for.
        let launched = Launched::start(&spec, stdin, stdout, stderr, leaf.as_ref(), inside);
        drop(theirs);
        // Only the launcher needs its values.
        spec.wipe();
        let launched = launched?;
        let relay = control
            .map(|control| Relay::start(&spec, control))
            .transpose()
            .map_err(|source| {
                // Nobody would hear of it again.
                kill_process(launched.pid, Signal::KILL).ok();
                let doing = "start the process that makes connections";
                StartError::Os { doing, source }
            })?;
        let dialer = door.map(dialer::beside).transpose().inspect_err(|_| {
            kill_process(launched.pid, Signal::KILL).ok();
        })?;
        let (dialer, asked) = dialer.unzip();
        ends.ours.extend(asked);
        Ok(Self {
            relay,
            dialer,
            held: ends.held,
            floor_warnings: spec.floor_warnings,
            number,
            launched,
            verdict: None,
            exit: None,
            facts,
            leaf,
            memory_kills,
            ours: ends.ours,
            directory,
        })
    }
}

impl Cell {
    /// Whether the kernel killed something of the cell for want of memory: in the cell's own cgroup,
    /// or in the one around us when its main process went by SIGKILL.
    pub(super) fn ran_out_of_memory(&self, exit: Exit) -> bool {
        if self
            .leaf
            .as_ref()
            .is_some_and(|leaf| leaf.memory_kills() > 0)
        {
            return true;
        }
        exit == Exit::Signal(9) && Around::us().memory_kills() > self.memory_kills
    }
}

/// Makes the cell's cgroup, as far as this host has one, and says in the spec what came of it.
fn limit_tree(spec: &mut CellSpec, around: &Around) -> Option<Leaf> {
    if spec.cgroup.is_some() {
        // It is switched off.
        return None;
    }
    let limits = cgroup::Limits {
        memory: spec.memory,
        // The launcher is in there too, and pid 1 or the supervisor.
        processes: spec.processes.map(|most| {
            let ours = u64::from(spec.namespaces) + u64::from(spec.namespaces || spec.supervision);
            most.saturating_add(ours)
        }),
        cpu: spec.cpu,
    };
    let us = getpid().as_raw_nonzero().get();
    let ours: Vec<i32> = ancestors()
        .into_iter()
        .flatten()
        .map(|pid| pid.as_raw_nonzero().get())
        .chain([us])
        .collect();
    let made = around.own().and_then(|own| {
        let name = random_name().map_err(|error| error.to_string())?;
        Leaf::make(&own, &limits, &ours, &format!("{us}.{name}"))
    });
    let (leaf, lack) = match made {
        Ok(leaf) => {
            let lack = leaf.lack().map(str::to_owned);
            (Some(leaf), lack)
        }
        Err(lack) => (None, Some(lack)),
    };
    spec.cgroup = Some(CellCgroup {
        leaf: leaf.as_ref().map(Leaf::name),
        lack,
    });
    leaf
}

pub(super) fn timespec(left: Duration) -> Timespec {
    // A millisecond more than asked, so that the deadline has passed when the wait is over.
    let left = left.saturating_add(Duration::from_millis(1));
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}

pub(super) fn exit_of(status: WaitStatus) -> Exit {
    let byte = |n: i32| u8::try_from(n).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(byte(code)),
        (None, Some(signal)) => Exit::Signal(byte(signal)),
        (None, None) => Exit::Code(u8::MAX),
    }
}

/// What an exit means to people, and the limit that it points at.
pub(super) fn meaning(exit: Exit, out_of_memory: bool) -> (String, Option<String>) {
    if out_of_memory {
        let text = "the kernel killed it, or a process of it, for want of memory";
        return (text.into(), Some("memory".into()));
    }
    let Exit::Signal(number) = exit else {
        return (String::new(), None);
    };
    let name = nix::sys::signal::Signal::try_from(i32::from(number));
    let name = name.map_or_else(|_| format!("signal {number}"), |s| s.as_str().to_owned());
    match name.as_str() {
        "SIGSYS" => ("killed by seccomp (SIGSYS)".into(), None),
        "SIGXFSZ" => (
            "a file grew past its limit (SIGXFSZ)".into(),
            Some("file size".into()),
        ),
        "SIGXCPU" => (
            "its processor time is used up (SIGXCPU)".into(),
            Some("cpu".into()),
        ),
        _ => (format!("killed by {name}"), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered() -> Vec<u8> {
        LaunchMessage::Entered(LayerReport {
            landlock_abi: 7,
            ..LayerReport::default()
        })
        .encode()
    }

    fn failed(code: u8) -> Vec<u8> {
        let text = "no such program".into();
        LaunchMessage::Failed(LaunchFailure { code, text }).encode()
    }

    #[test]
    fn only_a_complete_entry_counts_as_started() {
        assert_eq!(judge(&entered()).unwrap().landlock_abi, 7);
        assert_eq!(judge(b"").unwrap_err().code, 70);
        assert_eq!(judge(b"{\"entered\":").unwrap_err().code, 70);
        assert_eq!(judge(&failed(77)).unwrap_err().code, 77);
        assert_eq!(
            entry(&[entered(), failed(127)].concat())
                .unwrap()
                .landlock_abi,
            7
        );
        assert_eq!(entry(&failed(77)), None);
        // The layers were in force, then the execution itself failed.
        assert_eq!(
            judge(&[entered(), failed(127)].concat()).unwrap_err().code,
            127
        );
    }

    #[test]
    fn a_signal_says_what_it_means() {
        let meaning_of = |exit| meaning(exit, false);
        assert_eq!(meaning_of(Exit::Code(3)), (String::new(), None));
        assert_eq!(meaning_of(Exit::Signal(31)).0, "killed by seccomp (SIGSYS)");
        assert_eq!(meaning_of(Exit::Signal(25)).1.as_deref(), Some("file size"));
        assert_eq!(meaning_of(Exit::Signal(24)).1.as_deref(), Some("cpu"));
        assert_eq!(
            meaning_of(Exit::Signal(9)),
            ("killed by SIGKILL".into(), None)
        );
        assert_eq!(meaning_of(Exit::Signal(99)).0, "killed by signal 99");
        let killed = meaning(Exit::Signal(9), true);
        assert_eq!(killed.1.as_deref(), Some("memory"));
    }
}
