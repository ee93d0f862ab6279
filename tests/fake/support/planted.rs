//! What is planted outside of a sandbox for the probe to reach: files, sockets with somebody behind
//! them, processes, keys, a terminal. Each holds a secret that nothing else says, or can be seen to
//! change.

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// What anybody outside heard.
pub(crate) type Heard = Arc<Mutex<String>>;

/// A process outside, and where its word and its secret are.
pub(crate) struct Victim {
    pub(crate) child: Child,
    pub(crate) word: u64,
    secret: [u64; 2],
}

pub(crate) struct Planted {
    pub(crate) outside: TempDir,
    pub(crate) work: TempDir,
    pub(crate) home: TempDir,
    pub(crate) secret: String,
    pub(crate) heard: Heard,
    pub(crate) victims: BTreeMap<String, Victim>,
    /// What is left open for the sandbox: the secret, and a socket to one who listens.
    pub(crate) open: (File, TcpStream),
    main: Victim,
    pub(crate) shared: PathBuf,
    probe: PathBuf,
    ports: [u16; 5],
    name: String,
}

impl Planted {
    /// `acts` is what the probe lists.
    pub(crate) fn new(probe: &Path, acts: &[Value]) -> Self {
        let [outside, work, home] = [(); 3].map(|()| TempDir::with_prefix("probe-").unwrap());
        let secret = random();
        let dir = outside.path();
        fs::write(dir.join("secret"), &secret).unwrap();
        for name in ["victim", "own", "unlinked"] {
            fs::write(dir.join(name), "planted").unwrap();
        }
        fs::create_dir(dir.join("dir")).unwrap();
        symlink(&secret, dir.join("link")).unwrap();
        let named = |act: &Value| act["act"].as_str().unwrap().to_owned();
        let seen = acts.iter().filter(|act| act["seen"] == true);
        let of = |categories: &'static [&'static str]| {
            let fits = move |act: &&&Value| categories.contains(&act["category"].as_str().unwrap());
            seen.clone().filter(move |act| fits(&act)).map(named)
        };
        for act in of(&["race", "metadata"]) {
            fs::create_dir_all(dir.join(&act).join("dir")).unwrap();
            fs::write(dir.join(act).join("file"), "planted").unwrap();
        }
        let heard = Heard::default();
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let ports = listen(dir, work.path(), &name, &heard);
        let shared = Path::new("/dev/shm").join(&name);
        fs::write(&shared, &secret).unwrap();
        let victim = || victim(probe, dir, &secret);
        let victims = of(&["process"]).map(|act| (act, victim())).collect();
        let number = std::process::id().to_string();
        let plant = Command::new(probe)
            .args(["--plant", &number, &secret])
            .status();
        assert!(plant.unwrap().success());
        Self {
            main: victim(),
            open: (
                File::open(dir.join("secret")).unwrap(),
                TcpStream::connect(("127.0.0.1", ports[0])).unwrap(),
            ),
            probe: probe.to_owned(),
            outside,
            work,
            home,
            secret,
            heard,
            victims,
            shared,
            ports,
            name,
        }
    }

    /// The port of who listens by TCP on IPv4.
    pub(crate) fn tcp(&self) -> u16 {
        self.ports[0]
    }

    /// The argument of the probe.
    pub(crate) fn targets(&self) -> String {
        let [tcp, tcp6, udp, udp6, serve] = self.ports;
        let victims: Value = self
            .victims
            .iter()
            .map(|(act, v)| (act.clone(), json!({"pid": v.child.id(), "word": v.word})))
            .collect::<serde_json::Map<_, _>>()
            .into();
        json!({
            "outside": self.outside.path(),
            "work": self.work.path(),
            "tcp": tcp,
            "tcp6": tcp6,
            "udp": udp,
            "udp6": udp6,
            "serve": serve,
            "unix": self.outside.path().join("socket"),
            "abstract": self.name,
            "shared": self.name,
            "pid": self.main.child.id(),
            "secret_at": self.main.secret[0],
            "secret_length": self.main.secret[1],
            "victims": victims,
            "number": std::process::id(),
        })
        .to_string()
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.shared));
        let number = std::process::id().to_string();
        drop(
            Command::new(&self.probe)
                .args(["--unplant", &number])
                .status(),
        );
        let victims = self.victims.values_mut().chain([&mut self.main]);
        for victim in victims {
            drop(victim.child.kill());
            drop(victim.child.wait());
        }
    }
}

fn random() -> String {
    let mut bytes = [0; 12];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn victim(probe: &Path, outside: &Path, secret: &str) -> Victim {
    let mut child = Command::new(probe)
        .arg("--victim")
        .env("VICTIM_SECRET", secret)
        .current_dir(outside)
        .stdin(File::open(outside.join("secret")).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.as_mut().unwrap());
    stdout.read_line(&mut line).unwrap();
    let mut numbers = line.split_whitespace().map(|word| word.parse().unwrap());
    let mut next = || numbers.next().unwrap();
    Victim {
        word: next(),
        secret: [next(), next()],
        child,
    }
}

/// Writes down what comes, for as long as this program runs.
fn hear(heard: &Heard, mut stream: impl Read + Send + 'static) {
    let heard = heard.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            note(&heard, &bytes[..length]);
        }
    });
}

fn note(heard: &Heard, bytes: &[u8]) {
    let mut heard = heard.lock().unwrap();
    heard.push_str(&String::from_utf8_lossy(bytes));
    heard.push('\n');
}

/// Everybody who listens outside; the ports of TCP, TCP on IPv6, UDP, UDP on IPv6, and a free one.
fn listen(outside: &Path, work: &Path, name: &str, heard: &Heard) -> [u16; 5] {
    let tcp = ["127.0.0.1:0", "[::1]:0"].map(|address| {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = heard.clone();
        std::thread::spawn(move || {
            listener
                .incoming()
                .flatten()
                .for_each(|stream| hear(&heard, stream));
        });
        port
    });
    let udp = ["127.0.0.1:0", "[::1]:0"].map(|address| {
        let socket = UdpSocket::bind(address).unwrap();
        let port = socket.local_addr().unwrap().port();
        let heard = heard.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 256];
            while let Ok(length) = socket.recv(&mut bytes) {
                note(&heard, &bytes[..length]);
            }
        });
        port
    });
    let hidden = |name: &str| SocketAddr::from_abstract_name(name).unwrap();
    let streams = [
        UnixListener::bind(outside.join("socket")).unwrap(),
        UnixListener::bind_addr(&hidden(name)).unwrap(),
    ];
    for listener in streams {
        let heard = heard.clone();
        std::thread::spawn(move || {
            listener
                .incoming()
                .flatten()
                .for_each(|stream| hear(&heard, stream));
        });
    }
    let datagrams = [
        UnixDatagram::bind(outside.join("datagram")).unwrap(),
        UnixDatagram::bind_addr(&hidden(&format!("{name}-datagram"))).unwrap(),
    ];
    for socket in datagrams {
        let heard = heard.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 256];
            while let Ok(length) = socket.recv(&mut bytes) {
                note(&heard, &bytes[..length]);
            }
        });
    }
    hand_out(outside);
    let serve = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    knock(heard, serve, work.join("serve_unix"));
    [tcp[0], tcp[1], udp[0], udp[1], serve]
}

/// Passes a descriptor of the secret to whoever connects.
fn hand_out(outside: &Path) {
    let listener = UnixListener::bind(outside.join("helper")).unwrap();
    let secret = File::open(outside.join("secret")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let files = [secret.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&files));
            let parts = [IoSlice::new(b"x")];
            let _ = rustix::net::sendmsg(&stream, &parts, &mut control, SendFlags::empty());
        }
    });
}

/// Asks again and again for whoever serves inside.
fn knock(heard: &Heard, port: u16, path: PathBuf) {
    let heard = heard.clone();
    std::thread::spawn(move || {
        loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                hear(&heard, stream);
            }
            if let Ok(stream) = UnixStream::connect(&path) {
                hear(&heard, stream);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}
