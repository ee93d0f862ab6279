//! Reads what a hostile process wrote: a call with its arguments, and the bytes that they point at.
//!
//! Pure: no descriptor, no system call, no clock. Whatever the bytes are, the answer is a request or
//! the error that the kernel would give.

use nix::errno::Errno;
use std::net::{IpAddr, SocketAddr};

/// `PATH_MAX` (`linux/limits.h`), the terminating zero included.
pub const PATH_BYTES: usize = 4096;
/// `struct sockaddr_storage`: the most that the kernel takes.
pub const ADDRESS_BYTES: usize = 128;
/// `AT_FDCWD`: relative to the working directory.
pub const WORKING_DIRECTORY: i32 = libc::AT_FDCWD;
/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// How two times lie in memory: access first, then modification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `struct utimbuf`: two counts of seconds.
    Seconds,
    /// `struct timeval[2]`: seconds and microseconds.
    Micros,
    /// `struct timespec[2]`: seconds and nanoseconds, or `UTIME_NOW`, `UTIME_OMIT`.
    Nanos,
}

impl Form {
    /// How many bytes they take.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Seconds => 16,
            Self::Micros | Self::Nanos => 32,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// New mode bits, without set-id bits.
    Mode(u32),
    /// New times; an address in the memory of the caller, or `None` for now.
    Times(Form, Option<u64>),
    /// A watch on the caller's inotify descriptor.
    Watch { inotify: i32, mask: u32 },
    /// An inotify descriptor, where watches cannot be put on the caller's own.
    Watcher { flags: i32 },
    /// A connection of the caller's socket to an address in its memory.
    Connect { socket: i32, at: u64, length: usize },
    /// An address in its memory for the caller's socket.
    Bind { socket: i32, at: u64, length: usize },
    /// The caller's socket is to listen.
    Listen { socket: i32, backlog: i32 },
    /// A socket, where the caller's own cannot be borrowed.
    Socket {
        family: i32,
        kind: i32,
        protocol: i32,
    },
}

/// A call that was judged by its arguments alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub act: Act,
    /// A directory of the caller, or [`WORKING_DIRECTORY`].
    pub base: i32,
    /// Where the path lies in the memory of the caller; `None`: `base` itself is meant.
    pub path: Option<u64>,
    /// Whether a link at the end is followed.
    pub follow: bool,
    /// Whether an empty path means `base` itself.
    pub empty: bool,
}

/// What of a path is known from its bytes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// The base of the request.
    Base,
    /// A descriptor of the caller, by the names that `/proc` gives it: asked of `/proc/self` they would
    /// be our own.
    Descriptor(i32),
    Path(&'a [u8]),
}

impl Request {
    /// Reads a call of this architecture; `None` for a number that nobody asks us about.
    ///
    /// Arguments are cut to what the kernel takes of them: 32 bits of a descriptor or flags.
    #[must_use]
    pub fn read(number: i32, args: [u64; 6]) -> Option<Result<Self, Errno>> {
        let [a, b, c, d, ..] = args;
        let request = |act, base, path, flags| Self::weigh(act, base, path, flags);
        let mode = |value| Act::Mode(word(value).cast_unsigned() & 0o177_777);
        let times = |form, at| Act::Times(form, (at != 0).then_some(at));
        Some(match libc::c_long::from(number) {
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chmod => request(mode(b), WORKING_DIRECTORY, a, 0),
            libc::SYS_fchmod => Self::of_descriptor(mode(b), word(a)),
            libc::SYS_fchmodat => request(mode(c), word(a), b, 0),
            // `fchmodat2`, which libc does not name everywhere; Linux 6.6.
            452 => request(mode(c), word(a), b, word(d)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_utime => request(times(Form::Seconds, b), WORKING_DIRECTORY, a, 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_utimes => request(times(Form::Micros, b), WORKING_DIRECTORY, a, 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_futimesat if b == 0 => Self::of_descriptor(times(Form::Micros, c), word(a)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_futimesat => request(times(Form::Micros, c), word(a), b, 0),
            libc::SYS_utimensat if b == 0 && word(d) == 0 => {
                Self::of_descriptor(times(Form::Nanos, c), word(a))
            }
            libc::SYS_utimensat if b == 0 => Err(Errno::EINVAL),
            libc::SYS_utimensat => request(times(Form::Nanos, c), word(a), b, word(d)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_inotify_init => Self::watcher(0),
            libc::SYS_inotify_init1 => Self::watcher(word(a)),
            libc::SYS_connect => {
                let (socket, at) = (word(a), b);
                Self::addressed(word(c), |length| Act::Connect { socket, at, length })
            }
            libc::SYS_bind => {
                let (socket, at) = (word(a), b);
                Self::addressed(word(c), |length| Act::Bind { socket, at, length })
            }
            libc::SYS_listen => Ok(Self::bare(Act::Listen {
                socket: word(a),
                backlog: word(b),
            })),
            libc::SYS_socket => Ok(Self::bare(Act::Socket {
                family: word(a),
                kind: word(b),
                protocol: word(c),
            })),
            libc::SYS_inotify_add_watch => {
                let (inotify, mask) = (word(a), word(c).cast_unsigned());
                let nofollow = libc::IN_DONT_FOLLOW & mask != 0;
                let flags = if nofollow {
                    libc::AT_SYMLINK_NOFOLLOW
                } else {
                    0
                };
                request(Act::Watch { inotify, mask }, WORKING_DIRECTORY, b, flags)
            }
            _ => return None,
        })
    }

    fn weigh(act: Act, base: i32, path: u64, flags: i32) -> Result<Self, Errno> {
        if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL);
        }
        let request = Self {
            act,
            base,
            path: Some(path),
            follow: flags & libc::AT_SYMLINK_NOFOLLOW == 0,
            empty: flags & libc::AT_EMPTY_PATH != 0,
        };
        request.without_set_id()
    }

    fn watcher(flags: i32) -> Result<Self, Errno> {
        if flags & !(libc::IN_CLOEXEC | libc::IN_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Self::bare(Act::Watcher { flags }))
    }

    fn addressed(length: i32, act: impl FnOnce(usize) -> Act) -> Result<Self, Errno> {
        let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
        if length > ADDRESS_BYTES {
            return Err(Errno::EINVAL);
        }
        Ok(Self::bare(act(length)))
    }

    /// Without a path.
    fn bare(act: Act) -> Self {
        Self {
            act,
            base: WORKING_DIRECTORY,
            path: None,
            follow: true,
            empty: true,
        }
    }

    /// `base` names a descriptor that must be open.
    fn of_descriptor(act: Act, base: i32) -> Result<Self, Errno> {
        if base == WORKING_DIRECTORY {
            let of_path = matches!(act, Act::Times(..));
            return Err(if of_path { Errno::EFAULT } else { Errno::EBADF });
        }
        let request = Self {
            act,
            base,
            path: None,
            follow: true,
            empty: true,
        };
        request.without_set_id()
    }

    /// The main filter has refused them already; this holds by itself.
    fn without_set_id(self) -> Result<Self, Errno> {
        match self.act {
            Act::Mode(mode) if mode & SET_ID != 0 => Err(Errno::EPERM),
            _ => Ok(self),
        }
    }

    /// What the copied bytes mean: all up to the first zero, of at most [`PATH_BYTES`].
    ///
    /// # Errors
    /// `ENAMETOOLONG` when there is no zero in as many bytes as a path may have, `EFAULT` when the
    /// memory ends before one, `ENOENT` for an empty path that does not mean the base, `EBADF` for a
    /// descriptor that cannot be one.
    pub fn place<'a>(&self, memory: &'a [u8]) -> Result<Place<'a>, Errno> {
        let Some(end) = memory.iter().take(PATH_BYTES).position(|byte| *byte == 0) else {
            let long = memory.len() >= PATH_BYTES;
            return Err(if long {
                Errno::ENAMETOOLONG
            } else {
                Errno::EFAULT
            });
        };
        let path = memory.get(..end).unwrap_or_default();
        if path.is_empty() {
            return if self.empty {
                Ok(Place::Base)
            } else {
                Err(Errno::ENOENT)
            };
        }
        if !self.follow {
            // The link itself is meant, which is nobody's to change.
            return Ok(Place::Path(path));
        }
        let own = ["/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/"];
        let number = own
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix.as_bytes()))
            .filter(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit));
        Ok(match number {
            Some(digits) => Place::Descriptor(decimal(digits).ok_or(Errno::ENOENT)?),
            None => Place::Path(path),
        })
    }
}

/// The low half of an argument, as the kernel reads an `int`.
fn word(argument: u64) -> i32 {
    let [a, b, c, d, ..] = argument.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

fn decimal(digits: &[u8]) -> Option<i32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds and nanoseconds of access and modification.
pub type Times = [(i64, i64); 2];

/// Reads two times.
///
/// # Errors
/// `EFAULT` when bytes are missing, `EINVAL` for microseconds out of range; nanoseconds are left to
/// the kernel.
pub fn times(form: Form, memory: &[u8]) -> Result<Times, Errno> {
    let number = |at: usize| -> Result<i64, Errno> {
        let bytes = memory.get(at * 8..at * 8 + 8).ok_or(Errno::EFAULT)?;
        bytes
            .try_into()
            .map(i64::from_le_bytes)
            .map_err(|_| Errno::EFAULT)
    };
    Ok(match form {
        Form::Seconds => [(number(0)?, 0), (number(1)?, 0)],
        Form::Nanos => [(number(0)?, number(1)?), (number(2)?, number(3)?)],
        Form::Micros => {
            let whole = [(number(0)?, number(1)?), (number(2)?, number(3)?)];
            if whole.iter().any(|(_, us)| !(0..1_000_000).contains(us)) {
                return Err(Errno::EINVAL);
            }
            whole.map(|(seconds, micros)| (seconds, micros * 1000))
        }
    })
}

/// Reads a `struct sockaddr_in` or `sockaddr_in6`; an IPv4 address in the form of IPv6 is itself.
///
/// # Errors
/// `EINVAL` when bytes are missing, `EACCES` for other families: the filter makes no sockets of them.
pub fn address(memory: &[u8]) -> Result<SocketAddr, Errno> {
    let part = |from: usize, to: usize| memory.get(from..to).ok_or(Errno::EINVAL);
    let (family, port) = match part(0, 4)? {
        [f0, f1, p0, p1] => (
            u16::from_ne_bytes([*f0, *f1]),
            u16::from_be_bytes([*p0, *p1]),
        ),
        _ => return Err(Errno::EINVAL),
    };
    // The kernel looks at the whole structure of IPv4, and for IPv6 does without the scope.
    let address = match libc::c_int::from(family) {
        libc::AF_INET => {
            let bytes: [u8; 4] = *part(0, 16)?[4..].first_chunk().ok_or(Errno::EINVAL)?;
            IpAddr::from(bytes)
        }
        libc::AF_INET6 => {
            let bytes: [u8; 16] = *part(8, 24)?.first_chunk().ok_or(Errno::EINVAL)?;
            IpAddr::from(bytes).to_canonical()
        }
        _ => return Err(Errno::EACCES),
    };
    Ok(SocketAddr::new(address, port))
}

/// The status flags of an open file, from `/proc/PID/fdinfo/N` (`proc_pid_fdinfo(5)`): the same for
/// everybody who holds it.
#[must_use]
pub fn status_flags(text: &[u8]) -> Option<u32> {
    u32::from_str_radix(field(text, "flags:")?, 8).ok()
}

/// The process of a thread, from `/proc/TID/status` (`proc_pid_status(5)`).
#[must_use]
pub fn process(text: &[u8]) -> Option<i32> {
    // The name of the thread stands in a line of its own before, with line feeds escaped.
    field(text, "Tgid:")?.parse().ok().filter(|pid| *pid > 0)
}

fn field<'a>(text: &'a [u8], name: &str) -> Option<&'a str> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(name.as_bytes()))?;
    std::str::from_utf8(value).ok().map(str::trim)
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    fn call(number: libc::c_long, args: &[u64]) -> Result<Request, Errno> {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        Request::read(i32::try_from(number).unwrap(), all).unwrap()
    }

    const CWD: u64 = 0xdead_beef_ffff_ff9c;

    #[test]
    fn each_call_says_what_it_means_whatever_the_upper_halves_hold() {
        let chmod = call(libc::SYS_chmod, &[77, 0xffff_0000_0000_01ed]).unwrap();
        assert_eq!(
            (chmod.act, chmod.base),
            (Act::Mode(0o755), WORKING_DIRECTORY)
        );
        assert_eq!(
            (chmod.path, chmod.follow, chmod.empty),
            (Some(77), true, false)
        );
        let at = call(452, &[CWD, 77, 0o644, 0x1100]).unwrap();
        assert_eq!(
            (at.base, at.follow, at.empty),
            (WORKING_DIRECTORY, false, true)
        );
        let fd = call(libc::SYS_fchmod, &[5, 0o600]).unwrap();
        assert_eq!((fd.base, fd.path), (5, None));
        let now = call(libc::SYS_utimensat, &[CWD, 77, 0, 0]).unwrap();
        assert_eq!(now.act, Act::Times(Form::Nanos, None));
        let touch = call(libc::SYS_utimensat, &[9, 0, 88, 0]).unwrap();
        assert_eq!((touch.base, touch.path), (9, None));
        let watch = call(libc::SYS_inotify_add_watch, &[4, 77, 0x0200_0100]).unwrap();
        assert_eq!(
            watch.act,
            Act::Watch {
                inotify: 4,
                mask: 0x0200_0100
            }
        );
        assert!(!watch.follow);
        let watcher = call(libc::SYS_inotify_init1, &[0x8_0800]).unwrap();
        assert_eq!(watcher.act, Act::Watcher { flags: 0x8_0800 });
        assert_eq!(call(libc::SYS_inotify_init1, &[1]), Err(Errno::EINVAL));
        assert_eq!(Request::read(0, [0; 6]), None);
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_with_its_error() {
        assert_eq!(call(452, &[CWD, 77, 0o644, 0x400]), Err(Errno::EINVAL));
        assert_eq!(
            call(libc::SYS_utimensat, &[CWD, 0, 0, 0]),
            Err(Errno::EFAULT)
        );
        assert_eq!(
            call(libc::SYS_utimensat, &[3, 0, 0, 0x100]),
            Err(Errno::EINVAL)
        );
        assert_eq!(call(libc::SYS_fchmod, &[CWD, 0o600]), Err(Errno::EBADF));
        for mode in [0o4755, 0o2755, 0o6000] {
            assert_eq!(call(libc::SYS_chmod, &[77, mode]), Err(Errno::EPERM));
            assert_eq!(call(libc::SYS_fchmod, &[3, mode]), Err(Errno::EPERM));
        }
    }

    #[test]
    fn a_path_ends_at_its_zero_and_own_descriptors_are_known_by_name() {
        let plain = call(libc::SYS_chmod, &[77, 0o755]).unwrap();
        let empty = call(452, &[3, 77, 0o755, 0x1000]).unwrap();
        assert_eq!(plain.place(b"/a/b\0/c\0"), Ok(Place::Path(b"/a/b")));
        assert_eq!(plain.place(b"\0"), Err(Errno::ENOENT));
        assert_eq!(empty.place(b"\0"), Ok(Place::Base));
        assert_eq!(plain.place(b"/a"), Err(Errno::EFAULT));
        assert_eq!(plain.place(&[b'a'; PATH_BYTES]), Err(Errno::ENAMETOOLONG));
        assert_eq!(
            plain.place(b"/proc/self/fd/12\0"),
            Ok(Place::Descriptor(12))
        );
        assert_eq!(plain.place(b"/dev/fd/0\0"), Ok(Place::Descriptor(0)));
        let huge = b"/proc/self/fd/99999999999\0";
        assert_eq!(plain.place(huge), Err(Errno::ENOENT));
        let other = b"/proc/self/fd/1/x\0";
        assert_eq!(plain.place(other), Ok(Place::Path(b"/proc/self/fd/1/x")));
    }

    #[test]
    fn times_are_read_in_all_three_forms() {
        let mut memory = Vec::new();
        [1i64, 2, 3, 4]
            .iter()
            .for_each(|n| memory.extend(n.to_le_bytes()));
        assert_eq!(times(Form::Seconds, &memory), Ok([(1, 0), (2, 0)]));
        assert_eq!(times(Form::Micros, &memory), Ok([(1, 2000), (3, 4000)]));
        assert_eq!(times(Form::Nanos, &memory), Ok([(1, 2), (3, 4)]));
        assert_eq!(times(Form::Nanos, &memory[..31]), Err(Errno::EFAULT));
        memory[8..16].copy_from_slice(&1_000_000i64.to_le_bytes());
        assert_eq!(times(Form::Micros, &memory), Err(Errno::EINVAL));
    }

    #[test]
    fn addresses_are_read_and_nothing_else_is() {
        let call = call(libc::SYS_connect, &[7, 77, 0xffff_ffff_0000_0010]).unwrap();
        let (socket, at, length) = (7, 77, 16);
        assert_eq!(call.act, Act::Connect { socket, at, length });
        for length in [0x8000_0000, 129] {
            assert_eq!(
                self::call(libc::SYS_connect, &[7, 77, length]),
                Err(Errno::EINVAL)
            );
        }
        let mut four = vec![2, 0, 1, 187, 198, 18, 0, 1];
        assert_eq!(address(&four), Err(Errno::EINVAL));
        four.extend([0; 8]);
        assert_eq!(address(&four), Ok("198.18.0.1:443".parse().unwrap()));
        let mut six = vec![10, 0, 0, 80, 0, 0, 0, 0];
        six.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0]);
        assert_eq!(address(&six), Err(Errno::EINVAL));
        six.push(9);
        assert_eq!(address(&six), Ok("10.0.0.9:80".parse().unwrap()));
        assert_eq!(address(&[0; 16]), Err(Errno::EACCES));
        assert_eq!(address(&[]), Err(Errno::EINVAL));
    }

    #[test]
    fn binding_has_an_address_and_listening_none() {
        let (socket, at) = (5, 0x7000);
        let bound = call(libc::SYS_bind, &[5, at, 16]).unwrap();
        let length = 16;
        assert_eq!(bound.act, Act::Bind { socket, at, length });
        for length in [129, u64::from(u32::MAX), 0x8000_0000] {
            assert_eq!(call(libc::SYS_bind, &[5, at, length]), Err(Errno::EINVAL));
        }
        let listening = call(libc::SYS_listen, &[5, 128]).unwrap();
        let backlog = 128;
        assert_eq!(listening.act, Act::Listen { socket, backlog });
    }

    #[test]
    fn facts_of_proc_are_read_or_missing() {
        let text = b"pos:\t0\nflags:\t02100001\nmnt_id:\t30\nino:\t77\n";
        assert_eq!(status_flags(text), Some(0o2_100_001));
        assert_eq!(status_flags(b"pos:\t0\nflags:\t09\n"), None);
        assert_eq!(status_flags(b"pos:\t0\n"), None);
        assert_eq!(process(b"Name:\tx\nTgid:\t42\nPid:\t43\n"), Some(42));
        assert_eq!(process(b"Name:\tTgid:\\n\nTgid:\t0\n"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_call_brings_set_id_bits_and_no_memory_a_path_with_a_zero(
            number in 0i32..500, args: [u64; 6], memory: Vec<u8>
        ) {
            if let Some(Ok(request)) = Request::read(number, args) {
                if let Act::Mode(mode) = request.act {
                    assert_eq!(mode & SET_ID, 0);
                }
                if let Ok(Place::Path(path)) = request.place(&memory) {
                    assert!(!path.is_empty() && path.len() < PATH_BYTES && !path.contains(&0));
                }
            }
            for form in [Form::Seconds, Form::Micros, Form::Nanos] {
                let read = times(form, &memory).is_ok();
                assert!(read || memory.len() < form.bytes() || form == Form::Micros);
            }
            assert!(process(&memory).is_none_or(|pid| pid > 0));
            assert!(address(&memory).is_err() || memory.len() >= 16);
            assert!(status_flags(&memory).is_none() || memory.len() > 6);
        }
    }
}
