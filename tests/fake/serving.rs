//! An MCP server on HTTP that is run in a cell, and tries there what it may not do.
//!
//! `serving ADDRESS:PORT [late=MILLISECONDS] [never] [exit=CODE] [deaf] [FLAG…]`: listens there, `late`, or
//! `never`; or exits. `deaf`: it does not end at SIGTERM. `listening`: it ends at the end of its stdin. Other flags and tools are those of
//! `support/elsewhere.rs`, and besides:
//! `act` does what `act` says: `listen ADDRESS:PORT`, `listen-unbound`, `connect ADDRESS:PORT`,
//! `exit CODE`, `pid`, `variable NAME`; what comes of it is said as text.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::disallowed_methods,
    reason = "a fake server may fail by panicking, its log is its output, and it ends as it is told to"
)]

#[path = "support/elsewhere.rs"]
mod elsewhere;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, listen, socket};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn main() {
    let mut words = std::env::args().skip(1);
    let address = words.next().unwrap();
    let flags: Vec<String> = words.collect();
    let value = |key: &str| {
        let mut all = flags.iter();
        all.find_map(|flag| {
            flag.strip_prefix(key)?
                .strip_prefix('=')?
                .parse::<u64>()
                .ok()
        })
    };
    println!("hello from stdout");
    eprintln!("hello from stderr");
    if let Some(code) = value("exit") {
        std::process::exit(i32::try_from(code).unwrap());
    }
    if flags.iter().any(|flag| flag == "deaf") {
        let mut set = nix::sys::signal::SigSet::empty();
        set.add(nix::sys::signal::Signal::SIGTERM);
        set.thread_block().unwrap();
    }
    if flags.iter().any(|flag| flag == "listening") {
        std::thread::spawn(|| {
            let read = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            println!("stdin has ended: {read:?}");
            std::process::exit(0);
        });
    }
    if flags.iter().any(|flag| flag == "never") {
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
    std::thread::sleep(Duration::from_millis(value("late").unwrap_or(0)));
    let listener = TcpListener::bind(&address).unwrap();
    println!("listens on {}", listener.local_addr().unwrap());
    elsewhere::serve_with(&listener, &flags, Some(act));
}

/// What is tried, and what comes of it.
fn act(words: &str) -> String {
    let said = |done: std::io::Result<()>| match done {
        Ok(()) => "done".to_owned(),
        Err(error) => {
            let code = error.raw_os_error().map(nix::errno::Errno::from_raw);
            code.map_or_else(|| error.to_string(), |code| format!("{code:?}"))
        }
    };
    match words.split_once(' ').unwrap_or((words, "")) {
        ("listen", address) => said(TcpListener::bind(address).map(std::mem::forget)),
        ("listen-unbound", _) => {
            let made = socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::empty(),
                None,
            );
            let done = made.and_then(|it| {
                listen(&it, Backlog::new(1)?)?;
                std::mem::forget(it);
                Ok(())
            });
            said(done.map_err(Into::into))
        }
        ("connect", address) => said(TcpStream::connect(address).map(drop)),
        ("exit", code) => std::process::exit(code.parse().unwrap()),
        ("pid", _) => std::process::id().to_string(),
        ("variable", name) => std::env::var(name).unwrap_or_default(),
        _ => "?".to_owned(),
    }
}
