//! `status`: what runs, and how it is; once, or on a screen that is kept up to date.

use super::args::StatusArgs;
use super::exit::{self, Failure};
use super::instances::{self, Answer};
use super::printable::printable;
use crate::admin::Ask;
use clap::builder::styling::{AnsiColor, Style};
use serde_json::Value;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

/// One that does not answer is shown as such.
const PATIENCE: Duration = Duration::from_secs(2);
/// From the cursor's home to the end of a line, and of the screen (ECMA-48).
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BUSY: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// Shows it once, or until somebody has seen enough.
pub(super) fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let Some(seconds) = args.watch else {
        let answers = look(args)?;
        if answers.is_empty() && (args.which.name.is_some() || args.which.pid.is_some()) {
            return Err(instances::nothing(&args.which));
        }
        return Ok(exit::print(&text(args, &answers)));
    };
    let screen = io::stdout().is_terminal() && !args.which.json;
    loop {
        let answers = look(args)?;
        let text = text(args, &answers);
        let printed = match screen {
            true => redraw(&text),
            false => exit::print(&text),
        };
        if printed != ExitCode::SUCCESS {
            return Ok(printed);
        }
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

fn look(args: &StatusArgs) -> Result<Vec<Answer>, Failure> {
    let found = instances::all(&args.which)?;
    Ok(instances::ask(found, &Ask::Status, PATIENCE))
}

fn text(args: &StatusArgs, answers: &[Answer]) -> String {
    if args.which.json {
        return instances::as_json(answers);
    }
    if answers.is_empty() {
        return "no server runs\n".to_owned();
    }
    let all: Vec<String> = answers.iter().map(describe).collect();
    all.join("\n")
}

/// Over what stood there before: a screen that is cleared first would flicker.
fn redraw(text: &str) -> ExitCode {
    let mut screen = HOME.to_owned();
    for line in text.lines() {
        screen.push_str(line);
        screen.push_str(REST_OF_LINE);
        screen.push('\n');
    }
    screen.push_str(REST_OF_SCREEN);
    exit::print(&screen)
}

/// One instance: a line of how it is, and below it what it works with.
fn describe(answer: &Answer) -> String {
    let mut text = String::new();
    let (server, pid) = (printable(&answer.server), answer.pid);
    let said = match &answer.said {
        Ok(said) => said,
        Err(error) => {
            let error = printable(error);
            writeln!(
                text,
                "{BAD}●{BAD:#} {BOLD}{server}{BOLD:#}  pid {pid}  {error}"
            )
            .ok();
            return text;
        }
    };
    let phase = said["phase"].as_str().unwrap_or("?");
    let mark = match phase {
        "serving" => GOOD,
        "off" | "parked" | "frozen" => BAD,
        _ => BUSY,
    };
    let up = duration(said["uptime_seconds"].as_u64().unwrap_or(0));
    let transport = printable(said["transport"].as_str().unwrap_or("?"));
    let phase = printable(phase);
    writeln!(
        text,
        "{mark}●{mark:#} {BOLD}{server}{BOLD:#}  {mark}{phase}{mark:#}  {DIM}pid {pid}, {transport}, up {up}{DIM:#}"
    )
    .ok();
    for (label, value) in rows(said) {
        writeln!(text, "  {DIM}{label:<12}{DIM:#}{value}").ok();
    }
    text
}

fn rows(said: &Value) -> Vec<(&'static str, String)> {
    let mut rows = vec![("server", server(said)), ("requests", requests(said))];
    // The oldest says most of what is slow.
    if let Some(oldest) = said["open"].as_array().and_then(|open| open.first()) {
        let what = oldest["target"].as_str().or(oldest["method"].as_str());
        let what = printable(what.unwrap_or("?"));
        let age = duration(oldest["age_ms"].as_u64().unwrap_or(0) / 1000);
        let by = oldest["client"].as_str();
        let by = by.map_or(String::new(), |client| format!(" by {}", printable(client)));
        rows.push(("oldest", format!("{what}{by}, open for {age}")));
    }
    if let Some(address) = said["listener"]["address"].as_str() {
        let figures = &said["figures"];
        let (connections, sessions) = (
            number(&figures["connections"]),
            number(&figures["sessions"]),
        );
        let address = printable(address);
        rows.push((
            "listener",
            format!("{address}, {connections} connections, {sessions} sessions"),
        ));
    }
    if let Some(url) = said["upstream"]["url"].as_str() {
        let text = format!("{}{}", printable(url), upstream(&said["upstream"]));
        rows.push(("upstream", text));
    }
    rows.push(("cell", cell(&said["cell"])));
    for credential in said["credentials"].as_array().into_iter().flatten() {
        let name = printable(credential["name"].as_str().unwrap_or("?"));
        let generation = number(&credential["generation"]);
        let print = printable(credential["fingerprint"].as_str().unwrap_or(""));
        let mut line = format!("{name}, generation {generation}, {print}");
        if let Some(problem) = credential["problem"].as_str() {
            write!(line, "  {BAD}{}{BAD:#}", printable(problem)).ok();
        }
        rows.push(("credential", line));
    }
    let policy: String = said["policy"]
        .as_str()
        .unwrap_or("?")
        .chars()
        .take(16)
        .collect();
    rows.push(("policy", printable(&policy)));
    rows.extend(reload(&said["reload"]));
    if let Some(owner) = said["server"]["owner"].as_str() {
        rows.push(("owner", printable(owner)));
    }
    rows
}

fn server(said: &Value) -> String {
    let figures = &said["figures"];
    let pid = said["server"]["pid"].as_i64();
    let pid = pid.map_or("no process".to_owned(), |pid| format!("pid {pid}"));
    let mut text = pid;
    for (count, word) in [
        (&figures["starts"], "started"),
        (&figures["replacements"], "replaced"),
        (&figures["exits"], "ended"),
    ] {
        let count = number(count);
        if count > 0 {
            write!(text, ", {word} {count}x").ok();
        }
    }
    text
}

fn requests(said: &Value) -> String {
    let figures = &said["figures"];
    let mut text = format!(
        "{} open, {} in all",
        number(&figures["in_flight"]),
        number(&figures["requests"])
    );
    for (count, word, style) in [
        (&figures["refused"], "refused", BUSY),
        (&figures["timeouts"], "timed out", BAD),
        (&figures["retries"], "asked again", BUSY),
        (&figures["redacted"], "redactions", BUSY),
        (&figures["denials"], "denied by the cell", BUSY),
        (&figures["audit_lost"], "audit lines lost", BAD),
    ] {
        let count = number(count);
        if count > 0 {
            write!(text, ", {style}{count} {word}{style:#}").ok();
        }
    }
    text
}

/// Whether a server on HTTP is there, as far as anybody knows.
fn upstream(said: &Value) -> String {
    let check = &said["check"];
    let mut text = match (&said["answers"], said["problem"].as_str()) {
        _ if check["down"] == true => format!(", {BAD}down{BAD:#}"),
        (Value::Bool(true), _) => ", answers".to_owned(),
        (_, Some(_)) => format!(", {BUSY}does not answer{BUSY:#}"),
        _ => ", not asked yet".to_owned(),
    };
    if let Some(problem) = said["problem"].as_str() {
        write!(text, ": {}", printable(problem)).ok();
    }
    if let Some(at) = check["at"].as_i64() {
        let now = jiff::Timestamp::now().as_second();
        let ago = u64::try_from(now.saturating_sub(at)).unwrap_or(0);
        write!(text, ", checked {} ago", duration(ago)).ok();
    }
    text
}

fn cell(cell: &Value) -> String {
    let layers = cell["layers"].as_object();
    let layers: Vec<_> = layers.into_iter().flatten().collect();
    let enforced = layers.iter().filter(|(_, state)| *state == "enforced");
    let mut text = match layers.is_empty() {
        true => return "not started".to_owned(),
        false => format!(
            "{} layers, landlock ABI {}",
            enforced.count(),
            number(&cell["landlock_abi"])
        ),
    };
    if let Some(user) = cell["user"].as_str() {
        write!(text, ", user {}", printable(user)).ok();
    }
    for (layer, state) in &layers {
        if *state != "enforced" {
            write!(text, ", {BUSY}without {}{BUSY:#}", printable(layer)).ok();
        }
    }
    text
}

fn reload(reload: &Value) -> Vec<(&'static str, String)> {
    let Some(at) = reload["at"].as_i64() else {
        return Vec::new();
    };
    let now = jiff::Timestamp::now().as_second();
    let ago = duration(u64::try_from(now.saturating_sub(at)).unwrap_or(0));
    if let Some(error) = reload["error"].as_str() {
        let first = error.lines().next().unwrap_or_default();
        let first = printable(first);
        let text = format!("{BAD}not taken {ago} ago: {first}{BAD:#}");
        return vec![("reload", text)];
    }
    let list = |key: &str| -> Vec<String> {
        let all = reload[key].as_array().into_iter().flatten();
        all.filter_map(|it| Some(printable(it.as_str()?))).collect()
    };
    let mut rows = vec![("reload", format!("taken {ago} ago"))];
    let pending = match reload["keeps_server"] == true {
        true => [list("later"), list("server")].concat(),
        false => list("later"),
    };
    if !pending.is_empty() {
        rows.push(("pending", format!("{BUSY}{}{BUSY:#}", pending.join(", "))));
    }
    rows.extend(
        list("weaker")
            .into_iter()
            .map(|weaker| ("weaker", format!("{BUSY}{weaker}{BUSY:#}"))),
    );
    rows
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// The two largest units.
fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(said: Result<Value, String>) -> Answer {
        Answer {
            server: "a\u{1b}[31mb".to_owned(),
            pid: 7,
            socket: "/run/x".into(),
            said,
        }
    }

    fn plain(answer: &Answer) -> String {
        anstream::adapter::strip_str(&describe(answer)).to_string()
    }

    #[test]
    fn what_matters_is_shown_and_nothing_of_a_server_reaches_the_terminal_raw() {
        let text = plain(&answer(Ok(json!({
            "phase": "serving",
            "uptime_seconds": 3_725,
            "transport": "stdio",
            "server": {"pid": 12, "owner": "ops\u{7}"},
            "policy": "0123456789abcdef0123",
            "cell": {"landlock_abi": 7, "layers": {"seccomp": "enforced", "cgroup": {"missing": "no"}}},
            "credentials": [{"name": "t", "generation": 2, "fingerprint": "9f", "problem": "gone"}],
            "upstream": {"url": "https://x/mcp", "answers": false, "problem": "it answers 503", "check": {"down": true, "at": 0}},
            "figures": {"in_flight": 1, "requests": 40, "refused": 2, "starts": 3},
            "reload": {"ok": true, "at": 0, "later": ["admin"], "weaker": ["scrub.secrets allows more"]},
        }))));
        for words in [
            "serving",
            "up 1h 2m",
            "pid 12, started 3x",
            "1 open, 40 in all, 2 refused",
            "1 layers, landlock ABI 7, without cgroup",
            "t, generation 2, 9f  gone",
            "https://x/mcp, down: it answers 503, checked ",
            "0123456789abcdef\n",
            "pending     admin",
            "weaker      scrub.secrets allows more",
        ] {
            assert!(text.contains(words), "{words} in {text}");
        }
        assert!(!describe(&answer(Ok(json!({})))).contains("\u{1b}[31mb"));
        assert!(!text.contains('\u{7}'));
    }

    #[test]
    fn one_that_does_not_answer_is_shown_all_the_same() {
        let text = plain(&answer(Err("it does not answer".to_owned())));
        assert!(text.contains("pid 7  it does not answer"), "{text}");
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in [
            (5, "5s"),
            (65, "1m 5s"),
            (7_260, "2h 1m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
