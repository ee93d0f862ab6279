//! Objects of the kernel that have no place in any directory: keys, System V memory, rings, programs.

use crate::calls::*;

/// The keyring of the user, in which the test has put a key.
const OF_THE_USER: usize = -4i32 as usize;
const OF_THE_PROCESS: usize = -2i32 as usize;

/// `probe --plant NUMBER SECRET`: what the acts below look for; printed are the ids to remove.
pub(crate) fn plant(number: usize, secret: &str) {
    let (kind, name, data) = (c("user"), key_name(number), secret.as_ptr() as usize);
    let key = sys(
        libc::SYS_add_key,
        &[ptr(&kind), ptr(&name), data, secret.len(), OF_THE_USER],
    );
    if let Ok(key) = key {
        drop(sys(libc::SYS_keyctl, &[5, key, 0x3f3f_0000]));
    }
    if let Ok(place) = attach(number, 0o1600) {
        // SAFETY: the segment has a page, and the secret is shorter.
        unsafe { std::ptr::copy(secret.as_ptr(), place as *mut u8, secret.len()) };
    }
    let mut message = [0u8; 136];
    message[..8].copy_from_slice(&1u64.to_ne_bytes());
    message[8..8 + secret.len()].copy_from_slice(secret.as_bytes());
    if let Ok(queue) = sys(libc::SYS_msgget, &[number, 0o1600]) {
        drop(sys(
            libc::SYS_msgsnd,
            &[queue, message.as_ptr() as usize, 128, 0],
        ));
    }
    drop(sys(libc::SYS_semget, &[number, 1, 0o1600]));
}

/// `probe --unplant NUMBER`.
pub(crate) fn remove(number: usize) {
    if let Ok(id) = sys(libc::SYS_shmget, &[number, 0, 0]) {
        drop(sys(libc::SYS_shmctl, &[id, 0, 0]));
    }
    if let Ok(id) = sys(libc::SYS_msgget, &[number, 0]) {
        drop(sys(libc::SYS_msgctl, &[id, 0, 0]));
    }
    if let Ok(id) = sys(libc::SYS_semget, &[number, 0, 0]) {
        drop(sys(libc::SYS_semctl, &[id, 0, 0, 0]));
    }
    if let Ok(key) = find(number) {
        drop(sys(libc::SYS_keyctl, &[9, key, OF_THE_USER]));
    }
}

fn key_name(number: usize) -> CString {
    c(format!("probe-{number}"))
}

fn find(number: usize) -> io::Result<usize> {
    let (kind, name) = (c("user"), key_name(number));
    let args = [10, OF_THE_USER, ptr(&kind), ptr(&name), 0];
    sys(libc::SYS_keyctl, &args)
}

fn attach(number: usize, flags: usize) -> io::Result<usize> {
    let id = sys(libc::SYS_shmget, &[number, 4096, flags])?;
    sys(libc::SYS_shmat, &[id, 0, 0])
}

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    let number = t.number("number");
    let shared = format!("/dev/shm/{}", t.shared);
    vec![
        seen("read_a_key", "kernel", move || {
            let (key, mut found) = (find(number)?, [0u8; 128]);
            let args = [11, key, found.as_mut_ptr() as usize, 128];
            let length = sys(libc::SYS_keyctl, &args)?;
            tell(&found[..length])
        }),
        act("keep_a_key", "kernel", || {
            let (kind, name) = (c("user"), c("probe"));
            let args = [ptr(&kind), ptr(&name), ptr(&name), 5, OF_THE_PROCESS];
            sys(libc::SYS_add_key, &args).map(drop)
        }),
        seen("read_shared_memory", "kernel", move || {
            let place = attach(number, 0)?;
            // SAFETY: the segment has a page.
            tell(unsafe { std::slice::from_raw_parts(place as *const u8, 128) })
        }),
        seen("receive_a_message", "kernel", move || {
            let (queue, mut found) = (sys(libc::SYS_msgget, &[number, 0])?, [0u8; 136]);
            let args = [queue, found.as_mut_ptr() as usize, 128, 0, 0o4000];
            sys(libc::SYS_msgrcv, &args)?;
            tell(&found[8..])
        }),
        act("raise_a_semaphore", "kernel", move || {
            let (id, up) = (sys(libc::SYS_semget, &[number, 1, 0])?, [0i16, 1, 0]);
            sys(libc::SYS_semop, &[id, up.as_ptr() as usize, 1]).map(drop)
        }),
        seen("read_posix_shared_memory", "kernel", move || {
            tell_file(&shared)
        }),
        act("ring_that_works", "kernel", || {
            let mut parameters = [0u32; 30];
            let ring = sys(
                libc::SYS_io_uring_setup,
                &[4, parameters.as_mut_ptr() as usize],
            )?;
            // One turn that submits nothing.
            sys(libc::SYS_io_uring_enter, &[ring, 0, 0, 0, 0, 0]).map(drop)
        }),
        act("map_for_programs", "kernel", || {
            // BPF_MAP_CREATE of an array: key 4, value 4, one entry.
            let mut attributes = [0u32; 32];
            attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
            let place = attributes.as_ptr() as usize;
            sys(libc::SYS_bpf, &[0, place, 128]).map(drop)
        }),
        act("counter_that_works", "kernel", || {
            // struct perf_event_attr: software, its size, the task clock; without the kernel's time.
            let mut attributes = [0u32; 32];
            (attributes[0], attributes[1], attributes[2]) = (1, 128, 1);
            attributes[10] = 0b110_0000;
            let args = [attributes.as_ptr() as usize, 0, usize::MAX, usize::MAX, 0];
            sys(libc::SYS_perf_event_open, &args).map(drop)
        }),
        act("faults_that_are_ours", "kernel", || {
            let faults = sys(libc::SYS_userfaultfd, &[1])?;
            let mut api = [0xaau64, 0, 0];
            sys(
                libc::SYS_ioctl,
                &[faults, 0xc018_aa3f, api.as_mut_ptr() as usize],
            )
            .map(drop)
        }),
        act("queue_with_a_name", "kernel", || {
            let name = c("probe-queue");
            let args = [ptr(&name), 0o102, 0o600, 0];
            sys(libc::SYS_mq_open, &args)?;
            sys(libc::SYS_mq_unlink, &[ptr(&name)]).map(drop)
        }),
        act("memory_that_nobody_sees", "kernel", || {
            sys(libc::SYS_memfd_secret, &[0]).map(drop)
        }),
        act("memory_without_a_seal", "kernel", || {
            let name = c("x");
            sys(libc::SYS_memfd_create, &[ptr(&name), 0]).map(drop)
        }),
        act("fixed_addresses", "kernel", || {
            sys(libc::SYS_personality, &[0x4_0000])?;
            when(sys(libc::SYS_personality, &[0xffff_ffff])? & 0x4_0000 != 0)
        }),
    ]
}
