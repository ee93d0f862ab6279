//! Reading and changing files outside, each in the plainest way.

use crate::calls::*;

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
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
    let steal = |name: &'static str, path: PathBuf| seen(name, "fs-read", move || tell_file(&path));
    let list = |name: &'static str, path: PathBuf| {
        act(name, "fs-read", move || fs::read_dir(&path).map(drop))
    };
    let root = Path::new("/proc/self/root").join(secret.strip_prefix("/").unwrap());
    let other_root = PathBuf::from(format!("/proc/{}/root{}", t.pid, secret.display()));
    let mut acts = vec![
        steal("read_secret", secret.clone()),
        steal("read_through_proc_self_root", root),
        steal("read_through_proc_pid_root", other_root),
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
    acts.push(seen("read_through_symlink", "fs-read", move || {
        let link = to.join("symlink");
        drop(fs::remove_file(&link));
        symlink(&from, &link)?;
        tell_file(&link)
    }));
    let (from, to) = (secret.clone(), work.clone());
    acts.push(seen("hardlink_into_work", "fs-read", move || {
        let link = to.join("hardlink");
        drop(fs::remove_file(&link));
        fs::hard_link(&from, &link)?;
        tell_file(&link)
    }));
    let from = secret.clone();
    acts.push(seen("reopen_path_descriptor", "fs-read", move || {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(&from)?;
        tell_file(format!("/proc/self/fd/{}", file.as_raw_fd()))
    }));
    let write = |name: &'static str, run: Box<dyn Fn() -> Outcome>| act(name, "fs-write", run);
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
