//! `demo`: the main job on a small hostile server that is built into this binary. Needs no Node, no
//! Python and no network, and says at the end whether everything held.

mod client;
mod server;

pub(super) use server::serve;

use super::exit::{Exit, Failure};
use client::Client;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Instant;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const OFF: &str = "\x1b[0m";

/// Why the demo could not be shown; that something did not hold is a verdict, not an error.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{doing}: {source}")]
    System {
        doing: &'static str,
        source: io::Error,
    },
    #[error("{0}")]
    Conversation(#[from] client::Error),
}

/// Shows everything; exit 0 when all of it held, 70 when something did not.
pub(super) fn run() -> Result<ExitCode, Failure> {
    let mut stage = Stage {
        out: anstream::stdout(),
        held: 0,
        shown: 0,
    };
    stage.play().map_err(|error| {
        Failure::new(Exit::SOFTWARE, format!("the demo broke off: {error}"))
            .hint("`cofferdam doctor` shows what this host can enforce")
    })?;
    if stage.held == stage.shown {
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(Exit::SOFTWARE.into())
    }
}

struct Stage<W: Write> {
    out: W,
    held: u32,
    shown: u32,
}

impl<W: Write> Stage<W> {
    fn play(&mut self) -> Result<(), Error> {
        let system = |doing| move |source| Error::System { doing, source };
        let outside = tempdir().map_err(system("make a directory"))?;
        std::fs::write(outside.path.join("secret.txt"), "the crown jewels")
            .map_err(system("plant a file"))?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(system("listen on loopback"))?;
        let address = listener
            .local_addr()
            .map_err(system("listen on loopback"))?
            .to_string();
        let escape = json!({ "directory": outside.path, "address": address });

        self.say(format_args!(
            "{BOLD}cofferdam demo{OFF}: a hostile MCP server, first bare, then enclosed\n"
        ));
        let begun = Instant::now();
        let mut client = Client::enclosed()?;
        client.initialize()?;
        let took = begun.elapsed().as_millis();
        self.say(format_args!(
            "{DIM}$ cofferdam run -- hostile-server     answered after {took} ms{OFF}"
        ));

        self.title("A normal call passes, byte for byte");
        let answer = client.call("greet", &json!({ "name": "Ada" }))?;
        self.show("client", &client.last_line);
        self.verdict(
            text(&answer) == "Hello, Ada!",
            "the answer is the server's own line",
        );

        self.title("A leak is scrubbed");
        // Built here, so that no scanner takes this source for a leak.
        let token = ["glp", "at-", "x7Qm3vR9sLw2KpT5bYcZ"].concat();
        self.show(
            "server",
            &format!("deploy notes: token {token} works everywhere"),
        );
        let answer = client.call("notes", &json!({ "token": token }))?;
        self.show("client", text(&answer));
        self.verdict(
            !client.last_line.contains(&token[..12]),
            "the token never reached the client",
        );

        self.title("An escape is blocked");
        let bare = {
            let mut client = Client::bare()?;
            client.initialize()?;
            client.call("escape", &escape)?
        };
        let enclosed = client.call("escape", &escape)?;
        let (bare, enclosed) = (acts(&bare), acts(&enclosed));
        for ((name, was), (_, is)) in bare.iter().zip(&enclosed) {
            let mark = |through: bool| if through { "got through" } else { "refused" };
            let colour = if *is { RED } else { GREEN };
            self.say(format_args!(
                "   {name:<42} bare: {:<12} in the cell: {colour}{}{OFF}",
                mark(*was),
                mark(*is)
            ));
        }
        let through = |acts: &[(String, bool)]| acts.iter().filter(|(_, through)| *through).count();
        let (before, after) = (through(&bare), through(&enclosed));
        let line = format!(
            "{before} of {} got through bare, {after} in the cell",
            bare.len()
        );
        self.verdict(after == 0 && before > 0 && !enclosed.is_empty(), &line);

        self.title("A flood is capped, and the session goes on");
        let answer = client.call("flood", &json!({}))?;
        self.show("client", text(&answer));
        let alive = text(&client.call("greet", &json!({ "name": "Ada" }))?) == "Hello, Ada!";
        let refused = answer["isError"] == true && client.last_len < 64 * 1024;
        self.verdict(
            refused && alive,
            "3 MiB withheld, the next call was answered",
        );

        self.title("A crash is survived: the session goes on with the next server");
        let answer = client.call("crash", &json!({}))?;
        self.show("client", text(&answer));
        self.verdict(answer["isError"] == true, "the open call was answered");
        let begun = Instant::now();
        let again = text(&client.call("greet", &json!({ "name": "again" }))?) == "Hello, again!";
        let took = begun.elapsed().as_millis();
        let code = client.finish()?;
        self.verdict(
            again && code == 0,
            &format!("the next call was answered {took} ms later, on the same connection"),
        );

        let (held, shown) = (self.held, self.shown);
        let colour = if held == shown { GREEN } else { RED };
        self.say(format_args!("\n{colour}{BOLD}{held} of {shown} held{OFF}"));
        self.say(format_args!("{DIM}wrap a server of yours:  cofferdam run --read DIR -- npx -y @modelcontextprotocol/server-filesystem DIR{OFF}"));
        Ok(())
    }

    fn title(&mut self, title: &str) {
        self.say(format_args!("\n{BOLD}{title}{OFF}"));
    }

    fn show(&mut self, who: &str, line: &str) {
        let line = line.trim_end();
        let cut: String = line.chars().take(140).collect();
        let dots = if cut.len() < line.len() { "…" } else { "" };
        self.say(format_args!("   {DIM}{who:>6} │{OFF} {cut}{dots}"));
    }

    fn verdict(&mut self, held: bool, what: &str) {
        self.shown += 1;
        self.held += u32::from(held);
        let (colour, mark) = if held { (GREEN, "✔") } else { (RED, "✘") };
        self.say(format_args!("   {colour}{mark} {what}{OFF}"));
    }

    fn say(&mut self, line: std::fmt::Arguments<'_>) {
        // A reader that has gone away ends nothing: the verdict is in the exit code.
        drop(writeln!(self.out, "{line}"));
    }
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

fn acts(result: &Value) -> Vec<(String, bool)> {
    serde_json::from_str(text(result)).unwrap_or_default()
}

struct TempDir {
    path: std::path::PathBuf,
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Left behind in the temporary directory is all that can go wrong.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

fn tempdir() -> io::Result<TempDir> {
    let path = std::env::temp_dir().join(format!("cofferdam-demo-{}", std::process::id()));
    std::fs::create_dir(&path)?;
    Ok(TempDir { path })
}
