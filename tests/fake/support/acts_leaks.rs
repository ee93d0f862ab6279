//! What the caller may have left open: descriptors, variables, its terminal and session.

use crate::calls::*;

/// Below the probe's own.
const OPEN: std::ops::Range<usize> = 3..900;

pub(crate) fn acts(_: &Targets) -> Vec<Act> {
    vec![
        act("inherited_descriptor", "descriptor", || {
            when(
                OPEN.into_iter()
                    .any(|fd| sys(libc::SYS_fcntl, &[fd, 1]).is_ok()),
            )
        }),
        seen("read_an_inherited_file", "descriptor", || {
            let mut found = [0u8; 512];
            let place = found.as_mut_ptr() as usize;
            let lengths = OPEN.filter_map(|fd| sys(libc::SYS_pread64, &[fd, place, 512, 0]).ok());
            let length = lengths.into_iter().find(|length| *length > 0);
            tell(&found[..length.unwrap_or(0)])
        }),
        seen("speak_on_an_inherited_socket", "descriptor", || {
            let (text, none) = ("speak_on_an_inherited_socket", 0);
            let args = |fd| [fd, text.as_ptr() as usize, text.len(), none, 0, 0];
            when(
                OPEN.into_iter()
                    .any(|fd| sys(libc::SYS_sendto, &args(fd)).is_ok()),
            )
        }),
        act("directory_of_descriptors", "descriptor", || {
            let names = fs::read_dir("/proc/self/fd")?.flatten();
            let numbers = names.filter_map(|e| e.file_name().to_str()?.parse::<usize>().ok());
            let ours = |fd: &usize| fs::read_link(format!("/proc/self/fd/{fd}"));
            let mut open = numbers.filter(|fd| OPEN.contains(fd));
            when(open.any(|fd| ours(&fd).is_ok_and(|path| !path.ends_with("fd"))))
        }),
        seen("secret_in_environment", "environment", || {
            tell(std::env::var("PROBE_SECRET").unwrap_or_default().as_bytes())
        }),
        seen("secret_in_the_first_environment", "environment", || {
            let text = fs::read("/proc/self/environ")?;
            let mut found = text.split(|byte| *byte == 0);
            tell(
                found
                    .find(|line| line.starts_with(b"PROBE_SECRET"))
                    .unwrap_or(b""),
            )
        }),
        seen("secret_in_a_parents_environment", "environment", || {
            let mut pid = sys(libc::SYS_getppid, &[])?;
            // Up to the first process that there is; the cell's first one was once given everything.
            for _ in 0..8 {
                let text = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let mut found = text.split(|byte| *byte == 0);
                if let Some(line) = found.find(|line| line.starts_with(b"PROBE_SECRET")) {
                    return tell(line);
                }
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
                pid = after
                    .split_whitespace()
                    .nth(1)
                    .and_then(|p| p.parse().ok())
                    .unwrap_or(1);
            }
            refused()
        }),
        act("terminal_input", "terminal", || {
            reached(libc::SYS_ioctl, &[0, 0x5412, 0])
        }),
        act("terminal_paste", "terminal", || {
            reached(libc::SYS_ioctl, &[0, 0x541c, 0])
        }),
    ]
}
