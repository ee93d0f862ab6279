//! What HTTP costs: cofferdam over a stdio server and in front of an HTTP server, beside that HTTP server
//! itself and beside a relay that only copies bytes between sockets.
//!
//! `cargo bench --bench http` prints p50, p99 and requests a second for JSON and SSE answers at 1, 16, 64
//! and 128 clients, without and with TLS, everything pinned to one CPU and taking turns in one run.
//! `-- --check` fails when a target is missed, `COFFERDAM_BENCH=quick` takes a fifth of the time.
//! `-- --peer NAME 'COMMAND {port} … --'` adds another bridge over the same stdio server (its command is
//! appended; it has to serve `/mcp`), and then all of the stdio bridges are asked as clients of 2025-11-25.

mod client;
#[path = "../../tests/fake/support/echo.rs"]
mod echo;
#[path = "../support/pinned.rs"]
mod pinned;
mod relay;
mod report;
mod server;
mod target;
#[path = "../../tests/fake/support/text.rs"]
mod text;

use client::{Era, Shape};
use report::Report;
use std::io;
use std::process::ExitCode;
use std::time::Duration;
use target::Target;

/// Connections that ask at one time.
const CLIENTS: [usize; 4] = [1, 16, 64, 128];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    // The servers and the relay are this very program, so that one build makes all of them.
    let done = match words.as_slice() {
        ["__echo"] => echo::serve().map(|()| ExitCode::SUCCESS),
        ["__serve", files @ ..] => server::run(files).map(|()| ExitCode::SUCCESS),
        ["__relay", to] => relay::run(to).map(|()| ExitCode::SUCCESS),
        _ => bench(&words),
    };
    done.unwrap_or_else(|error| {
        report::say(&format!("http bench: {error}"));
        ExitCode::FAILURE
    })
}

fn bench(words: &[&str]) -> io::Result<ExitCode> {
    let check = words.contains(&"--check");
    let peer = words.windows(3).find_map(|three| match three {
        ["--peer", name, command] => Some((*name, *command)),
        _ => None,
    });
    let quick = std::env::var_os("COFFERDAM_BENCH").is_some_and(|value| value == "quick");
    let (rounds, slice) = match quick {
        true => (3, Duration::from_millis(100)),
        false => (7, Duration::from_millis(400)),
    };
    let directory = tempfile::tempdir()?;
    let mut report = Report::default();
    pinned::pin(true)?;
    for tls in [false, true] {
        let targets = match peer {
            None => Target::all(directory.path(), tls)?,
            Some(_) if tls => break,
            Some((name, command)) => Target::bridges(directory.path(), name, command)?,
        };
        let era = match peer {
            None => Era::Modern,
            Some(_) => Era::Legacy,
        };
        for shape in [Shape::Json, Shape::Sse] {
            if peer.is_some() && shape == Shape::Sse {
                continue;
            }
            for clients in CLIENTS {
                report::say(&format!(
                    "http bench: {clients} clients, {shape:?}{}",
                    if tls { ", TLS" } else { "" }
                ));
                for round in 0..=rounds {
                    // The order turns: what runs after another is not always the same one.
                    for turn in 0..targets.len() {
                        let Some(target) = targets.get((round + turn) % targets.len()) else {
                            continue;
                        };
                        let figures = client::slice(target, era, shape, clients, slice)?;
                        // The first round warms everything up.
                        if round > 0 {
                            report.add((tls, shape, clients), target.name(), figures);
                        }
                    }
                }
            }
        }
    }
    let met = report.finish()?;
    Ok(match met || !check {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
