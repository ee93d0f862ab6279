//! What is measured, and how it is started.

use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Everybody listens within this.
const START: Duration = Duration::from_secs(60);

/// One that listens.
#[derive(Debug)]
pub(crate) struct Target {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    /// Who signed its certificate; `None` without TLS.
    authority: Option<PathBuf>,
    /// What it wants to be shown.
    key: Option<String>,
    /// The server behind it, which is not measured itself.
    /// The server that it stands in front of, which is not measured.
    behind: Option<Box<Self>>,
}

impl Target {
    /// The bare HTTP server, a relay to it, cofferdam over the stdio server, and in front of the HTTP server.
    /// With TLS it is the listener that speaks it, and the bare server.
    pub(crate) fn all(directory: &Path, tls: bool) -> io::Result<Vec<Self>> {
        let (certificate, files) = certificate(directory)?;
        let authority = tls.then_some(certificate);
        let files = if tls { files } else { Vec::new() };
        let own = std::env::current_exe()?;
        let words: Vec<&str> = files.iter().map(String::as_str).collect();
        let bare = Self::told("bare", Command::new(&own).arg("__serve").args(&words))?;
        let to = bare.address.to_string();
        let relay = Self::told("relay", Command::new(&own).args(["__relay", &to]))?;
        let plain = Self::told("plain", Command::new(&own).arg("__serve"))?;
        let url = format!("http://{}/mcp", plain.address);
        let own = own.display().to_string();
        let over_stdio = Self::cofferdam("over stdio", directory, &words, &["--", &own, "__echo"])?;
        let mut before_http = Self::cofferdam("before HTTP", directory, &words, &["--url", &url])?;
        before_http.behind = Some(Box::new(plain));
        let mut all = vec![bare, relay, over_stdio, before_http];
        for target in &mut all {
            target.authority.clone_from(&authority);
        }
        Ok(all)
    }

    /// cofferdam and another bridge over the same stdio server.
    pub(crate) fn bridges(directory: &Path, name: &str, command: &str) -> io::Result<Vec<Self>> {
        let own = std::env::current_exe()?.display().to_string();
        let ours = Self::cofferdam("over stdio", directory, &[], &["--", &own, "__echo"])?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let command = command.replace("{port}", &port.port().to_string());
        let mut words = command.split_whitespace();
        let program = words.next().ok_or_else(|| io::Error::other("no command"))?;
        let child = Command::new(program)
            .args(words)
            .args([&own, "__echo"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("peer.stderr"))?)
            .spawn()?;
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        let begun = Instant::now();
        while std::net::TcpStream::connect(port).is_err() {
            if begun.elapsed() > START {
                return Err(io::Error::other(format!(
                    "{name} does not listen on {port}"
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let peer = Self {
            name,
            child,
            address: port,
            authority: None,
            key: None,
            behind: None,
        };
        Ok(vec![ours, peer])
    }

    /// One of this program's, which says its address first.
    fn told(name: &'static str, command: &mut Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("no pipe"))?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line.trim().parse().map_err(io::Error::other)?;
        Ok(Self {
            name,
            child,
            address,
            authority: None,
            key: None,
            behind: None,
        })
    }

    /// With everything on: policy, schema checks, scrubbing, audit, metrics, and a key for each request.
    fn cofferdam(
        name: &'static str,
        directory: &Path,
        tls: &[&str],
        rest: &[&str],
    ) -> io::Result<Self> {
        let program = env!("CARGO_BIN_EXE_cofferdam");
        let id = name.replace(' ', "-");
        let state = directory.join(format!("{id}-{}", tls.len()));
        std::fs::create_dir(&state)?;
        let keys = state.join("clients.json");
        let made = Command::new(program)
            .args(["client", "add", "bench", "--keys"])
            .arg(&keys)
            .output()?;
        let key = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        let mut config = include_str!("../stdio/bench.toml").to_owned();
        config += "\n[listen]\nhttp = \"127.0.0.1:0\"\nshare = true\n";
        if let [certificate, private] = tls {
            config += &format!("tls = {{ cert = {certificate:?}, key = {private:?} }}\n");
        }
        config += &format!("[identity]\nkeys = {:?}\n", keys.display().to_string());
        let path = state.join("bench.toml");
        std::fs::write(&path, config)?;
        let errors = state.join("stderr");
        let child = Command::new(program)
            .args(["run", "--config"])
            .arg(&path)
            .args(["--admin", "127.0.0.1:0"])
            .args(rest)
            .env("XDG_STATE_HOME", &state)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&errors)?)
            .spawn()?;
        let begun = Instant::now();
        let address = loop {
            let said = std::fs::read_to_string(&errors)?;
            let url = said.split("MCP on http").nth(1);
            let found =
                url.and_then(|url| url.split("://").nth(1)?.split('/').next()?.parse().ok());
            match found {
                Some(address) => break address,
                None if begun.elapsed() > START => {
                    return Err(io::Error::other(format!("{name} does not listen: {said}")));
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        Ok(Self {
            name,
            child,
            address,
            authority: None,
            key: Some(key),
            behind: None,
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// For the `Host` of a request.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub(crate) fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

impl Drop for Target {
    /// Asks it to end, and insists after two seconds.
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
        }
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(2) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A certificate for `localhost` that signs itself, and the files of it and of its key.
fn certificate(directory: &Path) -> io::Result<(PathBuf, Vec<String>)> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
    let made = made.map_err(io::Error::other)?;
    let (certificate, key) = (directory.join("server.crt"), directory.join("server.key"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let files = [&certificate, &key].map(|path| path.display().to_string());
    Ok((certificate, files.into()))
}
