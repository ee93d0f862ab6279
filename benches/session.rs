//! What one call costs in the session alone: parse, policy, scrub, audit and metrics of a request and
//! its answer, without a system call but the audit file's. `cargo bench --bench session [FILTER]`.
//!
//! Prints nanoseconds: the best of many short rounds, so that other work on the machine hardly shows.
//! `session pairs legacy 100000` runs only that many pairs, for `valgrind --tool=callgrind`.

#![expect(clippy::print_stdout, reason = "a bench reports on stdout")]

use cofferdam::audit::Log;
use cofferdam::config::{Config, File, Overrides, Surroundings, build};
use cofferdam::mcp::{Direction, parse};
use cofferdam::policy::{Policy, scrub::Scrubber};
use cofferdam::proxy::{Outbox, Passage, Session};
use cofferdam::telemetry::Metrics;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const LISTED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"echo","inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false}}]}}"#;
const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{},"sampling":{}},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0.0"}},"#;
/// Pairs of one round.
const ROUND: u64 = 1000;
const ROUNDS: u32 = 200;

/// One kind of call with its answer; ids are patched into both.
struct Shape {
    name: &'static str,
    request: String,
    answer: String,
}

fn shapes() -> [Shape; 2] {
    let shape = |name, meta: &str, kind: &str| Shape {
        name,
        request: format!(
            r#"{{"jsonrpc":"2.0","id":########,"method":"tools/call","params":{{{meta}"name":"echo","arguments":{{"text":"call ######## of a bench that is about as long as most are"}}}}}}"#
        ),
        answer: format!(
            r#"{{"jsonrpc":"2.0","id":########,"result":{{"content":[{{"type":"text","text":"call ######## of a bench that is about as long as most are"}}],"isError":false{kind}}}}}"#
        ),
    };
    [
        shape("legacy", "", ""),
        shape("modern", META, r#","resultType":"complete""#),
    ]
}

fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    if let [pairs, wanted, count] = &*words
        && pairs == "pairs"
    {
        let mut rig = Rig::new(Some(&directory.path().join("audit.jsonl")))?;
        let count = count.parse()?;
        for shape in shapes().iter().filter(|shape| shape.name == *wanted) {
            rig.pairs(&shape.round(count));
        }
        return Ok(());
    }
    println!("{:<34} {:>8}", "nanoseconds", "best");
    let show = |what: &str, nanos: f64| println!("{what:<34} {nanos:>8.0}");
    for shape in shapes() {
        let round = shape.round(ROUND);
        let line = |part: &str| format!("{} {part}", shape.name);
        for (name, direction, at) in [
            ("parse call", Direction::ToServer, 0),
            ("parse answer", Direction::ToClient, 1),
        ] {
            let proved = || {
                for pair in &round {
                    drop(black_box(parse(pair[at].as_bytes(), direction)));
                }
            };
            show(&line(name), best(proved));
        }
        let scrubber = Scrubber::new(config()?.scrub, &[]);
        let mut found = Vec::new();
        show(
            &line("scrub answer"),
            best(|| {
                for pair in &round {
                    scrubber.json(pair[1].as_bytes(), &mut found);
                }
            }),
        );
        let mut rig = Rig::new(None)?;
        show(&line("pair, no audit"), best(|| rig.pairs(&round)));
        let mut rig = Rig::new(Some(&directory.path().join("audit.jsonl")))?;
        show(&line("pair"), best(|| rig.pairs(&round)));
    }
    Ok(())
}

impl Shape {
    /// `count` pairs with ids of their own.
    fn round(&self, count: u64) -> Vec<[String; 2]> {
        let with = |text: &str, id: u64| text.replace("########", &id.to_string());
        (10_000_000..10_000_000 + count)
            .map(|id| [with(&self.request, id), with(&self.answer, id)])
            .collect()
    }
}

/// Nanoseconds of one of the `ROUND` steps of `round`, in the best round.
fn best(mut round: impl FnMut()) -> f64 {
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        round();
        least = least.min(started.elapsed());
    }
    least.as_nanos() as f64 / ROUND as f64
}

fn config() -> Result<Config, Failure> {
    let text = include_str!("stdio/bench.toml");
    let text = text.replace("[server]\n", "[server]\ncommand = [\"true\"]\n");
    let file = File::parse("bench.toml", text)?;
    let around = Surroundings {
        directory: "/".into(),
        ..Surroundings::default()
    };
    let built = build(Some(&file), &Overrides::default(), &around);
    Ok(built.map_err(|problems| format!("{problems:?}"))?.config)
}

/// A session that knows the tool, as the loop around it works.
struct Rig {
    session: Session,
}

impl Rig {
    fn new(audit: Option<&Path>) -> Result<Self, Failure> {
        let config = config()?;
        let policy = Arc::new(Policy::new(&config, Scrubber::new(config.scrub, &[])));
        let metrics = Arc::new(Metrics::new()?);
        let audit = Log::open(audit, "bench", policy.digest())?;
        let session = Session::new(&config, policy, audit, metrics);
        let mut rig = Self { session };
        rig.pairs(&[[LIST.to_owned(), LISTED.to_owned()]]);
        Ok(rig)
    }

    /// Each request with its answer, as the loop handles lines that it reads one by one.
    fn pairs(&mut self, round: &[[String; 2]]) {
        let mut out = Outbox::default();
        let mut last = Instant::now();
        for [request, answer] in round {
            let there = self.session.client_line(request.as_bytes(), last, &mut out);
            self.lap(Direction::ToServer, &mut last);
            let back = self.session.server_line(answer.as_bytes(), last, &mut out);
            self.lap(Direction::ToClient, &mut last);
            assert!(
                matches!((there, back), (Passage::Pass, Passage::Pass)),
                "a pair was stopped"
            );
        }
    }

    fn lap(&mut self, direction: Direction, last: &mut Instant) {
        let now = Instant::now();
        self.session
            .tally()
            .overhead(direction, now.saturating_duration_since(*last), 1);
        *last = now;
    }
}
