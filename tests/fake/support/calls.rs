//! What every act is made of: raw system calls, and a way to say what it found.

pub(crate) use libc::{c_int, c_long, c_ulong};
pub(crate) use serde_json::Value;
pub(crate) use std::ffi::CString;
pub(crate) use std::fs::{self, File, OpenOptions};
pub(crate) use std::io::{self, Read, Write};
pub(crate) use std::os::fd::AsRawFd;
pub(crate) use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
pub(crate) use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

pub(crate) type Outcome = io::Result<()>;

/// One attempt.
pub(crate) struct Act {
    pub(crate) name: &'static str,
    pub(crate) category: &'static str,
    /// Somebody outside must be able to tell that it worked.
    pub(crate) seen: bool,
    pub(crate) run: Box<dyn Fn() -> Outcome>,
}

/// What the test planted: all of it outside of the cell.
#[derive(Clone)]
pub(crate) struct Targets {
    /// A directory with `secret`, `victim`, `own`, `dir/`, `link`, `datagram`, and for each act
    /// that is seen from outside a directory of its name with `file` and `dir/`.
    pub(crate) outside: PathBuf,
    /// A directory that the cell may write.
    pub(crate) work: PathBuf,
    /// The name of a file in the host's `/dev/shm`.
    pub(crate) shared: String,
    pub(crate) tcp: u16,
    pub(crate) udp: u16,
    pub(crate) unix: PathBuf,
    pub(crate) abstract_name: String,
    pub(crate) pid: i32,
    given: Value,
}

impl Targets {
    pub(crate) fn read(given: Value) -> Self {
        let text = |key: &str| given[key].as_str().unwrap_or("/nowhere").to_owned();
        let port = |key: &str| u16::try_from(given[key].as_u64().unwrap_or(0)).unwrap();
        Self {
            outside: text("outside").into(),
            work: text("work").into(),
            shared: text("shared"),
            tcp: port("tcp"),
            udp: port("udp"),
            unix: text("unix").into(),
            abstract_name: text("abstract"),
            pid: i32::try_from(given["pid"].as_i64().unwrap_or(0)).unwrap(),
            given,
        }
    }

    /// What was planted for this act alone.
    pub(crate) fn place(&self, act: &str) -> PathBuf {
        self.outside.join(act)
    }

    /// The process that was planted for this act alone, and the address of a word in its memory.
    pub(crate) fn victim(&self, act: &str) -> (usize, usize) {
        let number = |key| self.given["victims"][act][key].as_u64().unwrap_or(0);
        (
            usize::try_from(number("pid")).unwrap(),
            usize::try_from(number("word")).unwrap(),
        )
    }

    pub(crate) fn number(&self, key: &str) -> usize {
        usize::try_from(self.given[key].as_u64().unwrap_or(0)).unwrap()
    }
}

/// Where an act tells what it found; -1 before there is one.
static TELL: AtomicI32 = AtomicI32::new(-1);

pub(crate) fn tell_to(fd: c_int) {
    TELL.store(fd, Ordering::Relaxed);
}

/// Says what was found; the test compares it with what it planted. True when it is anything.
pub(crate) fn tell(found: &[u8]) -> Outcome {
    let some = &found[..found.len().min(512)];
    let fd = usize::try_from(TELL.load(Ordering::Relaxed)).unwrap();
    if some.is_empty() {
        return refused();
    }
    sys(libc::SYS_write, &[fd, some.as_ptr() as usize, some.len()]).map(drop)
}

/// Reads what the path names and tells it.
pub(crate) fn tell_file(path: impl AsRef<Path>) -> Outcome {
    let mut found = [0; 512];
    let length = File::open(path)?.read(&mut found)?;
    tell(&found[..length])
}

/// A system call; the arguments are whatever the kernel takes for it.
pub(crate) fn sys(number: c_long, args: &[usize]) -> io::Result<usize> {
    let arg = |at: usize| args.get(at).copied().unwrap_or(0);
    // SAFETY: the acts pass pointers to live memory or NULL.
    let result = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// For calls with arguments that make no sense: whatever the kernel says about them, it was reached.
pub(crate) fn reached(number: c_long, args: &[usize]) -> Outcome {
    match sys(number, args) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EPERM | libc::EACCES | libc::ENOSYS)
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

pub(crate) fn c(text: impl AsRef<Path>) -> CString {
    CString::new(text.as_ref().to_str().unwrap()).unwrap()
}

pub(crate) fn ptr(text: &CString) -> usize {
    text.as_ptr() as usize
}

pub(crate) fn fd(file: &impl AsRawFd) -> usize {
    usize::try_from(file.as_raw_fd()).unwrap()
}

pub(crate) fn act(
    name: &'static str,
    category: &'static str,
    run: impl Fn() -> Outcome + 'static,
) -> Act {
    Act {
        name,
        category,
        seen: false,
        run: Box::new(run),
    }
}

/// An act whose effect can be told from outside.
pub(crate) fn seen(
    name: &'static str,
    category: &'static str,
    run: impl Fn() -> Outcome + 'static,
) -> Act {
    Act {
        seen: true,
        ..act(name, category, run)
    }
}

/// `AT_FDCWD` as the kernel takes it.
pub(crate) fn at() -> usize {
    libc::AT_FDCWD as isize as usize
}

pub(crate) fn refused<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::EACCES))
}

pub(crate) fn when(holds: bool) -> Outcome {
    if holds { Ok(()) } else { refused() }
}

/// Forks; the child runs `run` and ends.
pub(crate) fn fork(run: impl FnOnce()) -> io::Result<usize> {
    match sys(libc::SYS_clone, &[17])? {
        0 => {
            run();
            // SAFETY: ends the child without running what the parent registered.
            unsafe { libc::_exit(0) }
        }
        child => Ok(child),
    }
}

pub(crate) fn pause(milliseconds: u64) {
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
}

pub(crate) fn inet(port: u16) -> [u8; 16] {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&2u16.to_ne_bytes());
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    address
}

pub(crate) fn unix(name: &[u8]) -> Vec<u8> {
    [&1u16.to_ne_bytes(), name].concat()
}

pub(crate) fn unix_path(path: impl AsRef<Path>) -> Vec<u8> {
    unix(c(path).as_bytes_with_nul())
}

pub(crate) fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<usize> {
    let args = [family, kind, protocol].map(|arg| usize::try_from(arg).unwrap());
    sys(libc::SYS_socket, &args)
}

pub(crate) fn connect(fd: usize, address: &[u8]) -> Outcome {
    sys(
        libc::SYS_connect,
        &[fd, address.as_ptr() as usize, address.len()],
    )
    .map(drop)
}
