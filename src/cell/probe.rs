//! What this host can enforce, for `doctor` and for the refusal to start.

use super::{Layer, cgroup, landlock, sys};
use nix::sys::prctl;

/// What the kernel offers to this process, asked without changing anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReport {
    /// Release of the running kernel, as `uname -r` prints it.
    pub kernel: String,
    /// `x86_64`, `aarch64`, or one that has no filter.
    pub arch: &'static str,
    /// Landlock ABI; 0 when it is absent or switched off.
    pub landlock_abi: u8,
    /// Whether seccomp filters can be installed.
    pub seccomp: bool,
    /// Whether the process already runs with `no_new_privs`.
    pub no_new_privs: bool,
    /// Why no cgroup can limit a whole cell; `None` when one can. Cells start without it.
    pub cgroup: Option<String>,
    /// Layers of the floor that this host lacks, each with the reason.
    pub missing: Vec<(Layer, String)>,
}

/// Asks the kernel.
#[must_use]
pub fn probe() -> HostReport {
    let landlock_abi = landlock::kernel_abi();
    let seccomp = sys::has_seccomp_filters();
    let mut missing = landlock::missing(landlock_abi);
    let arch = std::env::consts::ARCH;
    if !seccomp {
        missing.push((
            Layer::Seccomp,
            "the kernel has no seccomp filters".to_owned(),
        ));
    } else if !matches!(arch, "x86_64" | "aarch64") {
        missing.push((Layer::Seccomp, format!("there is no filter for {arch}")));
    }
    HostReport {
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
        arch,
        landlock_abi,
        seccomp,
        no_new_privs: prctl::get_no_new_privs().unwrap_or(false),
        cgroup: cgroup::prospect().err(),
        missing,
    }
}

/// A switch of the kernel, and whether a value of it allows namespaces.
type Switch = (&'static str, fn(u64) -> bool);

/// The three switches that distributions use, and what each must say for an ordinary user.
const SWITCHES: [Switch; 3] = [
    ("/proc/sys/user/max_user_namespaces", |value| value > 0),
    ("/proc/sys/kernel/unprivileged_userns_clone", |value| {
        value == 1
    }),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        |value| value == 0,
    ),
];

/// The switch that may be why the kernel gave no namespaces.
pub(super) fn namespace_switch() -> Option<String> {
    SWITCHES.into_iter().find_map(|(path, allows)| {
        let value = read(path)?.parse().ok()?;
        (!allows(value)).then(|| format!("{path} is {value}"))
    })
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_agrees_with_itself() {
        let report = probe();
        assert!(!report.kernel.is_empty());
        assert_eq!(
            report.landlock_abi >= 6,
            !report
                .missing
                .iter()
                .any(|(layer, _)| *layer == Layer::LandlockScopes)
        );
        assert_eq!(report, probe());
    }
}
