//! The steps of a launch, and what each of them does to the process that becomes the server.

use super::{CONFIG, SOFTWARE, UNENFORCEABLE, bind_to_parent, failure};
use crate::cell::landlock::Granted;
use crate::cell::report::{LaunchFailure, Layer, LayerReport, LayerState};
use crate::cell::seccomp::{Network, Processes};
use crate::cell::supervise::{self, Beside};
use crate::cell::{
    CellSpec, account, caps, cgroup, landlock, limits, namespaces, seccomp, serving, sys, witness,
};
use nix::errno::Errno;
use nix::sys::{prctl, stat};
use nix::unistd::{chdir, geteuid, getpid, getsid, setsid};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

/// The steps of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
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
pub(super) const ORDER: [Step; 18] = [
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

/// A launch in progress.
pub(super) struct Cell<'a> {
    spec: &'a CellSpec,
    status: RawFd,
    network: Network,
    pub(super) beside: Beside,
    pub(super) report: LayerReport,
    /// Whether this process itself gave up being root.
    changed: bool,
}

impl<'a> Cell<'a> {
    pub(super) fn new(spec: &'a CellSpec, status: RawFd) -> Self {
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

    pub(super) fn take(&mut self, step: Step) -> Result<(), LaunchFailure> {
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
                let processes = match self.spec.counted_apart {
                    true => Processes::Own,
                    false => Processes::Shared,
                };
                let done =
                    seccomp::install(self.network, processes).map_err(|error| error.to_string());
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
    pub(super) fn note_namespaces(
        &mut self,
        inside: Result<(), String>,
    ) -> Result<(), LaunchFailure> {
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
            let now = cgroup::membership();
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
