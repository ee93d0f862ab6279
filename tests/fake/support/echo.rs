//! The fastest server that answers correctly: no tree, one read, one write for each burst.
//!
//! It trusts its client (benches and tests of ours) and finds id, method and arguments by literal
//! search, so that what is measured around it is the wrapper and not the server.

use super::text::blob;
use memchr::{memchr, memmem};
use std::io::{self, Read, Write};

const INITIALIZE: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"echo","version":"1.0.0"}}"#;
const DISCOVER: &str = r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"echo","version":"1.0.0"},"resultType":"complete","ttlMs":1000,"cacheScope":"public"}"#;
const TOOLS: &str = r#"{"tools":[{"name":"echo","description":"Says it again","inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false}},{"name":"blob","description":"Says much","inputSchema":{"type":"object","properties":{"bytes":{"type":"integer","minimum":0,"maximum":16777216}},"required":["bytes"],"additionalProperties":false}}]}"#;

/// Serves stdin to stdout until the end of input.
pub(crate) fn serve() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), Unbuffered);
    let mut buffer = vec![0; 1 << 20];
    let (mut start, mut end) = (0, 0);
    let mut replies = Vec::with_capacity(1 << 16);
    let mut large = String::new();
    loop {
        let mut scanned = start;
        while let Some(at) = memchr(b'\n', &buffer[scanned..end]) {
            answer(&buffer[start..scanned + at], &mut replies, &mut large);
            start = scanned + at + 1;
            scanned = start;
            if replies.len() > 1 << 18 {
                output.write_all(&replies)?;
                replies.clear();
            }
        }
        if !replies.is_empty() {
            output.write_all(&replies)?;
            replies.clear();
        }
        buffer.copy_within(start..end, 0);
        end -= start;
        start = 0;
        if end == buffer.len() {
            buffer.resize(buffer.len() * 2, 0);
        }
        match input.read(&mut buffer[end..])? {
            0 => return Ok(()),
            n => end += n,
        }
    }
}

/// The line or lines that answer `line`: a call that asks for progress is told of it first.
pub(crate) fn answer(line: &[u8], replies: &mut Vec<u8>, large: &mut String) {
    let Some(id) = token_after(line, b"\"id\":") else {
        return;
    };
    let method = quoted_after(line, b"\"method\":\"").unwrap_or_default();
    if let Some(token) = token_after(line, b"\"progressToken\":") {
        let told = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":";
        replies.extend_from_slice(told);
        replies.extend_from_slice(token);
        replies.extend_from_slice(b",\"progress\":1}}\n");
    }
    replies.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    replies.extend_from_slice(id);
    replies.extend_from_slice(b",\"result\":");
    match method {
        b"initialize" => replies.extend_from_slice(INITIALIZE.as_bytes()),
        b"server/discover" => replies.extend_from_slice(DISCOVER.as_bytes()),
        b"tools/list" => replies.extend_from_slice(TOOLS.as_bytes()),
        b"tools/call" => {
            replies.extend_from_slice(b"{\"content\":[{\"type\":\"text\",\"text\":\"");
            match quoted_after(line, b"\"name\":\"") {
                Some(b"blob") => {
                    let digits = token_after(line, b"\"bytes\":").unwrap_or_default();
                    let size = std::str::from_utf8(digits)
                        .ok()
                        .and_then(|t| t.parse().ok());
                    let size = size.unwrap_or(0);
                    if large.len() != size {
                        *large = blob(size);
                    }
                    replies.extend_from_slice(large.as_bytes());
                }
                _ => replies
                    .extend_from_slice(quoted_after(line, b"\"text\":\"").unwrap_or_default()),
            }
            replies.extend_from_slice(b"\"}],\"isError\":false");
            if memmem::find(line, b"io.modelcontextprotocol/protocolVersion").is_some() {
                replies.extend_from_slice(b",\"resultType\":\"complete\"");
            }
            replies.push(b'}');
        }
        _ => replies.extend_from_slice(b"{}"),
    }
    replies.extend_from_slice(b"}\n");
}

fn token_after<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let rest = &line[memmem::find(line, key)? + key.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b',' | b'}'))?;
    Some(&rest[..end])
}

fn quoted_after<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let rest = &line[memmem::find(line, key)? + key.len()..];
    let mut from = 0;
    loop {
        let at = from + memchr(b'"', &rest[from..])?;
        let backslashes = rest[..at]
            .iter()
            .rev()
            .take_while(|byte| **byte == b'\\')
            .count();
        if backslashes % 2 == 0 {
            return Some(&rest[..at]);
        }
        from = at + 1;
    }
}

/// Stdout without the line buffer of the standard library, which would write each line alone.
struct Unbuffered;

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(io::stdout(), bytes)?)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
