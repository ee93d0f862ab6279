//! `client`: keys for network clients. A key is shown once, on stdout; the file holds its hash.

use super::args::{self, ClientAdd, ClientCommand, ClientFile, ClientList, ClientRevoke, Format};
use super::exit::{Exit, Failure, print};
use super::files::Turn;
use super::printable::printable;
use crate::config::{self, Overrides};
use crate::identity::{ApiKey, Entry, KeyBook};
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Digits of a hash by which `list` and `revoke` name a key.
const ID: usize = 12;

pub(super) fn client(command: ClientCommand) -> Result<ExitCode, Failure> {
    match command {
        ClientCommand::Add(args) => add(args),
        ClientCommand::List(args) => list(&args),
        ClientCommand::Revoke(args) => revoke(&args),
    }
}

fn add(args: ClientAdd) -> Result<ExitCode, Failure> {
    let path = path(&args.file)?;
    let mut random = [0; 32];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| Failure::new(Exit::UNAVAILABLE, "the kernel gives no random numbers"))?;
    let key = ApiKey::new(&random);
    let now = Timestamp::now();
    let expires = args
        .expires
        .map(|span| now.checked_add(span.0))
        .transpose()
        .map_err(|_| Failure::new(Exit::USAGE, "--expires: this is too far away"))?;
    change(&path, |entries| {
        entries.push(Entry {
            client: args.name.clone(),
            tenant: args.tenant.clone(),
            scopes: args.scope.clone(),
            sha256: key.sha256(),
            added: now.round(jiff::Unit::Second).ok(),
            expires,
            revoked: None,
        });
        Ok(())
    })?;
    // First the file, then the key: one that was shown always opens the door.
    let shown = print(&format!("{}\n", key.expose()));
    writeln!(
        anstream::stderr(),
        "The key of `{}`, shown this once; {} holds its hash. Clients send it as\n  Authorization: Bearer cfd_…",
        printable(&args.name),
        path.display(),
    )
    .ok();
    Ok(shown)
}

fn list(args: &ClientList) -> Result<ExitCode, Failure> {
    let path = path(&args.file)?;
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => {
            let message = format!("cannot read {}: {source}", path.display());
            return Err(Failure::new(Exit::UNAVAILABLE, message));
        }
    };
    let book = parse(&path, &bytes)?;
    let now = Timestamp::now();
    if args.format == Format::Json {
        let all: Vec<_> = book
            .entries()
            .map(|entry| {
                json!({
                    "client": entry.client, "tenant": entry.tenant, "scopes": entry.scopes,
                    "id": id(entry), "state": state(entry, now), "added": entry.added,
                    "expires": entry.expires, "revoked": entry.revoked,
                })
            })
            .collect();
        return Ok(print(&format!("{:#}\n", json!(all))));
    }
    let rows: Vec<[String; 6]> = book
        .entries()
        .map(|entry| {
            let day = |time: Option<Timestamp>| match time {
                Some(time) => time.strftime("%Y-%m-%d").to_string(),
                None => "-".to_owned(),
            };
            [
                printable(&entry.client),
                printable(entry.tenant.as_deref().unwrap_or("-")),
                id(entry).to_owned(),
                state(entry, now).to_owned(),
                day(entry.added),
                match entry.scopes.is_empty() {
                    true => "-".to_owned(),
                    false => printable(&entry.scopes.join(" ")),
                },
            ]
        })
        .collect();
    let head = ["CLIENT", "TENANT", "KEY", "STATE", "ADDED", "SCOPES"].map(str::to_owned);
    let mut text = String::new();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().chain([&head]).map(|row| row.get(column));
            cells
                .flatten()
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in [&head].into_iter().chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}  ").ok();
        }
        writeln!(text, "{}", line.trim_end()).ok();
    }
    Ok(print(&text))
}

fn revoke(args: &ClientRevoke) -> Result<ExitCode, Failure> {
    let path = path(&args.file)?;
    let now = Timestamp::now().round(jiff::Unit::Second).ok();
    let mut revoked = 0;
    change(&path, |entries| {
        let wanted = |entry: &Entry| {
            entry.client == args.name
                && args
                    .key
                    .as_ref()
                    .is_none_or(|key| entry.sha256.starts_with(key))
                && entry.revoked.is_none()
        };
        for entry in entries.iter_mut().filter(|entry| wanted(entry)) {
            entry.revoked = now;
            revoked += 1;
        }
        match revoked {
            0 => Err(Failure::new(
                Exit::DATA,
                format!("`{}` has no key that could be revoked", args.name),
            )
            .hint("`cofferdam client list` shows the keys")),
            _ => Ok(()),
        }
    })?;
    let keys = if revoked == 1 { "key" } else { "keys" };
    writeln!(
        anstream::stderr(),
        "Revoked {revoked} {keys} of `{}`.",
        printable(&args.name)
    )
    .ok();
    Ok(ExitCode::SUCCESS)
}

/// Reads the file, changes what is in it and writes it again, while no other command of ours does.
fn change(
    path: &Path,
    edit: impl FnOnce(&mut Vec<Entry>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |what: &str, source: std::io::Error| {
        let message = format!("cannot {what} {}: {source}", path.display());
        Failure::new(Exit::UNAVAILABLE, message)
    };
    let turn = Turn::take(path).map_err(|source| failed("open", source))?;
    let bytes = turn.read().map_err(|source| failed("read", source))?;
    let mut entries: Vec<Entry> = parse(path, &bytes)?.entries().cloned().collect();
    edit(&mut entries)?;
    let text = KeyBook::render(&entries);
    // What is written must be what is read: a file that the listener refuses would shut everybody out.
    parse(path, text.as_bytes())?;
    turn.replace(text.as_bytes())
        .map_err(|source| failed("write", source))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<KeyBook, Failure> {
    KeyBook::parse(bytes).map_err(|error| {
        let message = format!("{} cannot be used: {error}", path.display());
        Failure::new(Exit::DATA, message)
    })
}

/// The file that the flags name, or that their configuration names.
fn path(file: &ClientFile) -> Result<PathBuf, Failure> {
    if let Some(path) = &file.keys {
        return Ok(path.clone());
    }
    let Some(config) = &file.config else {
        return Err(
            Failure::new(Exit::USAGE, "it is not said where the keys are")
                .hint("--keys clients.json names the file")
                .hint("--config server.toml takes it from there (`identity.keys`)"),
        );
    };
    let loaded = config::load(config).map_err(args::Error::from)?;
    let around = args::surroundings()?;
    let effective =
        config::build(Some(&loaded), &Overrides::default(), &around).map_err(args::Error::from)?;
    effective.config.access.identity.keys.ok_or_else(|| {
        let message = format!("{} names no file of keys", config.display());
        Failure::new(Exit::CONFIG, message).hint("write `keys = \"clients.json\"` into [identity]")
    })
}

fn id(entry: &Entry) -> &str {
    entry.sha256.get(..ID).unwrap_or(&entry.sha256)
}

fn state(entry: &Entry, now: Timestamp) -> &'static str {
    let now = u64::try_from(now.as_second()).unwrap_or(0);
    match (entry.revoked.is_some(), entry.is_valid(now)) {
        (true, _) => "revoked",
        (false, true) => "valid",
        (false, false) => "expired",
    }
}
