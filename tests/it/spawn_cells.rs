//! The spawner on its socket, driven by hand: two cells at once, and a message process that lies.

use crate::rig::Rig;
use cofferdam::cell::spawn::{Event, Exit, Request, Stop};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

struct Spawner {
    _rig: Rig,
    socket: OwnedFd,
    child: Child,
}

impl Spawner {
    /// A shell moves the socket from stdin to descriptor 3: no descriptor of this process, which
    /// has threads, is ever open across an exec.
    fn start(program: &[&str]) -> Self {
        let rig = Rig::new();
        let kind = SocketType::SEQPACKET;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = pair.unwrap();
        let child = Command::new("/bin/sh")
            .args([
                "-c",
                "exec \"$0\" __spawn 3 run run -- \"$@\" 3<&0 </dev/null",
            ])
            .arg(env!("CARGO_BIN_EXE_cofferdam"))
            .args(program)
            .current_dir(rig.path())
            .env_clear()
            .env("HOME", rig.path().join("home"))
            .env("XDG_RUNTIME_DIR", rig.path())
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            _rig: rig,
            socket,
            child,
        }
    }

    fn send(&self, bytes: &[u8]) {
        rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL).unwrap();
    }

    /// The next event; `None` when the spawner has closed the socket.
    fn event(&self) -> Option<Event> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        assert_ne!(poll(&mut fds, Some(&limit)).unwrap(), 0, "no event came");
        let mut bytes = vec![0; 20_000];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = match rustix::net::recvmsg(&self.socket, &mut slices, &mut control, flags) {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(error) => panic!("{error}"),
        };
        let mut fds = Vec::new();
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = item {
                fds.extend(some);
            }
        }
        (got > 0).then(|| Event::decode(&bytes[..got], fds).unwrap())
    }

    /// The next event that is no line for people.
    fn news(&self) -> Event {
        loop {
            match self.event().expect("the spawner lives") {
                Event::Progress { .. } => {}
                event => return event,
            }
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn two_cells_run_at_once_and_end_apart() {
    let spawner = Spawner::start(&["cat"]);
    spawner.send(&Request::Start { cell: 0 }.encode());
    spawner.send(&Request::Start { cell: 5 }.encode());
    let mut cells = Vec::new();
    for _ in 0..2 {
        let event = spawner.news();
        let Event::Started { cell, fds, .. } = event else {
            panic!("{event:?}")
        };
        let mut fds = fds.into_iter().map(std::fs::File::from);
        cells.push((
            cell,
            fds.next().unwrap(),
            fds.next().unwrap(),
            fds.next().unwrap(),
        ));
    }
    cells.sort_by_key(|(cell, ..)| *cell);
    assert_eq!((cells[0].0, cells[1].0), (0, 5));
    for (cell, stdin, stdout, _) in &mut cells {
        stdin.write_all(format!("to {cell}").as_bytes()).unwrap();
        let mut back = [0; 4];
        stdout.read_exact(&mut back).unwrap();
        assert_eq!(back, *format!("to {cell}").as_bytes());
    }

    spawner.send(
        &Request::Stop {
            cell: 0,
            how: Stop::Kill,
        }
        .encode(),
    );
    let event = spawner.news();
    assert!(
        matches!(
            event,
            Event::Exited {
                cell: 0,
                exit: Exit::Signal(9),
                ..
            }
        ),
        "{event:?}"
    );
    // The other one still answers, and ends by end of file like any program.
    let (_, mut stdin, mut stdout, _) = cells.pop().unwrap();
    stdin.write_all(b"on").unwrap();
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "on");
    let event = spawner.news();
    assert!(
        matches!(
            event,
            Event::Exited {
                cell: 5,
                exit: Exit::Code(0),
                ..
            }
        ),
        "{event:?}"
    );
}

#[test]
fn a_cell_that_runs_cannot_be_started_again_and_its_number_is_free_afterwards() {
    let spawner = Spawner::start(&["cat"]);
    for _ in 0..2 {
        spawner.send(&Request::Start { cell: 1 }.encode());
        let Event::Started { fds, .. } = spawner.news() else {
            panic!("it did not start")
        };
        spawner.send(&Request::Start { cell: 1 }.encode());
        assert!(matches!(
            spawner.news(),
            Event::Failed {
                cell: 1,
                exit_code: 70,
                ..
            }
        ));
        drop(fds);
        assert!(matches!(spawner.news(), Event::Exited { cell: 1, .. }));
    }
}

#[test]
fn what_is_no_request_ends_the_spawner_and_its_cells() {
    let valid = Request::Start { cell: 0 }.encode();
    let mut noise: Vec<Vec<u8>> = vec![
        vec![0],
        vec![0xff; 16],
        vec![0; 4000],
        b"start /bin/sh".into(),
    ];
    noise.push([&valid[..], b"x"].concat());
    noise.push(valid[..15].to_vec());
    // Cell 99; a request of a kind that does not exist, as for a credential; a rotation of something.
    for (byte, value) in [(8, 99), (4, 9), (4, 3)] {
        let mut bytes = valid;
        bytes[byte] = value;
        if (byte, value) == (4, 3) {
            bytes[8] = 1;
        }
        noise.push(bytes.to_vec());
    }
    for byte in [0, 4, 6, 8, 12] {
        let mut bytes = valid;
        bytes[byte] ^= 0xa5;
        noise.push(bytes.to_vec());
    }
    for bytes in noise {
        let mut spawner = Spawner::start(&["cat"]);
        spawner.send(&valid);
        let Event::Started { fds, .. } = spawner.news() else {
            panic!("it did not start")
        };
        spawner.send(&bytes);
        assert!(spawner.event().is_none(), "{bytes:?}");
        assert_eq!(spawner.child.wait().unwrap().code(), Some(70), "{bytes:?}");
        let mut stdout = std::fs::File::from(fds.into_iter().nth(1).unwrap());
        assert_eq!(stdout.read(&mut [0; 8]).unwrap(), 0, "the cell is gone");
    }
}

#[test]
fn a_request_with_descriptors_ends_the_spawner() {
    for (count, bytes) in [
        (1, Request::Rotate.encode()),
        (64, Request::Start { cell: 1 }.encode()),
    ] {
        let mut spawner = Spawner::start(&["cat"]);
        let given: Vec<_> = (0..count)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        let given: Vec<_> = given.iter().map(std::os::fd::AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&given)));
        let slices = [std::io::IoSlice::new(&bytes)];
        rustix::net::sendmsg(&spawner.socket, &slices, &mut control, SendFlags::NOSIGNAL).unwrap();
        assert!(spawner.event().is_none(), "{count}");
        assert_eq!(spawner.child.wait().unwrap().code(), Some(70), "{count}");
    }
}

#[test]
fn only_a_full_audit_log_is_moved_aside_and_the_new_one_only_appends() {
    let spawner = Spawner::start(&["cat"]);
    let state = spawner._rig.path().join("home/.local/state/cofferdam/cat");
    std::fs::create_dir_all(&state).unwrap();
    let log = state.join("audit.jsonl");
    for (size, moved) in [(100, false), (32 << 20, true), (0, true)] {
        if size > 0 {
            std::fs::File::create(&log).unwrap().set_len(size).unwrap();
        }
        spawner.send(&Request::Rotate.encode());
        let Event::Rotated {
            log: Ok((file, length)),
        } = spawner.news()
        else {
            panic!("no log")
        };
        assert_eq!(length, if moved { 0 } else { size });
        assert_eq!(state.join("audit.jsonl.1").exists(), moved);
        let flags = rustix::fs::fcntl_getfl(&file).unwrap();
        assert!(flags.contains(rustix::fs::OFlags::APPEND | rustix::fs::OFlags::WRONLY));
    }
    assert!(!state.join("audit.jsonl.2").exists());
}
