//! Metadata and locks: what landlock has no right for.

use crate::calls::*;

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    let (a, link, d) = (t.outside.join("own"), t.outside.join("link"), c(&t.outside));
    let (modes, times) = (t.place("chmod").join("file"), t.place("utime").join("file"));
    let (locked, leased) = (t.outside.join("own"), t.outside.join("own"));
    let around = c(&t.outside);
    let attributes = c(t.outside.join("own"));
    let named = c(t.outside.join("own"));
    vec![
        act("names_of_attributes", "metadata", move || {
            sys(libc::SYS_listxattr, &[ptr(&attributes), 0, 0]).map(drop)
        }),
        act("value_of_an_attribute", "metadata", move || {
            let name = c("user.none");
            let found = sys(libc::SYS_getxattr, &[ptr(&named), ptr(&name), 0, 0]);
            match found {
                Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(()),
                other => other.map(drop),
            }
        }),
        // What it is already; only its owner may say so.
        act("mode_of_a_device", "metadata", || {
            fs::set_permissions("/dev/null", fs::Permissions::from_mode(0o666))
        }),
        act("stat", "metadata", move || fs::metadata(&a).map(drop)),
        seen("readlink", "metadata", move || {
            tell(fs::read_link(&link)?.as_os_str().as_encoded_bytes())
        }),
        seen("chmod", "metadata", move || {
            fs::set_permissions(&modes, fs::Permissions::from_mode(0o641))
        }),
        seen("utime", "metadata", move || {
            let (path, long_ago) = (c(&times), [1u64, 0, 1, 0]);
            let args = [at(), ptr(&path), long_ago.as_ptr() as usize, 0];
            sys(libc::SYS_utimensat, &args).map(drop)
        }),
        act("inotify", "metadata", move || {
            let fd = sys(libc::SYS_inotify_init1, &[0])?;
            sys(libc::SYS_inotify_add_watch, &[fd, ptr(&d), 0x100]).map(drop)
        }),
        act("fanotify_on_a_directory", "metadata", move || {
            // FAN_REPORT_DIR_FID, which needs no privilege (Linux 5.13); FAN_MARK_ADD, FAN_CREATE.
            let group = sys(libc::SYS_fanotify_init, &[0x400, 0])?;
            let args = [group, 1, 0x100, at(), ptr(&around)];
            sys(libc::SYS_fanotify_mark, &args).map(drop)
        }),
        act("lock", "metadata", move || {
            sys(libc::SYS_flock, &[fd(&File::open(&locked)?), 2]).map(drop)
        }),
        act("lease", "metadata", move || {
            // F_SETLEASE, F_RDLCK
            sys(libc::SYS_fcntl, &[fd(&File::open(&leased)?), 1024, 0]).map(drop)
        }),
    ]
}
