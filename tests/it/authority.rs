//! A server elsewhere that knows which generations of a token are alive, and counts who uses which.

use crate::rotation::fingerprint;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What it knows.
#[derive(Default)]
pub(crate) struct Books {
    /// Tokens that are taken.
    pub(crate) alive: BTreeSet<String>,
    /// Of those, the ones that may not call `lacking`.
    pub(crate) taken: BTreeMap<String, u64>,
    /// Requests that were refused, by what they carried.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Streams that are open.
    pub(crate) streams: u64,
}

pub(crate) struct Authority {
    pub(crate) url: String,
    books: Arc<Mutex<Books>>,
}

impl Authority {
    /// With `signed` every request has to carry a token, else calls of `given` alone.
    pub(crate) fn start(signed: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let books: Arc<Mutex<Books>> = Arc::default();
        let shared = Arc::clone(&books);
        drop(std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let books = Arc::clone(&shared);
                drop(std::thread::spawn(move || serve(&stream, &books, signed)));
            }
        }));
        Self { url, books }
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    pub(crate) fn admit(&self, token: &str) {
        self.books().alive.insert(token.to_owned());
    }

    pub(crate) fn revoke(&self, token: &str) {
        self.books().alive.remove(token);
    }

    pub(crate) fn refusals(&self) -> u64 {
        self.books().refused.values().sum()
    }
}

impl Books {
    /// Whether a token is taken; counted.
    fn judge(&mut self, token: &str) -> bool {
        let good = self.alive.contains(token);
        let counts = match good {
            true => &mut self.taken,
            false => &mut self.refused,
        };
        *counts.entry(token.to_owned()).or_default() += 1;
        good
    }
}

fn serve(stream: &TcpStream, books: &Mutex<Books>, signed: bool) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream);
    while let Some((method, token, body)) = read(&mut reader) {
        if let Some(wait) = body["params"]["arguments"]["late"].as_u64() {
            std::thread::sleep(Duration::from_millis(wait));
        }
        if signed && !books.lock().unwrap().judge(&token) {
            if !say(stream, "401 Unauthorized", "text/plain", "no") {
                return;
            }
            continue;
        }
        let going = match &*method {
            "GET" => return listen(stream, books),
            "DELETE" => say(stream, "200 OK", "text/plain", ""),
            _ => answer(stream, books, &token, &body),
        };
        if !going {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<(String, String, Value)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let method = line.split(' ').next()?.to_owned();
    let (mut token, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((key, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let value = value.trim();
        match &*key.to_ascii_lowercase() {
            "authorization" => token = value.strip_prefix("Bearer ")?.to_owned(),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some((method, token, body))
}

fn answer(stream: &TcpStream, books: &Mutex<Books>, token: &str, body: &Value) -> bool {
    let params = &body["params"];
    let arguments = &params["arguments"];
    let text = |text: &str, failed: bool| {
        let mut result = json!({"content": [{"type": "text", "text": text}]});
        if failed {
            result["isError"] = json!(true);
        }
        if params["_meta"].is_object() {
            result["resultType"] = json!("complete");
        }
        result
    };
    let result = match (body["method"].as_str(), params["name"].as_str()) {
        (Some("initialize"), _) => json!({
            "protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
            "serverInfo": {"name": "authority", "version": "1"},
        }),
        (Some("tools/list"), _) => tools(params),
        (_, Some("lacking")) => return say(stream, "403 Forbidden", "text/plain", "not you"),
        (_, Some("given")) => {
            let token = arguments["token"].as_str().unwrap_or_default();
            let good = books.lock().unwrap().judge(token);
            text(&fingerprint(token), !good)
        }
        (_, Some(_)) => {
            let wait = arguments["wait"].as_u64().unwrap_or(0);
            std::thread::sleep(Duration::from_millis(wait));
            text(&fingerprint(token), false)
        }
        _ => return say(stream, "202 Accepted", "text/plain", ""),
    };
    let answer = json!({"jsonrpc": "2.0", "id": body["id"], "result": result});
    say(stream, "200 OK", "application/json", &answer.to_string())
}

fn tools(params: &Value) -> Value {
    let plain = |name| json!({"name": name, "inputSchema": {"type": "object"}});
    let given = json!({"name": "given", "inputSchema": {
        "type": "object",
        "properties": {"key": {"type": "integer"}, "token": {"type": "string"}},
        "required": ["key", "token"],
    }});
    let mut result = json!({"tools": [plain("token"), plain("lacking"), given]});
    if params["_meta"].is_object() {
        result["resultType"] = json!("complete");
        result["ttlMs"] = json!(0);
        result["cacheScope"] = json!("private");
    }
    result
}

fn listen(mut stream: &TcpStream, books: &Mutex<Books>) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n\n";
    if stream.write_all(head.as_bytes()).is_ok() {
        books.lock().unwrap().streams += 1;
        // Until the other side closes it.
        drop(stream.read(&mut [0]));
        books.lock().unwrap().streams -= 1;
    }
}

fn say(mut stream: &TcpStream, status: &str, kind: &str, body: &str) -> bool {
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).is_ok()
}
