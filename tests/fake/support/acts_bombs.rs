//! Bombs and daemons, all of them bounded: the machine is not ours alone.

use crate::calls::*;

/// As many as a bomb ever has, and by how many it goes over a limit below that.
const MOST: usize = 280;
const OVER: usize = 20;
/// More than they may have (1 GiB), in steps of 64 MiB, each touched.
const STEPS: usize = 24;
const STEP: usize = 64 << 20;
/// Beats of a daemon, 20 ms apart.
const BEATS: usize = 1000;

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    let daemon = |name: &'static str, kind: fn(&Path)| {
        let path = t.work.join(name);
        seen(name, "life", move || {
            let path = path.clone();
            let between = fork(|| {
                drop(fork(|| {
                    kind(&path);
                }));
            })?;
            drop(sys(libc::SYS_wait4, &[between, 0, 0, 0]));
            Ok(())
        })
    };
    vec![
        act("processes_without_end", "resource", || {
            let (most, mut children) = (bomb()?, Vec::new());
            while children.len() < most {
                match fork(|| pause(5000)) {
                    Ok(child) => children.push(child),
                    Err(_) => break,
                }
            }
            for child in &children {
                drop(sys(libc::SYS_kill, &[*child, 9]));
                drop(sys(libc::SYS_wait4, &[*child, 0, 0, 0]));
            }
            when(children.len() == most)
        }),
        act("threads_without_end", "resource", || {
            let (most, mut threads) = (bomb()?, Vec::new());
            while threads.len() < most {
                let thread = std::thread::Builder::new().stack_size(64 << 10);
                match thread.spawn(|| pause(200)) {
                    Ok(thread) => threads.push(thread),
                    Err(_) => break,
                }
            }
            when(threads.len() == most)
        }),
        act("memory_without_end", "resource", || {
            // A limit that is beyond ours is the business of `memory_of_8_gib`.
            if (STEPS * STEP..8 << 30).contains(&limit(2)?) {
                return refused();
            }
            for _ in 0..STEPS {
                // Private and without a name; a page in each 4 KiB is written.
                let place = sys(libc::SYS_mmap, &[0, STEP, 3, 0x22, usize::MAX, 0])?;
                for page in (0..STEP).step_by(4096) {
                    // SAFETY: within the fresh mapping.
                    unsafe { *((place + page) as *mut u8) = 1 };
                }
            }
            Ok(())
        }),
        act("descriptors_without_end", "resource", || {
            for _ in 0..5000 {
                sys(libc::SYS_dup, &[0])?;
            }
            Ok(())
        }),
        fill("fill_tmp", "/tmp", 300),
        fill("fill_shared_memory", "/dev/shm", 100),
        daemon("daemon", |path| {
            // The end of the session is not its own.
            // SAFETY: ignoring a signal has no precondition.
            unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
            beat(path);
        }),
        daemon("daemon_in_its_own_session", |path| {
            drop(sys(libc::SYS_setsid, &[]));
            beat(path);
        }),
        daemon("deaf_daemon", |path| {
            drop(sys(libc::SYS_setsid, &[]));
            // SAFETY: ignoring signals has no precondition.
            (1..32).for_each(|signal| unsafe {
                libc::signal(signal, libc::SIG_IGN);
            });
            beat(path);
        }),
        daemon("daemon_without_a_parents_death", |path| {
            drop(sys(libc::SYS_prctl, &[1, 0]));
            drop(sys(libc::SYS_prctl, &[36, 1]));
            drop(sys(libc::SYS_setsid, &[]));
            beat(path);
        }),
        // Who looks at the process sees a zombie: its first thread has ended, another lives.
        daemon("daemon_without_its_first_thread", |path| {
            drop(sys(libc::SYS_setsid, &[]));
            let path = path.to_owned();
            drop(std::thread::spawn(move || beat(&path)));
            drop(sys(libc::SYS_exit, &[0]));
        }),
    ]
}

/// How many it takes to show that there is no limit in force; refused when a limit is in force that
/// is beyond what a bomb of ours may have.
fn bomb() -> io::Result<usize> {
    let limit = limit(6)?;
    // SAFETY: asks for our own id. The kernel does not apply this limit to root.
    let root = unsafe { libc::getuid() } == 0;
    if !root && (MOST..8192).contains(&limit) {
        return refused();
    }
    Ok(limit.saturating_add(OVER).min(MOST))
}

fn limit(resource: usize) -> io::Result<usize> {
    let mut limit = [0u64; 2];
    sys(
        libc::SYS_prlimit64,
        &[0, resource, 0, limit.as_mut_ptr() as usize],
    )?;
    Ok(usize::try_from(limit[0]).unwrap_or(usize::MAX))
}

/// Grows a file for as long as nobody is in the way; the test looks whether it still grows when the
/// server is gone.
fn beat(path: &Path) {
    // Its own streams are closed: whoever waits for the end of the server's output waits for nothing.
    for fd in 0..1024 {
        drop(sys(libc::SYS_close, &[fd]));
    }
    for _ in 0..BEATS {
        let file = OpenOptions::new().append(true).create(true).open(path);
        if file.and_then(|mut file| file.write_all(b".")).is_err() {
            return;
        }
        pause(20);
    }
}

fn fill(name: &'static str, directory: &'static str, mib: usize) -> Act {
    act(name, "resource", move || {
        let path = Path::new(directory).join(format!("probe-{}", std::process::id()));
        let mut file = File::create(&path)?;
        let block = vec![1; 1 << 20];
        let done = (0..mib).try_for_each(|_| file.write_all(&block));
        drop(fs::remove_file(&path));
        done
    })
}
