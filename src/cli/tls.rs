//! `tls self-signed`: certificates for a laptop or a test, and the lines to paste.

use super::args::{SelfSigned, TlsCommand};
use super::exit::{Exit, Failure, print};
use super::files::{PUBLIC, SECRET, create};
use crate::transport::tls::self_signed::{Wanted, make};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// Clocks of two machines differ by minutes; one that is behind must not refuse what was just made.
const BEHIND: Duration = Duration::from_secs(3600);

pub(super) fn tls(command: TlsCommand) -> Result<ExitCode, Failure> {
    match command {
        TlsCommand::SelfSigned(args) => self_signed(&args),
    }
}

fn self_signed(args: &SelfSigned) -> Result<ExitCode, Failure> {
    let failed = |what: &str, path: &Path, source: std::io::Error| {
        let message = format!("cannot {what} {}: {source}", path.display());
        Failure::new(Exit::UNAVAILABLE, message)
    };
    std::fs::create_dir_all(&args.dir).map_err(|source| failed("make", &args.dir, source))?;
    let dir = args
        .dir
        .canonicalize()
        .map_err(|source| failed("open", &args.dir, source))?;

    let mut hosts = ["localhost", "127.0.0.1", "::1"]
        .map(str::to_owned)
        .to_vec();
    hosts.extend(
        args.host
            .iter()
            .filter(|host| !hosts.contains(host))
            .cloned()
            .collect::<Vec<_>>(),
    );
    let names: Vec<String> = args
        .client
        .iter()
        .map(|client| format!("spiffe://cofferdam.local/{client}"))
        .collect();
    let set = make(&Wanted {
        hosts: &hosts,
        clients: &names,
        not_before: SystemTime::now() - BEHIND,
        lifetime: BEHIND + Duration::from_secs(u64::from(args.days) * 24 * 3600),
    })
    .map_err(|error| {
        Failure::new(Exit::USAGE, format!("no certificate can be made: {error}"))
            .hint("--host takes names and addresses, as in `mcp.internal` or `192.168.1.5`")
    })?;

    let mut files: Vec<(PathBuf, &str, u32)> = vec![
        (dir.join("ca.crt"), &set.authority, PUBLIC),
        (dir.join("server.crt"), &set.server.certificate, PUBLIC),
        (dir.join("server.key"), &set.server.key, SECRET),
    ];
    for (client, made) in args.client.iter().zip(&set.clients) {
        files.push((
            dir.join(format!("client-{client}.crt")),
            &made.certificate,
            PUBLIC,
        ));
        files.push((dir.join(format!("client-{client}.key")), &made.key, SECRET));
    }
    // All or nothing: a key that belongs to another certificate would be worse than none.
    if let Some((path, ..)) = files
        .iter()
        .find(|(path, ..)| path.symlink_metadata().is_ok())
    {
        let message = format!(
            "{} is there already, and nothing is overwritten",
            path.display()
        );
        return Err(Failure::new(Exit::DATA, message).hint("--dir names another directory"));
    }
    for (path, content, mode) in &files {
        create(path, content.as_bytes(), *mode).map_err(|source| failed("write", path, source))?;
    }
    let shown = print(&toml(&dir, &args.client, &names));
    let client = args.client.first().map_or("me", String::as_str);
    let [authority, certificate, key] = [
        "ca.crt".to_owned(),
        format!("client-{client}.crt"),
        format!("client-{client}.key"),
    ]
    .map(|name| quoted(&dir.join(name)));
    writeln!(
        anstream::stderr(),
        "Valid for {} days. The key of the authority was thrown away: for more clients, make a new set.\n\
         Clients trust {authority}; try it with\n  \
         curl --cacert {authority} --cert {certificate} --key {key} https://localhost:8443/mcp",
        args.days,
    )
    .ok();
    Ok(shown)
}

/// The lines that a configuration needs, paths absolute.
fn toml(dir: &Path, clients: &[String], names: &[String]) -> String {
    let path = |name: &str| toml_text(&dir.join(name).to_string_lossy());
    let mut text = format!(
        "[listen]\nhttp = \"127.0.0.1:8443\"\npublic_url = \"https://localhost:8443/mcp\"\n\
         tls = {{ cert = {}, key = {}, client_ca = {} }}\n",
        path("server.crt"),
        path("server.key"),
        path("ca.crt"),
    );
    for (client, name) in clients.iter().zip(names) {
        write!(
            text,
            "\n[clients.{}]\nsan = {}\n",
            toml_text(client),
            toml_text(name)
        )
        .ok();
    }
    text
}

/// A basic string of TOML: what JSON escapes, TOML reads the same.
fn toml_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted(path: &Path) -> String {
    super::show::quoted(&path.to_string_lossy())
}
