//! Speed of proving a line, walking it and framing it: GB/s and ns for the five shapes of message
//! that sessions are made of. `cargo bench --bench wire`.

use cofferdam::mcp::{Direction, Envelope, Kind, parse};
use cofferdam::transport::frame::{Frame, FrameBuf};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use std::fmt::Write as _;
use std::hint::black_box;

/// Name, line, direction.
fn lines() -> Vec<(&'static str, String, Direction)> {
    let arguments = r#"{"message":"a short text of a small call, 64 bytes long or thereabouts"}"#;
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":1234,"method":"tools/call","params":{{"name":"echo","arguments":{arguments}}}}}"#
    );
    let modern = format!(
        r#"{{"jsonrpc":"2.0","id":1234,"method":"tools/call","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"bench-client","version":"1.0.0"}},"io.modelcontextprotocol/clientCapabilities":{{"roots":{{}},"sampling":{{}},"elicitation":{{}}}},"progressToken":77}},"name":"echo","arguments":{arguments}}}}}"#
    );
    vec![
        ("call 170 B", call, Direction::ToServer),
        ("modern call 400 B", modern, Direction::ToServer),
        ("text result 4 KiB", result(4 << 10), Direction::ToClient),
        ("text result 64 KiB", result(64 << 10), Direction::ToClient),
        ("text result 1 MiB", result(1 << 20), Direction::ToClient),
        ("text upload 64 KiB", upload(64 << 10), Direction::ToServer),
        ("JSON in text 1 MiB", quoted(1 << 20), Direction::ToClient),
        ("JSON rows 1 MiB", rows(1 << 20), Direction::ToClient),
        ("CJK text 1 MiB", cjk(1 << 20), Direction::ToClient),
    ]
}

/// Log-like text: a line end about every 70 bytes, a quoted word now and then.
fn log(bytes: usize) -> String {
    let mut text = String::new();
    let mut line = 0u32;
    while text.len() < bytes {
        let _infallible = writeln!(
            text,
            "2026-11-21T08:{:02}:{:02}Z INFO worker[{line}]: request served in {} ms{}",
            line / 60 % 60,
            line % 60,
            line * 7919 % 1000,
            if line.is_multiple_of(4) {
                " for \"guest\""
            } else {
                ""
            },
        );
        line += 1;
    }
    text.truncate(bytes);
    text
}

fn answer(text: &str) -> String {
    let text = serde_json::Value::from(text);
    format!(
        r#"{{"jsonrpc":"2.0","id":1234,"result":{{"content":[{{"type":"text","text":{text}}}],"isError":false}}}}"#
    )
}

fn result(bytes: usize) -> String {
    answer(&log(bytes))
}

fn upload(bytes: usize) -> String {
    let text = serde_json::Value::from(log(bytes));
    format!(
        r#"{{"jsonrpc":"2.0","id":1234,"method":"tools/call","params":{{"name":"write_file","arguments":{{"path":"/srv/data/log.txt","content":{text}}}}}}}"#
    )
}

fn table(bytes: usize) -> String {
    let mut text = String::from("[");
    let mut row = 0u32;
    while text.len() < bytes {
        let _infallible = write!(
            text,
            r#"{}{{"id":{row},"name":"user-{}","email":"user{row}@example.com","active":{},"score":{}.{}}}"#,
            if row == 0 { "" } else { "," },
            row * 31 % 997,
            row.is_multiple_of(3),
            row % 100,
            row % 10,
        );
        row += 1;
    }
    text + "]"
}

fn quoted(bytes: usize) -> String {
    answer(&table(bytes))
}

fn rows(bytes: usize) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1234,"result":{{"content":[],"structuredContent":{{"rows":{}}}}}}}"#,
        table(bytes)
    )
}

fn cjk(bytes: usize) -> String {
    answer(&"漢字かな交じり文の例です。".repeat(bytes / 39))
}

fn walk(envelope: &Envelope<'_>) -> usize {
    match &envelope.kind {
        Kind::Request { params, .. } => params
            .and_then(|params| params.member("name"))
            .map_or(0, |name| name.start),
        Kind::Result { result, .. } => result.member("isError").map_or(0, |flag| flag.start),
        _ => 0,
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let lines = lines();
    let mut group = criterion.benchmark_group("parse");
    for (name, line, direction) in &lines {
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bench| {
            bench.iter(|| parse(black_box(line.as_bytes()), *direction).is_ok());
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("walk to a member");
    for (name, line, direction) in &lines {
        let envelope = parse(line.as_bytes(), *direction).ok();
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bench| {
            bench.iter(|| black_box(&envelope).as_ref().map(walk));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("frame");
    for (name, line, _) in &lines {
        let mut stream = Vec::new();
        while stream.len() < (1 << 20) {
            stream.extend_from_slice(line.as_bytes());
            stream.push(b'\n');
        }
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bench| {
            bench.iter_batched_ref(
                || {
                    let mut frames = FrameBuf::new(4 << 20);
                    frames.extend(&stream);
                    frames
                },
                |frames| {
                    let mut count = 0;
                    while let Some(Frame::Line(line)) = frames.next() {
                        count += line.range().len();
                    }
                    count
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}
