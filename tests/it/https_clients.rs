//! The official SDK clients over HTTPS against real stdio servers: with a certificate, with a key and with a token, in
//! both eras, and what they say when the proof is no good.
//!
//! The quick set takes each kind of proof, each SDK and each era; `COFFERDAM_FULL=1` takes their whole product.
//! The sessions are `tests/fidelity/secure.*`; they need what `cargo xtask setup` installs.

use crate::fidelity::fixtures;
use crate::http_identity::{Issuer, certify, program};
use crate::rig::Rig;
use crate::support::{LISTEN, full, spawn, which};
use crate::web::Site;
use crate::wire::{Wire, eventually, mark};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const OLD: &str = "2025-11-25";
const NEW: &str = "2026-07-28";

/// A client, and what it agrees on with a server that speaks every revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sdk {
    program: &'static str,
    mode: &'static str,
    agrees: &'static str,
}

const fn sdk(program: &'static str, mode: &'static str, agrees: &'static str) -> Sdk {
    Sdk {
        program,
        mode,
        agrees,
    }
}

const TS1: Sdk = sdk("node", "ts1", OLD);
const TS2: Sdk = sdk("node", "legacy", OLD);
const TS2_AUTO: Sdk = sdk("node", "auto", NEW);
const TS2_PIN: Sdk = sdk("node", "pin", NEW);
const PY2: Sdk = sdk("python", "legacy", OLD);
const PY2_AUTO: Sdk = sdk("python", "auto", NEW);
const PY2_PIN: Sdk = sdk("python", NEW, NEW);
const ALL: [Sdk; 7] = [TS1, TS2, TS2_AUTO, TS2_PIN, PY2, PY2_AUTO, PY2_PIN];

impl Sdk {
    /// Pinned to the revision without a handshake: it has nothing to say to a server that knows none.
    fn is_pinned(self) -> bool {
        matches!(self.mode, "pin" | NEW)
    }
}

/// A real server that its clients reach by HTTPS alone.
pub(crate) struct House {
    pub(crate) site: Site,
    fixtures: PathBuf,
    pub(crate) issuer: Issuer,
    pub(crate) key: String,
    pub(crate) call: Value,
}

/// An SDK at work.
struct Sessions {
    sdk: Sdk,
    child: Child,
    copy: Option<PathBuf>,
}

/// Two kinds of servers: one knows the eras with a handshake only, the other knows all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Everything,
    Time,
}

impl House {
    /// `None` without the pinned servers and clients.
    pub(crate) fn new(kind: Kind, listen: &str) -> Option<Self> {
        let Some(fixtures) = fixtures() else {
            println!("SKIPPED: https.clients: no fixtures, run `cargo xtask setup`");
            return None;
        };
        let issuer = Issuer::named("k");
        let set = json!({"keys": [issuer.public()]}).to_string();
        let rig = Rig::new()
            .file("server.toml", listen)
            .file("jwks.json", set);
        certify(&rig, "tls");
        certify(&rig, "foreign");
        let words = [
            "client",
            "add",
            "laptop",
            "--tenant",
            "b",
            "--keys",
            "clients.json",
        ];
        let key = program(&rig, &words);
        let node =
            fixtures.join("npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js");
        let python = fixtures.join("pypi/bin/python");
        let (command, call) = match kind {
            Kind::Everything => (
                vec![which("node"), node, "stdio".into()],
                json!({"name": "trigger-long-running-operation", "arguments": {"duration": 0.3, "steps": 3}}),
            ),
            Kind::Time => (
                vec![
                    python,
                    "-m".into(),
                    "mcp_server_time".into(),
                    "--local-timezone".into(),
                    "UTC".into(),
                ],
                json!({"name": "convert_time", "arguments": {"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Kolkata"}}),
            ),
        };
        let command: Vec<&str> = command.iter().map(|word| word.to_str().unwrap()).collect();
        let mark = mark();
        let flags = [
            "--config",
            "{dir}/server.toml",
            "--audit",
            "{dir}/audit.jsonl",
            "--name",
            &mark,
            "--read",
            fixtures.to_str().unwrap(),
        ];
        let site = Site::around(Wire::start(rig, &mark, &flags, &command));
        Some(Self {
            site,
            fixtures,
            issuer,
            key,
            call,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.site.wire.rig.path()
    }

    /// A way in: by certificate, key or token.
    fn way(&self, how: &str) -> Value {
        match how {
            "mtls" => json!({"name": how, "certificate": self.path().join("tls/client-ci")}),
            "key" => json!({"name": how, "bearer": self.key}),
            _ => json!({"name": how, "bearer": self.issuer.token(|_| {})}),
        }
    }

    /// Begins sessions of an SDK, one after the other, each way.
    fn begin(&self, sdk: Sdk, ways: &[Value]) -> Sessions {
        let url = format!("https://localhost:{}/mcp", self.site.address.port());
        let plan = json!({"url": url, "mode": sdk.mode, "call": self.call, "ways": ways});
        let name = mark();
        let file = self.path().join(format!("{name}.json"));
        std::fs::write(&file, plan.to_string()).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fidelity");
        let authority = self.path().join("tls/ca.crt");
        let mut copy = None;
        let mut command = if sdk.program == "node" {
            // Node finds packages beside the script, so it runs where they are.
            let script = self.fixtures.join("npm").join(format!("{name}.mjs"));
            std::fs::copy(source.join("secure.mjs"), &script).unwrap();
            let mut command = Command::new("node");
            command.arg(&script).env("NODE_EXTRA_CA_CERTS", authority);
            copy = Some(script);
            command
        } else {
            let mut command = Command::new(self.fixtures.join("pypi/bin/python"));
            command.arg("-B").arg(source.join("secure.py"));
            command.env("SSL_CERT_FILE", authority);
            command
        };
        command.arg(&file).stdin(Stdio::null());
        let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        Sessions { sdk, child, copy }
    }

    /// What an SDK saw, each way.
    fn end(&self, sessions: Sessions, ways: usize) -> Vec<Value> {
        let Sessions { sdk, child, copy } = sessions;
        let output = child.wait_with_output().unwrap();
        if let Some(script) = copy {
            std::fs::remove_file(script).unwrap();
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let seen = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let seen: Vec<Value> = seen.collect();
        assert!(
            output.status.success() && seen.len() == ways,
            "{sdk:?}: {text}{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.site.wire.stderr()
        );
        seen
    }

    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path().join("audit.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// How whoever called the tool has proved who it is.
    pub(crate) fn callers(&self) -> Vec<String> {
        let all = self.audit().into_iter();
        all.filter(|line| line["target"] == self.call["name"])
            .map(|line| format!("{} by {}", line["caller"]["client"], line["caller"]["how"]))
            .collect()
    }
}

/// Sessions by these clients, each by these proofs; everything is seen, and the books say who it was.
fn drive(kind: Kind, quick: &[(Sdk, &'static str)]) {
    let Some(house) = House::new(kind, LISTEN) else {
        return;
    };
    let mut cases: Vec<(Sdk, Vec<&str>)> = Vec::new();
    if full() {
        let fits = |sdk: &Sdk| !(sdk.is_pinned() && kind == Kind::Everything);
        let fitting = ALL.into_iter().filter(fits);
        cases.extend(fitting.map(|sdk| (sdk, vec!["mtls", "key", "jwt"])));
    } else {
        cases.extend(quick.iter().map(|(sdk, how)| (*sdk, vec![*how])));
    }
    let begun: Vec<Sessions> = cases
        .iter()
        .map(|(sdk, hows)| {
            let ways: Vec<Value> = hows.iter().map(|how| house.way(how)).collect();
            house.begin(*sdk, &ways)
        })
        .collect();
    for (sessions, (sdk, hows)) in begun.into_iter().zip(&cases) {
        for seen in house.end(sessions, hows.len()) {
            judge(&house, kind, *sdk, &seen);
        }
    }
    let mut expected: Vec<String> = Vec::new();
    for how in cases.iter().flat_map(|(_, hows)| hows) {
        let client = match *how {
            "mtls" => "ci",
            "key" => "laptop",
            _ => "app",
        };
        expected.push(format!("\"{client}\" by \"{how}\""));
    }
    expected.sort();
    let callers = || {
        let mut all = house.callers();
        all.sort();
        all
    };
    assert!(
        eventually(|| callers() == expected),
        "{expected:?}, not {:?}",
        callers()
    );
}

fn judge(house: &House, kind: Kind, sdk: Sdk, seen: &Value) {
    let told = || format!("{kind:?} {sdk:?}: {seen}\n{}", house.site.wire.stderr());
    let (server, tool, answer, steps, agreed) = match kind {
        Kind::Everything => (
            "mcp-servers/everything",
            "echo",
            "Long running operation completed",
            1,
            OLD,
        ),
        Kind::Time => (
            "mcp-time",
            "get_current_time",
            "Asia/Kolkata",
            0,
            sdk.agrees,
        ),
    };
    match sdk == PY2_PIN {
        true => assert_eq!(seen["server"], Value::Null, "{}", told()),
        false => assert_eq!(seen["server"], server, "{}", told()),
    }
    assert_eq!(seen["version"], agreed, "{}", told());
    let tools = seen["tools"]
        .as_array()
        .unwrap_or_else(|| panic!("{}", told()));
    assert!(tools.contains(&json!(tool)), "{}", told());
    let text = seen["text"].as_str().unwrap_or_default();
    assert!(text.contains(answer), "{}", told());
    // Progress comes as events before the answer; the SDK drops what arrives together with it.
    let progress = seen["progress"].as_u64().unwrap_or_default();
    assert!(progress >= steps, "{}", told());
}

#[test]
fn a_server_that_knows_sessions_only() {
    drive(
        Kind::Everything,
        &[(TS1, "mtls"), (TS2_AUTO, "key"), (PY2, "jwt")],
    );
}

#[test]
fn a_server_that_knows_both_eras() {
    drive(
        Kind::Time,
        &[
            (TS2_PIN, "jwt"),
            (TS2_AUTO, "mtls"),
            (PY2_PIN, "key"),
            (PY2_AUTO, "mtls"),
        ],
    );
}

#[test]
fn what_an_sdk_says_when_the_proof_is_no_good() {
    let Some(house) = House::new(Kind::Time, LISTEN) else {
        return;
    };
    let expired = house.issuer.token(|it| it["exp"] = json!(1_700_000_000));
    let elsewhere = house
        .issuer
        .token(|it| it["aud"] = json!("https://other.example.com/mcp"));
    let ways = [
        json!({"name": "wrong key", "bearer": "cfd_0000000000000000000000000000000000000000000"}),
        json!({"name": "no certificate"}),
        json!({"name": "expired", "bearer": expired}),
        json!({"name": "elsewhere", "bearer": elsewhere}),
        json!({"name": "foreign", "certificate": house.path().join("foreign/client-ci")}),
    ];
    // One of each SDK and era in the quick set.
    let sdks: &[Sdk] = match full() {
        true => &ALL,
        false => &[TS1, TS2_AUTO, PY2, PY2_PIN],
    };
    let begun: Vec<Sessions> = sdks.iter().map(|sdk| house.begin(*sdk, &ways)).collect();
    for sessions in begun {
        let sdk = sessions.sdk;
        for seen in house.end(sessions, ways.len()) {
            refused(sdk, &seen);
        }
    }
    assert_eq!(house.callers(), [""; 0], "a call went through");
}

/// The error is the one that the SDK has for it, and what came over the wire says why.
fn refused(sdk: Sdk, seen: &Value) {
    let told = || format!("{sdk:?}: {seen}");
    let way = seen["way"].as_str().unwrap();
    let error = &seen["errors"][0];
    if way == "foreign" {
        // It is refused in the handshake. The fetch of Node.js keeps the alert to itself.
        let words = match sdk.program {
            "node" => "fetch failed",
            _ => "TLSV1_ALERT_DECRYPT_ERROR",
        };
        assert!(seen["status"].is_null(), "{}", told());
        assert!(seen["errors"].to_string().contains(words), "{}", told());
        return;
    }
    let why = match way {
        "wrong key" => "the key is not valid",
        "expired" => "the token has expired",
        "elsewhere" => "the token was made for another server",
        _ => "",
    };
    let name = match (sdk.program, sdk.mode) {
        ("node", "ts1") => "StreamableHTTPError",
        ("node", _) if why.is_empty() => "SdkHttpError",
        ("node", _) => "UnauthorizedError",
        _ => "MCPError",
    };
    assert_eq!(
        (&error["name"], &seen["status"]),
        (&json!(name), &json!(401)),
        "{}",
        told()
    );
    let challenge = seen["challenge"].as_str().unwrap_or_default();
    let metadata =
        "resource_metadata=\"https://localhost:8443/.well-known/oauth-protected-resource/mcp\"";
    assert!(
        challenge.starts_with("Bearer ") && challenge.contains(metadata),
        "{}",
        told()
    );
    assert_eq!(
        challenge.contains("error=\"invalid_token\""),
        !why.is_empty(),
        "{}",
        told()
    );
    assert!(challenge.contains(why), "{}", told());
    if sdk == TS1 {
        assert!(
            error["message"].as_str().unwrap().contains(why),
            "{}",
            told()
        );
    }
}
