//! A message process that was taken over: it opens what `cofferdam run` opens, starts a spawner, enters
//! the very cage of the message process, and then tries one act.
//!
//! `taken list` prints the names of the acts; `taken ACT free|caged TARGETS` prints `through`, or what
//! refused it. `free` leaves the cage out. `TARGETS` is a JSON object that names what the test planted.
//! One act for each process, because some end it. `taken __spawn` and `taken __cell` are the spawner
//! and the launcher, as in the real program.

#![expect(
    unsafe_code,
    reason = "attacks are made of raw system calls; this is a test program"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is its result"
)]
#![expect(clippy::unwrap_used, reason = "a broken test program must fail loudly")]

use cofferdam::cell::spawn::{Event, Mode, Spawner, Stop};
use cofferdam::cell::{LayerState, close_inherited, confine};
use libc::c_long;
use serde_json::Value;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

type Outcome = io::Result<()>;

/// What is there when the act begins.
struct Scene {
    /// Outside of everything that the configuration names: `secret`, and room for more.
    outside: PathBuf,
    audit: PathBuf,
    /// Opened as the message process opens it.
    log: File,
    tcp: u16,
    unix: PathBuf,
    /// A process that has nothing to do with us.
    stranger: i32,
    spawner: Spawner,
    /// The process behind it.
    spawner_pid: i32,
}

type Act = (&'static str, fn(&mut Scene) -> Outcome);

const ACTS: &[Act] = &[
    ("execute a shell", |_| {
        Err(Command::new("/bin/sh").args(["-c", "echo through"]).exec())
    }),
    ("execute by descriptor", |_| {
        let (path, arg) = (cstring("/bin/echo"), cstring("through"));
        let (argv, env) = (
            [path.as_ptr(), arg.as_ptr(), std::ptr::null()],
            [std::ptr::null::<u8>()],
        );
        let at = i64::from(libc::AT_FDCWD);
        let words = [
            at,
            path.as_ptr() as i64,
            argv.as_ptr() as i64,
            env.as_ptr() as i64,
            0,
        ];
        raw(libc::SYS_execveat, &words)
    }),
    ("start a program", |_| {
        Command::new("/bin/true").status().map(drop)
    }),
    ("fork", |_| fork(libc::SIGCHLD)),
    ("fork into a user namespace", |_| {
        fork(libc::SIGCHLD | libc::CLONE_NEWUSER)
    }),
    ("unshare a user namespace", |_| {
        raw(libc::SYS_unshare, &[libc::CLONE_NEWUSER.into()])
    }),
    ("read a secret", |scene| {
        fs::read(scene.outside.join("secret")).map(drop)
    }),
    ("read /etc/passwd", |_| fs::read("/etc/passwd").map(drop)),
    ("list a directory", |scene| {
        fs::read_dir(&scene.outside).map(drop)
    }),
    ("look at a file", |scene| {
        fs::metadata(scene.outside.join("secret")).map(drop)
    }),
    ("read a link", |_| fs::read_link("/proc/self/exe").map(drop)),
    ("write a file", |scene| {
        fs::write(scene.outside.join("new"), "x")
    }),
    ("remove a file", |scene| {
        fs::remove_file(scene.outside.join("victim"))
    }),
    ("make a directory", |scene| {
        fs::create_dir(scene.outside.join("dir"))
    }),
    ("change the mode of a file", |scene| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(scene.outside.join("secret"), mode)
    }),
    ("write beside the audit log", |scene| {
        fs::write(scene.audit.with_file_name("other"), "x")
    }),
    ("rename the audit log", |scene| {
        fs::rename(&scene.audit, scene.audit.with_extension("gone"))
    }),
    ("read the audit log", |scene| {
        let path = format!("/proc/self/fd/{}", scene.log.as_raw_fd());
        File::open(path).map(drop)
    }),
    ("cut the audit log", |scene| scene.log.set_len(0)),
    ("write over the audit log", |scene| {
        let flags = nix::fcntl::OFlag::empty();
        nix::fcntl::fcntl(&scene.log, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        std::os::unix::fs::FileExt::write_all_at(&scene.log, b"x", 0)
    }),
    ("connect to a TCP port", |scene| {
        std::net::TcpStream::connect(("127.0.0.1", scene.tcp)).map(drop)
    }),
    ("listen on a TCP port", |_| {
        std::net::TcpListener::bind("127.0.0.1:0").map(drop)
    }),
    ("send a datagram", |scene| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        socket.send_to(b"x", ("127.0.0.1", scene.tcp)).map(drop)
    }),
    ("connect to a unix socket", |scene| {
        UnixStream::connect(&scene.unix).map(drop)
    }),
    ("make a pair of sockets", |_| UnixDatagram::pair().map(drop)),
    ("trace the spawner", |scene| {
        let pid = nix::unistd::Pid::from_raw(scene.spawner_pid);
        Ok(nix::sys::ptrace::seize(
            pid,
            nix::sys::ptrace::Options::empty(),
        )?)
    }),
    ("read the spawner's memory", |scene| {
        let mut byte = [0u8; 1];
        let here = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        // The program is not moved by exec of the same file, but its address differs: what counts is
        // that the kernel looks (EFAULT) instead of refusing.
        let words = [
            scene.spawner_pid.into(),
            (&raw const here) as i64,
            1,
            (&raw const here) as i64,
            1,
            0,
        ];
        match raw(libc::SYS_process_vm_readv, &words) {
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
            done => done,
        }
    }),
    ("read the spawner's environment", |scene| {
        fs::read(format!("/proc/{}/environ", scene.spawner_pid)).map(drop)
    }),
    ("open the spawner's memory", |scene| {
        File::open(format!("/proc/{}/mem", scene.spawner_pid)).map(drop)
    }),
    ("signal the spawner", |scene| signal(scene.spawner_pid)),
    ("signal a stranger", |scene| signal(scene.stranger)),
    ("signal a stranger's thread", |scene| {
        let pid = i64::from(scene.stranger);
        raw(libc::SYS_tgkill, &[pid, pid, 0])
    }),
    ("open a stranger by pidfd", |scene| {
        raw(libc::SYS_pidfd_open, &[scene.stranger.into(), 0])
    }),
    ("limit a stranger", |scene| {
        let limit = [0u64; 2];
        let words = [scene.spawner_pid.into(), 7, 0, limit.as_ptr() as i64];
        raw(libc::SYS_prlimit64, &words)
    }),
    ("place the spawner on a processor", |scene| {
        raw(
            libc::SYS_sched_setscheduler,
            &[scene.spawner_pid.into(), 3, [0i32].as_ptr() as i64],
        )
    }),
    ("make memory executable", |_| {
        let size = 4096;
        raw(libc::SYS_mmap, &[0, size, 3, 0x22, -1, 0])?;
        let page = [0u8; 8192];
        let at = (page.as_ptr() as i64 + size - 1) & -size;
        raw(libc::SYS_mprotect, &[at, 1, 7])
    }),
    ("map executable memory", |_| {
        raw(libc::SYS_mmap, &[0, 4096, 5, 0x22, -1, 0])
    }),
    ("make a file in memory", |_| {
        raw(libc::SYS_memfd_create, &[c"x".as_ptr() as i64, 0])
    }),
    ("set up an io_uring", |_| {
        match raw(libc::SYS_io_uring_setup, &[1, 0]) {
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
            done => done,
        }
    }),
    ("join a keyring", |_| raw(libc::SYS_keyctl, &[1, 0])),
    ("watch a directory", |_| raw(libc::SYS_inotify_init1, &[0])),
    ("ask for the personality", |_| {
        // Bit 31 asks for what is in force.
        raw(libc::SYS_personality, &[0xffff_ffff])
    }),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("__spawn" | "__cell") => return cofferdam::cli::main(),
        Some("list") => {
            ACTS.iter().for_each(|(name, _)| println!("{name}"));
            println!("restart");
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let [act, state, targets] = <[String; 3]>::try_from(words).unwrap();
    let mut scene = scene(&serde_json::from_str(&targets).unwrap());
    if state == "caged" {
        let report = confine();
        let whole = report
            .layers
            .iter()
            .all(|(_, state)| *state == LayerState::Enforced);
        assert!(whole && report.layers.len() == 6, "{report:?}");
    }
    let done = match ACTS.iter().find(|(name, _)| *name == act) {
        Some((_, run)) => run(&mut scene),
        None => restart(&mut scene),
    };
    match done {
        Ok(()) => println!("through"),
        Err(error) => println!("{error}"),
    }
    ExitCode::SUCCESS
}

fn scene(targets: &Value) -> Scene {
    close_inherited().unwrap();
    let text = |key: &str| targets[key].as_str().unwrap().to_owned();
    let number = |key: &str| i32::try_from(targets[key].as_i64().unwrap()).unwrap();
    let spawner = Spawner::launch(Mode::Run, serve_cat).unwrap();
    let audit = PathBuf::from(text("audit"));
    let log = OpenOptions::new().append(true).create(true).open(&audit);
    let child = |pid: i32| -> Option<i32> {
        let path = format!("/proc/{pid}/task/{pid}/children");
        fs::read_to_string(path)
            .ok()?
            .split(' ')
            .next()?
            .parse()
            .ok()
    };
    let until = Instant::now() + Duration::from_secs(10);
    let us = i32::try_from(std::process::id()).unwrap();
    let spawner_pid = loop {
        if let Some(pid) = child(us).and_then(child) {
            break pid;
        }
        assert!(Instant::now() < until, "no spawner below the guardian");
        std::thread::yield_now();
    };
    Scene {
        outside: text("outside").into(),
        audit,
        log: log.unwrap(),
        tcp: u16::try_from(number("tcp")).unwrap(),
        unix: text("unix").into(),
        stranger: number("stranger"),
        spawner,
        spawner_pid,
    }
}

/// The spawner of `cofferdam run -- cat`.
fn serve_cat(control: OwnedFd) -> u8 {
    let flags = rustix::io::fcntl_getfd(&control).unwrap();
    rustix::io::fcntl_setfd(&control, flags - rustix::io::FdFlags::CLOEXEC).unwrap();
    let number = control.as_raw_fd().to_string();
    let words = ["__spawn", &number, "run", "run", "--", "cat"];
    let error = Command::new("/proc/self/exe").args(words).exec();
    eprintln!("no spawner: {error}");
    70
}

/// What it may do: the server that the configuration names is started, answers, ends, and is started
/// again. It is through in the cage too.
fn restart(scene: &mut Scene) -> Outcome {
    for _ in 0..2 {
        scene.spawner.start(0)?;
        let Event::Started { fds, .. } = news(scene) else {
            return Err(io::Error::other("it did not start"));
        };
        let [stdin, stdout, _stderr] = <[_; 3]>::try_from(fds).unwrap().map(File::from);
        (&stdin).write_all(b"hello")?;
        let mut back = [0; 5];
        (&stdout).read_exact(&mut back)?;
        assert_eq!(&back, b"hello");
        scene.spawner.stop(0, Stop::Terminate)?;
        assert!(matches!(news(scene), Event::Exited { .. }));
    }
    Ok(())
}

fn news(scene: &mut Scene) -> Event {
    loop {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            scene.spawner.as_fd(),
            rustix::event::PollFlags::IN,
        )];
        let limit = rustix::event::Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let ready = rustix::event::poll(&mut fds, Some(&limit)).unwrap();
        assert_eq!(ready, 1, "the spawner says nothing");
        match scene.spawner.next_event().unwrap() {
            None | Some(Event::Progress { .. }) => {}
            Some(event) => return event,
        }
    }
}

fn signal(pid: i32) -> Outcome {
    raw(libc::SYS_kill, &[pid.into(), 0])
}

/// A child that ends at once.
fn fork(flags: i32) -> Outcome {
    // SAFETY: the child has a copy of this process, which has one thread, and does nothing but end.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: it ends this process, without any destructor.
        0 => unsafe { libc::_exit(0) },
        _ => Ok(()),
    }
}

fn raw(number: c_long, words: &[i64]) -> Outcome {
    let mut all = [0; 6];
    all[..words.len()].copy_from_slice(words);
    let [a, b, c, d, e, f] = all;
    // SAFETY: each pointer among the words is to something that outlives the call; what the calls
    // map or change is not memory of this program's own values.
    let done = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if done == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn cstring(text: &str) -> CString {
    CString::new(text).unwrap()
}
