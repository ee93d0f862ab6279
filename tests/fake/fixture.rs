//! A server of every era, without an SDK: what real servers rarely do, on demand by tool name.
//!
//! Legacy requests are answered as the four `initialize` revisions do, requests with the version in
//! `_meta` as 2026-07-28 does. Slow tools run on threads of their own, so answers may overtake.

use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// Shaped like a key of a cloud provider; it opens nothing.
const PLANTED: &str = "AKIAQ3EGPZYWVUTSRQ5N";

/// Tools: name, required arguments as JSON Schema properties.
const TOOLS: [(&str, &str); 18] = [
    ("echo", r#"{"text":{"type":"string"}}"#),
    (
        "blob",
        r#"{"bytes":{"type":"integer","minimum":0,"maximum":67108864}}"#,
    ),
    (
        "sleep",
        r#"{"ms":{"type":"integer","minimum":0,"maximum":600000}}"#,
    ),
    (
        "progress",
        r#"{"steps":{"type":"integer"},"ms":{"type":"integer"}}"#,
    ),
    ("structured", r#"{"n":{"type":"number"}}"#),
    ("crash", r#"{"code":{"type":"integer"}}"#),
    ("noise", "{}"),
    ("stderr_flood", r#"{"lines":{"type":"integer"}}"#),
    ("leak", "{}"),
    ("log", "{}"),
    ("roots", "{}"),
    ("sample", "{}"),
    ("elicit", "{}"),
    ("ask", "{}"),
    ("twice", "{}"),
    ("stray", "{}"),
    ("carriage", "{}"),
    ("task", r#"{"ms":{"type":"integer"}}"#),
];

#[derive(Default)]
struct State {
    /// Answers to questions of ours, by our id.
    waiting: HashMap<u64, Sender<Value>>,
    asked: u64,
    cancelled: HashSet<String>,
    /// Listen requests by id, with the resources they watch.
    listening: Vec<Value>,
    tasks: HashMap<String, (Value, String)>,
}

type Shared = Arc<Mutex<State>>;

fn main() -> ExitCode {
    let state = Shared::default();
    for line in io::stdin().lock().split(b'\n') {
        let Ok(line) = line else { break };
        let Ok(message) = serde_json::from_slice::<Value>(&line) else {
            if !line.iter().all(u8::is_ascii_whitespace) {
                send(
                    &json!({"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}),
                );
            }
            continue;
        };
        if let Some(code) = receive(&state, message) {
            return ExitCode::from(code);
        }
    }
    ExitCode::SUCCESS
}

/// Handles one message; some tools end the process.
fn receive(state: &Shared, message: Value) -> Option<u8> {
    let method = message["method"].as_str().unwrap_or_default().to_owned();
    let params = message["params"].clone();
    let Some(id) = message.get("id").cloned() else {
        if method == "notifications/cancelled" {
            lock(state)
                .cancelled
                .insert(params["requestId"].to_string());
        }
        return None;
    };
    if method.is_empty() {
        let answered = id.as_u64().and_then(|id| lock(state).waiting.remove(&id));
        if let Some(answered) = answered {
            answered.send(message).ok();
        }
        return None;
    }
    let modern = params["_meta"].get(VERSION).is_some();
    if method != "tools/call" {
        match answer(state, &method, &params, &id, modern) {
            Ok(Some(result)) => reply(&id, result, modern),
            Ok(None) => {}
            Err((code, text)) => fail(&id, code, &text),
        }
        return None;
    }
    let tool = params["name"].as_str().unwrap_or_default().to_owned();
    if tool == "crash" {
        let code = params["arguments"]["code"].as_u64().unwrap_or(3);
        return Some(u8::try_from(code).unwrap_or(3));
    }
    let slow = ["sleep", "progress", "roots", "sample", "elicit", "task"].contains(&tool.as_str());
    let state = Arc::clone(state);
    let run = move || call(&state, &tool, &params, &id, modern);
    if slow {
        drop(thread::spawn(run));
    } else {
        run();
    }
    None
}

type Answer = Result<Option<Value>, (i32, String)>;

fn answer(state: &Shared, method: &str, params: &Value, id: &Value, modern: bool) -> Answer {
    let server = json!({"name":"fixture","title":"Fixture","version":"1.0.0"});
    let capabilities = json!({"tools":{"listChanged":true},"resources":{"subscribe":true},"prompts":{},"logging":{},"completions":{},"tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}});
    let result = match method {
        "initialize" => {
            let asked = params["protocolVersion"].as_str().unwrap_or_default();
            let version = LEGACY
                .iter()
                .find(|known| **known == asked)
                .unwrap_or(&"2025-11-25");
            json!({"protocolVersion":version,"capabilities":capabilities,"serverInfo":server,"instructions":"Ask for anything."})
        }
        "server/discover" => {
            json!({"supportedVersions":["2026-07-28"],"capabilities":capabilities,"serverInfo":server,"ttlMs":60000,"cacheScope":"public"})
        }
        "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => json!({}),
        "tools/list" => tools(params, modern),
        "resources/list" => cacheable(
            json!({"resources":[{"uri":"mem://a","name":"a","mimeType":"text/plain"},{"uri":"mem://b","name":"b"}]}),
            modern,
        ),
        "resources/templates/list" => cacheable(
            json!({"resourceTemplates":[{"uriTemplate":"mem://{name}","name":"any"}]}),
            modern,
        ),
        "resources/read" => match params["uri"].as_str() {
            Some(uri) if uri.starts_with("mem://") => cacheable(
                json!({"contents":[{"uri":uri,"text":format!("what {uri} holds")}]}),
                modern,
            ),
            _ => {
                return Err((
                    if modern { -32602 } else { -32002 },
                    "Resource not found".into(),
                ));
            }
        },
        "prompts/list" => cacheable(
            json!({"prompts":[{"name":"greet","arguments":[{"name":"who","required":true}]}]}),
            modern,
        ),
        "prompts/get" => {
            let who = params["arguments"]["who"].as_str().unwrap_or("nobody");
            json!({"messages":[{"role":"user","content":{"type":"text","text":format!("Greet {who}.")}}]})
        }
        "completion/complete" => {
            json!({"completion":{"values":["alpha","beta"],"total":2,"hasMore":false}})
        }
        "subscriptions/listen" => {
            lock(state).listening.push(id.clone());
            let note = json!({"_meta":{"io.modelcontextprotocol/subscriptionId":id},"notifications":params["notifications"]});
            notify("notifications/subscriptions/acknowledged", note);
            return Ok(None);
        }
        "tasks/list" if !modern => {
            let mut tasks: Vec<Value> = lock(state)
                .tasks
                .iter()
                .map(|(id, (_, s))| task(id, s))
                .collect();
            tasks.sort_by_key(|task| task["taskId"].to_string());
            json!({"tasks":tasks})
        }
        "tasks/get" | "tasks/result" | "tasks/cancel" | "tasks/update" => {
            return tasks(state, method, params, modern).map(Some);
        }
        _ => return Err((-32601, format!("Method not found: {method}"))),
    };
    Ok(Some(result))
}

fn tools(params: &Value, modern: bool) -> Value {
    let half = TOOLS.len() / 2;
    let (page, next) = match params["cursor"].as_str() {
        Some("page-2") => (&TOOLS[half..], None),
        _ => (&TOOLS[..half], Some("page-2")),
    };
    let listed = page.iter().map(|(name, properties)| {
        let properties: Map<String, Value> = serde_json::from_str(properties).unwrap_or_default();
        let required: Vec<&String> = properties.keys().collect();
        let mut tool = json!({"name":name,"description":format!("Does what {name} says"),
            "inputSchema":{"type":"object","properties":properties,"required":required}});
        if *name == "structured" {
            tool["outputSchema"] =
                json!({"type":"object","properties":{"n":{"type":"number"}},"required":["n"]});
        }
        if *name == "task" && !modern {
            tool["execution"] = json!({"taskSupport":"optional"});
        }
        tool
    });
    let mut list = json!({"tools": listed.collect::<Vec<_>>()});
    if let Some(next) = next {
        list["nextCursor"] = json!(next);
    }
    cacheable(list, modern)
}

fn tasks(
    state: &Shared,
    method: &str,
    params: &Value,
    modern: bool,
) -> Result<Value, (i32, String)> {
    let id = params["taskId"].as_str().unwrap_or_default();
    let mut state = lock(state);
    let Some((result, status)) = state.tasks.get_mut(id) else {
        return Err((-32602, format!("Unknown task: {id}")));
    };
    match method {
        "tasks/cancel" => {
            *status = "cancelled".into();
            Ok(if modern { json!({}) } else { task(id, status) })
        }
        "tasks/update" => Ok(json!({})),
        "tasks/result" => {
            let mut result = result.clone();
            result["_meta"] = json!({"io.modelcontextprotocol/related-task":{"taskId":id}});
            Ok(result)
        }
        _ => {
            let mut answer = task(id, status);
            if modern && status == "completed" {
                answer["result"] = result.clone();
            }
            Ok(answer)
        }
    }
}

fn task(id: &str, status: &str) -> Value {
    json!({"taskId":id,"status":status,"createdAt":"2026-07-28T00:00:00Z","lastUpdatedAt":"2026-07-28T00:00:00Z","ttl":60000,"pollInterval":10})
}

fn call(state: &Shared, tool: &str, params: &Value, id: &Value, modern: bool) {
    let arguments = &params["arguments"];
    let number = |key: &str| arguments[key].as_u64().unwrap_or(0);
    let said = match tool {
        "echo" => arguments["text"].as_str().unwrap_or_default().to_owned(),
        "blob" => "x".repeat(usize::try_from(number("bytes")).unwrap_or(0)),
        "sleep" => {
            thread::sleep(Duration::from_millis(number("ms")));
            if lock(state).cancelled.contains(&id.to_string()) {
                return;
            }
            "slept".into()
        }
        "progress" => {
            let token = &params["_meta"]["progressToken"];
            for step in 1..=number("steps") {
                thread::sleep(Duration::from_millis(number("ms")));
                if !token.is_null() {
                    notify(
                        "notifications/progress",
                        json!({"progressToken":token,"progress":step,"total":number("steps")}),
                    );
                }
            }
            "done".into()
        }
        "structured" => {
            let n = &arguments["n"];
            reply(
                id,
                json!({"content":[{"type":"text","text":format!("{{\"n\":{n}}}")}],"structuredContent":{"n":n}}),
                modern,
            );
            return;
        }
        "noise" => {
            raw("this is not JSON\n\x1b[31mnor is this\x1b[0m\n{\"neither\":\n");
            "after the noise".into()
        }
        "stderr_flood" => {
            for n in 0..number("lines") {
                drop(writeln!(
                    io::stderr(),
                    "line {n} of a flood that nobody asked for"
                ));
            }
            "flooded".into()
        }
        "leak" => format!("the key is {PLANTED}, keep it"),
        "log" => {
            notify(
                "notifications/message",
                json!({"level":"info","logger":"fixture","data":"a log line"}),
            );
            "logged".into()
        }
        "roots" if !modern => ask(state, "roots/list", json!({})),
        "sample" if !modern => ask(state, "sampling/createMessage", sampling()),
        "elicit" if !modern => ask(state, "elicitation/create", elicitation()),
        // Modern servers put their questions into a result.
        "ask" | "roots" | "sample" | "elicit" if modern => {
            let responses = &params["inputResponses"];
            if responses.is_null() {
                let question = match tool {
                    "roots" => json!({"method":"roots/list"}),
                    "sample" => json!({"method":"sampling/createMessage","params":sampling()}),
                    _ => json!({"method":"elicitation/create","params":elicitation()}),
                };
                let questions = json!({"name":question});
                result(
                    id,
                    json!({"resultType":"input_required","inputRequests":questions,"requestState":"b3BhcXVlIC8gc3RhdGU="}),
                );
                return;
            }
            format!("answered {responses} to {}", params["requestState"])
        }
        "twice" => {
            reply(id, text("first"), modern);
            "second".into()
        }
        "stray" => {
            reply(&json!(987_654_321), text("nobody asked"), modern);
            "asked".into()
        }
        "carriage" => {
            raw(&format!(
                "{{\"jsonrpc\":\"2.0\",\r\"id\":{id},\"result\":{{\"content\":[]}}}}\r\n"
            ));
            return;
        }
        "task" => return start_task(state, params, id, modern),
        _ => {
            fail(id, -32602, &format!("Unknown tool: {tool}"));
            return;
        }
    };
    reply(id, text(&said), modern);
}

fn start_task(state: &Shared, params: &Value, id: &Value, modern: bool) {
    let wait = Duration::from_millis(params["arguments"]["ms"].as_u64().unwrap_or(0));
    if !modern && params["task"].is_null() {
        thread::sleep(wait);
        return reply(id, text("done without a task"), modern);
    }
    let name = {
        let mut state = lock(state);
        let name = format!("task-{}", state.tasks.len() + 1);
        state
            .tasks
            .insert(name.clone(), (text("done as a task"), "working".into()));
        name
    };
    if modern {
        let mut created = task(&name, "working");
        created["resultType"] = json!("task");
        result(id, created);
    } else {
        result(id, json!({"task":task(&name, "working")}));
    }
    thread::sleep(wait);
    if let Some((_, status)) = lock(state).tasks.get_mut(&name)
        && status == "working"
    {
        *status = "completed".into();
    }
}

/// A question to the client, as legacy servers may ask; the answer as text.
fn ask(state: &Shared, method: &str, params: Value) -> String {
    let (sender, receiver): (Sender<Value>, Receiver<Value>) = channel();
    let id = {
        let mut state = lock(state);
        state.asked += 1;
        let id = state.asked;
        state.waiting.insert(id, sender);
        id
    };
    send(&json!({"jsonrpc":"2.0","id":id,"method":method,"params":params}));
    match receiver.recv_timeout(Duration::from_secs(20)) {
        Ok(answer) => answer
            .get("result")
            .or_else(|| answer.get("error"))
            .unwrap_or(&Value::Null)
            .to_string(),
        Err(_) => "no answer".into(),
    }
}

fn sampling() -> Value {
    json!({"messages":[{"role":"user","content":{"type":"text","text":"Say yes."}}],"maxTokens":16})
}

fn elicitation() -> Value {
    json!({"mode":"form","message":"What is your name?","requestedSchema":{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}})
}

fn text(said: &str) -> Value {
    json!({"content":[{"type":"text","text":said}]})
}

fn cacheable(mut list: Value, modern: bool) -> Value {
    if modern {
        list["ttlMs"] = json!(30000);
        list["cacheScope"] = json!("public");
    }
    list
}

fn reply(id: &Value, mut answer: Value, modern: bool) {
    if modern {
        answer["resultType"] = json!("complete");
    }
    result(id, answer);
}

fn result(id: &Value, result: Value) {
    send(&json!({"jsonrpc":"2.0","id":id,"result":result}));
}

fn fail(id: &Value, code: i32, message: &str) {
    send(&json!({"jsonrpc":"2.0","id":id,"error":{"code":code,"message":message}}));
}

fn notify(method: &str, params: Value) {
    send(&json!({"jsonrpc":"2.0","method":method,"params":params}));
}

fn send(message: &Value) {
    raw(&format!("{message}\n"));
}

/// One write under one lock: lines never mix.
fn raw(text: &str) {
    let mut out = io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

fn lock(state: &Shared) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
