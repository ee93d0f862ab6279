//! The server itself: HTTP/1.1 by hand, so that it can break every rule. It says when a connection is `opened`
//! and `closed`, and when a client has `left` before its answer.
//!
//! Flags: `events` answers in streams; `get` has a stream for a GET, `lost` says 404 to it; `stateless` has no sessions;
//! `slow` takes its time for `initialize` and `notifications/initialized`, `unready` says 503 to the former; `stuck`
//! never answers the second.
//! Tools: `echo`; `raw` writes `bytes` (`@ID@` is the id) and then does what `then` says (`keep`,
//! `close`, `hang`, `reset`, `wait` until the client leaves); `forget` forgets all sessions; `push` says `lines` on the stream of the GET;
//! `cut` breaks its stream off before the answer, which a GET gets unless it is `lost`; `hang` never answers; `flood` sends
//! `count` events of `size` bytes; `region` wants a header that says what its argument says.

use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

#[derive(Default)]
struct State {
    flags: Vec<String>,
    sessions: HashSet<String>,
    made: u32,
    /// So often `initialize` has come to one that is stuck.
    opened: u32,
    pushed: Vec<String>,
    /// What a stream that was cut still owes, by event id.
    owed: Vec<(String, String)>,
    /// The list of tools has been asked for so often.
    lists: u32,
    /// What the tool `act` does, where there is one.
    act: Option<Act>,
}

/// Does what the words say, and says what came of it.
pub(crate) type Act = fn(&str) -> String;

type Shared = Arc<(Mutex<State>, Condvar)>;

struct Request {
    method: String,
    head: Vec<(String, String)>,
    body: Value,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.head.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Serves for ever, with one more tool.
pub(crate) fn serve_with(listener: &TcpListener, flags: &[String], act: Option<Act>) {
    let state = State {
        flags: flags.to_vec(),
        act,
        ..State::default()
    };
    let shared: Shared = Arc::new((Mutex::new(state), Condvar::new()));
    for stream in listener.incoming().map_while(Result::ok) {
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            println!("{}", json!({"method": "opened"}));
            while let Some(request) = read(&mut reader) {
                let head: serde_json::Map<String, Value> = request
                    .head
                    .iter()
                    .map(|(key, value)| (key.clone(), json!(value)))
                    .collect();
                println!(
                    "{}",
                    json!({"method": request.method, "head": head, "body": request.body})
                );
                if !answer(&request, &stream, &shared) {
                    break;
                }
            }
            println!("{}", json!({"method": "closed"}));
        });
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let method = line.split(' ').next()?.to_owned();
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((key, value)) = line.trim_end().split_once(':') else {
            break;
        };
        head.push((key.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = head.iter().find(|(key, _)| key == "content-length");
    let length = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        head,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

/// Writes the answer; false when the connection is over.
fn answer(request: &Request, mut stream: &TcpStream, shared: &Shared) -> bool {
    let (lock, _) = &**shared;
    let has = |flag: &str| lock.lock().unwrap().flags.iter().any(|it| it == flag);
    let id = &request.body["id"];
    let modern = !request.body["params"]["_meta"][VERSION].is_null();
    let session = request.header("mcp-session-id").map(str::to_owned);
    let known = |session: &str| lock.lock().unwrap().sessions.contains(session);
    let status = |code: &str| plain(stream, code, "text/plain", "no");
    let opens = request.body["method"] == "initialize";
    if has("slow") && (opens || request.body["method"] == "notifications/initialized") {
        std::thread::sleep(Duration::from_millis(600));
    }
    if has("unready") && opens {
        return status("503 Service Unavailable");
    }
    if has("stuck") && opens {
        let mut state = lock.lock().unwrap();
        state.opened += 1;
        if state.opened == 2 {
            drop(state);
            wait(stream);
            return false;
        }
    }
    if opens {
        let version = &request.body["params"]["protocolVersion"];
        let result = json!({"protocolVersion": version, "capabilities": {"tools": {"listChanged": true}}, "serverInfo": {"name": "elsewhere", "version": "1"}});
        let mut extra = String::new();
        if !has("stateless") {
            let mut state = lock.lock().unwrap();
            state.made += 1;
            let name = format!("session-{}", state.made);
            state.sessions.insert(name.clone());
            extra = format!("Mcp-Session-Id: {name}\r\n");
        }
        return say(stream, has("events"), &extra, id, &result);
    }
    if let Some(session) = &session
        && !known(session)
    {
        return status("404 Not Found");
    }
    match &*request.method {
        "GET" => return get(request, stream, shared),
        "DELETE" => {
            lock.lock().unwrap().sessions.remove(&session.unwrap());
            return plain(stream, "200 OK", "text/plain", "");
        }
        _ => {}
    }
    if id.is_null() || request.body["method"].is_null() {
        return plain(stream, "202 Accepted", "text/plain", "");
    }
    let arguments = &request.body["params"]["arguments"];
    let text = |key: &str| arguments[key].as_str().unwrap_or_default();
    let done = |said: &str| {
        let mut result = json!({"content": [{"type": "text", "text": said}]});
        if modern {
            result["resultType"] = json!("complete");
        }
        result
    };
    match request.body["params"]["name"].as_str() {
        Some("raw") => {
            let bytes = text("bytes").replace("@ID@", &id.to_string());
            drop(stream.write_all(bytes.as_bytes()));
            match text("then") {
                "keep" => return true,
                "hang" => std::thread::sleep(Duration::from_secs(3600)),
                "wait" => wait(stream),
                "reset" => {
                    // Unread bytes in its buffer make a close a reset; so does this option.
                    drop(socket_linger(stream));
                }
                _ => {}
            }
            false
        }
        Some("forget") => {
            lock.lock().unwrap().sessions.clear();
            say(stream, has("events"), "", id, &done("forgotten"))
        }
        Some("push") => {
            let lines = arguments["lines"].as_array().unwrap();
            let mut state = lock.lock().unwrap();
            state.pushed.extend(lines.iter().map(ToString::to_string));
            drop(state);
            shared.1.notify_all();
            say(stream, has("events"), "", id, &done("pushed"))
        }
        Some("cut") => {
            let owed = json!({"jsonrpc": "2.0", "id": id, "result": done("after the cut")});
            let at = "cut-7".to_owned();
            // What is lost no GET brings.
            if arguments["lost"].is_null() {
                lock.lock().unwrap().owed.push((at, owed.to_string()));
            }
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\nid: cut-7\nretry: 50\ndata: \n\n";
            drop(stream.write_all(head.as_bytes()));
            false
        }
        Some("hang") => {
            wait(stream);
            false
        }
        Some("flood") => flood(stream, arguments, id),
        Some("region") if modern => {
            // It wants the header only once its list has been asked for again.
            if request.header("mcp-param-region") != arguments["region"].as_str() {
                let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32020, "message": "Mcp-Param-Region"}});
                return plain(
                    stream,
                    "400 Bad Request",
                    "application/json",
                    &error.to_string(),
                );
            }
            say(stream, has("events"), "", id, &done("there"))
        }
        Some("act") => {
            let act = lock.lock().unwrap().act;
            let said = act.map_or_else(|| "no".to_owned(), |act| act(text("act")));
            say(stream, has("events"), "", id, &done(&said))
        }
        Some("echo") => say(stream, has("events"), "", id, &done(text("text"))),
        _ if request.body["method"] == "subscriptions/listen" => {
            let heard = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {"_meta": {"io.modelcontextprotocol/subscriptionId": id}}});
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            drop(stream.write_all(format!("{head}data: {heard}\n\n").as_bytes()));
            wait(stream);
            false
        }
        _ if request.body["method"] == "tools/list" => {
            let mut state = lock.lock().unwrap();
            state.lists += 1;
            let lists = state.lists;
            drop(state);
            say(stream, has("events"), "", id, &tools(modern, lists))
        }
        _ => {
            let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no such method"}});
            plain(
                stream,
                "404 Not Found",
                "application/json",
                &error.to_string(),
            )
        }
    }
}

/// Until the client leaves.
fn wait(mut stream: &TcpStream) {
    let left = stream.read(&mut [0]);
    println!("{}", json!({"method": "left", "body": left.is_ok()}));
}

fn tools(modern: bool, lists: u32) -> Value {
    let mut all: Vec<Value> = [
        "echo", "raw", "forget", "push", "cut", "hang", "flood", "act",
    ]
    .iter()
    .map(|name| json!({"name": name, "inputSchema": {"type": "object"}}))
    .collect();
    let mut region = json!({"type": "string"});
    if lists > 1 {
        region["x-mcp-header"] = json!("Region");
    }
    all.push(json!({"name": "region", "inputSchema": {"type": "object", "properties": {"region": region}}}));
    all.push(json!({"name": "unfit", "inputSchema": {"type": "object", "properties": {"a": {"type": "number", "x-mcp-header": "A"}}}}));
    let mut result = json!({"tools": all});
    if modern {
        result["resultType"] = json!("complete");
        result["ttlMs"] = json!(0);
        result["cacheScope"] = json!("private");
    }
    result
}

fn plain(mut stream: &TcpStream, status: &str, kind: &str, body: &str) -> bool {
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).is_ok()
}

fn say(mut stream: &TcpStream, events: bool, extra: &str, id: &Value, result: &Value) -> bool {
    let body = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
    let (kind, body) = match events {
        true => (
            "text/event-stream",
            format!(": hello\nevent: message\ndata: {body}\n\n"),
        ),
        false => ("application/json", body),
    };
    let text = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{extra}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).is_ok()
}

fn chunk(mut stream: &TcpStream, text: &str) -> bool {
    let bytes = format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all(bytes.as_bytes()).is_ok()
}

const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The stream of a GET: what a cut stream owes, or what is pushed, each push on a stream of its own.
fn get(request: &Request, mut stream: &TcpStream, shared: &Shared) -> bool {
    let (lock, bell) = &**shared;
    let last = request.header("last-event-id");
    let mut state = lock.lock().unwrap();
    let owed = state
        .owed
        .iter()
        .position(|(at, _)| Some(at.as_str()) == last);
    if let Some(at) = owed {
        let (_, line) = state.owed.remove(at);
        drop(state);
        return stream.write_all(STREAM.as_bytes()).is_ok()
            && chunk(stream, &format!("data: {line}\n\n"))
            && stream.write_all(b"0\r\n\r\n").is_ok();
    }
    if state.flags.iter().any(|flag| flag == "lost") {
        drop(state);
        return plain(stream, "404 Not Found", "text/plain", "");
    }
    if !state.flags.iter().any(|flag| flag == "get") {
        drop(state);
        return plain(stream, "405 Method Not Allowed", "text/plain", "");
    }
    if stream.write_all(STREAM.as_bytes()).is_err() {
        return false;
    }
    while state.pushed.is_empty() {
        state = bell.wait(state).unwrap();
    }
    let pushed = std::mem::take(&mut state.pushed);
    drop(state);
    for (at, line) in pushed.iter().enumerate() {
        chunk(
            stream,
            &format!("id: pushed-{at}\nretry: 20\ndata: {line}\n\n"),
        );
    }
    stream.write_all(b"0\r\n\r\n").is_ok()
}

fn flood(mut stream: &TcpStream, arguments: &Value, id: &Value) -> bool {
    let size = usize::try_from(arguments["size"].as_u64().unwrap()).unwrap();
    if stream.write_all(STREAM.as_bytes()).is_err() {
        return false;
    }
    let data = "x".repeat(size);
    let line = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": data}});
    for at in 1..=arguments["count"].as_u64().unwrap() {
        if !chunk(stream, &format!("data: {line}\n\n")) {
            return false;
        }
        if at % 100 == 0 {
            println!("{}", json!({"method": "flooded", "body": at}));
        }
    }
    let last = json!({"jsonrpc": "2.0", "id": id, "result": {"content": []}});
    chunk(stream, &format!("data: {last}\n\n")) && stream.write_all(b"0\r\n\r\n").is_ok()
}

/// A close that is a reset.
fn socket_linger(stream: &TcpStream) -> std::io::Result<()> {
    nix::sys::socket::setsockopt(
        stream,
        nix::sys::socket::sockopt::Linger,
        &libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )?;
    Ok(())
}
