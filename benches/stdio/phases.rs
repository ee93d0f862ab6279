//! The loads, cut into slices in which the targets take turns.

use crate::peer::{self, Peer, Target};
use crate::report::{Report, Unit};
use crate::text::blob;
use std::io;
use std::time::{Duration, Instant};

/// Calls in flight at once; they fit into one pipe, so neither side can block the other.
const IN_FLIGHT: u64 = 256;
/// Foreign processes that took more than this share of the CPU spoil a slice.
const FOREIGN: f64 = 0.25;
/// A spoilt slice is repeated so many times at most.
const REPEATS: u32 = 4;
/// Ids start where they have eight digits, so that they are patched in place.
const FIRST_ID: u64 = 10_000_000;

const MODERN: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{},"sampling":{}},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0.0"}},"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// One small call at a time; yields p50 and p99.
    Small { modern: bool },
    /// `IN_FLIGHT` small calls open at any time.
    Flight,
    /// A result of so many bytes.
    Result(usize),
    /// An argument of so many bytes, echoed.
    Upload(usize),
}

/// The loads, with the targets of the ratio to the relay: at most for times, at least for rates.
const LOADS: [(&str, Load); 7] = [
    ("small call", Load::Small { modern: false }),
    ("small modern call", Load::Small { modern: true }),
    ("256 in flight", Load::Flight),
    ("64 KiB result", Load::Result(64 << 10)),
    ("1 MiB result", Load::Result(1 << 20)),
    ("8 MiB result", Load::Result(8 << 20)),
    ("64 KiB upload", Load::Upload(64 << 10)),
];

/// Runs every load on every target, `rounds` times, targets taking turns within a round.
pub(crate) fn run(
    targets: &[Target],
    rounds: usize,
    slice: Duration,
    suffix: &str,
    report: &mut Report,
) -> io::Result<()> {
    let mut peers = targets
        .iter()
        .map(Target::open)
        .collect::<io::Result<Vec<_>>>()?;
    for (name, load) in LOADS {
        let mut script = Script::new(load);
        for peer in &mut peers {
            script.slice(peer, slice / 4)?;
        }
        for round in 0..rounds {
            // The order turns too: what runs after another is not always the same one.
            for turn in 0..peers.len() {
                let at = (round + turn) % peers.len();
                let Some(peer) = peers.get_mut(at) else {
                    continue;
                };
                for (metric, value) in script.quiet_slice(peer, slice)? {
                    let unit = if metric.is_empty() {
                        Unit::Rate
                    } else {
                        Unit::Time
                    };
                    report.add(&format!("{name}{metric}{suffix}"), unit, peer.name, value);
                }
            }
        }
    }
    Ok(())
}

/// A line with places for the eight digits of an id.
struct Template {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Template {
    fn new(text: &str) -> Self {
        let places: Vec<usize> = text.match_indices("########").map(|(at, _)| at).collect();
        Self {
            bytes: text.as_bytes().to_vec(),
            places,
        }
    }

    fn with(&mut self, id: u64) -> &[u8] {
        let mut digits = [0_u8; 8];
        let mut rest = id;
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789"[usize::try_from(rest % 10).unwrap_or(0)];
            rest /= 10;
        }
        for place in &self.places {
            self.bytes[*place..*place + 8].copy_from_slice(&digits);
        }
        &self.bytes
    }
}

/// What one load sends and must get back, byte for byte.
struct Script {
    load: Load,
    request: Template,
    reply: Template,
    next: u64,
    lines: Vec<u8>,
}

impl Script {
    fn new(load: Load) -> Self {
        let (meta, result_type) = match load {
            Load::Small { modern: true } => (MODERN, r#","resultType":"complete""#),
            _ => ("", ""),
        };
        let (name, arguments, said) = match load {
            Load::Result(size) => ("blob", format!(r#""bytes":{size}"#), blob(size)),
            Load::Upload(size) => ("echo", format!(r#""text":"{0}""#, blob(size)), blob(size)),
            _ => {
                let said = "call ######## of a bench that is about as long as most are".to_owned();
                ("echo", format!(r#""text":"{said}""#), said)
            }
        };
        let request = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":########,\"method\":\"tools/call\",\"params\":{{{meta}\"name\":\"{name}\",\"arguments\":{{{arguments}}}}}}}\n"
        );
        let reply = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":########,\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":\"{said}\"}}],\"isError\":false{result_type}}}}}"
        );
        Self {
            load,
            request: Template::new(&request),
            reply: Template::new(&reply),
            next: FIRST_ID,
            lines: Vec::new(),
        }
    }

    /// A slice in which the machine was ours; the least disturbed of a few when it never was.
    fn quiet_slice(
        &mut self,
        peer: &mut Peer,
        slice: Duration,
    ) -> io::Result<Vec<(&'static str, f64)>> {
        let mut best: Option<(f64, Vec<(&'static str, f64)>)> = None;
        for _ in 0..REPEATS {
            let (busy, ours, clock) =
                (machine_busy(), peer.cpu() + peer::own_cpu(), Instant::now());
            let values = self.slice(peer, slice)?;
            let ours = (peer.cpu() + peer::own_cpu()).saturating_sub(ours);
            let foreign = machine_busy().saturating_sub(busy).saturating_sub(ours);
            let share = foreign.as_secs_f64() / clock.elapsed().as_secs_f64();
            if best.as_ref().is_none_or(|(least, _)| share < *least) {
                best = Some((share, values));
            }
            if share <= FOREIGN {
                break;
            }
        }
        Ok(best.map(|(_, values)| values).unwrap_or_default())
    }

    fn slice(&mut self, peer: &mut Peer, slice: Duration) -> io::Result<Vec<(&'static str, f64)>> {
        peer::beat();
        let started = Instant::now();
        match self.load {
            Load::Small { .. } => {
                let mut times = Vec::with_capacity(1 << 15);
                while started.elapsed() < slice {
                    let sent = Instant::now();
                    self.one(peer)?;
                    times.push(sent.elapsed().as_nanos());
                }
                times.sort_unstable();
                let at = |share: usize| {
                    times
                        .get(times.len() * share / 100)
                        .map_or(0.0, |t| *t as f64 / 1e3)
                };
                Ok(vec![(" p50", at(50)), (" p99", at(99))])
            }
            Load::Flight => {
                let calls = self.flight(peer, slice)?;
                Ok(vec![(
                    "",
                    calls as f64 / started.elapsed().as_secs_f64() / 1e3,
                )])
            }
            Load::Result(size) | Load::Upload(size) => {
                let mut calls = 0_u32;
                while calls < 2 || started.elapsed() < slice {
                    self.one(peer)?;
                    calls += 1;
                }
                let bytes = f64::from(calls) * size as f64;
                Ok(vec![("", bytes / started.elapsed().as_secs_f64() / 1e6)])
            }
        }
    }

    fn one(&mut self, peer: &mut Peer) -> io::Result<()> {
        let id = self.next;
        self.next += 1;
        peer.send(self.request.with(id))?;
        let (name, line) = (peer.name, peer.receive()?);
        same(name, line, self.reply.with(id))
    }

    fn flight(&mut self, peer: &mut Peer, slice: Duration) -> io::Result<u64> {
        let started = Instant::now();
        let (mut expected, mut answered) = (self.next, 0);
        self.burst(peer, IN_FLIGHT)?;
        while expected < self.next {
            let mut fresh = 0;
            loop {
                let (name, line) = (peer.name, peer.receive()?);
                same(name, line, self.reply.with(expected))?;
                expected += 1;
                fresh += 1;
                if !peer.ready() {
                    break;
                }
            }
            answered += fresh;
            if started.elapsed() < slice {
                self.burst(peer, fresh)?;
            }
        }
        Ok(answered)
    }

    fn burst(&mut self, peer: &mut Peer, count: u64) -> io::Result<()> {
        self.lines.clear();
        for _ in 0..count {
            self.lines.extend_from_slice(self.request.with(self.next));
            self.next += 1;
        }
        peer.send(&self.lines)
    }
}

/// The server is deterministic and keeps order, so any other byte is a fault of what lies between.
fn same(name: &str, line: &[u8], expected: &[u8]) -> io::Result<()> {
    if line == expected {
        return Ok(());
    }
    let show = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
    Err(io::Error::other(format!(
        "{name}: not the expected answer\n  expected ({}) {}\n  received ({}) {}",
        expected.len(),
        show(expected),
        line.len(),
        show(line)
    )))
}

/// Time that the CPU (all of them when not pinned) was not idle, whoever used it.
fn machine_busy() -> Duration {
    let pinned = nix::sched::sched_getaffinity(nix::unistd::Pid::this()).ok();
    let one = pinned.as_ref().filter(|set| {
        (0..nix::sched::CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
            .count()
            == 1
    });
    let wanted = one.map_or_else(
        || "cpu ".to_owned(),
        |set| format!("cpu{} ", crate::pinned::last_cpu(set)),
    );
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat
        .lines()
        .find(|line| line.starts_with(&wanted))
        .unwrap_or_default();
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal, in hundredths of a second
    let busy: u64 = fields.iter().take(8).sum::<u64>() - fields.iter().skip(3).take(2).sum::<u64>();
    Duration::from_millis(busy * 10)
}
