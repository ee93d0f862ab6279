//! Settings, devices, names and groups of the host. What is opened for writing is not written.

use crate::calls::*;

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    let socket = t.unix.display().to_string();
    let read = |name: &'static str, path: &'static str| {
        act(name, "host", move || {
            File::open(path)?.read(&mut [0; 16]).map(drop)
        })
    };
    let write = |name: &'static str, path: &'static str| {
        act(name, "host", move || {
            OpenOptions::new().write(true).open(path).map(drop)
        })
    };
    let open = |name: &'static str, path: &'static str| {
        act(name, "host", move || {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK);
            options.open(path).map(drop)
        })
    };
    let mut acts = vec![
        write("setting_of_names", "/proc/sys/kernel/hostname"),
        write("setting_of_module_loader", "/proc/sys/kernel/modprobe"),
        write("setting_of_caches", "/proc/sys/vm/drop_caches"),
        write(
            "setting_of_binary_formats",
            "/proc/sys/fs/binfmt_misc/register",
        ),
        write("setting_of_routes", "/proc/sys/net/ipv4/ip_forward"),
        write("system_request", "/proc/sysrq-trigger"),
        write("interrupts", "/proc/irq/default_smp_affinity"),
        write("log_of_the_kernel", "/dev/kmsg"),
        write("events_of_devices", "/sys/kernel/uevent_helper"),
        write("power", "/sys/power/state"),
        read("memory_of_the_kernel", "/proc/kcore"),
        read("symbols_of_the_kernel", "/proc/kallsyms"),
        read("keys_of_all", "/proc/keys"),
        read("timers_of_all", "/proc/timer_list"),
        read("slabs", "/proc/slabinfo"),
        read("pages", "/proc/kpagecount"),
        act("sockets_of_the_host", "host", move || {
            when(fs::read_to_string("/proc/net/unix")?.contains(&socket))
        }),
        read("users", "/etc/gshadow"),
        open("memory_device", "/dev/mem"),
        open("loop_device", "/dev/loop-control"),
        open("file_systems_by_users", "/dev/fuse"),
        open("tunnels", "/dev/net/tun"),
        open("virtual_machines", "/dev/kvm"),
        open("mapped_devices", "/dev/mapper/control"),
        open("first_disk", "/dev/vda"),
        open("first_loop", "/dev/loop0"),
        open("console", "/dev/console"),
        open("model_registers", "/dev/cpu/0/msr"),
        act("host_name_as_it_is", "host", || {
            named("/proc/sys/kernel/hostname", libc::SYS_sethostname)
        }),
        act("domain_name_as_it_is", "host", || {
            named("/proc/sys/kernel/domainname", libc::SYS_setdomainname)
        }),
        act("group_of_processes", "host", || {
            let tops = [
                "/sys/fs/cgroup/unified",
                "/sys/fs/cgroup/pids",
                "/sys/fs/cgroup",
            ];
            let mut done = refused();
            for top in tops {
                let path = Path::new(top).join(format!("probe-{}", std::process::id()));
                done = fs::create_dir(&path).and_then(|()| fs::remove_dir(&path));
                if done.is_ok() {
                    break;
                }
            }
            done
        }),
        act("program_at_the_end_of_a_group", "host", || {
            let path = "/sys/fs/cgroup/memory/release_agent";
            OpenOptions::new().write(true).open(path).map(drop)
        }),
        act("clock_as_it_is", "host", || {
            // struct timex: which fields to set (ADJ_TICK), and the tick as it is.
            let mut time = [0u64; 32];
            sys(libc::SYS_adjtimex, &[time.as_mut_ptr() as usize])?;
            time[0] = 0x4000;
            sys(libc::SYS_adjtimex, &[time.as_mut_ptr() as usize]).map(drop)
        }),
        act("time_of_real_time", "resource", || {
            let parameter = 1i32;
            let args = [0, 1, &raw const parameter as usize];
            sys(libc::SYS_sched_setscheduler, &args).map(drop)
        }),
        act("before_all_others", "resource", || {
            sys(libc::SYS_setpriority, &[0, 0, -5i32 as usize]).map(drop)
        }),
        act("root_of_pid_1", "process", || {
            fs::read("/proc/1/root/etc/shadow").map(drop)
        }),
    ];
    acts.push(seen("terminal_of_the_caller", "terminal", || {
        let mut terminal = OpenOptions::new().write(true).open("/dev/tty")?;
        terminal.write_all(b"terminal_of_the_caller\n")
    }));
    acts.push(seen("type_into_the_terminal", "terminal", || {
        let options = OpenOptions::new().read(true).write(true).open("/dev/tty");
        let terminal = options.or_else(|_| File::open("/proc/self/fd/0"))?;
        for byte in b"type_into_the_terminal\n" {
            let place = byte as *const u8 as usize;
            sys(libc::SYS_ioctl, &[fd(&terminal), 0x5412, place])?;
        }
        Ok(())
    }));
    acts.push(act("steal_the_terminal", "terminal", || {
        let terminal = File::open("/dev/tty")?;
        // TIOCSPGRP to our own group: the caller's would stop.
        let group = i32::try_from(sys(libc::SYS_getpgid, &[0])?).unwrap();
        sys(
            libc::SYS_ioctl,
            &[fd(&terminal), 0x5410, &raw const group as usize],
        )
        .map(drop)
    }));
    acts
}

/// Sets a name to what it is already.
fn named(path: &str, call: c_long) -> Outcome {
    let name = fs::read_to_string(path)?;
    let name = name.trim_end();
    sys(call, &[name.as_ptr() as usize, name.len()]).map(drop)
}
