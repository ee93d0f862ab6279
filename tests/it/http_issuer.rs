//! Keys of an issuer that are fetched over HTTPS: rotated under load, asked for by unknown keys, and kept
//! when the issuer fails.

use crate::http_identity::{Issuer, certify, program};
use crate::rig::Rig;
use crate::support::{example, full};
use crate::web::{Conn, Reply, Site, modern};
use crate::wire::{Wire, eventually, mark, said};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Where key sets are served.
struct Place {
    port: u16,
    /// The whole answer, or nothing, for ever.
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicU32>,
}

fn set(issuers: &[&Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.public()).collect();
    json!({ "keys": keys }).to_string()
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Place {
    /// With the certificate `server.crt` of this directory.
    fn serve(listener: TcpListener, dir: &Path, body: &str) -> Self {
        let chain = CertificateDer::pem_file_iter(dir.join("server.crt")).unwrap();
        let chain = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        let place = Self {
            port: listener.local_addr().unwrap().port(),
            answer: Arc::new(Mutex::new(Some(ok(body)))),
            asked: Arc::default(),
        };
        let (answer, asked) = (Arc::clone(&place.answer), Arc::clone(&place.asked));
        drop(std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, answer) = (Arc::clone(&config), Arc::clone(&answer));
                let asked = Arc::clone(&asked);
                drop(std::thread::spawn(move || {
                    let tls = ServerConnection::new(config).unwrap();
                    let mut reader = BufReader::new(StreamOwned::new(tls, stream));
                    let mut line = String::new();
                    if reader.read_line(&mut line).is_err() || line.is_empty() {
                        return;
                    }
                    assert!(line.starts_with("GET /keys?v=1 HTTP/1.1"), "{line}");
                    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {}
                    asked.fetch_add(1, Ordering::Relaxed);
                    let answer = answer.lock().unwrap().clone();
                    let Some(answer) = answer else {
                        return std::thread::sleep(Duration::from_secs(60));
                    };
                    let stream = reader.get_mut();
                    drop(stream.write_all(answer.as_bytes()));
                    stream.conn.send_close_notify();
                    drop(stream.flush());
                }));
            }
        }));
        place
    }

    fn publish(&self, issuers: &[&Issuer]) {
        *self.answer.lock().unwrap() = Some(ok(&set(issuers)));
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A listener that fetches the keys of `issuer`, whose certificate is signed by `ca`.
fn start(issuer: &Issuer, refresh: &str, ca: &str) -> (Site, Place) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let rig = Rig::new().file(
        "c.toml",
        format!(
            "[listen]\nhttp = \"127.0.0.1:0\"\npublic_url = \"https://localhost:8443/mcp\"\nauth = \"required\"\n\
             [identity]\nkeys = \"clients.json\"\n\
             jwt = {{ issuer = \"https://id.example.com\", jwks = \"https://localhost:{port}/keys?v=1\", jwks_ca = \"{ca}/ca.crt\", jwks_refresh = \"{refresh}\" }}\n"
        ),
    );
    certify(&rig, "tls");
    certify(&rig, "other");
    program(&rig, &["client", "add", "one", "--keys", "clients.json"]);
    let place = Place::serve(listener, &rig.path().join("tls"), &set(&[issuer]));
    let mark = mark();
    let path = example("hostile").to_str().unwrap().to_owned();
    let flags = [
        "--config",
        "{dir}/c.toml",
        "--admin",
        "unix:{dir}/admin.sock",
    ];
    let site = Site::around(Wire::start(rig, &mark, &flags, &[&path, &mark]));
    (site, place)
}

fn ask(site: &Site, token: &str) -> Reply {
    ask_at(site.address, token)
}

fn ask_at(address: SocketAddr, token: &str) -> Reply {
    let params = json!({"name": "echo", "arguments": {"text": "here"}});
    let who = format!("Authorization: Bearer {token}\r\n");
    let mut conn = Conn::to(address);
    conn.send(modern(&json!(1), "tools/call", &params, &who));
    conn.reply()
}

fn is_served(site: &Site, token: &str) -> bool {
    let reply = ask(site, token);
    reply.status == 200 && said(&reply.json()) == "here"
}

fn health(site: &Site) -> Value {
    let text = site.wire.admin("/health");
    let body = text.split("\r\n\r\n").nth(1).unwrap_or(&text);
    serde_json::from_str::<Value>(body).unwrap()["issuer"].clone()
}

#[test]
fn tokens_are_checked_by_keys_that_are_fetched() {
    let (one, forged) = (Issuer::named("one"), Issuer::named("one"));
    let (site, place) = start(&one, "10m", "tls");
    // The first may come before the keys have.
    let token = one.token(|_| {});
    assert!(is_served(&site, &token), "{}", site.wire.stderr());
    assert_eq!(ask(&site, &forged.token(|_| {})).status, 401);
    assert_eq!(health(&site)["keys"], 1);
    let before = place.asked();
    // Whoever makes up keys has the issuer asked once, not each time.
    for at in 0..40 {
        let made_up = Issuer::named(&format!("made-up-{at}"));
        assert_eq!(ask(&site, &made_up.token(|_| {})).status, 401);
    }
    assert!(place.asked() <= before + 1, "{} times", place.asked());
    // Keys of clients are read again; those of the issuer stay.
    let rig = site.wire.rig();
    let key = program(rig, &["client", "add", "two", "--keys", "clients.json"]);
    assert!(eventually(|| is_served(&site, &key)));
    assert!(is_served(&site, &token));
    // Nothing of this process connects: it is the one that only does that, and it has gone again.
    assert!(eventually(|| {
        let all = crate::wire::processes("__dial");
        all.iter()
            .all(|(_, line)| !line.contains(&place.port.to_string()))
    }));
}

/// Calls with a token that changes; how many were answered, and the first that was not served.
fn load(address: SocketAddr, token: &Mutex<String>, over: &AtomicBool) -> (u32, Option<String>) {
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        let token = token.lock().unwrap().clone();
        let reply = ask_at(address, &token);
        count += 1;
        if reply.status != 200 {
            return (count, Some(format!("{reply:?}")));
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    (count, None)
}

#[test]
fn an_issuer_rotates_under_load_and_no_request_is_lost() {
    let rounds = if full() { 10 } else { 2 };
    let first = Issuer::named("key-0");
    let (site, place) = start(&first, "10m", "tls");
    assert!(is_served(&site, &first.token(|_| {})));
    let token = Mutex::new(first.token(|_| {}));
    let over = AtomicBool::new(false);
    let (begun, address) = (Instant::now(), site.address);
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| load(address, &token, &over)))
            .collect();
        let mut last = first;
        for round in 1..=rounds {
            std::thread::sleep(Duration::from_millis(300));
            // Tokens of the new key come at once; the old ones are good until they are over.
            let next = Issuer::named(&format!("key-{round}"));
            place.publish(&[&last, &next]);
            *token.lock().unwrap() = next.token(|_| {});
            std::thread::sleep(Duration::from_millis(300));
            assert!(is_served(&site, &last.token(|_| {})));
            place.publish(&[&next]);
            // An issuer is asked again after a pause.
            std::thread::sleep(Duration::from_secs(5));
            last = next;
        }
        over.store(true, Ordering::Relaxed);
        let mut all = 0;
        for load in loads {
            let (count, lost) = load.join().unwrap();
            assert_eq!(lost, None, "{}", site.wire.stderr());
            all += count;
        }
        let rate = f64::from(all) / begun.elapsed().as_secs_f64();
        println!("{all} requests, {rate:.0} a second");
        assert!(rate > 50.0);
    });
    assert_eq!(place.asked(), 1 + rounds);
}

#[test]
fn keys_are_fetched_again_and_the_last_good_ones_stay() {
    let (one, two) = (Issuer::named("one"), Issuer::named("two"));
    let (site, place) = start(&one, "1s", "tls");
    assert!(is_served(&site, &one.token(|_| {})));
    let large = format!("{{\"keys\":[{}]}}", " ".repeat(300_000));
    let moved = "HTTP/1.1 302 Found\r\nlocation: https://localhost:1/\r\ncontent-length: 0\r\n\r\n";
    for (bad, why) in [
        (
            "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
            "it answers 500",
        ),
        (moved, "it answers 302"),
        (&ok("<html>"), "not a JSON Web Key Set"),
        (&ok("{\"keys\":[]}"), "no public key"),
        (&ok(&large), "more than 262144 bytes"),
        ("nonsense\r\n\r\n", "connection"),
    ] {
        *place.answer.lock().unwrap() = Some(bad.to_owned());
        let is_said = || {
            health(&site)["problem"]
                .as_str()
                .is_some_and(|it| it.contains(why))
        };
        assert!(eventually(is_said), "{why}: {}", health(&site));
        assert!(is_served(&site, &one.token(|_| {})), "{why}");
    }
    assert!(site.wire.metric("cofferdam_issuer_fetches_total") > 6.0);
    place.publish(&[&two]);
    assert!(eventually(|| health(&site)["problem"].is_null()));
    assert!(is_served(&site, &two.token(|_| {})));
    assert_eq!(
        ask(&site, &one.token(|_| {})).status,
        401,
        "its key is gone"
    );
    // One that never answers keeps nobody waiting whose key is known.
    *place.answer.lock().unwrap() = None;
    std::thread::sleep(Duration::from_millis(1500));
    let begun = Instant::now();
    assert!(is_served(&site, &two.token(|_| {})));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_fetch_that_is_given_up_is_followed_by_others() {
    let (one, two, three) = (
        Issuer::named("one"),
        Issuer::named("two"),
        Issuer::named("three"),
    );
    let (site, place) = start(&one, "10m", "tls");
    assert!(is_served(&site, &one.token(|_| {})));
    std::thread::sleep(Duration::from_secs(6));
    // A stranger has the keys fetched, and hangs up before they come.
    *place.answer.lock().unwrap() = None;
    let asked = place.asked();
    let params = json!({"name": "echo", "arguments": {"text": "here"}});
    let who = format!(
        "Authorization: Bearer {}\r\n",
        Issuer::named("made-up").token(|_| {})
    );
    let mut stranger = Conn::to(site.address);
    stranger.send(modern(&json!(1), "tools/call", &params, &who));
    assert!(eventually(|| place.asked() > asked));
    drop(stranger);
    // That fetch hangs until it has taken too long; the next one is served.
    place.publish(&[&two]);
    let until = Instant::now() + Duration::from_secs(20);
    let late = |token: &str| loop {
        if is_served(&site, token) {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    assert!(late(&two.token(|_| {})), "{}", health(&site));
    place.publish(&[&three]);
    assert!(late(&three.token(|_| {})), "{}", health(&site));
}

#[test]
fn an_issuer_has_to_be_the_one_that_is_meant() {
    let one = Issuer::named("one");
    let (site, place) = start(&one, "10m", "other");
    assert_eq!(ask(&site, &one.token(|_| {})).status, 401);
    let problem = health(&site)["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("certificate"), "{problem}");
    assert_eq!(place.asked(), 0, "it was asked nothing");
    let rig = Rig::new().file(
        "c.toml",
        "[listen]\nhttp = \"127.0.0.1:0\"\npublic_url = \"https://x.example/mcp\"\n[identity]\n\
         jwt = { issuer = \"https://id.example.com\", jwks = \"http://id.example.com/keys\" }\n",
    );
    let output = rig
        .command(&["check", "--config", "c.toml", "--", "true"])
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("https alone"), "{text}");
}
