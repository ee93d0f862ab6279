//! A hostile server: tries to get out of its cell, act by act, and says on stdout what worked.
//!
//! `probe TARGETS` prints one JSON line for each act: `{act, category, through, errno}`. `TARGETS` is
//! a JSON object that names what the test planted outside. Every act runs in a child of its own, so
//! that none changes the conditions of the next. An act is `through` when it worked, or when the
//! kernel answered about its arguments instead of refusing it.

#![expect(
    unsafe_code,
    reason = "attacks are made of raw system calls; this is a test program"
)]
#![expect(clippy::print_stdout, reason = "its output is its result")]
#![expect(clippy::disallowed_methods, reason = "a forked child must not unwind")]
#![expect(clippy::unwrap_used, reason = "a broken probe must fail loudly")]

use libc::{c_int, c_long, c_ulong};
use serde_json::{Value, json};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

#[path = "support/filtered.rs"]
mod filtered;

type Outcome = io::Result<()>;
type Act = (&'static str, &'static str, Box<dyn Fn() -> Outcome>);

/// What the test planted: all of it outside of the cell.
#[derive(Clone)]
struct Targets {
    /// A directory with `secret`, `victim`, `own`, `dir/`, `link`, `datagram`.
    outside: PathBuf,
    /// A directory that the cell may write.
    work: PathBuf,
    /// The name of a file in the host's `/dev/shm`.
    shared: String,
    tcp: u16,
    udp: u16,
    unix: PathBuf,
    abstract_name: String,
    pid: i32,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let first = args.next().unwrap();
    if first == "--exit" {
        std::process::exit(0);
    }
    let given: Value = serde_json::from_str(&first).unwrap();
    let text = |key: &str| given[key].as_str().unwrap().to_owned();
    let number = |key: &str| i32::try_from(given[key].as_i64().unwrap()).unwrap();
    let targets = Targets {
        outside: text("outside").into(),
        work: text("work").into(),
        shared: text("shared"),
        tcp: u16::try_from(number("tcp")).unwrap(),
        udp: u16::try_from(number("udp")).unwrap(),
        unix: text("unix").into(),
        abstract_name: text("abstract"),
        pid: number("pid"),
    };
    let mut acts = files(&targets);
    acts.extend(execution(&targets));
    acts.extend(processes(&targets));
    acts.extend(leaks(&targets));
    acts.extend(network(&targets));
    acts.extend(kernel(&targets));
    acts.extend(filtered::acts(&targets));
    acts.extend(resources(&targets));
    acts.extend(uncovered(&targets));
    acts.extend(honest(&targets));
    for (act, category, run) in acts {
        let errno = isolated(&run);
        let line = json!({"act": act, "category": category, "through": errno == 0, "errno": errno});
        println!("{line}");
    }
}

/// Runs an act in a child: 0 when it got through, else the errno, or 255 when a signal ended it.
fn isolated(act: &dyn Fn() -> Outcome) -> i32 {
    io::stdout().flush().unwrap();
    // SAFETY: this program has one thread; the child runs one act and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let errno = match act() {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(254),
        };
        // SAFETY: ends the child without running what the parent registered.
        unsafe { libc::_exit(errno) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        255
    }
}

/// A system call; the arguments are whatever the kernel takes for it.
fn sys(number: c_long, args: &[usize]) -> io::Result<usize> {
    let arg = |at: usize| args.get(at).copied().unwrap_or(0);
    // SAFETY: the acts below pass pointers to live memory or NULL.
    let result = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// For calls with arguments that make no sense: whatever the kernel says about them, it was reached.
fn reached(number: c_long, args: &[usize]) -> Outcome {
    match sys(number, args) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EPERM | libc::EACCES | libc::ENOSYS)
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn c(text: impl AsRef<Path>) -> CString {
    CString::new(text.as_ref().to_str().unwrap()).unwrap()
}

fn ptr(text: &CString) -> usize {
    text.as_ptr() as usize
}

fn act(name: &'static str, category: &'static str, run: impl Fn() -> Outcome + 'static) -> Act {
    (name, category, Box::new(run))
}

const NO_FILE: c_int = libc::AT_FDCWD;

fn at() -> usize {
    NO_FILE as isize as usize
}

fn refused<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::EACCES))
}

fn files(t: &Targets) -> Vec<Act> {
    let at_outside = |name: &str| t.outside.join(name);
    let (secret, victim, own, dir) = (
        at_outside("secret"),
        at_outside("victim"),
        at_outside("own"),
        at_outside("dir"),
    );
    let work = t.work.clone();
    let read =
        |name: &'static str, path: PathBuf| act(name, "fs-read", move || fs::read(&path).map(drop));
    let list = |name: &'static str, path: PathBuf| {
        act(name, "fs-read", move || fs::read_dir(&path).map(drop))
    };
    let root = Path::new("/proc/self/root").join(secret.strip_prefix("/").unwrap());
    let other_root = PathBuf::from(format!("/proc/{}/root{}", t.pid, secret.display()));
    let mut acts = vec![
        read("read_secret", secret.clone()),
        read("read_through_proc_self_root", root),
        read("read_through_proc_pid_root", other_root),
        read("read_shadow", "/etc/shadow".into()),
        read("read_our_binary", "/proc/self/../1/exe".into()),
        list("list_outside", t.outside.clone()),
        list("list_root", "/".into()),
    ];
    // The host's own holds the directory of this test; a private one does not.
    let planted = t.outside.file_name().unwrap().to_owned();
    acts.push(act("list_tmp", "fs-read", move || {
        let mut entries = fs::read_dir("/tmp")?.flatten();
        let found = entries.any(|entry| entry.file_name() == planted);
        if found { Ok(()) } else { refused() }
    }));
    // A private one may be listed and written: what counts is whether it is the host's.
    let planted = t.shared.clone();
    acts.push(act("list_dev_shm", "fs-read", move || {
        let mut entries = fs::read_dir("/dev/shm")?.flatten();
        let found = entries.any(|entry| entry.file_name() == planted.as_str());
        if found { Ok(()) } else { refused() }
    }));
    let planted = t.shared.clone();
    acts.push(act("create_in_dev_shm", "fs-write", move || {
        let path = format!("/dev/shm/{planted}-{}", std::process::id());
        fs::write(&path, "x").and_then(|()| fs::remove_file(&path))?;
        fs::metadata(format!("/dev/shm/{planted}")).map(drop)
    }));
    let (from, to) = (secret.clone(), work.clone());
    acts.push(act("read_through_symlink", "fs-read", move || {
        let link = to.join("symlink");
        drop(fs::remove_file(&link));
        symlink(&from, &link)?;
        fs::read(&link).map(drop)
    }));
    let (from, to) = (secret.clone(), work.clone());
    acts.push(act("hardlink_into_work", "fs-read", move || {
        let link = to.join("hardlink");
        drop(fs::remove_file(&link));
        fs::hard_link(&from, &link)?;
        fs::read(&link).map(drop)
    }));
    let from = secret.clone();
    acts.push(act("reopen_path_descriptor", "fs-read", move || {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(&from)?;
        fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).map(drop)
    }));
    let write = |name: &'static str, run: Box<dyn Fn() -> Outcome>| (name, "fs-write", run);
    let (o, w) = (t.outside.clone(), work.clone());
    let path = o.join("new");
    acts.push(write(
        "create_file",
        Box::new(move || fs::write(&path, "x").and_then(|()| fs::remove_file(&path))),
    ));
    let path = victim.clone();
    acts.push(write(
        "append",
        Box::new(move || OpenOptions::new().append(true).open(&path).map(drop)),
    ));
    let path = c(&victim);
    acts.push(write(
        "truncate",
        Box::new(move || sys(libc::SYS_truncate, &[ptr(&path), 3]).map(drop)),
    ));
    let path = c(&victim);
    acts.push(write(
        "open_read_only_truncating",
        Box::new(move || {
            let flags = usize::try_from(libc::O_TRUNC).unwrap();
            sys(libc::SYS_openat, &[at(), ptr(&path), flags]).map(drop)
        }),
    ));
    let (a, b) = (victim.clone(), o.join("renamed"));
    acts.push(write(
        "rename_outside",
        Box::new(move || fs::rename(&a, &b).and_then(|()| fs::rename(&b, &a))),
    ));
    let (a, b) = (victim.clone(), w.join("stolen"));
    acts.push(write(
        "rename_into_work",
        Box::new(move || fs::rename(&a, &b).and_then(|()| fs::rename(&b, &a))),
    ));
    let (a, b) = (w.join("planted"), o.join("planted"));
    acts.push(write(
        "rename_out_of_work",
        Box::new(move || {
            fs::write(&a, "x")?;
            fs::rename(&a, &b).and_then(|()| fs::remove_file(&b))
        }),
    ));
    let path = o.join("unlinked");
    acts.push(write("unlink", Box::new(move || fs::remove_file(&path))));
    let path = o.join("made");
    acts.push(write(
        "mkdir",
        Box::new(move || fs::create_dir(&path).and_then(|()| fs::remove_dir(&path))),
    ));
    let path = dir;
    acts.push(write("rmdir", Box::new(move || fs::remove_dir(&path))));
    let path = o.join("made-link");
    acts.push(write(
        "symlink",
        Box::new(move || symlink("/", &path).and_then(|()| fs::remove_file(&path))),
    ));
    let path = c(o.join("made-fifo"));
    acts.push(write(
        "mkfifo",
        Box::new(move || {
            sys(libc::SYS_mknodat, &[at(), ptr(&path), 0o010_600])?;
            sys(libc::SYS_unlinkat, &[at(), ptr(&path), 0]).map(drop)
        }),
    ));
    let path = c(w.join("device"));
    acts.push(write(
        "device_node",
        Box::new(move || {
            sys(libc::SYS_mknodat, &[at(), ptr(&path), 0o020_666, 0x103])?;
            sys(libc::SYS_unlinkat, &[at(), ptr(&path), 0]).map(drop)
        }),
    ));
    let path = w.join("set-id-chmod");
    acts.push(write(
        "set_id_by_chmod",
        Box::new(move || {
            fs::write(&path, "x")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4755))
        }),
    ));
    let path = w.join("set-id-open");
    acts.push(write(
        "set_id_by_open",
        Box::new(move || {
            drop(fs::remove_file(&path));
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o4755)
                .open(&path)
                .map(drop)
        }),
    ));
    let path = own.clone();
    acts.push(write(
        "chown",
        Box::new(move || {
            // SAFETY: asks for our own ids.
            let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
            std::os::unix::fs::chown(&path, Some(uid), Some(gid))
        }),
    ));
    let (path, name) = (c(&own), c("user.probe"));
    acts.push(write(
        "setxattr",
        Box::new(move || {
            reached(
                libc::SYS_setxattr,
                &[ptr(&path), ptr(&name), ptr(&name), 4, 0],
            )
        }),
    ));
    let path = own;
    acts.push(write(
        "sysctl",
        Box::new(|| {
            OpenOptions::new()
                .write(true)
                .open("/proc/sys/kernel/core_pattern")
                .map(drop)
        }),
    ));
    acts.push(write(
        "disk",
        Box::new(|| OpenOptions::new().read(true).open("/dev/kmsg").map(drop)),
    ));
    acts.push(write(
        "inode_flags",
        Box::new(move || {
            let file = File::open("/usr/lib").or_else(|_| File::open(&path))?;
            reached(
                libc::SYS_ioctl,
                &[usize::try_from(file.as_raw_fd()).unwrap(), 0x4008_6602, 0],
            )
        }),
    ));
    acts
}

fn execution(t: &Targets) -> Vec<Act> {
    let run = |path: &Path| -> Outcome {
        let status = std::process::Command::new(path).arg("--exit").status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ENOEXEC))
        }
    };
    let work = t.work.clone();
    let copy = work.clone();
    vec![
        act("run_shell", "exec", || {
            std::process::Command::new("/bin/sh")
                .args(["-c", "exit 0"])
                .status()
                .map(drop)
        }),
        act("run_other_program", "exec", || {
            std::process::Command::new("/usr/bin/id").output().map(drop)
        }),
        act("run_dropped_binary", "exec", move || {
            let path = work.join("dropped");
            fs::copy("/proc/self/exe", &path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            run(&path)
        }),
        act("run_memfd", "exec", move || {
            let name = c("x");
            let fd = sys(libc::SYS_memfd_create, &[ptr(&name), 0])?;
            let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
            fs::write(&path, fs::read("/proc/self/exe")?)?;
            run(&path)
        }),
        act("run_unnamed_file", "exec", move || {
            let file = OpenOptions::new()
                .write(true)
                .read(true)
                .mode(0o700)
                .custom_flags(libc::O_TMPFILE)
                .open(&copy)?;
            (&file).write_all(&fs::read("/proc/self/exe")?)?;
            let ours = format!("/proc/self/fd/{}", file.as_raw_fd());
            let read_only = OpenOptions::new().read(true).open(&ours)?;
            drop(file);
            let path = CString::new(format!("/proc/self/fd/{}", read_only.as_raw_fd())).unwrap();
            let [name, option] = [c("x"), c("--exit")];
            let argv = [ptr(&name), ptr(&option), 0];
            // The kernel forgets the writer a moment after the close.
            std::thread::sleep(std::time::Duration::from_millis(5));
            sys(libc::SYS_execve, &[ptr(&path), argv.as_ptr() as usize, 0]).map(drop)
        }),
    ]
}

fn processes(t: &Targets) -> Vec<Act> {
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

fn leaks(t: &Targets) -> Vec<Act> {
    let _ = t;
    vec![
        act("inherited_descriptor", "leak", || {
            let found = (3..1024).any(|fd| sys(libc::SYS_fcntl, &[fd, 1]).is_ok());
            if found { Ok(()) } else { refused() }
        }),
        act("secret_in_environment", "leak", || {
            let found = std::env::vars_os().any(|(name, _)| name == "PROBE_SECRET");
            if found { Ok(()) } else { refused() }
        }),
        act("terminal_input", "leak", || {
            reached(libc::SYS_ioctl, &[0, 0x5412, 0])
        }),
        act("terminal_paste", "leak", || {
            reached(libc::SYS_ioctl, &[0, 0x541c, 0])
        }),
        act("session_of_the_caller", "leak", || {
            let pid = usize::try_from(std::os::unix::process::parent_id()).unwrap();
            let (ours, parents) = (sys(libc::SYS_getsid, &[0])?, sys(libc::SYS_getppid, &[])?);
            // The session leader of a cell is the server itself, which is our parent here.
            if ours == parents && parents == pid {
                refused()
            } else {
                Ok(())
            }
        }),
    ]
}

fn inet(port: u16) -> [u8; 16] {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&2u16.to_ne_bytes());
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    address
}

fn unix(name: &[u8]) -> Vec<u8> {
    [&1u16.to_ne_bytes(), name].concat()
}

fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<usize> {
    let args = [family, kind, protocol].map(|arg| usize::try_from(arg).unwrap());
    sys(libc::SYS_socket, &args)
}

fn connect(fd: usize, address: &[u8]) -> Outcome {
    sys(
        libc::SYS_connect,
        &[fd, address.as_ptr() as usize, address.len()],
    )
    .map(drop)
}

fn network(t: &Targets) -> Vec<Act> {
    use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK};
    use libc::{SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};
    let net = |name, run: Box<dyn Fn() -> Outcome>| (name, "network", run);
    let open = |name, family, kind, protocol| {
        net(
            name,
            Box::new(move || socket(family, kind, protocol).map(drop)),
        )
    };
    let (tcp, udp) = (inet(t.tcp), inet(t.udp));
    let path = unix(c(&t.unix).as_bytes_with_nul());
    let hidden = unix(&[&[0], t.abstract_name.as_bytes()].concat());
    let data = b"x".as_ptr() as usize;
    vec![
        net(
            "tcp_connect",
            Box::new(move || connect(socket(AF_INET, SOCK_STREAM, 0)?, &tcp)),
        ),
        net(
            "mptcp_connect",
            Box::new(move || connect(socket(AF_INET, SOCK_STREAM, 262)?, &tcp)),
        ),
        net(
            "tcp_fast_open",
            Box::new(move || {
                let fd = socket(AF_INET, SOCK_STREAM, 0)?;
                sys(
                    libc::SYS_sendto,
                    &[fd, data, 1, 0x2000_0000, tcp.as_ptr() as usize, 16],
                )
                .map(drop)
            }),
        ),
        net(
            "tcp_fast_open_by_option",
            Box::new(move || {
                let fd = socket(AF_INET, SOCK_STREAM, 0)?;
                let on = 1i32;
                // TCP_FASTOPEN_CONNECT (30): connect() returns at once, the first write connects.
                sys(
                    libc::SYS_setsockopt,
                    &[fd, 6, 30, &raw const on as usize, 4],
                )?;
                connect(fd, &tcp)?;
                sys(libc::SYS_write, &[fd, data, 1]).map(drop)
            }),
        ),
        net(
            "tcp_fast_open_by_message",
            Box::new(move || {
                let fd = socket(AF_INET, SOCK_STREAM, 0)?;
                let part = [data, 1];
                // struct msghdr: name, its length, parts, their number, no control data, flags.
                let message = [
                    tcp.as_ptr() as usize,
                    16,
                    part.as_ptr() as usize,
                    1,
                    0,
                    0,
                    0,
                ];
                let message = message.as_ptr() as usize;
                sys(libc::SYS_sendmsg, &[fd, message, 0x2000_0000]).map(drop)
            }),
        ),
        net(
            "tcp_mapped_connect",
            Box::new(move || {
                let mut address = [0u8; 28];
                address[..2].copy_from_slice(&10u16.to_ne_bytes());
                address[2..4].copy_from_slice(&tcp[2..4]);
                address[18..24].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
                connect(socket(AF_INET6, SOCK_STREAM, 0)?, &address)
            }),
        ),
        net(
            "udp_send",
            Box::new(move || {
                let fd = socket(AF_INET, SOCK_DGRAM, 0)?;
                sys(
                    libc::SYS_sendto,
                    &[fd, data, 1, 0, udp.as_ptr() as usize, 16],
                )
                .map(drop)
            }),
        ),
        net(
            "listen",
            Box::new(|| {
                let fd = socket(AF_INET, SOCK_STREAM, 0)?;
                let any = inet(0);
                sys(libc::SYS_bind, &[fd, any.as_ptr() as usize, 16])?;
                sys(libc::SYS_listen, &[fd, 1]).map(drop)
            }),
        ),
        net(
            "listen_without_bind",
            Box::new(|| {
                let fd = socket(AF_INET, SOCK_STREAM, 0)?;
                sys(libc::SYS_listen, &[fd, 1]).map(drop)
            }),
        ),
        net(
            "unix_connect",
            Box::new(move || connect(socket(AF_UNIX, SOCK_STREAM, 0)?, &path)),
        ),
        net(
            "abstract_connect",
            Box::new(move || connect(socket(AF_UNIX, SOCK_STREAM, 0)?, &hidden)),
        ),
        open("ipv6_socket", AF_INET6, SOCK_STREAM, 0),
        open("vsock", AF_VSOCK, SOCK_STREAM, 0),
        open("netlink_route", AF_NETLINK, SOCK_RAW, 0),
        open("netlink_netfilter", AF_NETLINK, SOCK_RAW, 12),
        open("netlink_uevent", AF_NETLINK, SOCK_RAW, 15),
        open("packet", AF_PACKET, SOCK_RAW, 0),
        open("raw_icmp", AF_INET, SOCK_RAW, 1),
        open("kernel_crypto", 38, libc::SOCK_SEQPACKET, 0),
        net(
            "socketpair_of_datagrams_to_no_one",
            Box::new(|| {
                let mut pair = [0i32; 2];
                sys(
                    libc::SYS_socketpair,
                    &[30, 1, 0, pair.as_mut_ptr() as usize],
                )
                .map(drop)
            }),
        ),
    ]
}

fn kernel(t: &Targets) -> Vec<Act> {
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

fn resources(t: &Targets) -> Vec<Act> {
    let limit = |name, resource: usize, most: u64| {
        act(name, "resource", move || {
            let mut now = [0u64; 2];
            sys(
                libc::SYS_prlimit64,
                &[0, resource, 0, now.as_mut_ptr() as usize],
            )?;
            if now[1] > most { Ok(()) } else { refused() }
        })
    };
    let path = t.work.join("huge");
    vec![
        limit("core_dump", 4, 0),
        limit("unlimited_processes", 6, 8192),
        limit("many_files", 7, 4096),
        limit("message_queue_bytes", 12, 0),
        act("memory_of_8_gib", "resource", || {
            // SAFETY: a fresh anonymous mapping that is never touched.
            let mapped = unsafe {
                let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                libc::mmap(
                    std::ptr::null_mut(),
                    8 << 30,
                    libc::PROT_READ | libc::PROT_WRITE,
                    private,
                    -1,
                    0,
                )
            };
            if mapped == libc::MAP_FAILED {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        }),
        act("file_of_64_gib", "resource", move || {
            // SAFETY: the default action would end us before we can tell.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            let file = File::create(&path)?;
            let done = file.set_len(64 << 30);
            drop(fs::remove_file(&path));
            done
        }),
    ]
}

/// What the floor cannot stop without namespaces; the test keeps the list honest.
fn uncovered(t: &Targets) -> Vec<Act> {
    let [own, link] = ["own", "link"].map(|name| t.outside.join(name));
    let (a, b, d) = (own.clone(), own.clone(), c(&t.outside));
    let work = t.work.clone();
    vec![
        act("run_by_the_loader", "uncovered", move || {
            let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
            let loader = loader.iter().find(|path| Path::new(path).exists()).unwrap();
            let path = work.join("loaded");
            fs::copy("/proc/self/exe", &path)?;
            let status = std::process::Command::new(loader)
                .arg(&path)
                .arg("--exit")
                .status()?;
            if status.success() { Ok(()) } else { refused() }
        }),
        act("stat", "uncovered", move || fs::metadata(&a).map(drop)),
        act("readlink", "uncovered", move || {
            fs::read_link(&link).map(drop)
        }),
        act("chmod", "uncovered", move || {
            fs::set_permissions(&b, fs::Permissions::from_mode(0o640))
        }),
        act("utime", "uncovered", move || {
            let path = c(&own);
            sys(libc::SYS_utimensat, &[at(), ptr(&path), 0, 0]).map(drop)
        }),
        act("inotify", "uncovered", move || {
            let fd = sys(libc::SYS_inotify_init1, &[0])?;
            sys(libc::SYS_inotify_add_watch, &[fd, ptr(&d), 0x100]).map(drop)
        }),
    ]
}

/// What every honest server may do.
fn honest(t: &Targets) -> Vec<Act> {
    let ok = |name, run: Box<dyn Fn() -> Outcome>| (name, "honest", run);
    let w = t.work.clone();
    let [a, b, d, e] = [w.clone(), w.clone(), w.clone(), w];
    vec![
        ok(
            "write_and_read_files",
            Box::new(move || {
                let (one, two, dir) = (a.join("one"), a.join("two"), a.join("dir"));
                fs::write(&one, "hello")?;
                fs::rename(&one, &two)?;
                fs::create_dir(&dir)?;
                fs::rename(&two, dir.join("three"))?;
                let file = OpenOptions::new()
                    .write(true)
                    .read(true)
                    .open(dir.join("three"))?;
                sys(
                    libc::SYS_flock,
                    &[usize::try_from(file.as_raw_fd()).unwrap(), 2],
                )?;
                file.sync_all()?;
                file.set_len(2)?;
                let read = fs::read(dir.join("three"))?;
                fs::remove_dir_all(&dir)?;
                if read == b"he" { Ok(()) } else { refused() }
            }),
        ),
        ok(
            "links_and_modes",
            Box::new(move || {
                let (file, soft, hard) = (b.join("file"), b.join("soft"), b.join("hard"));
                fs::write(&file, "x")?;
                symlink(&file, &soft)?;
                fs::hard_link(&file, &hard)?;
                fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
                [&file, &soft, &hard]
                    .into_iter()
                    .try_for_each(fs::remove_file)
            }),
        ),
        ok(
            "watch_own_files",
            Box::new(move || {
                let path = c(&d);
                let fd = sys(libc::SYS_inotify_init1, &[0])?;
                sys(libc::SYS_inotify_add_watch, &[fd, ptr(&path), 0x100]).map(drop)
            }),
        ),
        ok(
            "fifo",
            Box::new(move || {
                let path = c(e.join("fifo"));
                sys(libc::SYS_mknodat, &[at(), ptr(&path), 0o010_600])?;
                sys(libc::SYS_unlinkat, &[at(), ptr(&path), 0]).map(drop)
            }),
        ),
        ok(
            "temporary_directory",
            Box::new(|| {
                let path = std::env::temp_dir().join("probe");
                fs::write(&path, "x").and_then(|()| fs::remove_file(&path))
            }),
        ),
        ok(
            "threads",
            Box::new(|| {
                std::thread::Builder::new()
                    .spawn(|| ())?
                    .join()
                    .or_else(|_| refused())
            }),
        ),
        ok(
            "child_of_its_own_kind",
            Box::new(|| {
                let status = std::process::Command::new(std::env::current_exe()?)
                    .arg("--exit")
                    .status()?;
                if status.success() { Ok(()) } else { refused() }
            }),
        ),
        ok(
            "signal_own_child",
            Box::new(|| {
                // SAFETY: the child only waits.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    // SAFETY: waits for the signal below.
                    unsafe { libc::pause() };
                }
                sys(libc::SYS_kill, &[usize::try_from(child).unwrap(), 9]).map(drop)
            }),
        ),
        ok(
            "socketpair",
            Box::new(|| {
                let (mut one, mut two) = std::os::unix::net::UnixStream::pair()?;
                one.write_all(b"x")?;
                two.read_exact(&mut [0])
            }),
        ),
        ok(
            "compiled_code",
            Box::new(|| {
                // SAFETY: maps, changes and unmaps one page of our own.
                unsafe {
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                    let page = libc::mmap(
                        std::ptr::null_mut(),
                        4096,
                        libc::PROT_READ | libc::PROT_WRITE,
                        flags,
                        -1,
                        0,
                    );
                    if page == libc::MAP_FAILED
                        || libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC) != 0
                    {
                        return Err(io::Error::last_os_error());
                    }
                    libc::munmap(page, 4096);
                }
                Ok(())
            }),
        ),
        ok(
            "events",
            Box::new(|| {
                sys(libc::SYS_epoll_create1, &[0])?;
                sys(libc::SYS_eventfd2, &[0, 0])?;
                sys(libc::SYS_timerfd_create, &[1, 0]).map(drop)
            }),
        ),
        ok("null_device", Box::new(|| fs::write("/dev/null", "x"))),
        ok(
            "randomness",
            Box::new(|| File::open("/dev/urandom")?.read_exact(&mut [0; 8])),
        ),
        ok(
            "memory_of_256_mib",
            Box::new(|| {
                let block = vec![1u8; 256 << 20];
                if block[block.len() - 1] == 1 {
                    Ok(())
                } else {
                    refused()
                }
            }),
        ),
        ok(
            "raise_own_soft_limit",
            Box::new(|| {
                let mut now = [0 as c_ulong; 2];
                sys(libc::SYS_prlimit64, &[0, 7, 0, now.as_mut_ptr() as usize])?;
                sys(libc::SYS_prlimit64, &[0, 7, now.as_ptr() as usize, 0]).map(drop)
            }),
        ),
    ]
}
