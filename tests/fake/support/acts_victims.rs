//! Processes outside: each act has one of its own to harm, and the test looks how it fares.

use crate::calls::*;

/// What every victim holds in memory, before and after the word that acts change.
static WORD: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0x7072_6f62_6500);

/// Says where its word and its secret are, then waits for the end of its stdout's reader, at most
/// two minutes. Its stdin is a secret file, its directory holds one, and its environment too.
pub(crate) fn be_one() {
    let secret = std::env::var("VICTIM_SECRET").unwrap_or_default();
    let line = format!(
        "{} {} {}\n",
        &raw const WORD as usize,
        secret.as_ptr() as usize,
        secret.len()
    );
    io::stdout().write_all(line.as_bytes()).unwrap();
    io::stdout().flush().unwrap();
    pause(120_000);
    drop(secret);
}

/// A description of one piece of memory: where, how long.
fn piece(place: usize, length: usize) -> [usize; 2] {
    [place, length]
}

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    let mut acts = harm(t);
    acts.extend(spy(t));
    acts
}

fn harm(t: &Targets) -> Vec<Act> {
    let on = |name: &'static str, run: fn(usize, usize) -> Outcome| {
        let t = t.clone();
        seen(name, "process", move || {
            let (pid, word) = t.victim(name);
            // None was planted, and 0 would be our own group.
            if pid == 0 { refused() } else { run(pid, word) }
        })
    };
    vec![
        on("kill_it", |pid, _| sys(libc::SYS_kill, &[pid, 9]).map(drop)),
        on("stop_it", |pid, _| {
            sys(libc::SYS_kill, &[pid, 19]).map(drop)
        }),
        on("kill_its_thread", |pid, _| {
            sys(libc::SYS_tgkill, &[pid, pid, 9]).map(drop)
        }),
        on("kill_it_by_tkill", |pid, _| {
            sys(libc::SYS_tkill, &[pid, 9]).map(drop)
        }),
        on("kill_it_by_pidfd", |pid, _| {
            let fd = sys(libc::SYS_pidfd_open, &[pid, 0])?;
            sys(libc::SYS_pidfd_send_signal, &[fd, 9, 0, 0]).map(drop)
        }),
        on("kill_it_by_queue", |pid, _| {
            // siginfo_t: signal, error, code (SI_QUEUE).
            let mut info = [0i32; 32];
            (info[0], info[2]) = (9, -1);
            let args = [pid, 9, info.as_ptr() as usize];
            sys(libc::SYS_rt_sigqueueinfo, &args).map(drop)
        }),
        on("kill_it_by_owner", |pid, _| {
            // The kernel sends the signal for us when the pipe has something to read.
            let (reader, mut writer) = io::pipe()?;
            sys(libc::SYS_fcntl, &[fd(&reader), 8, pid])?;
            sys(libc::SYS_fcntl, &[fd(&reader), 10, 9])?;
            sys(libc::SYS_fcntl, &[fd(&reader), 4, 0o20_000])?;
            writer.write_all(b"x")?;
            pause(20);
            // It is asked when it happens, not before.
            when(sys(libc::SYS_kill, &[pid, 0]).is_ok())
        }),
        on("renice_it", |pid, _| {
            sys(libc::SYS_setpriority, &[0, pid, 7]).map(drop)
        }),
        on("make_it_idle", |pid, _| {
            let parameter = 0i32;
            let args = [pid, 5, &raw const parameter as usize];
            sys(libc::SYS_sched_setscheduler, &args).map(drop)
        }),
        on("pin_it", |pid, _| {
            let mask = [1u64];
            let args = [pid, 8, mask.as_ptr() as usize];
            sys(libc::SYS_sched_setaffinity, &args).map(drop)
        }),
        on("limit_it", |pid, _| {
            let limit = [50u64, 50];
            let args = [pid, 7, limit.as_ptr() as usize, 0];
            sys(libc::SYS_prlimit64, &args).map(drop)
        }),
        on("offer_it_when_memory_ends", |pid, _| {
            fs::write(format!("/proc/{pid}/oom_score_adj"), "900")
        }),
        on("write_its_memory", |pid, word| {
            let value = 1u64;
            let (ours, its) = (piece(&raw const value as usize, 8), piece(word, 8));
            let args = [pid, ours.as_ptr() as usize, 1, its.as_ptr() as usize, 1, 0];
            sys(libc::SYS_process_vm_writev, &args).map(drop)
        }),
        on("write_its_memory_as_a_file", |pid, word| {
            use std::os::unix::fs::FileExt;
            let file = OpenOptions::new()
                .write(true)
                .open(format!("/proc/{pid}/mem"))?;
            file.write_all_at(&2u64.to_ne_bytes(), word as u64)
        }),
        on("poke_it_as_a_debugger", |pid, word| {
            sys(libc::SYS_ptrace, &[16, pid, 0, 0])?;
            sys(libc::SYS_wait4, &[pid, 0, 0x4000_0000, 0])?;
            let done = sys(libc::SYS_ptrace, &[5, pid, word, 3]);
            sys(libc::SYS_ptrace, &[17, pid, 0, 0])?;
            done.map(drop)
        }),
    ]
}

fn spy(t: &Targets) -> Vec<Act> {
    let pid = usize::try_from(t.pid).unwrap();
    let (place, length) = (t.number("secret_at"), t.number("secret_length"));
    let file = |name: &'static str, file: &'static str| {
        seen(name, "process", move || {
            tell_file(format!("/proc/{pid}/{file}"))
        })
    };
    vec![
        seen("read_its_environment", "process", move || {
            let text = fs::read(format!("/proc/{pid}/environ"))?;
            let mut found = text.split(|byte| *byte == 0);
            tell(
                found
                    .find(|line| line.starts_with(b"VICTIM_SECRET"))
                    .unwrap_or(b""),
            )
        }),
        file("read_its_open_file", "fd/0"),
        file("read_in_its_directory", "cwd/secret"),
        seen("read_its_memory", "process", move || {
            let mut found = vec![0u8; length];
            let (ours, its) = (
                piece(found.as_mut_ptr() as usize, length),
                piece(place, length),
            );
            let args = [pid, ours.as_ptr() as usize, 1, its.as_ptr() as usize, 1, 0];
            sys(libc::SYS_process_vm_readv, &args)?;
            tell(&found)
        }),
        seen("read_its_memory_as_a_file", "process", move || {
            use std::os::unix::fs::FileExt;
            let mut found = vec![0u8; length];
            let file = File::open(format!("/proc/{pid}/mem"))?;
            file.read_exact_at(&mut found, place as u64)?;
            tell(&found)
        }),
        seen("take_its_descriptor", "process", move || {
            let other = sys(libc::SYS_pidfd_open, &[pid, 0])?;
            let file = sys(libc::SYS_pidfd_getfd, &[other, 0, 0])?;
            let mut found = [0u8; 512];
            let args = [file, found.as_mut_ptr() as usize, 512, 0];
            let length = sys(libc::SYS_pread64, &args)?;
            tell(&found[..length])
        }),
        act("where_it_waits", "process", move || {
            fs::read(format!("/proc/{pid}/stat")).map(drop)
        }),
        act("its_descriptors", "process", move || {
            fs::read_dir(format!("/proc/{pid}/fd")).map(drop)
        }),
        act("its_threads", "process", move || {
            fs::read_dir(format!("/proc/{pid}/task")).map(drop)
        }),
        act("its_namespaces", "process", move || {
            let space = File::open(format!("/proc/{pid}/ns/uts"))?;
            reached(libc::SYS_setns, &[fd(&space), 0])
        }),
        act("whether_it_is_there", "process", move || {
            sys(libc::SYS_getpgid, &[pid]).map(drop)
        }),
    ]
}
