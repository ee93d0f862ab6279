//! `cofferdam __cell SPEC_FD STATUS_FD [EGRESS_FD]`: puts itself into the cell, then becomes the server.
//!
//! This is a fresh process with one thread, so every restriction reaches all of it. The steps of
//! [`ORDER`] run one after the other; the first that fails is reported on the status descriptor
//! and ends the launch. Nothing is skipped silently: a layer that the host lacks is either listed
//! as optional by the operator and reported as missing, or the launch ends with 77.

use super::egress::{Door, Ways};
use super::landlock::Granted;
use super::namespaces::{self, Entry};
use super::report::{LaunchFailure, LaunchMessage, Layer, LayerReport, LayerState};
use super::seccomp::Network;
use super::supervise::{self, Beside, Side};
use super::{
    CellSpec, account, caps, cgroup, descriptors, landlock, limits, seccomp, serving, sys,
    variables, witness,
};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::{prctl, stat};
use nix::unistd::{Pid, chdir, geteuid, getpid, getppid, getsid, setsid};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The steps of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Parent,
    Cgroup,
    Descriptors,
    Session,
    Keyring,
    Directory,
    Environment,
    Rlimits,
    User,
    Capabilities,
    NoNewPrivs,
    Grants,
    Landlock,
    Seccomp,
    Supervision,
    Witness,
    AllowList,
}

/// Why this order: the keyring and the secure bits need what later steps take away; the limits
/// read `/proc`, which landlock hides; landlock needs no_new_privs and system calls that the filter
/// might refuse one day; the user changes while there is the power to change it, and what that user
/// can reach shows when all power is gone; the parent is asked again after the last change of
/// credentials, because such a change can clear the parent-death signal; the supervisor, which has no
/// capability, can look only at a process that has none either; the witness tries what must now
/// fail, with calls that an allow list need not have.
const ORDER: [Step; 18] = [
    Step::Parent,
    Step::Cgroup,
    Step::Descriptors,
    Step::Session,
    Step::Keyring,
    Step::Directory,
    Step::Environment,
    Step::Rlimits,
    Step::User,
    Step::Capabilities,
    Step::NoNewPrivs,
    Step::Parent,
    Step::Grants,
    Step::Landlock,
    Step::Seccomp,
    Step::Supervision,
    Step::Witness,
    Step::AllowList,
];

/// Bytes of notes in a report, which must stay below [`super::MESSAGE_LIMIT`] as JSON too.
const NOTES: usize = 2048;

/// The terminal of whoever asks.
const TERMINAL: &str = "/dev/tty";

/// Our own bug: the spawner called us in a way that it should not.
const SOFTWARE: u8 = 70;
/// A layer is missing and required.
const UNENFORCEABLE: u8 = 77;
/// The spec, or a path in it, is wrong.
const CONFIG: u8 = 78;

/// Runs the launch. Returns when it failed, and in the processes that only watch over the server;
/// otherwise this process is the server.
#[must_use]
pub fn enter(descriptors: &[RawFd]) -> ExitCode {
    let owned = sys::adopt(descriptors).map(Vec::into_iter);
    let taken = owned.and_then(|mut fds| match (fds.next(), fds.next(), fds.next()) {
        (Some(spec), Some(status), egress) => Ok((spec, File::from(status), egress)),
        _ => Err(Errno::EBADF),
    });
    let (spec, mut status, egress) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            let text = format!("cofferdam: __cell is started by cofferdam itself: {error}\n");
            drop(std::io::stderr().write_all(text.as_bytes()));
            return ExitCode::from(SOFTWARE);
        }
    };
    let mut spec = match prepare(spec, &status, egress.as_ref()) {
        Ok(spec) => spec,
        Err(failure) => return give_up(&mut status, failure),
    };
    variables::set_aside(&mut spec.env);
    let mut ways = match take_ways(&mut spec, egress) {
        Ok(ways) => ways,
        Err(failure) => return give_up(&mut status, failure),
    };
    let mut beside = Beside::Nobody("switched off".to_owned());
    let mut inside = Err("switched off".to_owned());
    let mut heard = Vec::new();
    if spec.namespaces {
        spec.relayed = ways.egress.is_some();
        match namespaces::enter(&spec, status, std::mem::take(&mut ways)) {
            Entry::Watched(code) => return code,
            Entry::Inside {
                status: ours,
                own,
                notes,
            } => {
                (status, heard) = (ours, notes);
                inside = Ok(());
                beside = Beside::Unneeded;
                move_in(&mut spec, own);
            }
            Entry::Refused {
                status: mut ours,
                reason,
            } => return give_up(&mut ours, failure(UNENFORCEABLE, &reason)),
            Entry::Floor {
                status: ours,
                ways: back,
                reason,
            } => {
                (status, ways) = (ours, back);
                inside = Err(reason);
                spec.relayed = false;
            }
        }
    }
    if spec.supervision && inside.is_err() {
        match supervise::stand_by(&spec, status, std::mem::take(&mut ways)) {
            Side::Watched(code) => return code,
            Side::Server { status: ours, link } => {
                (status, spec.parent) = (ours, link.parent);
                spec.by_name = link.by_name;
                beside = Beside::Supervisor(link);
            }
            Side::Alone {
                status: ours,
                reason,
            } => (status, beside) = (ours, Beside::Nobody(reason)),
        }
    }
    // Before all descriptors are closed by their numbers.
    drop(ways);
    spec.env = variables::take_back();
    if spec.by_name {
        stay(&mut spec);
    }
    match launch(&spec, inside, (beside, heard), &mut status) {
        Ok(never) => match never {},
        Err(failure) => give_up(&mut status, failure),
    }
}

fn give_up(status: &mut File, failure: LaunchFailure) -> ExitCode {
    let code = failure.code;
    // The spawner may be gone; then nobody is left to tell.
    drop(status.write_all(&LaunchMessage::Failed(failure).encode()));
    ExitCode::from(code)
}

/// The ways out of the cell that the spawner gave.
fn take_ways(spec: &mut CellSpec, egress: Option<OwnedFd>) -> Result<Ways, LaunchFailure> {
    let door = spec.door.take().map(|fd| sys::adopt(&[fd])).transpose();
    let door = door.map_err(|error| failure(SOFTWARE, &error))?;
    Ok(Ways {
        egress: egress.filter(|_| !spec.egress.is_empty()),
        door: door.and_then(|mut fds| fds.pop()).map(Door::new),
    })
}

/// What holds for every process of a launch, the watching ones too.
fn prepare(
    spec: OwnedFd,
    status: &File,
    egress: Option<&OwnedFd>,
) -> Result<CellSpec, LaunchFailure> {
    let mut spec = descriptors::read_spec(spec).map_err(|error| failure(CONFIG, &error))?;
    if spec.terminal {
        spec.terminals.push(TERMINAL.into());
    }
    bind_to_parent(&spec)?;
    let egress = egress.map(AsRawFd::as_raw_fd);
    let kept = [Some(status.as_raw_fd()), spec.refusals, spec.door, egress];
    let kept: Vec<RawFd> = kept.into_iter().flatten().collect();
    sys::close_all_but(&kept).map_err(|error| failure(SOFTWARE, &error))?;
    Ok(spec)
}

/// What is different for a process inside: pid 1 is its parent, and what is its own it may use.
fn move_in(spec: &mut CellSpec, own: namespaces::Own) {
    spec.parent = 1;
    spec.counted_apart = true;
    spec.write.extend(own.write);
    spec.terminals = own.terminals;
    spec.bind_ports.extend(spec.serves.map(|it| it.port));
    if namespaces::own_network(spec) {
        // Shows the cell's own processes and an empty network, so that children can read theirs.
        // With the host's network, `/proc/PID/net` would tell of the host.
        spec.read.push(namespaces::PROCESSES.into());
    }
}

/// What is different on the floor where the supervisor makes the connections.
fn stay(spec: &mut CellSpec) {
    spec.connect_ports.clear();
    spec.datagrams = false;
    for (name, value) in std::mem::take(&mut spec.floor_env) {
        if spec.env.iter().all(|(known, _)| *known != name) {
            spec.env.push((name, value));
        }
    }
}

fn launch(
    spec: &CellSpec,
    inside: Result<(), String>,
    (beside, notes): (Beside, Vec<String>),
    status: &mut File,
) -> Result<std::convert::Infallible, LaunchFailure> {
    let mut cell = Cell::new(spec, status.as_raw_fd());
    cell.beside = beside;
    let notes = serving::note(spec, inside.is_err())
        .into_iter()
        .chain(notes);
    let mut room = NOTES;
    let fits = |note: &String| {
        room = room.saturating_sub(note.len());
        room > 0
    };
    cell.report.notes = notes.take_while(fits).collect();
    cell.note_namespaces(inside)?;
    for step in ORDER {
        cell.take(step)?;
    }
    let entered = LaunchMessage::Entered(cell.report);
    status
        .write_all(&entered.encode())
        .map_err(|error| failure(SOFTWARE, &error))?;
    Err(execute(spec))
}

/// Becomes the server; the standard library resets SIGPIPE on the way, but not the signal mask, and
/// whoever started us may block what the server must hear.
fn execute(spec: &CellSpec) -> LaunchFailure {
    let mut args = spec.args.iter();
    let mut command = Command::new(&spec.program);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return failure(SOFTWARE, &error);
    }
    let envs = spec.env.iter().map(|(name, value)| (name, value));
    let error = command.args(args).env_clear().envs(envs).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    failure(
        code,
        &format!("cannot execute {}: {error}", spec.program.display()),
    )
}

/// A launch in progress.
struct Cell<'a> {
    spec: &'a CellSpec,
    status: RawFd,
    network: Network,
    beside: Beside,
    report: LayerReport,
    /// Whether this process itself gave up being root.
    changed: bool,
}

impl<'a> Cell<'a> {
    fn new(spec: &'a CellSpec, status: RawFd) -> Self {
        let network = match (spec.connect_ports.is_empty(), spec.datagrams) {
            _ if spec.relayed => Network::Own,
            _ if spec.serves.is_some() => Network::Serve,
            _ if spec.by_name => Network::Tcp,
            (true, _) => Network::Off,
            (false, false) => Network::Tcp,
            (false, true) => Network::TcpAndUdp,
        };
        let report = LayerReport {
            landlock_abi: landlock::kernel_abi(),
            by_name: spec.by_name,
            ..LayerReport::default()
        };
        Self {
            spec,
            status,
            network,
            beside: Beside::Unneeded,
            report,
            changed: false,
        }
    }

    fn take(&mut self, step: Step) -> Result<(), LaunchFailure> {
        match step {
            Step::Parent => bind_to_parent(self.spec),
            Step::Cgroup => self.look_at_cgroup(),
            Step::Descriptors => self.close_descriptors(),
            Step::Session => self.start_session(),
            Step::Keyring => {
                // Best effort: the filter refuses every keyring call, and kernels without
                // keyrings (or filters around us) refuse this one.
                sys::join_new_keyring().ok();
                Ok(())
            }
            Step::Directory => chdir(&self.spec.cwd).map_err(|error| {
                failure(
                    CONFIG,
                    &format!("cannot enter {}: {error}", self.spec.cwd.display()),
                )
            }),
            Step::Environment => self.check_environment(),
            Step::Rlimits => {
                let done = limits::apply(self.spec);
                self.settle(Layer::Rlimits, done)
            }
            Step::User => self.change_user(),
            Step::Grants => self.check_grants(),
            Step::Capabilities => {
                let done = caps::drop_all();
                self.settle(Layer::Capabilities, done)
            }
            Step::NoNewPrivs => {
                let done = prctl::set_no_new_privs().and_then(|()| prctl::get_no_new_privs());
                let done = match done {
                    Ok(true) => Ok(()),
                    Ok(false) => Err("it reads back as off".to_owned()),
                    Err(error) => Err(error.to_string()),
                };
                self.settle(Layer::NoNewPrivs, done)
            }
            Step::Landlock => self.restrict_files(),
            Step::Seccomp => {
                let done = seccomp::install(self.network).map_err(|error| error.to_string());
                self.settle(Layer::Seccomp, done)
            }
            Step::Supervision => self.hand_over(),
            Step::Witness => witness::testify(self.spec, self.network, &self.report)
                .map_err(|text| failure(UNENFORCEABLE, &text)),
            Step::AllowList => self.narrow_calls(),
        }
    }

    fn hand_over(&mut self) -> Result<(), LaunchFailure> {
        if let (Beside::Nobody(reason), Some(serves)) = (&self.beside, self.spec.serves) {
            return Err(failure(UNENFORCEABLE, &serving::unheld(serves, reason)));
        }
        let done = match std::mem::replace(&mut self.beside, Beside::Unneeded) {
            Beside::Unneeded => return Ok(()),
            Beside::Supervisor(mut link) => {
                let done = supervise::hand_over(
                    &mut link.stream,
                    link.by_name,
                    self.spec.serves.is_some(),
                );
                if let (Err(reason), true) = (&done, link.by_name) {
                    // Nothing would connect, or everything: neither was asked for.
                    let text = format!(
                        "hosts by name need the supervisor: {reason}; with --off supervision ports are \
                         checked and no names"
                    );
                    return Err(failure(UNENFORCEABLE, &text));
                }
                if let (Err(reason), Some(serves)) = (&done, self.spec.serves) {
                    return Err(failure(UNENFORCEABLE, &serving::unheld(serves, reason)));
                }
                done
            }
            // The operator's own choice needs no further permission.
            Beside::Nobody(reason) if !self.spec.supervision => {
                let missing = LayerState::Missing(reason);
                self.report.layers.push((Layer::Supervision, missing));
                return Ok(());
            }
            Beside::Nobody(reason) => Err(reason),
        };
        self.settle(Layer::Supervision, done)
    }

    /// The operator's allow list. Where filters are missing, and may be, the report says so already.
    fn narrow_calls(&self) -> Result<(), LaunchFailure> {
        let filtered = (Layer::Seccomp, LayerState::Enforced);
        match &self.spec.syscalls {
            Some(numbers) if self.report.layers.contains(&filtered) => {
                seccomp::allow::install(numbers).map_err(|error| failure(UNENFORCEABLE, &error))
            }
            _ => Ok(()),
        }
    }

    /// Settles both layers before anything else is done: a launch that ends here has done nothing.
    fn note_namespaces(&mut self, inside: Result<(), String>) -> Result<(), LaunchFailure> {
        let network = match &inside {
            Ok(()) if namespaces::own_network(self.spec) => Ok(()),
            Ok(()) => Err("hosts are allowed, so the host's network is used".to_owned()),
            Err(reason) => Err(reason.clone()),
        };
        for (layer, done) in [(Layer::Namespaces, inside), (Layer::NamespaceNet, network)] {
            match done {
                // The operator's own choice needs no further permission.
                Err(reason) if !self.spec.namespaces => {
                    let missing = LayerState::Missing(reason);
                    self.report.layers.push((layer, missing));
                }
                done => self.settle(layer, done)?,
            }
        }
        Ok(())
    }

    /// Root becomes somebody else here, unless pid 1 did before.
    fn change_user(&mut self) -> Result<(), LaunchFailure> {
        if let Some(user) = self.spec.account() {
            account::keep_capabilities();
            // With a supervisor that is done: its domain does not let us reach them any more.
            let taken = match self.beside {
                Beside::Supervisor(_) => Ok(()),
                Beside::Unneeded | Beside::Nobody(_) => user.take_own(),
            };
            taken.and_then(|()| user.assume()).map_err(|text| {
                let uid = user.uid;
                let text = format!(
                    "root's server cannot run as uid {uid}: {text}; to keep root, set cell.user = \
                         \"root\""
                );
                failure(UNENFORCEABLE, &text)
            })?;
            self.changed = true;
        }
        self.report.user = Some(geteuid().as_raw());
        Ok(())
    }

    /// Without mounts that map root's files to the user, the host's own modes decide.
    fn check_grants(&self) -> Result<(), LaunchFailure> {
        let user = self.spec.user.as_ref().filter(|_| self.changed);
        match user.and_then(|user| user.unusable(self.spec)) {
            Some(refusal) => Err(failure(UNENFORCEABLE, &refusal)),
            None => Ok(()),
        }
    }

    /// The spawner started us in the cell's cgroup, or says why not. Reports without an attempt do
    /// not speak of it.
    fn look_at_cgroup(&mut self) -> Result<(), LaunchFailure> {
        let Some(cgroup) = &self.spec.cgroup else {
            return Ok(());
        };
        let is_there = |leaf: &String| {
            let now = cgroup::membership(Path::new("/proc/self"));
            now.is_ok_and(|path| Path::new(&path).ends_with(leaf))
        };
        let done = match (&cgroup.leaf, &cgroup.lack) {
            (_, Some(lack)) => Err(lack.clone()),
            (Some(leaf), None) if is_there(leaf) => Ok(()),
            _ => Err("the launcher does not run in the cgroup that was made for it".to_owned()),
        };
        self.settle(Layer::Cgroup, done)
    }

    fn close_descriptors(&mut self) -> Result<(), LaunchFailure> {
        let status = self.status;
        let mut keep = vec![status];
        if let Beside::Supervisor(link) = &self.beside {
            keep.push(link.stream.as_raw_fd());
            keep.extend(link.granted.iter().flat_map(Granted::descriptors));
        }
        let done = sys::close_all_but(&keep).and_then(|()| sys::close_on_exec(status));
        self.settle(Layer::Descriptors, done.map_err(|error| error.to_string()))
    }

    /// A session of its own keeps the server away from the terminal of whoever started us.
    fn start_session(&self) -> Result<(), LaunchFailure> {
        stat::umask(stat::Mode::from_bits_truncate(0o077));
        let refused = |error: Errno| failure(SOFTWARE, &format!("session: {error}"));
        match setsid() {
            Err(Errno::EPERM) if getsid(None) == Ok(getpid()) => {}
            done => drop(done.map_err(refused)?),
        }
        if self.spec.terminal {
            sys::take_terminal().map_err(refused)?;
        }
        Ok(())
    }

    /// The server gets exactly what the spec says, so the spec must be sayable.
    fn check_environment(&mut self) -> Result<(), LaunchFailure> {
        for (name, value) in &self.spec.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(failure(CONFIG, &format!("{name:?} cannot be a variable")));
            }
        }
        self.settle(Layer::Environment, Ok(()))
    }

    /// Landlock carries three layers; each may be missing on its own.
    fn restrict_files(&mut self) -> Result<(), LaunchFailure> {
        let abi = self.report.landlock_abi;
        let mut missing = landlock::missing(abi);
        if abi > 0 {
            let held = match &self.beside {
                Beside::Supervisor(link) => link.granted.as_ref(),
                Beside::Unneeded | Beside::Nobody(_) => None,
            };
            match landlock::restrict(self.spec, held, abi) {
                Ok(()) => {}
                Err(error @ landlock::LandlockError::Path { .. }) => {
                    return Err(failure(CONFIG, &error));
                }
                Err(error) => {
                    let all = [Layer::Landlock, Layer::LandlockNet, Layer::LandlockScopes];
                    missing = all.map(|layer| (layer, error.to_string())).into();
                }
            }
        }
        for layer in [Layer::Landlock, Layer::LandlockNet, Layer::LandlockScopes] {
            if layer == Layer::LandlockNet && !landlock::checks_ports(self.spec) {
                // Neither in force nor missing: the layer namespace-net leaves nothing for it.
                continue;
            }
            let lack = missing.iter().find(|(lacking, _)| *lacking == layer);
            self.settle(
                layer,
                lack.map_or(Ok(()), |(_, reason)| Err(reason.clone())),
            )?;
        }
        Ok(())
    }

    /// Notes the state of a layer; one that is missing and required ends the launch.
    fn settle(&mut self, layer: Layer, done: Result<(), String>) -> Result<(), LaunchFailure> {
        let state = match done {
            Ok(()) => LayerState::Enforced,
            Err(reason) if self.spec.optional.contains(&layer) => LayerState::Missing(reason),
            Err(reason) => {
                let name = layer.name();
                return Err(failure(
                    UNENFORCEABLE,
                    &format!("{name} cannot be enforced: {reason}"),
                ));
            }
        };
        self.report.layers.push((layer, state));
        Ok(())
    }
}

/// SIGKILL when the parent dies, and proof that it had not died before we asked.
pub(super) fn bind_to_parent(spec: &CellSpec) -> Result<(), LaunchFailure> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| failure(SOFTWARE, &error))?;
    let parent = Pid::from_raw(spec.parent);
    if parent.as_raw() != 0 && getppid() != parent {
        return Err(failure(
            SOFTWARE,
            &"the spawner died before the server was started",
        ));
    }
    Ok(())
}

fn failure(code: u8, text: &dyn std::fmt::Display) -> LaunchFailure {
    LaunchFailure {
        code,
        text: text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(step: Step) -> usize {
        ORDER.iter().position(|other| *other == step).unwrap()
    }

    #[test]
    fn what_takes_power_away_comes_after_what_needs_it() {
        let last_parent = ORDER
            .iter()
            .rposition(|step| *step == Step::Parent)
            .unwrap();
        assert!(first(Step::Keyring) < first(Step::Seccomp));
        assert!(first(Step::Rlimits) < first(Step::Landlock));
        assert!(first(Step::User) < first(Step::Capabilities));
        assert!(first(Step::NoNewPrivs) < first(Step::Grants));
        assert!(first(Step::Grants) < first(Step::Landlock));
        assert!(first(Step::Capabilities) < last_parent);
        assert!(first(Step::NoNewPrivs) < first(Step::Landlock));
        assert!(first(Step::Landlock) < first(Step::Seccomp));
        assert_eq!(first(Step::Witness), ORDER.len() - 2);
        assert_eq!(first(Step::AllowList), ORDER.len() - 1);
        assert_eq!(first(Step::Parent), 0);
    }

    #[test]
    fn a_missing_layer_ends_the_launch_unless_it_is_optional() {
        let strict = CellSpec::default();
        let lack = || Err("not here".to_owned());
        let refused = Cell::new(&strict, 3)
            .settle(Layer::Seccomp, lack())
            .unwrap_err();
        assert_eq!(refused.code, UNENFORCEABLE);
        assert_eq!(refused.text, "seccomp cannot be enforced: not here");

        let lenient = CellSpec {
            optional: vec![Layer::Seccomp],
            ..CellSpec::default()
        };
        let mut cell = Cell::new(&lenient, 3);
        cell.settle(Layer::Seccomp, lack()).unwrap();
        assert_eq!(
            cell.settle(Layer::Landlock, lack()).unwrap_err().code,
            UNENFORCEABLE
        );
        let missing = LayerState::Missing("not here".into());
        assert_eq!(cell.report.layers, [(Layer::Seccomp, missing)]);
    }

    #[test]
    fn variables_that_cannot_exist_are_refused() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
            let env = vec![(name.to_owned(), value.to_owned())];
            let spec = CellSpec {
                env,
                ..CellSpec::default()
            };
            assert_eq!(
                Cell::new(&spec, 3).check_environment().unwrap_err().code,
                CONFIG
            );
        }
    }
}
