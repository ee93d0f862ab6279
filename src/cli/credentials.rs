//! `credentials`: what the running instances hold, a rehearsal, and the end of a value. Orders are given
//! by a file in the state directory, as by the kill switch; what comes of them is read back.

use super::args::{
    CredentialsArgs, CredentialsCommand, CredentialsList, CredentialsRevoke, CredentialsRotate,
    Format, Whose,
};
use super::exit::{Exit, Failure, print};
use super::files::Turn;
use super::printable::printable;
use crate::app::{Instance, Shown, instances};
use crate::cell::is_being_written;
use crate::config::{Aged, Config, Replace};
use crate::secret::source;
use crate::secret::{Drill, Fingerprint, Key, Orders, Revoked};
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a revoked value may still be seen anywhere before that is called a failure.
const PROBE: Duration = Duration::from_secs(10);
/// How long a rehearsal is watched: calls in flight are waited for, and servers may start slowly.
const REHEARSAL: Duration = Duration::from_secs(60);
const BETWEEN: Duration = Duration::from_millis(20);

pub(super) fn credentials(args: CredentialsArgs) -> Result<ExitCode, Failure> {
    match args.command {
        None => list(&args.list),
        Some(CredentialsCommand::List(args)) => list(&args),
        Some(CredentialsCommand::Rotate(args)) => rotate(&args),
        Some(CredentialsCommand::Revoke(args)) => revoke(&args),
    }
}

fn config(whose: &Whose) -> Result<Config, Failure> {
    whose.resolve()?.ok_or_else(|| {
        Failure::new(Exit::USAGE, "it is not said whose credentials")
            .hint("--server NAME names a server that runs")
            .hint("--config server.toml names it by its configuration")
    })
}

fn running(state: &Path) -> Result<Vec<Instance>, Failure> {
    instances(state).map_err(|error| {
        let message = format!("cannot read the instances in {}: {error}", state.display());
        Failure::new(Exit::UNAVAILABLE, message).hint("run it as the user that the server runs as")
    })
}

fn list(args: &CredentialsList) -> Result<ExitCode, Failure> {
    let config = config(&args.whose)?;
    let all = running(&config.state_dir)?;
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
    if args.format == Format::Json {
        let stays = config.server.replace == Replace::Never;
        let all: Vec<_> = all
            .iter()
            .flat_map(|instance| instance.credentials.iter().map(move |it| (instance, it)))
            .map(|(instance, it)| {
                json!({
                    "pid": instance.pid, "name": it.name, "inject": it.inject,
                    "generation": it.generation, "fingerprint": it.fingerprint,
                    "state": state(it), "age_seconds": now.saturating_sub(it.since),
                    "expires": it.expires, "rotate_by": it.rotate_by, "problem": it.problem,
                    "previous": it.previous, "holders": it.holders, "pending": pending(it),
                    "may_be_replaced": !stays,
                })
            })
            .collect();
        return Ok(print(&format!("{:#}\n", json!(all))));
    }
    let mut text = String::new();
    for instance in &all {
        writeln!(text, "instance {}", instance.pid).ok();
        for it in &instance.credentials {
            let age = now.saturating_sub(it.since);
            writeln!(
                text,
                "  {}: generation {} ({}), {}, {} old, to {}",
                printable(&it.name),
                it.generation,
                it.fingerprint,
                state(it),
                age_in_words(age),
                printable(&it.inject),
            )
            .ok();
            if let Some(end) = it.expires {
                writeln!(text, "    says that it ends {}", time(end)).ok();
            }
            if let Some(by) = it.rotate_by {
                writeln!(text, "    to be rotated by {}", time(by)).ok();
            }
            if let Some(problem) = &it.problem {
                writeln!(text, "    {}", printable(problem)).ok();
            }
            if pending(it) > 0 {
                let pending = pending(it);
                writeln!(text, "    pending: {pending} servers hold an older one").ok();
            }
        }
    }
    if all.is_empty() {
        text.push_str("no instance with credentials runs\n");
        for it in &config.credentials {
            let read = match source::read(it, is_being_written) {
                _ if it.is_by_tenant() => "one for each tenant".to_owned(),
                Ok(_) => "can be read".to_owned(),
                Err(error) => error.to_string(),
            };
            writeln!(
                text,
                "  {}: to {}; {}",
                printable(&it.name),
                it.inject,
                printable(&read)
            )
            .ok();
        }
    }
    Ok(print(&text))
}

fn rotate(args: &CredentialsRotate) -> Result<ExitCode, Failure> {
    let config = config(&args.whose)?;
    let state = &config.state_dir;
    let concerned = concerned(state, &args.name)?;
    let id = format!(
        "{}-{}",
        std::process::id(),
        Timestamp::now().as_nanosecond()
    );
    order(state, |orders| {
        orders.drill = Some(Drill {
            name: args.name.clone(),
            id: id.clone(),
        });
    })?;
    let begun = Instant::now();
    loop {
        let all: Vec<Instance> = running(state)?;
        // One that has ended meanwhile has nothing to rehearse any more.
        let mut open = Vec::new();
        let mut text = String::new();
        for instance in all.iter().filter(|it| concerned.contains(&it.pid)) {
            let drill = instance.drill.as_ref().filter(|drill| drill.id == id);
            match drill.and_then(|drill| drill.millis) {
                Some(millis) => writeln!(text, "instance {}: done in {millis} ms", instance.pid),
                None => {
                    open.push((instance.pid, drill.map_or(0, |drill| drill.left)));
                    Ok(())
                }
            }
            .ok();
        }
        if open.is_empty() {
            return Ok(print(&text));
        }
        if begun.elapsed() > REHEARSAL || (stays(&config) && begun.elapsed() > PROBE) {
            let mut failure = Failure::new(Exit::TEMPORARY, "not every server was replaced");
            for (pid, left) in open {
                failure = failure.hint(format!(
                    "instance {pid}: {left} servers keep what they have until their sessions end"
                ));
            }
            return Err(failure);
        }
        std::thread::sleep(BETWEEN);
    }
}

fn stays(config: &Config) -> bool {
    config.server.replace == Replace::Never
}

fn revoke(args: &CredentialsRevoke) -> Result<ExitCode, Failure> {
    let config = config(&args.whose)?;
    let state = &config.state_dir;
    let prints = fingerprints(args, &config)?;
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
    order(state, |orders| {
        for fingerprint in &prints {
            if !orders.revokes(&args.name, fingerprint) {
                orders.revoked.push(Revoked {
                    name: args.name.clone(),
                    fingerprint: fingerprint.clone(),
                    at: now,
                });
            }
        }
    })?;
    let begun = Instant::now();
    loop {
        let all = running(state)?;
        let left: Vec<(u32, String)> = all
            .iter()
            .filter_map(|instance| {
                let shown = instance
                    .credentials
                    .iter()
                    .find(|it| it.name == args.name)?;
                Some((instance.pid, still(shown, &prints)?))
            })
            .collect();
        if left.is_empty() {
            let mut text = String::new();
            for print in &prints {
                writeln!(text, "{} {print} is revoked", printable(&args.name)).ok();
            }
            let seen = all.len();
            let millis = begun.elapsed().as_millis();
            writeln!(
                text,
                "{seen} instances run; {millis} ms later none of them uses it"
            )
            .ok();
            for instance in &all {
                let mut own = instance.credentials.iter();
                if own.any(|it| it.name == args.name && it.revoked) {
                    let pid = instance.pid;
                    writeln!(text, "instance {pid} has no other and waits for one").ok();
                }
            }
            return Ok(print(&text));
        }
        if begun.elapsed() > PROBE {
            let message = format!("{} is revoked, but still in use", printable(&args.name));
            let mut failure = Failure::new(Exit::TEMPORARY, message);
            for (pid, why) in left {
                failure = failure.hint(format!("instance {pid}: {why}"));
            }
            return Err(failure);
        }
        std::thread::sleep(BETWEEN);
    }
}

/// Why an instance may still use one of these; `None` when it does not.
fn still(shown: &Shown, prints: &BTreeSet<Fingerprint>) -> Option<String> {
    let held = shown.holders.iter();
    let servers: u32 = held
        .filter(|it| prints.contains(&it.fingerprint))
        .map(|it| it.servers)
        .sum();
    if servers > 0 {
        return Some(format!("{servers} servers hold it"));
    }
    let in_force = prints.contains(&shown.fingerprint) && !shown.revoked;
    let overlaps = shown
        .previous
        .as_ref()
        .is_some_and(|it| prints.contains(it));
    if in_force || overlaps {
        return Some("it has not taken notice".to_owned());
    }
    (!shown.known).then(|| "its message process has not taken notice".to_owned())
}

/// The values that are meant: of the instances that run, and of the file where it can be read.
fn fingerprints(
    args: &CredentialsRevoke,
    config: &Config,
) -> Result<BTreeSet<Fingerprint>, Failure> {
    let all = running(&config.state_dir)?;
    let shown = all
        .iter()
        .flat_map(|instance| &instance.credentials)
        .filter(|it| it.name == args.name);
    let mut found: BTreeSet<Fingerprint> = match (&args.fingerprint, args.previous) {
        (Some(digits), _) => {
            let read = serde_json::from_value(json!(digits)).ok();
            let good = digits.len() == 12 && digits.bytes().all(|it| it.is_ascii_hexdigit());
            let read = read.filter(|_| good).into_iter().collect::<BTreeSet<_>>();
            if read.is_empty() {
                let message = format!("`{}` is no fingerprint", printable(digits));
                return Err(Failure::new(Exit::USAGE, message)
                    .hint("`cofferdam credentials` shows them: 12 hexadecimal digits"));
            }
            read
        }
        (None, true) => shown.filter_map(|it| it.previous.clone()).collect(),
        (None, false) => shown.map(|it| it.fingerprint.clone()).collect(),
    };
    let source = config.credentials.iter().find(|it| it.name == args.name);
    if let (Some(source), None, false) = (source, &args.fingerprint, args.previous)
        && let Ok(read) = source::read(source, |_| Some(false))
    {
        let (key, lack) = Key::open(&config.state_dir);
        if lack.is_none() {
            found.insert(key.fingerprint(&args.name, read.secret.expose()));
        }
    }
    if found.is_empty() {
        return Err(unknown(&args.name));
    }
    Ok(found)
}

fn unknown(name: &str) -> Failure {
    let message = format!(
        "no instance that runs has the credential `{}`",
        printable(name)
    );
    Failure::new(Exit::UNAVAILABLE, message).hint("`cofferdam credentials` lists what there is")
}

/// The instances that have the credential.
fn concerned(state: &Path, name: &str) -> Result<BTreeSet<u32>, Failure> {
    let has = |it: &Instance| it.credentials.iter().any(|shown| shown.name == *name);
    let found: BTreeSet<u32> = running(state)?
        .iter()
        .filter(|it| has(it))
        .map(|it| it.pid)
        .collect();
    match found.is_empty() {
        true => Err(unknown(name)),
        false => Ok(found),
    }
}

/// Changes the orders while no other command of ours does.
fn order(state: &Path, change: impl FnOnce(&mut Orders)) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let path = Orders::path(state);
        let message = format!("cannot change {}: {error}", path.display());
        Failure::new(Exit::UNAVAILABLE, message).hint("run it as the user that the server runs as")
    };
    std::fs::create_dir_all(state).map_err(failed)?;
    let _turn = Turn::take(&Orders::path(state)).map_err(failed)?;
    let mut orders = Orders::read(state).map_err(failed)?;
    change(&mut orders);
    orders.write(state).map_err(failed)
}

fn state(shown: &Shown) -> &'static str {
    match (shown.revoked, shown.aged) {
        (true, _) => "revoked",
        (_, Some(Aged::Expired)) => "expired",
        (_, Some(Aged::Expiring)) => "ends within a day",
        (_, Some(Aged::Overdue)) => "overdue",
        (false, None) => "current",
    }
}

/// Servers that hold an older value and not the one in force.
fn pending(shown: &Shown) -> u32 {
    let total = |current: bool| -> u32 {
        let holders = shown.holders.iter();
        let holders = holders.filter(|it| (it.generation == shown.generation) == current);
        holders.map(|it| it.servers).sum()
    };
    // A file that was replaced is held in both.
    total(false).saturating_sub(match shown.inject.starts_with('$') {
        true => 0,
        false => total(true),
    })
}

fn age_in_words(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|it| Timestamp::from_second(it).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_string())
}
