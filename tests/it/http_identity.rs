//! Who may use a listener, and what each may do: certificates, keys and tokens over HTTPS.

use crate::rig::Rig;
use crate::support::LISTEN;
use crate::web::{Conn, Reply, Site, call, get, initialize, modern, modern_body, post, raw_post};
use crate::wire::eventually;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use std::io::BufReader;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const URL: &str = "https://localhost:8443/mcp";
const ISSUER: &str = "https://id.example.com";

pub(crate) type Secure = StreamOwned<ClientConnection, TcpStream>;

/// A listener with TLS, two clients with keys, one with a certificate, and an issuer.
struct House {
    site: Site,
    issuer: Issuer,
    /// The keys of `one` and `two`.
    keys: [String; 2],
}

pub(crate) struct Issuer {
    kid: String,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

impl Issuer {
    fn new() -> Self {
        Self::named("k")
    }

    /// One whose key has this id.
    pub(crate) fn named(kid: &str) -> Self {
        let random = SystemRandom::new();
        let how = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let made = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(how, made.as_ref(), &random).unwrap();
        let kid = kid.to_owned();
        Self { kid, key, random }
    }

    fn set(&self) -> String {
        json!({"keys": [self.public()]}).to_string()
    }

    pub(crate) fn public(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = (b64(&point[1..33]), b64(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "x": x, "y": y})
    }

    fn raw(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let made = self.key.sign(&self.random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", b64(made.as_ref()))
    }

    pub(crate) fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({
            "iss": ISSUER, "aud": URL, "sub": "ann", "client_id": "app", "tenant": "b",
            "scope": "notes:read", "iat": now() - 10, "nbf": now() - 10, "exp": now() + 600,
        });
        change(&mut claims);
        self.raw(
            &json!({"alg": "ES256", "kid": self.kid, "typ": "at+jwt"}),
            &claims,
        )
    }
}

pub(crate) fn program(rig: &Rig, words: &[&str]) -> String {
    let output = rig.command(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn certify(rig: &Rig, dir: &str) {
    let words = ["tls", "self-signed", "--dir", dir, "--client", "ci"];
    program(rig, &words);
}

impl House {
    fn new(more: &str) -> Self {
        Self::with(LISTEN, more)
    }

    fn with(listen: &str, more: &str) -> Self {
        let issuer = Issuer::new();
        let rig = Rig::new()
            .file("server.toml", format!("{listen}{more}"))
            .file("jwks.json", issuer.set());
        certify(&rig, "tls");
        let add = |name: &str, scope: &str| {
            let words = ["client", "add", name, "--tenant", name, "--scope", scope];
            program(&rig, &[&words[..], &["--keys", "clients.json"]].concat())
        };
        let keys = [add("one", "notes:write"), add("two", "notes:read")];
        std::fs::create_dir(rig.path().join("log")).unwrap();
        let flags = [
            "--user",
            "root",
            "--write",
            "{dir}/log",
            "--config",
            "{dir}/server.toml",
            "--audit",
            "{dir}/audit.jsonl",
        ];
        let site = Site::in_rig(rig, &flags, &["log={dir}/log/lines"]);
        Self { site, issuer, keys }
    }

    fn path(&self) -> &Path {
        self.site.wire.rig.path()
    }

    /// A connection that trusts `authority`, with a certificate or without.
    fn connect_as(&self, authority: &str, client: Option<&str>) -> Conn<Secure> {
        self.try_connect(authority, client).unwrap()
    }

    fn try_connect(&self, authority: &str, client: Option<&str>) -> std::io::Result<Conn<Secure>> {
        secure(self.path(), self.site.address, authority, client)
    }

    fn ask(&self, request: &str) -> Reply {
        let mut conn = self.connect_as("tls/ca.crt", None);
        conn.send(request);
        conn.reply()
    }

    fn ask_with_certificate(&self, request: &str) -> Reply {
        let mut conn = self.connect_as("tls/ca.crt", Some("tls/client-ci"));
        conn.send(request);
        conn.reply()
    }

    fn tools_of(&self, key: &str) -> Vec<String> {
        let reply = self.ask(&modern(&json!(1), "tools/list", &json!({}), &bearer(key)));
        let tools = reply.json()["result"]["tools"].clone();
        let tools = tools.as_array().unwrap_or_else(|| panic!("{reply:?}"));
        let names = tools.iter().map(|tool| tool["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path().join("audit.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

pub(crate) fn secure(
    dir: &Path,
    address: SocketAddr,
    authority: &str,
    client: Option<&str>,
) -> std::io::Result<Conn<Secure>> {
    let certificates = |name: &str| -> Vec<CertificateDer<'static>> {
        let all = CertificateDer::pem_file_iter(dir.join(name)).unwrap();
        all.map(Result::unwrap).collect()
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(authority) {
        roots.add(root).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = dir.join(format!("{name}.key"));
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            let chain = certificates(&format!("{name}.crt"));
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
    tcp.set_nodelay(true)?;
    let mut stream = StreamOwned::new(tls, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Conn {
        reader: BufReader::new(stream),
    })
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn echo(text: &str, more: &str) -> String {
    let params = json!({"name": "echo", "arguments": {"text": text}});
    modern(&json!(1), "tools/call", &params, more)
}

fn said(reply: &Reply) -> String {
    let value = reply.json()["result"]["content"][0]["text"].clone();
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_certificate_a_key_and_a_token_are_three_ways_in() {
    let house = House::new("");
    let token = house.issuer.token(|_| {});
    let [one, _] = &house.keys;
    let replies = [
        house.ask_with_certificate(&echo("by certificate", "")),
        house.ask(&echo("by key", &bearer(one))),
        house.ask(&echo("by token", &bearer(&token))),
    ];
    for (reply, expected) in replies.iter().zip(["by certificate", "by key", "by token"]) {
        assert_eq!((reply.status, &*said(reply)), (200, expected), "{reply:?}");
    }
    // The same in a session, on a connection that is used again.
    let mut conn = house.connect_as("tls/ca.crt", Some("tls/client-ci"));
    conn.send(post(&initialize("2025-11-25"), ""));
    let session = conn.reply();
    let session = session.header("mcp-session-id").unwrap();
    let more = format!("Mcp-Session-Id: {session}\r\n");
    conn.send(post(
        &json!({"jsonrpc":"2.0","method":"notifications/initialized"}),
        &more,
    ));
    assert_eq!(conn.reply().status, 202);
    conn.send(post(
        &call(&json!(7), "echo", &json!({"text": "again"})),
        &more,
    ));
    assert_eq!(said(&conn.reply()), "again");
    // What proved it went no further, and the books say who it was.
    let reached = house.site.reached();
    assert!(reached.contains("by key") && !reached.contains("cfd_") && !reached.contains("eyJ"));
    let callers = || -> Vec<Value> {
        let all = house.audit().into_iter();
        all.filter(|line| line["target"] == "echo")
            .map(|line| line["caller"].clone())
            .collect()
    };
    assert!(eventually(|| callers().len() == 4), "{:?}", house.audit());
    let callers = callers();
    for expected in [
        json!({"client": "ci", "tenant": "a", "how": "mtls"}),
        json!({"client": "one", "tenant": "one", "how": "key"}),
        json!({"client": "app", "tenant": "b", "user": "ann", "how": "jwt"}),
    ] {
        assert!(callers.contains(&expected), "{expected} in {callers:?}");
    }
    assert!(
        house
            .site
            .wire
            .stderr()
            .contains("identity: API key, access token, client certificate")
    );
}

#[test]
fn whoever_proves_nothing_reaches_nothing() {
    let house = House::new("");
    let issuer = &house.issuer;
    let good = issuer.token(|_| {});
    let [one, _] = &house.keys;
    let signature = good.rsplit('.').next().unwrap();
    let claims = good.split('.').nth(1).unwrap();
    let claims_of = |change: fn(&mut Value)| issuer.token(change);
    let none = format!(
        "{}.{claims}.",
        b64(json!({"alg": "none", "typ": "at+jwt"}).to_string())
    );
    let symmetric = format!(
        "{}.{claims}.{signature}",
        b64(json!({"alg": "HS256", "kid": "k", "typ": "at+jwt"}).to_string())
    );
    let other = Issuer::new().token(|_| {});
    let unknown = issuer.raw(
        &json!({"alg": "ES256", "kid": "else", "typ": "at+jwt"}),
        &json!({}),
    );
    let mut forged = good.clone().into_bytes();
    let at = good.find('.').unwrap() + 5;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let table: Vec<(&str, u16, String)> = vec![
        ("nothing", 401, String::new()),
        (
            "another scheme",
            401,
            "Authorization: Basic YTpi\r\n".into(),
        ),
        ("no token", 400, "Authorization: Bearer \r\n".into()),
        ("two", 400, format!("{}{}", bearer(one), bearer(&good))),
        (
            "no key",
            401,
            bearer("cfd_0000000000000000000000000000000000000000000"),
        ),
        ("half a key", 401, bearer(&one[..20])),
        ("a key and more", 401, bearer(&format!("{one}A"))),
        ("no word", 401, bearer("root")),
        ("alg none", 401, bearer(&none)),
        ("symmetric", 401, bearer(&symmetric)),
        ("another issuer's key", 401, bearer(&other)),
        ("an unknown key", 401, bearer(&unknown)),
        ("forged", 401, bearer(&forged)),
        (
            "no signature",
            401,
            bearer(&good[..good.len() - signature.len()]),
        ),
        (
            "expired",
            401,
            bearer(&claims_of(|it| it["exp"] = json!(now() - 600))),
        ),
        (
            "never ends",
            401,
            bearer(&claims_of(|it| it["exp"] = Value::Null)),
        ),
        (
            "not yet",
            401,
            bearer(&claims_of(|it| it["nbf"] = json!(now() + 600))),
        ),
        (
            "another audience",
            401,
            bearer(&claims_of(|it| {
                it["aud"] = json!("https://other.example.com/mcp");
            })),
        ),
        (
            "no audience",
            401,
            bearer(&claims_of(|it| it["aud"] = Value::Null)),
        ),
        (
            "another issuer",
            401,
            bearer(&claims_of(|it| {
                it["iss"] = json!("https://evil.example.com");
            })),
        ),
        (
            "no tenant",
            401,
            bearer(&claims_of(|it| it["tenant"] = Value::Null)),
        ),
        (
            "a client with a certificate",
            401,
            bearer(&claims_of(|it| it["client_id"] = json!("ci"))),
        ),
        (
            "a name",
            401,
            "X-Forwarded-User: root\r\nX-Client-Cert: ci\r\n".into(),
        ),
        (
            "no gateway",
            403,
            format!("cofferdam-on-behalf-of: {good}\r\n"),
        ),
        ("a cookie", 401, format!("Cookie: token={one}\r\n")),
    ];
    for (what, status, headers) in &table {
        let replies = [
            house.ask(&echo(&format!("MARK {what}"), headers)),
            house.ask(&post(&initialize("2025-11-25"), headers)),
            house.ask(&get("0123456789abcdef0123456789abcdef", headers)),
        ];
        for reply in replies {
            assert_eq!(reply.status, *status, "{what}: {reply:?}");
            let challenge = reply.header("www-authenticate");
            if *status == 401 {
                let challenge = challenge.unwrap_or_else(|| panic!("{what}"));
                assert!(
                    challenge.contains("resource_metadata=\"https://localhost:8443/.well-known/oauth-protected-resource/mcp\""),
                    "{challenge}"
                );
            }
            assert!(!reply.body.contains("cfd_") && !reply.head.contains("cfd_"));
        }
    }
    // Nor does a token in the URL, where every log on the way would have it.
    let in_url = echo("MARK query", "").replacen("/mcp", &format!("/mcp?access_token={one}"), 1);
    assert_eq!(house.ask(&in_url).status, 400);
    // Whether a method is served is not told to strangers either.
    let put = raw_post("{}", "").replacen("POST", "PUT", 1);
    assert_eq!(house.ask(&put).status, 401);
    // A certificate of another authority ends in the handshake.
    certify(&house.site.wire.rig, "foreign");
    let foreign = house.try_connect("tls/ca.crt", Some("foreign/client-ci"));
    let answered = foreign.is_ok_and(|mut conn| {
        conn.send(echo("MARK foreign", ""));
        let mut byte = [0];
        std::io::Read::read(&mut conn.reader, &mut byte).is_ok_and(|got| got > 0)
    });
    assert!(!answered, "a foreign certificate is answered");
    // And so do those who speak no TLS.
    let mut plain = house.site.connect();
    plain.send(echo("MARK plain", &bearer(one)));
    assert!(plain.is_closed());
    assert!(
        !house.site.reached().contains("MARK"),
        "{}",
        house.site.reached()
    );
    assert_eq!(said(&house.ask(&echo("fine", &bearer(one)))), "fine");
}

#[test]
fn a_session_belongs_to_whoever_opened_it() {
    let house = House::new("");
    let [one, two] = &house.keys;
    let opened = house.ask(&post(&initialize("2025-11-25"), &bearer(one)));
    let session = opened.header("mcp-session-id").unwrap();
    let with = |who: &str| format!("Mcp-Session-Id: {session}\r\n{who}");
    let list = json!({"jsonrpc":"2.0","id":3,"method":"tools/list"});
    assert_eq!(house.ask(&post(&list, &with(&bearer(one)))).status, 200);
    assert_eq!(house.ask(&post(&list, &with(&bearer(two)))).status, 404);
    assert_eq!(house.ask(&post(&list, &with(""))).status, 401);
    assert_eq!(
        house.ask_with_certificate(&post(&list, &with(""))).status,
        404
    );
    assert_eq!(house.ask(&get(session, &bearer(two))).status, 404);
    let delete = get(session, &bearer(two)).replacen("GET", "DELETE", 1);
    assert_eq!(house.ask(&delete).status, 404);
    assert_eq!(house.ask(&post(&list, &with(&bearer(one)))).status, 200);
}

#[test]
fn each_client_sees_what_it_may_use_on_one_process() {
    let rules = "[clients.one]\ntools = [\"echo\"]\n[clients.two]\ntools = [\"e*\", \"late\"]\n";
    let house = House::new(rules);
    let [one, two] = &house.keys;
    assert_eq!(house.tools_of(one), ["echo"]);
    let others = house.tools_of(two);
    assert!(others.contains(&"late".to_owned()) && !others.contains(&"hang".to_owned()));
    assert_eq!(house.tools_of(one), ["echo"]);
    let late = json!({"name": "late", "arguments": {"ms": 1}});
    let call = |who: &str| house.ask(&modern(&json!(1), "tools/call", &late, &bearer(who)));
    let refused = call(one).json();
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    let never = json!({"name": "never", "arguments": {"ms": 1}});
    let never = house.ask(&modern(&json!(1), "tools/call", &never, &bearer(one)));
    let words = never.json()["error"]["message"]
        .as_str()
        .unwrap()
        .replace("never", "late");
    assert_eq!(refused["error"]["message"], *words);
    assert_eq!(said(&call(two)), "late");
    assert!(!house.site.reached().contains("never"));
    // The same of one process that sessions share, where calls wait for its list.
    let shared = House::with(&LISTEN.replace("[listen]", "[listen]\nshare = true"), rules);
    let sessions = shared.keys.clone().map(|key| {
        let opened = shared.ask(&post(&initialize("2025-11-25"), &bearer(&key)));
        let session = opened.header("mcp-session-id").unwrap().to_owned();
        (key, session)
    });
    let ask = |(key, session): &(String, String), message: &Value| {
        let more = format!("Mcp-Session-Id: {session}\r\n{}", bearer(key));
        shared.ask(&post(message, &more)).json()
    };
    let late = call_late();
    assert_eq!(ask(&sessions[0], &late)["error"]["code"], -32602);
    assert_eq!(
        ask(&sessions[1], &late)["result"]["content"][0]["text"],
        "late"
    );
    let list = json!({"jsonrpc":"2.0","id":3,"method":"tools/list"});
    let first = ask(&sessions[0], &list);
    assert_eq!(first["result"]["tools"].as_array().unwrap().len(), 1);
    assert!(
        ask(&sessions[1], &list)["result"]["tools"]
            .as_array()
            .unwrap()
            .len()
            > 1
    );
}

fn call_late() -> Value {
    call(&json!(5), "late", &json!({"ms": 1}))
}

#[test]
fn too_small_a_scope_is_challenged_with_all_that_is_needed() {
    let house = House::new(
        "[tools.late]\nscopes = [\"notes:write\", \"notes:admin\"]\n[tools.echo]\nscopes = [\"notes:read\"]\n",
    );
    let token = house.issuer.token(|_| {});
    assert_eq!(said(&house.ask(&echo("fine", &bearer(&token)))), "fine");
    let late = json!({"name": "late", "arguments": {"ms": 1}});
    for request in [
        modern(&json!(1), "tools/call", &late, &bearer(&token)),
        post(
            &modern_body(&json!(1), "tools/call", &late),
            &bearer(&token),
        ),
    ] {
        let reply = house.ask(&request);
        assert_eq!(reply.status, 403, "{reply:?}");
        let challenge = reply.header("www-authenticate").unwrap();
        for part in [
            "error=\"insufficient_scope\"",
            "scope=\"notes:admin notes:write\"",
            "resource_metadata=",
        ] {
            assert!(challenge.contains(part), "{challenge}");
        }
    }
    assert!(!house.site.reached().contains("\"late\""));
    let refused =
        |line: &Value| line["rule"] == "scopes.missing" && line["caller"]["client"] == "app";
    assert!(eventually(|| house.audit().iter().any(refused)));
    for path in ["", "/mcp"] {
        let request = format!(
            "GET /.well-known/oauth-protected-resource{path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        let metadata = house.ask(&request);
        assert_eq!(metadata.status, 200, "{path}: {metadata:?}");
        assert_eq!(metadata.json()["resource"], URL);
        assert_eq!(metadata.json()["authorization_servers"], json!([ISSUER]));
    }
}

#[test]
fn who_asks_too_often_is_told_when_to_come_again() {
    let house = House::new("[clients.one]\nrate = \"2/h\"\n[clients.two]\nquota = 1\n");
    let [one, two] = &house.keys;
    let ask = |who: &str| house.ask(&echo("hello", &bearer(who)));
    assert_eq!(said(&ask(one)), "hello");
    assert_eq!(said(&ask(one)), "hello");
    let third = ask(one);
    assert_eq!(
        (third.status, &third.json()["result"]["isError"]),
        (200, &json!(true))
    );
    assert!(said(&third).contains("limits.rate"), "{third:?}");
    assert!(third.header("retry-after").unwrap().parse::<u64>().unwrap() > 1000);
    let list = house.ask(&modern(&json!(1), "tools/list", &json!({}), &bearer(one)));
    assert_eq!(list.status, 429, "{list:?}");
    assert!(list.header("retry-after").unwrap().parse::<u64>().unwrap() > 1000);
    assert_eq!(list.json()["error"]["data"]["rule"], "limits.rate");
    // Another client has an account of its own.
    assert_eq!(said(&ask(two)), "hello");
    assert!(said(&ask(two)).contains("limits.quota"));
    assert_eq!(house.site.reached().matches("hello").count(), 3);
}

#[test]
fn a_place_comes_free_however_its_request_ends() {
    let house = House::new("[limits]\nconcurrency = 1\n");
    let [one, two] = &house.keys;
    let hang = json!({"name": "hang", "arguments": {}});
    let mut holder = house.connect_as("tls/ca.crt", None);
    holder.send(modern(&json!(1), "tools/call", &hang, &bearer(one)));
    crate::web::until_reached(&house.site, "\"hang\"");
    let mut gone = house.connect_as("tls/ca.crt", None);
    gone.send(echo("left the queue", &bearer(two)));
    let mut waits = house.connect_as("tls/ca.crt", None);
    waits.send(echo("waited", &bearer(two)));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!house.site.reached().contains("waited"));
    drop(gone);
    std::thread::sleep(Duration::from_millis(100));
    drop(holder);
    assert_eq!(said(&waits.reply()), "waited");
    for _ in 0..3 {
        assert_eq!(said(&house.ask(&echo("more", &bearer(one)))), "more");
    }
    assert!(!house.site.reached().contains("left the queue"));
}

#[test]
fn a_key_that_is_revoked_is_refused_at_once() {
    let house = House::new("");
    let [one, two] = &house.keys;
    let opened = house.ask(&post(&initialize("2025-11-25"), &bearer(one)));
    let session = opened.header("mcp-session-id").unwrap();
    let mut stream = house.connect_as("tls/ca.crt", None);
    stream.send(get(session, &bearer(one)));
    assert_eq!(stream.head().0, 200);
    assert_eq!(house.ask(&echo("x", &bearer(one))).status, 200);
    program(
        &house.site.wire.rig,
        &["client", "revoke", "one", "--keys", "clients.json"],
    );
    let revoked = Instant::now();
    while house.ask(&echo("x", &bearer(one))).status != 401 {
        assert!(revoked.elapsed() < Duration::from_secs(1), "still let in");
    }
    while stream.chunk().is_some() {}
    assert!(
        revoked.elapsed() < Duration::from_secs(2),
        "the stream goes on"
    );
    assert_eq!(house.ask(&echo("x", &bearer(two))).status, 200);
    // A file that cannot be read changes nothing; a new key counts.
    let path = house.path().join("clients.json");
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, "{").unwrap();
    house.site.wire.until_stderr("stays in force");
    assert_eq!(house.ask(&echo("x", &bearer(two))).status, 200);
    std::fs::write(&path, good).unwrap();
    let new = program(
        &house.site.wire.rig,
        &["client", "add", "three", "--keys", "clients.json"],
    );
    assert!(eventually(
        || house.ask(&echo("x", &bearer(&new))).status == 200
    ));
    // The issuer rotates.
    let rotated = Issuer::new();
    std::fs::write(house.path().join("jwks.json"), rotated.set()).unwrap();
    let token = rotated.token(|_| {});
    assert!(eventually(
        || house.ask(&echo("x", &bearer(&token))).status == 200
    ));
    let old = house.issuer.token(|_| {});
    assert_eq!(house.ask(&echo("x", &bearer(&old))).status, 401);
}

#[test]
fn a_stream_ends_with_the_token_that_opened_it() {
    let house = House::new("");
    let short = house.issuer.token(|it| it["exp"] = json!(now() + 2));
    let long = house.issuer.token(|_| {});
    let mut streams = [short, long].map(|token| {
        let opened = house.ask(&post(&initialize("2025-11-25"), &bearer(&token)));
        let session = opened.header("mcp-session-id").unwrap();
        let mut stream = house.connect_as("tls/ca.crt", None);
        stream.send(get(session, &bearer(&token)));
        assert_eq!(stream.head().0, 200);
        stream
    });
    let begun = Instant::now();
    while streams[0].chunk().is_some() {}
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "{:?}",
        begun.elapsed()
    );
    // The other one says that it is alive meanwhile.
    streams[1].until(":");
    assert!(begun.elapsed() < Duration::from_secs(18));
}

#[test]
fn a_certificate_that_is_swapped_under_load_loses_no_request() {
    let house = House::new("");
    let [one, _] = &house.keys;
    certify(&house.site.wire.rig, "next");
    let both = ["tls/ca.crt", "next/ca.crt"]
        .map(|name| std::fs::read_to_string(house.path().join(name)).unwrap());
    std::fs::write(house.path().join("both.crt"), both.concat()).unwrap();
    let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (dir, address) = (house.path(), house.site.address);
            let (done, count) = (&done, &count);
            scope.spawn(move || {
                let mut kept = secure(dir, address, "both.crt", None).unwrap();
                while !done.load(Ordering::Relaxed) {
                    let request = echo("load", &bearer(one));
                    // Half of them on one connection, half on a new one each.
                    let reply = if worker % 2 == 0 {
                        kept.send(&request);
                        kept.reply()
                    } else {
                        let mut conn = secure(dir, address, "both.crt", None).unwrap();
                        conn.send(&request);
                        conn.reply()
                    };
                    assert_eq!(said(&reply), "load", "{reply:?}");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        for name in ["server.key", "server.crt"] {
            let new = house.path().join("next").join(name);
            std::fs::rename(new, house.path().join("tls").join(name)).unwrap();
        }
        // From here on whoever trusts the new authority alone gets in.
        let swapped = eventually(|| house.try_connect("next/ca.crt", None).is_ok());
        std::thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::Relaxed);
        assert!(swapped, "{}", house.site.wire.stderr());
    });
    assert!(house.try_connect("tls/ca.crt", None).is_err());
    assert!(count.load(Ordering::Relaxed) > 20);
}
