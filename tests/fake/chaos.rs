//! A server that misbehaves at seeded random points, and still answers by a rule that can be checked.
//!
//! `chaos SEED`: the answer to a call with argument `key` is a function of that key alone. What else
//! happens (dying, stopping, flooding, answering twice or unasked) follows the seed.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut random = Random(
        std::env::args()
            .nth(1)
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(1),
    );
    // Faults come once in a few hundred messages, so that most of a life is normal work.
    let mut later: Vec<String> = Vec::new();
    for line in io::stdin().lock().split(b'\n') {
        let Ok(line) = line else { break };
        let Ok(message) = serde_json::from_slice::<serde_json::Value>(&line) else {
            continue;
        };
        let Some(id) = message.get("id") else {
            continue;
        };
        let answer = match message["method"].as_str().unwrap_or_default() {
            "initialize" => format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"protocolVersion":"2025-11-25","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"chaos","version":"1"}}}}}}"#
            ),
            "tools/list" => format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"tools":[{{"name":"work","inputSchema":{{"type":"object","properties":{{"key":{{"type":"integer"}},"bytes":{{"type":"integer"}}}},"required":["key"]}}}}]}}}}"#
            ),
            "tools/call" => {
                let arguments = &message["params"]["arguments"];
                let bytes = arguments["bytes"]
                    .as_u64()
                    .and_then(|n| usize::try_from(n).ok())
                    .unwrap_or(0);
                format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"work {} {}"}}]}}}}"#,
                    arguments["key"],
                    "y".repeat(bytes)
                )
            }
            "ping" => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#),
            other => format!(
                r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"Method not found: {other}"}}}}"#
            ),
        };
        let calm =
            ["initialize", "tools/list"].contains(&message["method"].as_str().unwrap_or_default());
        match if calm { 0 } else { random.below(400) } {
            1 => return ExitCode::from(7),
            2 => raise("KILL"),
            3 => raise("STOP"),
            4 => say(&"junk that is no JSON\n".repeat(2000)),
            5 => say(&format!("{answer}\n")),
            6 => say("{\"jsonrpc\":\"2.0\",\"id\":888888888,\"result\":{\"content\":[]}}\n"),
            7 => say(&format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":\"{id}\",\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":\"crossed\"}}]}}}}\n"
            )),
            8 => {
                for n in 0..5000 {
                    drop(writeln!(io::stderr(), "flood {n}"));
                }
            }
            9 => {
                // Half an answer, then the end.
                say(&answer[..answer.len() / 2]);
                return ExitCode::from(9);
            }
            10..=30 => {
                // Answers overtake each other.
                later.push(answer);
                continue;
            }
            _ => {}
        }
        say(&format!("{answer}\n"));
        for answer in later.drain(..) {
            say(&format!("{answer}\n"));
        }
    }
    for answer in later {
        say(&format!("{answer}\n"));
    }
    ExitCode::SUCCESS
}

fn say(text: &str) {
    let mut out = io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Sends itself a signal, as an operator or the kernel would.
fn raise(signal: &str) {
    use nix::sys::signal::{Signal, raise};
    let signal = if signal == "STOP" {
        Signal::SIGSTOP
    } else {
        Signal::SIGKILL
    };
    raise(signal).ok();
}

/// xorshift64*: repeatable, and nothing here needs better.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 |= 1;
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}
