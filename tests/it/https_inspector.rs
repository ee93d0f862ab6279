//! The command line of the MCP Inspector over HTTPS against real stdio servers: with a key and with a token, in
//! both eras, and what it says when the proof is no good.
//!
//! It is what people try a new server with first. `cargo xtask setup` installs it and the Node.js that it runs on.

use crate::https_clients::{House, Kind};
use crate::support::{LISTEN, installed, newer_node, spawn};
use crate::wire::{eventually, mark};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// The program, and what runs it.
struct Inspector {
    node: PathBuf,
    script: PathBuf,
}

impl Inspector {
    fn find() -> Option<Self> {
        let found = || {
            let home = installed("inspector")?.join("node_modules/@modelcontextprotocol/inspector");
            let script = home.join("clients/launcher/build/index.js");
            let node = newer_node()?;
            Some(Self { node, script })
        };
        let found = found();
        if found.is_none() {
            println!("SKIPPED: https.inspector: no fixtures, run `cargo xtask setup`");
        }
        found
    }

    /// One run of it, which is one session: what it says of a method.
    fn begin(&self, house: &House, era: &str, bearer: &str, words: &[&str]) -> Child {
        // It keeps what it learns of a server in the home of its user.
        let home = house.path().join(mark());
        std::fs::create_dir(&home).unwrap();
        let url = format!("https://localhost:{}/mcp", house.site.address.port());
        let header = format!("Authorization: Bearer {bearer}");
        let mut command = Command::new(&self.node);
        command
            .arg(&self.script)
            .args(["--cli", &url, "--transport", "http"])
            .args(["--header", &header, "--protocol-era", era])
            .args(["--stored-auth-only", "--format", "json"])
            .args(words)
            .env("HOME", home)
            .env("NODE_EXTRA_CA_CERTS", house.path().join("tls/ca.crt"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        spawn(&mut command)
    }
}

fn told(output: &Output, house: &House) -> String {
    format!("{output:?}\n{}", house.site.wire.stderr())
}

/// The last line of what it printed, which is its result.
fn result(output: &Output, house: &House) -> Value {
    assert!(output.status.success(), "{}", told(output, house));
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|_| panic!("{}", told(output, house)))
}

/// By key and by token in an era: the list of tools, and a call, as the books have it.
fn drive(kind: Kind, era: &str, (tool, answer): (&str, &str)) {
    let (Some(inspector), Some(house)) = (Inspector::find(), House::new(kind, LISTEN)) else {
        return;
    };
    let arguments = house.call["arguments"].to_string();
    let name = house.call["name"].as_str().unwrap();
    let call = [
        "--method",
        "tools/call",
        "--tool-name",
        name,
        "--tool-args-json",
        &arguments,
    ];
    let list = ["--method", "tools/list"];
    let token = house.issuer.token(|_| {});
    let sessions = [(&house.key, &call[..]), (&token, &call), (&token, &list)];
    let begun = sessions.map(|(proof, words)| inspector.begin(&house, era, proof, words));
    let [by_key, by_token, listed] = begun
        .map(|child| child.wait_with_output().unwrap())
        .map(|output| result(&output, &house));
    for said in [by_key, by_token] {
        let text = said["result"]["content"][0]["text"].as_str();
        assert!(text.unwrap_or_default().contains(answer), "{said}");
    }
    let tools = listed["result"]["tools"].as_array().unwrap();
    assert!(tools.iter().any(|it| it["name"] == tool), "{listed}");
    let callers = || {
        let mut all = house.callers();
        all.sort();
        all
    };
    let expected = ["\"app\" by \"jwt\"", "\"laptop\" by \"key\""];
    assert!(eventually(|| callers() == expected), "{:?}", callers());
    let count = |method: &str| {
        let all = house.audit().into_iter();
        all.filter(|line| line["method"] == method).count()
    };
    let expected = if era == "legacy" { (3, 0) } else { (0, 3) };
    assert_eq!((count("initialize"), count("server/discover")), expected);
}

#[test]
fn a_key_and_a_token_open_a_session() {
    let words = ("echo", "Long running operation completed");
    drive(Kind::Everything, "legacy", words);
}

#[test]
fn a_key_and_a_token_sign_modern_requests() {
    drive(Kind::Time, "modern", ("get_current_time", "Asia/Kolkata"));
}

#[test]
fn it_says_why_a_proof_is_no_good() {
    let (Some(inspector), Some(house)) = (Inspector::find(), House::new(Kind::Time, LISTEN)) else {
        return;
    };
    let expired = house.issuer.token(|it| it["exp"] = json!(1_700_000_000));
    let unknown = "cfd_0000000000000000000000000000000000000000000".to_owned();
    for (proof, era, words) in [
        (unknown, "legacy", "the key is not valid"),
        (expired, "modern", "requires authorization (HTTP 401)"),
    ] {
        let child = inspector.begin(&house, era, &proof, &["--method", "tools/list"]);
        let output = child.wait_with_output().unwrap();
        // Its code for a server that wants to know who asks.
        assert_eq!(output.status.code(), Some(3), "{}", told(&output, &house));
        let said: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(said["error"]["code"], "auth_required", "{said}");
        let message = said["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{said}");
    }
    assert!(
        house.audit().iter().all(|line| line["method"].is_null()),
        "{:?}",
        house.audit()
    );
}
