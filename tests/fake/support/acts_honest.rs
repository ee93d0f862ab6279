//! What every honest server may do.

use crate::calls::*;

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    let ok = |name, run: Box<dyn Fn() -> Outcome>| act(name, "honest", run);
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
            "own_limits_by_number",
            Box::new(|| {
                let mut now = [0u64; 2];
                let us = usize::try_from(std::process::id()).unwrap();
                sys(libc::SYS_prlimit64, &[us, 4, 0, now.as_mut_ptr() as usize]).map(drop)
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
