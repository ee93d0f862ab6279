//! A client of the HTTP listener that hides nothing: bytes out, bytes in.

use crate::rig::Rig;
use crate::wire::{Wire, eventually};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(crate) const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// A server behind the listener.
pub(crate) struct Site {
    pub(crate) wire: Wire,
    pub(crate) address: SocketAddr,
}

/// What came back, all of it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The messages of an event stream that has ended.
    pub(crate) fn events(&self) -> Vec<Value> {
        let data = self
            .body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| !data.is_empty())
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }
}

impl Site {
    /// The fake server `hostile` with these arguments, behind a listener.
    pub(crate) fn hostile(flags: &[&str], server: &[&str]) -> Self {
        Self::in_rig(Rig::new(), flags, server)
    }

    pub(crate) fn in_rig(rig: Rig, flags: &[&str], server: &[&str]) -> Self {
        let flags = [&["--listen", "127.0.0.1:0"], flags].concat();
        Self::around(Wire::in_rig(rig, &flags, server))
    }

    /// Every line that reaches a server goes to a file; `{dir}/log/lines`.
    pub(crate) fn logging(flags: &[&str], server: &[&str]) -> Self {
        let rig = Rig::new();
        std::fs::create_dir(rig.path().join("log")).unwrap();
        let flags = [&["--user", "root", "--write", "{dir}/log"], flags].concat();
        let server = [&["log={dir}/log/lines"], server].concat();
        Self::in_rig(rig, &flags, &server)
    }

    pub(crate) fn reached(&self) -> String {
        std::fs::read_to_string(self.wire.rig.path().join("log/lines")).unwrap_or_default()
    }

    pub(crate) fn around(wire: Wire) -> Self {
        wire.until_stderr(" runs as ");
        Self::listening(wire)
    }

    /// One whose server is there already.
    pub(crate) fn listening(wire: Wire) -> Self {
        wire.until_stderr("MCP on http");
        let said = wire.stderr();
        let address = said.split("MCP on http").nth(1).unwrap();
        let address = address.split("://").nth(1).unwrap();
        let address = address.split('/').next().unwrap().parse().unwrap();
        Self { wire, address }
    }

    pub(crate) fn connect(&self) -> Conn {
        Conn::to(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, request: &str) -> Reply {
        let mut conn = self.connect();
        conn.send(request);
        conn.reply()
    }

    /// A modern request with all its headers.
    pub(crate) fn modern(&self, id: &Value, method: &str, params: &Value) -> Reply {
        self.ask(&modern(id, method, params, ""))
    }

    pub(crate) fn call(&self, id: &Value, tool: &str, arguments: &Value) -> Reply {
        self.modern(
            id,
            "tools/call",
            &json!({"name": tool, "arguments": arguments}),
        )
    }

    /// Opens a legacy session: its id.
    pub(crate) fn initialize(&self, revision: &str) -> String {
        let reply = self.ask(&post(&initialize(revision), ""));
        assert_eq!(reply.status, 200, "{reply:?}; {}", self.wire.stderr());
        assert_eq!(reply.json()["result"]["protocolVersion"], revision);
        let session = reply.header("mcp-session-id").unwrap().to_owned();
        let noted = json!({"jsonrpc":"2.0","method":"notifications/initialized"});
        let reply = self.ask(&post(&noted, &format!("Mcp-Session-Id: {session}\r\n")));
        assert_eq!((reply.status, reply.body.as_str()), (202, ""));
        session
    }

    /// A message of a session.
    pub(crate) fn post(&self, session: &str, message: &Value) -> Reply {
        self.ask(&post(message, &format!("Mcp-Session-Id: {session}\r\n")))
    }
}

pub(crate) fn initialize(revision: &str) -> Value {
    json!({"jsonrpc":"2.0","id":0,"method":"initialize","params":{
        "protocolVersion":revision,"capabilities":{"roots":{}},"clientInfo":{"name":"web","version":"1"}}})
}

pub(crate) fn call(id: &Value, tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc":"2.0","id":id,"method":"tools/call","params":{"name":tool,"arguments":arguments}})
}

/// A POST with the headers that every client sends, and more.
pub(crate) fn post(message: &Value, more: &str) -> String {
    raw_post(&message.to_string(), more)
}

pub(crate) fn raw_post(body: &str, more: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn modern_body(id: &Value, method: &str, params: &Value) -> Value {
    let mut params = params.clone();
    params["_meta"][VERSION] = json!("2026-07-28");
    params["_meta"][CAPABILITIES] = json!({});
    json!({"jsonrpc":"2.0","id":id,"method":method,"params":params})
}

pub(crate) fn modern(id: &Value, method: &str, params: &Value, more: &str) -> String {
    let name = params.get("name").or_else(|| params.get("uri"));
    let name = name.map_or(String::new(), |name| {
        format!("Mcp-Name: {}\r\n", name.as_str().unwrap())
    });
    let more = format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n{name}{more}");
    post(&modern_body(id, method, params), &more)
}

pub(crate) fn get(session: &str, more: &str) -> String {
    format!(
        "GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}\r\n{more}\r\n"
    )
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn<S = TcpStream> {
    pub(crate) reader: BufReader<S>,
}

impl Conn {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            reader: BufReader::new(stream),
        }
    }
}

impl<S: Read + Write> Conn<S> {
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// The header of the next answer.
    pub(crate) fn head(&mut self) -> (u16, String) {
        let mut head = String::new();
        loop {
            let before = head.len();
            let got = self.reader.read_line(&mut head).unwrap();
            assert!(got > 0, "the connection ended in the header: {head:?}");
            if head[before..].trim().is_empty() {
                break;
            }
        }
        let status = head.split(' ').nth(1).unwrap_or_default();
        (status.parse().unwrap_or_else(|_| panic!("{head}")), head)
    }

    pub(crate) fn reply(&mut self) -> Reply {
        let (status, head) = self.head();
        let mut reply = Reply {
            status,
            head,
            body: String::new(),
        };
        if reply.header("transfer-encoding").is_some() {
            while let Some(piece) = self.chunk() {
                reply.body.push_str(&piece);
            }
            return reply;
        }
        let length = reply
            .header("content-length")
            .map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).unwrap();
        reply.body = String::from_utf8(body).unwrap();
        reply
    }

    /// The next piece of a stream; `None` at its end.
    pub(crate) fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        if self.reader.read_line(&mut size).unwrap_or(0) == 0 {
            return None;
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut piece = vec![0; size + 2];
        self.reader.read_exact(&mut piece).unwrap();
        piece.truncate(size);
        (size > 0).then(|| String::from_utf8(piece).unwrap())
    }

    /// Pieces of a stream until one holds these words; everything up to then.
    pub(crate) fn until(&mut self, words: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(words) {
            let piece = self.chunk();
            seen.push_str(&piece.unwrap_or_else(|| panic!("the stream ended after {seen:?}")));
        }
        seen
    }

    /// True when the other end has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Waits until the log of the server has these words.
pub(crate) fn until_reached(site: &Site, words: &str) {
    assert!(
        eventually(|| site.reached().contains(words)),
        "no `{words}` in {}",
        site.reached()
    );
}

/// Bytes for the tool `emit`: each line on its own, `@ID@` for the id.
pub(crate) fn lines(all: &[Value]) -> Value {
    let text: String = all.iter().map(|line| format!("{line}\n")).collect();
    json!({"hex": crate::wire::hex(text.replace("\"@ID@\"", "@ID@").as_bytes())})
}
