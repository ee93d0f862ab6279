//! Looking at processes outside and taking hold of them.

use crate::calls::*;

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    let pid = usize::try_from(t.pid).unwrap();
    let proc = |name: &'static str, file: &'static str| {
        let path = format!("/proc/{pid}/{file}");
        act(name, "process", move || {
            File::open(&path)?.read(&mut [0; 16]).map(drop)
        })
    };
    let parent = usize::try_from(std::os::unix::process::parent_id()).unwrap();
    let kill = |name, pid: usize| {
        act(name, "process", move || {
            sys(libc::SYS_kill, &[pid, 0]).map(drop)
        })
    };
    vec![
        proc("other_environ", "environ"),
        proc("other_cmdline", "cmdline"),
        proc("other_maps", "maps"),
        proc("other_status", "status"),
        act("list_processes", "process", move || {
            let other = pid.to_string();
            let mut entries = fs::read_dir("/proc")?.flatten();
            let found = entries.any(|entry| entry.file_name() == other.as_str());
            if found { Ok(()) } else { refused() }
        }),
        act("init_environ", "process", || {
            File::open("/proc/1/environ")?.read(&mut [0; 16]).map(drop)
        }),
        kill("signal_other", pid),
        kill("signal_parent", parent),
        act("signal_thread", "process", move || {
            sys(libc::SYS_tgkill, &[pid, pid, 0]).map(drop)
        }),
        act("signal_by_pidfd", "process", move || {
            let fd = sys(libc::SYS_pidfd_open, &[pid, 0])?;
            sys(libc::SYS_pidfd_send_signal, &[fd, 0, 0, 0]).map(drop)
        }),
        act("steal_descriptor", "process", move || {
            let fd = sys(libc::SYS_pidfd_open, &[pid, 0])?;
            sys(libc::SYS_pidfd_getfd, &[fd, 0, 0]).map(drop)
        }),
        act("ptrace_attach", "process", move || {
            sys(libc::SYS_ptrace, &[0x4206, pid, 0, 0])?;
            sys(libc::SYS_ptrace, &[17, pid, 0, 0]).map(drop).or(Ok(()))
        }),
        act("read_memory", "process", move || {
            reached(libc::SYS_process_vm_readv, &[pid, 0, 0, 0, 0, 0])
        }),
        act("write_memory", "process", move || {
            reached(libc::SYS_process_vm_writev, &[pid, 0, 0, 0, 0, 0])
        }),
        act("compare_objects", "process", move || {
            sys(libc::SYS_kcmp, &[pid, pid, 0, 0, 0]).map(drop)
        }),
        act("limit_other", "process", move || {
            let mut now = [0u64; 2];
            sys(libc::SYS_prlimit64, &[pid, 4, 0, now.as_mut_ptr() as usize])?;
            sys(libc::SYS_prlimit64, &[pid, 4, now.as_ptr() as usize, 0]).map(drop)
        }),
        act("renice_other", "process", move || {
            sys(libc::SYS_setpriority, &[0, pid, 0]).map(drop)
        }),
        act("pin_other", "process", move || {
            let mask = [u64::MAX; 16];
            sys(
                libc::SYS_sched_setaffinity,
                &[pid, 128, mask.as_ptr() as usize],
            )
            .map(drop)
        }),
        act("outlive_the_parent", "process", || {
            sys(libc::SYS_prctl, &[1, 0]).map(drop)
        }),
    ]
}
