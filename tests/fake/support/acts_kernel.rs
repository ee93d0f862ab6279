//! Reaching parts of the kernel that no server needs.

use crate::calls::*;

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    use libc as l;
    let call = |name, number: c_long, args: &'static [usize]| {
        act(name, "kernel", move || reached(number, args))
    };
    let user = usize::try_from(l::CLONE_NEWUSER).unwrap();
    let work = c(&t.work);
    let mut acts = vec![
        call("io_uring", l::SYS_io_uring_setup, &[1, 0]),
        call("bpf", l::SYS_bpf, &[0, 0, 0]),
        call("perf_event", l::SYS_perf_event_open, &[0, 0, 0, 0, 0]),
        call("userfaultfd", l::SYS_userfaultfd, &[1]),
        call("add_key", l::SYS_add_key, &[0, 0, 0, 0, 0]),
        call("request_key", l::SYS_request_key, &[0, 0, 0, 0]),
        call("keyctl", l::SYS_keyctl, &[0, 0, 0]),
        call("setns", l::SYS_setns, &[usize::MAX, 0]),
        call("mount", l::SYS_mount, &[0, 0, 0, 0, 0]),
        call("umount", l::SYS_umount2, &[0, 0]),
        call("pivot_root", l::SYS_pivot_root, &[0, 0]),
        call("fsopen", l::SYS_fsopen, &[0, 0]),
        call("open_tree", l::SYS_open_tree, &[usize::MAX, 0, 0]),
        call("move_mount", l::SYS_move_mount, &[0, 0, 0, 0, 0]),
        call("open_by_handle", l::SYS_open_by_handle_at, &[0, 0, 0]),
        call("name_to_handle", l::SYS_name_to_handle_at, &[0, 0, 0, 0, 0]),
        call("fanotify", l::SYS_fanotify_init, &[0, 0]),
        call("personality", l::SYS_personality, &[0x4_0000]),
        call("swapon", l::SYS_swapon, &[0, 0]),
        call("delete_module", l::SYS_delete_module, &[0, 0]),
        call("finit_module", l::SYS_finit_module, &[usize::MAX, 0, 0]),
        call("kernel_log", l::SYS_syslog, &[10, 0, 0]),
        call("clock", l::SYS_clock_settime, &[0, 0]),
        call("host_name", l::SYS_sethostname, &[0, usize::MAX]),
        call("quota", l::SYS_quotactl, &[usize::MAX, 0, 0, 0]),
        call("move_pages", l::SYS_move_pages, &[0, 0, 0, 0, 0, 0]),
        call("memory_policy", l::SYS_set_mempolicy, &[0, 0, 0]),
        call("shared_memory", l::SYS_shmget, &[0, 4096, 0o1600]),
        call("semaphores", l::SYS_semget, &[0, 1, 0o1600]),
        call("message_queue", l::SYS_msgget, &[0, 0o1600]),
        call("posix_queue", l::SYS_mq_open, &[0, 0, 0, 0]),
        call("unknown_call", 471, &[0]),
        act("user_namespace", "kernel", move || {
            sys(l::SYS_unshare, &[user]).map(drop)
        }),
        act("clone_user_namespace", "kernel", move || {
            match sys(l::SYS_clone, &[user | 17, 0, 0, 0, 0])? {
                // SAFETY: the child of the clone ends at once.
                0 => unsafe { l::_exit(0) },
                _ => Ok(()),
            }
        }),
        act("clone3_user_namespace", "kernel", move || {
            let mut args = [0u64; 11];
            (args[0], args[4]) = (user as u64, 17);
            match sys(l::SYS_clone3, &[args.as_ptr() as usize, 88])? {
                // SAFETY: the child of the clone ends at once.
                0 => unsafe { l::_exit(0) },
                _ => Ok(()),
            }
        }),
        act("chroot", "kernel", move || {
            sys(l::SYS_chroot, &[ptr(&work)]).map(drop)
        }),
        act("some_capability", "kernel", || {
            let header = [0x2008_0522u32, 0];
            let mut sets = [0u32; 6];
            sys(
                l::SYS_capget,
                &[header.as_ptr() as usize, sets.as_mut_ptr() as usize],
            )?;
            if sets.iter().any(|set| *set != 0) {
                Ok(())
            } else {
                refused()
            }
        }),
        act("new_privileges", "kernel", || {
            if sys(l::SYS_prctl, &[39, 0, 0, 0, 0])? == 0 {
                Ok(())
            } else {
                refused()
            }
        }),
        act("change_user", "kernel", || {
            sys(l::SYS_setresuid, &[12345, 12345, 12345]).map(drop)
        }),
        act("change_groups", "kernel", || {
            sys(l::SYS_setgroups, &[0, 0]).map(drop)
        }),
    ];
    #[cfg(target_arch = "x86_64")]
    acts.extend([
        call("io_ports", l::SYS_iopl, &[3]),
        call("local_descriptor_table", l::SYS_modify_ldt, &[0, 0, 0]),
        call("x32_call", l::SYS_getpid | 0x4000_0000, &[]),
        act("int80_call", "kernel", || {
            let result: i32;
            // SAFETY: getpid (20) by the 32-bit entry touches no memory.
            unsafe {
                std::arch::asm!("int 0x80", inlateout("eax") 20 => result, options(nostack));
            }
            if result > 0 {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(-result))
            }
        }),
    ]);
    acts
}
