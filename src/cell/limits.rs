//! Resource limits, set soft and hard alike and read back.

use super::CellSpec;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Locked memory that a server may have: what crypto libraries ask for. 8 MiB is the default of
/// current kernels.
const LOCKED_MEMORY: u64 = 8 << 20;

/// Sets every limit of the spec and those that no server needs more of.
pub(super) fn apply(spec: &CellSpec) -> Result<(), String> {
    let mut wanted = vec![
        // A core dump writes the memory of the server, its secrets too, wherever the host says.
        (Resource::RLIMIT_CORE, 0),
        // POSIX message queues are one space for the whole host; the filter refuses them too.
        (Resource::RLIMIT_MSGQUEUE, 0),
        // Real-time scheduling starves the host.
        (Resource::RLIMIT_RTPRIO, 0),
        (Resource::RLIMIT_NICE, 0),
        (Resource::RLIMIT_MEMLOCK, LOCKED_MEMORY),
    ];
    let optional = [
        // RLIMIT_DATA and not RLIMIT_AS: V8, Go and the JVM reserve address space by the terabyte.
        (Resource::RLIMIT_DATA, spec.memory),
        (Resource::RLIMIT_FSIZE, spec.file_size),
        (Resource::RLIMIT_NOFILE, spec.open_files),
        (
            Resource::RLIMIT_NPROC,
            spec.processes
                .map(|more| more.saturating_add(tasks_now(spec))),
        ),
    ];
    wanted.extend(
        optional
            .into_iter()
            .filter_map(|(limit, value)| value.map(|v| (limit, v))),
    );
    for (limit, value) in wanted {
        let (_, hard) = getrlimit(limit).map_err(|error| format!("{limit:?}: {error}"))?;
        let value = value.min(hard);
        setrlimit(limit, value, value).map_err(|error| format!("{limit:?}: {error}"))?;
        if getrlimit(limit) != Ok((value, value)) {
            return Err(format!("{limit:?} does not read back as {value}"));
        }
    }
    Ok(())
}

/// Tasks that count against the limit already.
///
/// In a user namespace of its own only those in it count (Linux 5.14): pid 1 and we.
fn tasks_now(spec: &CellSpec) -> u64 {
    if spec.counted_apart && kernel_counts_apart() {
        return 2;
    }
    tasks_of_the_system()
}

fn kernel_counts_apart() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    parse_release(&release).is_some_and(|version| version >= (5, 14))
}

fn parse_release(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// All tasks of the system (`proc_loadavg(5)`, the number after the slash): an upper bound of what
/// the user runs that costs one read instead of a walk over `/proc`.
fn tasks_of_the_system() -> u64 {
    std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| parse_tasks(&text))
        .unwrap_or(4096)
}

fn parse_tasks(loadavg: &str) -> Option<u64> {
    loadavg.split(' ').nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(parse_release("6.18.2-generic\n"), Some((6, 18)));
        assert!(parse_release("5.9.0") < Some((5, 14)));
        assert_eq!(parse_release("six"), None);
    }

    #[test]
    fn tasks_are_the_number_after_the_slash() {
        assert_eq!(parse_tasks("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        assert_eq!(parse_tasks("junk"), None);
        assert!(tasks_of_the_system() > 0);
    }
}
