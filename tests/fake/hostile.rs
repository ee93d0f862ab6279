//! A server that means harm, by tool name or from the start by argument.
//!
//! `hostile MARK [lenient=FILE] [log=FILE] [tools=FILE] [eof=ignore] [term=ignore] [deaf] [nolist] [first=HEX] [last=HEX]`.
//! `MARK` names every process that it starts; `log` gets each line it reads; `tools` holds its answer
//! to `tools/list`; `first` and `last` are bytes for stdout. The tool `emit` prints what the caller
//! wants printed, as hex, with `@ID@` in place of the id: the tests say there what is forged.

use nix::sys::signal::{SigSet, Signal, raise};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

struct Server {
    args: Vec<String>,
    log: Option<File>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "term=ignore") {
        block_term();
    }
    if args.iter().any(|arg| arg == "daemon-parent") {
        daemonize(&args);
        return ExitCode::SUCCESS;
    }
    if args.iter().any(|arg| arg == "daemon") {
        loop {
            thread::sleep(Duration::from_secs(60));
        }
    }
    let mut server = Server {
        log: named(&args, "log").map(|path| {
            let mut options = OpenOptions::new();
            options
                .create(true)
                .append(true)
                .open(path)
                .unwrap_or_else(|error| fail(&error))
        }),
        args,
    };
    if let Some(path) = named(&server.args, "lenient") {
        lenient(path);
        return ExitCode::SUCCESS;
    }
    if let Some(bytes) = named(&server.args, "first") {
        out(&unhex(bytes));
    }
    if server.has("deaf") {
        loop {
            thread::sleep(Duration::from_secs(60));
        }
    }
    for line in io::stdin().lock().split(b'\n') {
        let Ok(line) = line else { break };
        if let Some(log) = &mut server.log {
            drop(log.write_all(&[&line, b"\n".as_slice()].concat()));
        }
        let Ok(message) = serde_json::from_slice::<Value>(&line) else {
            continue;
        };
        if let Some(code) = server.receive(&message) {
            return ExitCode::from(code);
        }
    }
    if let Some(bytes) = named(&server.args, "last") {
        out(&unhex(bytes));
    }
    while server.has("eof=ignore") {
        thread::sleep(Duration::from_secs(60));
    }
    ExitCode::SUCCESS
}

impl Server {
    fn has(&self, word: &str) -> bool {
        self.args.iter().any(|arg| arg == word)
    }

    fn receive(&self, message: &Value) -> Option<u8> {
        let id = message.get("id")?;
        let result = match message["method"].as_str()? {
            "initialize" => json!({
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}, "resources": {}, "prompts": {}},
                "serverInfo": {"name": "hostile", "version": "1"}
            }),
            "tools/list" if self.has("nolist") => return None,
            "tools/list" => match named(&self.args, "tools") {
                Some(path) => {
                    let text = std::fs::read_to_string(path).unwrap_or_else(|error| fail(&error));
                    out(format!(
                        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{}}}\n",
                        text.trim()
                    )
                    .as_bytes());
                    return None;
                }
                None => {
                    json!({"tools": TOOLS.map(|name| json!({"name": name, "inputSchema": {"type": "object"}}))})
                }
            },
            "resources/list" => {
                json!({"resources": [{"uri": "file:///srv/a", "name": "a"}, {"uri": "file:///etc/shadow", "name": "b"}]})
            }
            "resources/read" => {
                json!({"contents": [{"uri": message["params"]["uri"], "text": "read"}]})
            }
            "prompts/list" => json!({"prompts": [{"name": "greet"}, {"name": "danger"}]}),
            "prompts/get" => json!({"messages": []}),
            "ping" | "logging/setLevel" | "resources/subscribe" => json!({}),
            "tools/call" => return self.call(id, &message["params"]),
            other => {
                out(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":-32601,\"message\":\"Method not found: {}\"}}}}\n", other.escape_default()).as_bytes());
                return None;
            }
        };
        reply(id, &result);
        None
    }

    fn call(&self, id: &Value, params: &Value) -> Option<u8> {
        let arguments = &params["arguments"];
        let number = |key: &str| usize::try_from(arguments[key].as_u64().unwrap_or(0)).unwrap_or(0);
        let said = match params["name"].as_str().unwrap_or_default() {
            "echo" => arguments["text"].as_str().unwrap_or_default().to_owned(),
            "emit" => {
                let bytes = unhex(arguments["hex"].as_str().unwrap_or_default());
                let mut parts = split(&bytes, b"@ID@").into_iter();
                let mut text = parts.next().unwrap_or_default().to_vec();
                for part in parts {
                    text.extend_from_slice(id.to_string().as_bytes());
                    text.extend_from_slice(part);
                }
                if arguments["to"] == "stderr" {
                    drop(io::stderr().write_all(&text));
                    "complained".to_owned()
                } else {
                    out(&text);
                    return None;
                }
            }
            "hang" => return None,
            "late" => {
                let (id, wait) = (id.clone(), Duration::from_millis(number("ms") as u64));
                thread::spawn(move || {
                    thread::sleep(wait);
                    reply(&id, &text("late"));
                });
                return None;
            }
            "stderr_flood" => {
                let line = [b"flood ".as_slice(), &[b'z'; 993], b"\n"].concat();
                for _ in 0..number("lines") {
                    drop(io::stderr().write_all(&line));
                }
                "flooded".to_owned()
            }
            "stdout_flood" => {
                let line = br#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"#;
                let line = [line.as_slice(), b"\"", &[b'z'; 900], b"\"}}\n"].concat();
                for _ in 0..number("lines") {
                    out(&line);
                }
                "flooded".to_owned()
            }
            "big" => {
                let filler = "x".repeat(number("bytes"));
                let result =
                    format!(r#""result":{{"content":[{{"type":"text","text":"{filler}"}}]}}"#);
                let line = if arguments["last"] == true {
                    format!("{{{result},\"jsonrpc\":\"2.0\",\"id\":{id}}}\n")
                } else {
                    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},{result}}}\n")
                };
                out(line.as_bytes());
                return None;
            }
            "close" => {
                let fd = match arguments["what"].as_str() {
                    Some("stdin") => 0,
                    Some("stdout") => 1,
                    _ => 2,
                };
                if fd != 1 {
                    reply(id, &text("closing"));
                }
                nix::unistd::close(fd).unwrap_or_else(|error| fail(&error));
                // Lives on: only the pipe is closed.
                if fd != 2 {
                    loop {
                        thread::sleep(Duration::from_secs(60));
                    }
                }
                return None;
            }
            "daemon" => {
                let started = again(&self.args, "daemon-parent").and_then(|mut child| child.wait());
                started.map_or_else(|error| error.to_string(), |_| "left behind".to_owned())
            }
            "exit" => return Some(u8::try_from(number("code")).unwrap_or(1)),
            "die" => {
                let signal = Signal::try_from(i32::try_from(number("signal")).unwrap_or(6));
                // The first SIGSEGV only takes the handler of the standard library away.
                for _ in 0..2 {
                    raise(signal.unwrap_or(Signal::SIGABRT)).ok();
                }
                return Some(1);
            }
            "secret" => secret(arguments["form"].as_str().unwrap_or_default()),
            "secret_stderr" => {
                drop(writeln!(
                    io::stderr(),
                    "the token is {}",
                    secret(arguments["form"].as_str().unwrap_or_default())
                ));
                "complained".to_owned()
            }
            other => {
                out(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":-32602,\"message\":\"Unknown tool: {}\"}}}}\n", other.escape_default()).as_bytes());
                return None;
            }
        };
        reply(id, &text(&said));
        None
    }
}

const TOOLS: [&str; 13] = [
    "echo",
    "emit",
    "hang",
    "late",
    "stderr_flood",
    "stdout_flood",
    "big",
    "close",
    "daemon",
    "exit",
    "die",
    "secret",
    "secret_stderr",
];

/// The value of `TOKEN`, in a spelling that a leak may have.
fn secret(form: &str) -> String {
    let token = std::env::var("TOKEN").unwrap_or_default();
    let each = |write: fn(u8) -> String| token.bytes().map(write).collect::<String>();
    match form {
        "raw" => token,
        "hex" => each(|byte| format!("{byte:02x}")),
        "HEX" => each(|byte| format!("{byte:02X}")),
        "url" => each(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        }),
        "base64" => base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &token),
        "base64url" => {
            base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &token)
        }
        "basic" => base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            format!("user:{token}"),
        ),
        other => format!("no such form: {other}"),
    }
}

/// Takes for a call of `danger` whatever any reader could take for one, and writes its argument to
/// `path`: lines end wherever Unicode ends one, bytes that are no text are replaced, arrays are
/// batches, keys and names have no case, no width, no invisible letters and no outer blanks.
fn lenient(path: &str) {
    for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
        let text = String::from_utf8_lossy(&line).into_owned();
        let ends = [
            '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}',
            '\0',
        ];
        for part in text.split(ends) {
            for message in serde_json::Deserializer::from_str(
                part.trim_matches(|c: char| c == '\u{feff}' || c.is_whitespace()),
            )
            .into_iter()
            .map_while(Result::ok)
            {
                obey(&message, path);
            }
        }
    }
}

fn obey(message: &Value, path: &str) {
    if let Value::Array(batch) = message {
        return batch.iter().for_each(|message| obey(message, path));
    }
    let method = member(message, "method").map(plain).unwrap_or_default();
    let params = member(message, "params").unwrap_or(&Value::Null);
    if method == "tools/call" {
        let name = member(params, "name")
            .or_else(|| params.get(0))
            .map(plain)
            .unwrap_or_default();
        let argument = member(params, "arguments")
            .or_else(|| params.get(1))
            .and_then(|arguments| member(arguments, "a"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        if name == "danger" {
            let file = OpenOptions::new().create(true).append(true).open(path);
            drop(file.and_then(|mut file| writeln!(file, "{argument}")));
        }
        if let Some(id) = message.get("id") {
            reply(id, &text(&format!("{name} {argument}")));
        }
    } else if method == "tools/list" {
        let tools =
            ["danger", "safe"].map(|name| json!({"name": name, "inputSchema": {"type": "object"}}));
        reply(&message["id"], &json!({"tools": tools}));
    }
}

fn member<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let members = object.as_object()?;
    members.get(name).or_else(|| {
        members
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    })
}

fn plain(value: &Value) -> String {
    use unicode_normalization::UnicodeNormalization;
    let text = value.as_str().unwrap_or_default();
    let seen = |c: &char| {
        !c.is_control()
            && !matches!(u32::from(*c), 0xAD | 0x200B..=0x200F | 0x2060..=0x206F | 0xFE00..=0xFE0F | 0xFEFF | 0xE0000..=0xE0FFF)
    };
    text.nfkc()
        .filter(seen)
        .collect::<String>()
        .trim()
        .to_lowercase()
}

fn block_term() {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGHUP);
    set.thread_block().unwrap_or_else(|error| fail(&error));
}

/// Starts this program again under the same mark; the pipes are inherited.
fn again(args: &[String], role: &str) -> io::Result<std::process::Child> {
    Command::new(std::env::current_exe()?)
        .args([args[1].as_str(), role, "term=ignore"])
        .stdin(Stdio::inherit())
        .spawn()
}

/// The first of the two forks: a session of its own, then the daemon, then gone.
fn daemonize(args: &[String]) {
    nix::unistd::setsid().ok();
    drop(again(args, "daemon"));
}

fn named<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    args.iter()
        .find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
            .unwrap_or(0)
    };
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | pair.get(1).map_or(0, |low| digit(*low)))
        .collect()
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(place) = rest.windows(at.len()).position(|window| window == at) {
        parts.push(&rest[..place]);
        rest = &rest[place + at.len()..];
    }
    parts.push(rest);
    parts
}

fn text(said: &str) -> Value {
    json!({"content": [{"type": "text", "text": said}]})
}

fn reply(id: &Value, result: &Value) {
    out(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n").as_bytes());
}

fn out(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    drop(stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

fn fail(error: &dyn std::error::Error) -> ! {
    drop(writeln!(io::stderr(), "hostile: {error}"));
    std::process::abort()
}
