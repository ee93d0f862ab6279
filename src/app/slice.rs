//! The time slice of the message path: long, so that whoever it wakes up runs first.

use nix::errno::Errno;

/// What the message path asks for, in nanoseconds: 20 ms. Ordinary tasks get about 3 ms; the kernel
/// takes 0.1 to 100 ms.
const SLICE: u64 = 20_000_000;
/// Bytes of the first version of `struct sched_attr`, which has all that is needed here.
const SIZE: u32 = 48;
const _: () = assert!(size_of::<libc::sched_attr>() >= SIZE as usize);

/// Asks the scheduler for a longer slice for this thread (`sched_setattr(2)`; since Linux 6.12
/// `sched_runtime` is the slice of an ordinary task, before it is ignored).
///
/// It is no larger share of the CPU. A task with a longer slice only gives way to those that ask for
/// short ones: where client, server and cofferdam share a CPU, our write hands it over at once, the
/// answer is there when we are back, and the client is not interrupted by the request that it is
/// still writing. That saves a `poll` and two switches in most calls. A thread whose policy somebody
/// has chosen (batch, real-time) is left alone.
///
/// # Errors
/// Those of the system calls; nothing has changed then, and nothing depends on it.
pub(super) fn lengthen() -> Result<(), Errno> {
    let mut attr = read()?;
    if attr.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attr.sched_runtime = SLICE;
    call(libc::SYS_sched_setattr, &mut attr, 0)
}

/// The attributes of this thread, nice value included: they are set as a whole.
fn read() -> Result<libc::sched_attr, Errno> {
    let mut attr = libc::sched_attr {
        size: SIZE,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    call(libc::SYS_sched_getattr, &mut attr, SIZE)?;
    Ok(attr)
}

/// `last` is the size of the structure for `sched_getattr`, the flags for `sched_setattr`.
#[expect(unsafe_code, reason = "neither nix nor rustix wraps the two calls")]
fn call(number: libc::c_long, attr: &mut libc::sched_attr, last: u32) -> Result<(), Errno> {
    // SAFETY: both calls read or write at most SIZE bytes of the structure, which has as many (asserted
    // above) and lives as long as the call; thread 0 is the calling one.
    let result = unsafe { libc::syscall(number, 0, std::ptr::from_mut(attr), last, 0) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slice_is_longer_and_the_rest_as_before() {
        // A thread of its own: the attributes are those of a thread.
        let thread = std::thread::spawn(|| {
            let before = read().unwrap();
            lengthen().unwrap();
            let after = read().unwrap();
            assert_eq!(before.sched_nice, after.sched_nice);
            assert_eq!(before.sched_policy, after.sched_policy);
            // Before Linux 6.12 there is no slice to read.
            assert!(
                after.sched_runtime == SLICE || before.sched_runtime == 0,
                "{}",
                after.sched_runtime
            );
        });
        thread.join().unwrap();
    }
}
