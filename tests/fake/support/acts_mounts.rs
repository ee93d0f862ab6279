//! Namespaces and mounts. Each act first makes namespaces of its own if it can, so that outside of a
//! cell it changes nothing for others; then it does what it came for, with or without them.

use crate::calls::*;

const NEW_MOUNTS: usize = 0x2_0000;
const NEW_USERS: usize = 0x1000_0000;
const BIND: usize = 0x1000;
const PRIVATE_ALL: usize = 0x4_4000;

/// As root mounts of our own; as a user whole privileges over them.
fn apart() {
    // SAFETY: asks for our own ids.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    if uid == 0 {
        drop(sys(libc::SYS_unshare, &[NEW_MOUNTS]));
    } else if sys(libc::SYS_unshare, &[NEW_USERS | NEW_MOUNTS]).is_ok() {
        drop(fs::write("/proc/self/setgroups", "deny"));
        drop(fs::write("/proc/self/uid_map", format!("0 {uid} 1")));
        drop(fs::write("/proc/self/gid_map", format!("0 {gid} 1")));
    }
    let top = c("/");
    drop(sys(libc::SYS_mount, &[0, ptr(&top), 0, PRIVATE_ALL, 0]));
}

fn mount(source: &Path, target: &Path, kind: &str, flags: usize, data: &str) -> Outcome {
    drop(fs::create_dir(target));
    let (source, target, kind, data) = (c(source), c(target), c(kind), c(data));
    let args = [ptr(&source), ptr(&target), ptr(&kind), flags, ptr(&data)];
    sys(libc::SYS_mount, &args).map(drop)
}

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    let does = |name: &'static str, run: fn(&Targets) -> Outcome| {
        let t = t.clone();
        act(name, "mount", move || {
            apart();
            run(&t)
        })
    };
    let tells = |name: &'static str, run: fn(&Targets) -> Outcome| Act {
        seen: true,
        ..does(name, run)
    };
    let space = |name: &'static str, flag: usize| {
        act(name, "mount", move || {
            // SAFETY: asks for our own id.
            let root = unsafe { libc::geteuid() } == 0;
            let users = if root { 0 } else { NEW_USERS };
            sys(libc::SYS_unshare, &[users | flag]).map(drop)
        })
    };
    vec![
        space("mounts_of_its_own", NEW_MOUNTS),
        space("names_of_its_own", 0x400_0000),
        space("objects_of_its_own", 0x800_0000),
        space("network_of_its_own", 0x4000_0000),
        space("processes_of_its_own", 0x2000_0000),
        space("groups_of_its_own", 0x200_0000),
        space("clock_of_its_own", 0x80),
        tells("bind_the_outside", |t| {
            let here = t.work.join("bind");
            mount(&t.outside, &here, "none", BIND, "")?;
            tell_file(here.join("secret"))
        }),
        tells("overlay_the_outside", |t| {
            let (upper, scratch, here) = (
                t.work.join("upper"),
                t.work.join("scratch"),
                t.work.join("overlay"),
            );
            drop(fs::create_dir(&upper));
            drop(fs::create_dir(&scratch));
            let options = format!(
                "lowerdir={},upperdir={},workdir={}",
                t.outside.display(),
                upper.display(),
                scratch.display()
            );
            mount(Path::new("none"), &here, "overlay", 0, &options)?;
            tell_file(here.join("secret"))
        }),
        tells("tree_by_descriptor", |t| {
            let path = c(&t.outside);
            let tree = sys(libc::SYS_open_tree, &[at(), ptr(&path), 0x8_0001])?;
            let name = c("secret");
            let file = sys(libc::SYS_openat, &[tree, ptr(&name), 0])?;
            let mut found = [0u8; 512];
            let length = sys(libc::SYS_read, &[file, found.as_mut_ptr() as usize, 512])?;
            tell(&found[..length])
        }),
        tells("another_root", |t| {
            let outside = c(&t.outside);
            sys(libc::SYS_chroot, &[ptr(&outside)])?;
            tell_file("/secret")
        }),
        does("memory_as_files", |t| {
            mount(Path::new("none"), &t.work.join("memory"), "tmpfs", 0, "")
        }),
        does("files_by_context", |_| {
            let kind = c("tmpfs");
            let context = sys(libc::SYS_fsopen, &[ptr(&kind), 0])?;
            sys(libc::SYS_fsconfig, &[context, 6, 0, 0, 0])?;
            sys(libc::SYS_fsmount, &[context, 0, 0]).map(drop)
        }),
        does("writable_again", |_| {
            let top = c("/");
            sys(libc::SYS_mount, &[0, ptr(&top), 0, 0x20 | BIND, 0]).map(drop)
        }),
        does("uncover_by_unmounting", |t| {
            let here = t.work.join("covered");
            mount(Path::new("none"), &here, "tmpfs", 0, "")?;
            let here = c(here);
            sys(libc::SYS_umount2, &[ptr(&here), 2]).map(drop)
        }),
        does("turn_the_root", |t| {
            let here = t.work.join("turned");
            mount(Path::new("none"), &here, "tmpfs", 0, "")?;
            let here = c(here);
            sys(libc::SYS_pivot_root, &[ptr(&here), ptr(&here)]).map(drop)
        }),
        does("attributes_of_a_mount", |t| {
            let here = t.work.join("attributes");
            mount(Path::new("none"), &here, "tmpfs", 0, "")?;
            let (here, attributes) = (c(here), [1u64, 0, 0, 0]);
            let args = [at(), ptr(&here), 0, attributes.as_ptr() as usize, 32];
            sys(libc::SYS_mount_setattr, &args).map(drop)
        }),
    ]
}
