//! Taking more of the machine than one server may.

use crate::calls::*;

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
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
