//! How fast the scrubber reads, in MB/s of one core, with all detectors on.
//!
//! `cargo bench --bench scrub`. The corpora are generated here and have the shapes of real traffic:
//! small calls, text results, row data, tool lists, code. The last rows are made to be slow.

#![expect(clippy::print_stdout, reason = "a bench reports on stdout")]

use cofferdam::config::SecretsMode;
use cofferdam::policy::scrub::Scrubber;
use cofferdam::secret::Secret;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Each corpus is read again and again for a time slice, and the best counts: other work on the machine hardly shows.
const ROUND: Duration = Duration::from_millis(2);
const ROUNDS: usize = 150;

fn main() {
    let started = Instant::now();
    let bare = Scrubber::new(SecretsMode::Redact, &[]);
    let first = started.elapsed();
    let started = Instant::now();
    let given = Scrubber::new(SecretsMode::Redact, &[secret(1), secret(2), secret(3)]);
    let second = started.elapsed();
    println!("start: table {first:?}, automaton of three given values {second:?}\n");
    println!(
        "{:<26} {:>9} {:>8} {:>8} {:>9}",
        "corpus", "bytes", "MB/s", "+given", "findings"
    );
    let mut clean = 0.0;
    let wanted = std::env::args()
        .skip(1)
        .find(|arg| !arg.starts_with('-'))
        .unwrap_or_default();
    for (name, line) in corpora()
        .into_iter()
        .filter(|(name, _)| name.contains(&wanted))
    {
        let (speed, found) = measure(&bare, line.as_bytes());
        let (with, _) = measure(&given, line.as_bytes());
        if name == "result 1M" {
            clean = speed;
        }
        println!(
            "{name:<26} {:>9} {speed:>8.0} {with:>8.0} {found:>9}",
            line.len()
        );
    }
    println!(
        "\n{:<26} {:>9} {:>8} {:>8} {:>9}",
        "made to be slow", "bytes", "MB/s", "x clean", "findings"
    );
    for (name, line) in hostile()
        .into_iter()
        .filter(|(name, _)| name.contains(&wanted))
    {
        let (speed, found) = measure(&bare, line.as_bytes());
        println!(
            "{name:<26} {:>9} {speed:>8.0} {:>8.1} {found:>9}",
            line.len(),
            clean / speed
        );
    }
}

/// Megabytes per second, and how much is found.
fn measure(scrubber: &Scrubber, line: &[u8]) -> (f64, usize) {
    let mut found = Vec::new();
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let mut reads = 0u32;
        while started.elapsed() < ROUND {
            for _ in 0..(1 << 14) / line.len().max(1) + 1 {
                scrubber.json(black_box(line), &mut found);
                reads += 1;
            }
        }
        best = best.min(started.elapsed().as_secs_f64() / f64::from(reads));
    }
    let length = u32::try_from(line.len()).map_or(f64::MAX, f64::from);
    (length / best / 1e6, found.len())
}

fn secret(seed: u64) -> Secret {
    let mut dice = Dice(seed);
    Secret::new("given", dice.token(32).into_bytes())
}

/// A small generator, so that every run reads the same bytes.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % n
    }

    fn token(&mut self, length: usize) -> String {
        let set = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        (0..length)
            .map(|_| char::from(set[self.below(set.len())]))
            .collect()
    }

    fn text(&mut self, length: usize, words: &[&str], gap: &[&str]) -> String {
        let mut text = String::with_capacity(length + 32);
        while text.len() < length {
            text.push_str(words[self.below(words.len())]);
            text.push_str(gap[self.below(gap.len())]);
        }
        text
    }
}

const PROSE: &[&str] = &[
    "the",
    "server",
    "reads",
    "a",
    "file",
    "and",
    "answers",
    "with",
    "its",
    "content",
    "of",
    "which",
    "every",
    "message",
    "is",
    "checked",
    "against",
    "policy",
    "before",
    "it",
    "leaves",
    "documentation",
    "process",
    "in",
    "2026",
    "for",
    "client",
    "requests",
    "key",
    "token",
    "reader",
    "large",
    "until",
    "we",
    "should",
    "not",
    "matter",
    "be",
    "on",
    "path",
    "to",
    "from",
    "at",
    "line",
    "error",
    "those",
    "time",
    "small",
    "memory",
    "returns",
    "when",
    "other",
    "blocks",
    "waits",
    "value",
    "under",
    "all",
];
const CODE: &[&str] = &[
    "fn",
    "let",
    "self.connection_pool",
    "return",
    "if",
    "match",
    "Some(value)",
    "None",
    "for",
    "in",
    "request_handler",
    "Result<Vec<u8>, Error>",
    "pub(crate)",
    "impl",
    "config.timeout_seconds",
    "0x7f",
    "assert_eq!(a, b);",
    "use std::collections::HashMap;",
    "token.next()",
    "=>",
    "{",
    "}",
    "x",
    "i + 1",
    "// the reader may be slower than the writer",
    "let key = map.keys().next();",
    "&mut buffer[..n]",
];

fn result(text: &str) -> String {
    let text = serde_json::Value::from(text).to_string();
    format!(
        r#"{{"jsonrpc":"2.0","id":7,"result":{{"content":[{{"type":"text","text":{text}}}]}}}}"#
    )
}

fn rows(length: usize) -> String {
    let mut dice = Dice(5);
    let mut rows = String::new();
    while rows.len() < length {
        let id = dice.below(1_000_000);
        rows.push_str(&format!(
            r#"{{"id":{id},"uuid":"{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}","name":"user{id}","email":"user{id}@example.com","score":{}.{},"active":true,"created_at":"2026-03-{:02}T12:{:02}:00Z"}},"#,
            dice.below(1 << 30), dice.below(1 << 16), dice.below(1 << 12), dice.below(1 << 12),
            dice.below(1 << 30), dice.below(100), dice.below(100), dice.below(27) + 1, dice.below(60),
        ));
    }
    rows.pop();
    format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"structuredContent":{{"rows":[{rows}]}}}}}}"#)
}

fn tools(count: usize) -> String {
    let mut dice = Dice(9);
    let tools: Vec<String> = (0..count)
        .map(|i| {
            let about = dice.text(300, PROSE, &[" "]);
            format!(
                r#"{{"name":"tool_{i}","description":"{about}","inputSchema":{{"type":"object","properties":{{"path":{{"type":"string","description":"Where to read from"}},"limit":{{"type":"integer","minimum":1,"maximum":1000}},"include_hidden":{{"type":"boolean","default":false}}}},"required":["path"],"additionalProperties":false}}}}"#
            )
        })
        .collect();
    format!(
        r#"{{"jsonrpc":"2.0","id":2,"result":{{"tools":[{}]}}}}"#,
        tools.join(",")
    )
}

fn corpora() -> Vec<(&'static str, String)> {
    let mut dice = Dice(3);
    let prose = dice.text(1 << 20, PROSE, &[" ", " ", " ", ", ", ". ", "\n"]);
    let code = dice.text(1 << 20, CODE, &[" ", " ", "\n    ", "\n"]);
    let blob = dice.token(1 << 20);
    let call = r#"{"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"read_text_file","arguments":{"path":"/srv/data/projects/report.md","head":200,"tail":null}}}"#;
    let meta = r#"{"jsonrpc":"2.0","id":43,"method":"tools/call","params":{"name":"search_issues","arguments":{"query":"is:open label:bug","limit":50,"order":"updated"},"_meta":{"progressToken":17,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"example-client","version":"1.4.2"},"io.modelcontextprotocol/clientCapabilities":{"sampling":{},"roots":{}}}}}"#;
    vec![
        ("call 170", call.to_owned()),
        ("call with _meta 400", meta.to_owned()),
        ("result 4K", result(&prose[..4 << 10])),
        ("result 1M", result(&prose)),
        ("code 1M", result(&code)),
        ("rows 1M", rows(1 << 20)),
        ("tools/list 30K", tools(48)),
        ("base64 image 1M", result(&blob)),
    ]
}

fn hostile() -> Vec<(&'static str, String)> {
    let fill = |part: &str| result(&part.repeat((1 << 20) / part.len()));
    vec![
        ("prefixes", fill(&["gh", "p_xxxxxxxxxxxx "].concat())),
        ("prefixes in one run", fill("sk-ant-")),
        ("jwt starts", fill("eyJ-")),
        ("jwt halves", fill("eyJhbGciOiJIUzI1NiJ9.")),
        ("dotted", fill("SG.AAAAAAAAAAAA.")),
        ("names", fill("password=a ")),
        ("names of long values", fill("token=\"aaaaaaaaaaaaa\" ")),
        ("urls", fill("://a:b")),
        ("escapes", fill("\\u0067").replace("\\\\u", "\\u")),
        ("key frames", fill("-----BEGIN ")),
        ("runs of twelve", fill("aaaaaaaaaaaa ")),
        ("base64 walls", fill("+/aaaaaaaaaaaa")),
        (
            "findings",
            fill(&["gl", "pat-q8Zt3LwPx0VnRk5TyUzW "].concat()),
        ),
    ]
}
