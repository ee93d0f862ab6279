//! Network clients from the operator's side: keys, certificates, and every mistake about them.

use crate::rig::Rig;
use crate::support;
use cofferdam::identity::{Certificate, KeyBook};
use cofferdam::transport::tls::{ServerPem, ServerSettings, ServerTls, certificates};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

fn run(rig: &Rig, words: &[&str]) -> Output {
    rig.command(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_key_is_shown_once_and_only_its_hash_is_kept() {
    let rig = Rig::new();
    let add = |words: &[&str]| {
        let words = [&["client", "add"], words, &["--keys", "clients.json"]].concat();
        let output = run(&rig, &words);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).trim_end().to_owned()
    };
    let key = add(&[
        "ci",
        "--tenant",
        "a",
        "--scope",
        "issues:read",
        "--scope",
        "issues:write",
    ]);
    let other = add(&["laptop", "--expires", "90d"]);
    assert!(key.starts_with("cfd_") && key.len() == 47 && key != other);
    let path = rig.path().join("clients.json");
    assert_eq!(mode(&path), 0o600);
    let kept = std::fs::read(&path).unwrap();
    assert!(!text(&kept).contains("cfd_"));
    let book = KeyBook::parse(&kept).unwrap();
    let found = book.find(&key, 1_900_000_000).unwrap();
    assert_eq!(
        (found.client.as_str(), found.tenant.as_deref()),
        ("ci", Some("a"))
    );
    assert_eq!(found.scopes, ["issues:read", "issues:write"]);
    assert!(
        book.find(&other, 4_000_000_000).is_none(),
        "it has expired by then"
    );

    let listed = text(&run(&rig, &["client", "list", "--keys", "clients.json"]).stdout);
    assert_eq!(listed.lines().count(), 3);
    assert!(listed.lines().nth(1).unwrap().starts_with("ci "));
    assert!(!listed.contains(&key[8..]) && listed.matches("valid").count() == 2);

    let revoked = run(&rig, &["client", "revoke", "ci", "--keys", "clients.json"]);
    assert!(revoked.status.success());
    let book = KeyBook::parse(&std::fs::read(&path).unwrap()).unwrap();
    assert!(book.find(&key, 1_900_000_000).is_none());
    let again = run(&rig, &["client", "revoke", "ci", "--keys", "clients.json"]);
    assert_eq!(again.status.code(), Some(65));
    let json = run(
        &rig,
        &[
            "client",
            "list",
            "--keys",
            "clients.json",
            "--format",
            "json",
        ],
    );
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json[0]["state"], "revoked");
    assert_eq!(json[1]["state"], "valid");
}

#[test]
fn one_of_two_keys_is_revoked_by_its_name() {
    let rig = Rig::new();
    for _ in 0..2 {
        assert!(
            run(&rig, &["client", "add", "ci", "--keys", "k"])
                .status
                .success()
        );
    }
    let list = || {
        let json = run(&rig, &["client", "list", "--keys", "k", "--format", "json"]).stdout;
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        json
    };
    let id = list()[1]["id"].as_str().unwrap().to_owned();
    let done = run(
        &rig,
        &["client", "revoke", "ci", "--key", &id, "--keys", "k"],
    );
    assert!(done.status.success());
    let after = list();
    assert_eq!(
        (&after[0]["state"], &after[1]["state"]),
        (&"valid".into(), &"revoked".into())
    );
}

#[test]
fn the_file_of_keys_is_found_through_the_configuration() {
    let rig = Rig::new();
    std::fs::create_dir(rig.path().join("etc")).unwrap();
    let rig = rig.file(
        "etc/server.toml",
        "[server]\ncommand = [\"x\"]\n[listen]\nhttp = \"127.0.0.1:1\"\n[identity]\nkeys = \"clients.json\"\n",
    );
    let added = run(
        &rig,
        &["client", "add", "ci", "--config", "etc/server.toml"],
    );
    assert!(added.status.success(), "{added:?}");
    assert!(rig.path().join("etc/clients.json").is_file());
}

#[test]
fn mistakes_with_keys_change_nothing() {
    let rig = Rig::new().file("broken", "[{\"client\": 1}]").file(
        "none.toml",
        "[server]\ncommand = [\"x\"]\n[listen]\nhttp = \"127.0.0.1:1\"\n",
    );
    for (words, code) in [
        (&["client", "add", "ci"][..], 64),
        (&["client", "add", "*", "--keys", "k"], 64),
        (&["client", "add", "a b", "--keys", "k"], 64),
        (
            &["client", "add", "ci", "--scope", "a b", "--keys", "k"],
            64,
        ),
        (
            &["client", "add", "ci", "--expires", "soon", "--keys", "k"],
            64,
        ),
        (&["client", "add", "ci", "--keys", "broken"], 65),
        (&["client", "add", "ci", "--keys", "no/such/dir"], 69),
        (&["client", "add", "ci", "--config", "none.toml"], 78),
        (&["client", "list", "--keys", "k"], 69),
        (&["client", "revoke", "ci", "--keys", "k"], 65),
        (
            &["client", "revoke", "ci", "--key", "zz", "--keys", "k"],
            64,
        ),
    ] {
        let output = run(&rig, words);
        assert_eq!(output.status.code(), Some(code), "{words:?} {output:?}");
        assert!(output.stdout.is_empty(), "{words:?}: no key is shown");
    }
    assert!(!rig.path().join("k").exists());
    let kept = std::fs::read_to_string(rig.path().join("broken")).unwrap();
    assert_eq!(kept, "[{\"client\": 1}]");
}

#[test]
fn keys_that_are_added_at_once_are_all_kept() {
    let rig = Rig::new();
    let mut all: Vec<_> = (0..12)
        .map(|at| {
            let name = format!("c{at}");
            rig.command(&["client", "add", &name, "--keys", "k"])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in &mut all {
        assert!(child.wait().unwrap().success());
    }
    let book = KeyBook::parse(&std::fs::read(rig.path().join("k")).unwrap()).unwrap();
    assert_eq!(book.entries().count(), 12);
}

#[test]
fn certificates_of_our_own_work_and_are_never_overwritten() {
    let rig = Rig::new();
    let words = [
        "tls",
        "self-signed",
        "--host",
        "mcp.internal",
        "--client",
        "ci",
        "--client",
        "me",
    ];
    let made = run(&rig, &words);
    assert!(made.status.success(), "{made:?}");
    let dir = rig.path().join("tls");
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    for (name, secret) in [
        ("ca.crt", false),
        ("server.crt", false),
        ("server.key", true),
        ("client-ci.crt", false),
        ("client-ci.key", true),
        ("client-me.crt", false),
        ("client-me.key", true),
    ] {
        assert_eq!(
            mode(&dir.join(name)),
            if secret { 0o600 } else { 0o644 },
            "{name}"
        );
    }
    // Nobody can sign with the authority later.
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 7);
    let texts = ServerPem {
        certificate: read("server.crt"),
        key: read("server.key"),
        client_ca: Some(read("ca.crt")),
        client_crl: None,
    };
    ServerTls::new(ServerSettings::default(), &texts).unwrap();
    let leaf = certificates("test", &read("client-ci.crt")).unwrap();
    let names = Certificate::parse(&leaf[0]).unwrap();
    assert_eq!(names.names()[0].to_string(), "spiffe://cofferdam.local/ci");

    let shown = |name: &str| dir.canonicalize().unwrap().join(name).display().to_string();
    let curl = format!(
        "curl --cacert {} --cert {} --key {} https://",
        shown("ca.crt"),
        shown("client-ci.crt"),
        shown("client-ci.key")
    );
    let said = text(&made.stderr);
    assert!(said.contains(&curl), "{said}");

    // What is printed is a configuration.
    let pasted = format!("[server]\ncommand = [\"x\"]\n{}", text(&made.stdout));
    let config = support::config(&pasted);
    let tls = config.listen.unwrap().tls.unwrap();
    assert_eq!(tls.cert, dir.canonicalize().unwrap().join("server.crt"));
    assert_eq!(config.access.clients.len(), 2);

    let before = read("server.key");
    let again = run(&rig, &["tls", "self-signed"]);
    assert_eq!(again.status.code(), Some(65));
    assert!(text(&again.stderr).contains("nothing is overwritten"));
    assert_eq!(read("server.key"), before);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 7);
    let wrong = run(
        &rig,
        &["tls", "self-signed", "--dir", "x", "--client", "../up"],
    );
    assert_eq!(wrong.status.code(), Some(64));
}

/// A configuration of a listener with these lines, checked: exit code and what is said on stderr.
fn check(lines: &str) -> (Option<i32>, String) {
    let file = format!("[server]\ncommand = [\"/bin/true\"]\n{lines}\n");
    let rig = Rig::new().file("server.toml", file);
    let output = run(&rig, &["check", "--config", "server.toml"]);
    (output.status.code(), text(&output.stderr))
}

#[test]
fn mistakes_about_callers_are_told_with_their_place() {
    const OPEN: &str = "[listen]\nhttp = \"127.0.0.1:8080\"\n";
    for (lines, told) in [
        ("[identity]\nkeys = \"k\"".to_owned(), "`identity` needs [listen]"),
        ("[clients.ci]\ntenant = \"a\"".to_owned(), "`clients` needs [listen]"),
        ("[groups.g]".to_owned(), "`groups` needs [listen]"),
        ("[tools.a]\nscopes = [\"b\"]".to_owned(), "`tools.a.scopes` needs [listen]"),
        ("[resources]\nscopes = { a = [\"b\"] }".to_owned(), "`resources.scopes` needs [listen]"),
        ("[listen]\nhttp = \"0.0.0.0:8443\"".to_owned(), "needs `listen.tls`"),
        ("[listen]\nhttp = \"0.0.0.0:8443\"\ntls = { cert = \"c\", key = \"k\" }".to_owned(), "needs to know its clients"),
        ("[listen]\nhttp = \"[::]:8443\"\ntls = { cert = \"c\", key = \"k\" }".to_owned(), "needs to know its clients"),
        (format!("{OPEN}auth = \"required\""), "`listen.auth` requires what nobody could show"),
        (format!("{OPEN}tls = {{ cert = \"c\" }}"), "`listen.tls.key` is missing"),
        (format!("{OPEN}tls = {{ cert = \"c\", key = \"k\", client_auth = \"optional\" }}"), "`listen.tls.client_auth` needs `client_ca`"),
        (format!("{OPEN}tls = {{ cert = \"c\", key = \"k\", min_version = \"1.1\" }}"), "`1.1` is not a value of `listen.tls.min_version`"),
        (format!("{OPEN}tls = {{ cert = \"c\", key = \"k\", ciphers = \"x\" }}"), "unknown key `ciphers`"),
        (format!("{OPEN}public_url = \"http://mcp.example.com/mcp\""), "is not a URL that clients can use"),
        (format!("{OPEN}[identity]"), "[identity] names nothing"),
        (format!("{OPEN}[identity]\njwt = {{ issuer = \"https://id\", jwks = \"j\" }}"), "`identity.jwt` needs `listen.public_url`"),
        (format!("{OPEN}public_url = \"https://x/mcp\"\n[identity]\njwt = {{ jwks = \"j\" }}"), "`identity.jwt.issuer` is missing"),
        (format!("{OPEN}public_url = \"https://x/mcp\"\n[identity]\njwt = {{ issuer = \"id\", jwks = \"j\" }}"), "`id` is not an issuer"),
        (format!("{OPEN}public_url = \"https://x/mcp\"\n[identity]\njwt = {{ issuer = \"https://id\", jwks = \"http://id/jwks\" }}"), "fetched over https alone"),
        (format!("{OPEN}public_url = \"https://x/mcp\"\n[identity]\njwt = {{ issuer = \"https://id\", jwks = \"https://u@id/jwks\" }}"), "is not the URL of a server"),
        (format!("{OPEN}public_url = \"https://x/mcp\"\n[identity]\njwt = {{ issuer = \"https://id\", jwks = \"j\", jwks_refresh = \"1m\" }}"), "`identity.jwt.jwks_refresh` is for keys from a URL"),
        (format!("{OPEN}public_url = \"https://x/mcp\"\n[identity]\njwt = {{ issuer = \"https://id\", jwks = \"j\", algorithms = [\"HS256\"] }}"), "`HS256` is not a value"),
        (format!("{OPEN}public_url = \"https://x/mcp\"\n[identity]\njwt = {{ issuer = \"https://id\", jwks = \"j\", algorithms = [] }}"), "`identity.jwt.algorithms` is empty"),
        (format!("{OPEN}[clients.ci]\nsan = \"spiffe://x/ci\""), "`clients.ci.san` needs certificates of clients"),
        (format!("{OPEN}[clients.ci]\nuid = 1000"), "`clients.ci.uid` needs a listener on a Unix socket"),
        (format!("{OPEN}[identity]\nkeys = \"k\"\n[clients.ci]\ngateway = true"), "`clients.ci.gateway` needs `san` or `uid`"),
        (format!("{OPEN}[clients.ci]\ngroups = [\"reader\"]\n[groups.readers]"), "did you mean `readers`?"),
        (format!("{OPEN}[clients.\"*\"]\ntenant = \"a\""), "is for many clients, so it has no `tenant`"),
        (format!("{OPEN}[clients.ci]\nscopes = [\"a b\"]"), "`a b` is not a scope"),
        (format!("{OPEN}[clients.ci]\nscopes = [\"a\", \"a\"]"), "this entry is listed twice"),
        (format!("{OPEN}[clients.ci]\nread_onyl = true"), "did you mean `read_only`?"),
        (format!("{OPEN}[clients.ci]\nconcurrency = 0"), "must be from 1 to 10000"),
        (format!("{OPEN}[clients.\"c i\"]"), "`c i` is not a name"),
        (format!("{OPEN}[limits]\nrate = \"60 per minute\""), "`60 per minute` is not a rate"),
        (format!("{OPEN}[tools.a]\neffect = \"writes\""), "did you mean `write`?"),
        ("[listen]\nhttp = \"127.0.0.1:1\"\ntls = { cert = \"c\", key = \"k\", client_ca = \"a\" }\n[clients.a]\nsan = \"x.example\"\n[clients.b]\nsan = \"X.example\"".to_owned(), "is the name of two clients"),
        ("[listen]\nhttp = \"unix:s\"\n[clients.a]\nuid = 7\n[clients.b]\nuid = 7".to_owned(), "user 7 is two clients"),
    ] {
        let (code, stderr) = check(&lines);
        assert_eq!(code, Some(78), "{lines}\n{stderr}");
        assert!(stderr.contains(told), "{lines}\n{stderr}");
        assert!(stderr.contains("--> server.toml:"), "{lines}\n{stderr}");
    }
}

#[test]
fn check_tells_who_may_come_and_what_each_may_do() {
    let rig = Rig::new().file(
        "server.toml",
        "[server]\ncommand = [\"/bin/true\"]\n[listen]\nhttp = \"0.0.0.0:8443\"\npublic_url = \"https://mcp.example.com/mcp/\"\n\
         tls = { cert = \"tls.crt\", key = \"tls.key\", client_ca = \"ca.crt\" }\n\
         [identity]\nkeys = \"clients.json\"\njwt = { issuer = \"https://id.example.com\", jwks = \"jwks.json\" }\n\
         [clients.ci]\nsan = \"spiffe://example/ci\"\ntenant = \"a\"\nread_only = true\n[clients.\"*\"]\ntools = [\"read_*\"]\n\
         [limits]\nrate = \"60/min\"\n[tools.create_issue]\neffect = \"write\"\nscopes = [\"issues:write\"]\n",
    );
    let output = run(&rig, &["check", "--config", "server.toml"]);
    assert!(output.status.success(), "{output:?}");
    let shown = text(&output.stdout);
    for line in [
        "TLS 1.3",
        "https://mcp.example.com/mcp ",
        "ca.crt (required)",
        "https://id.example.com",
        "by certificate spiffe://example/ci",
        "only tools that read",
        "only tools read_*",
        "60/min for each client",
        "needs scopes issues:write",
        "effect write",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    for missing in ["tls.crt", "clients.json", "jwks.json"] {
        assert!(
            shown.contains(&format!("{missing}` (")),
            "{missing}\n{shown}"
        );
    }
    let open = Rig::new().file(
        "server.toml",
        "[server]\ncommand = [\"/bin/true\"]\n[listen]\nhttp = \"127.0.0.1:8080\"\n",
    );
    let shown = text(&run(&open, &["check", "--config", "server.toml"]).stdout);
    assert!(shown.contains("identity: none"), "{shown}");
}

#[test]
fn check_looks_into_the_files_of_the_listener() {
    let rig = Rig::new();
    let made = run(&rig, &["tls", "self-signed", "--days", "3"]);
    let rig = rig.file(
        "server.toml",
        format!(
            "[server]\ncommand = [\"/bin/true\"]\n{}[identity]\nkeys = \"k\"\n",
            text(&made.stdout)
        ),
    );
    assert!(
        run(&rig, &["client", "add", "ci", "--config", "server.toml"])
            .status
            .success()
    );
    let check = |told: &str, fatal: bool| {
        let shown = text(&run(&rig, &["check", "--config", "server.toml"]).stdout);
        assert!(shown.contains(told), "{told}\n{shown}");
        assert_eq!(shown.contains("exit code 78"), fatal, "{shown}");
    };
    check("server.crt expires in 3 days", false);
    let key = rig.path().join("tls/server.key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    check("others than its owner can use the key", false);
    std::fs::copy(rig.path().join("tls/client-me.key"), &key).unwrap();
    check(
        "`listen.tls` cannot be used: the certificate and its key",
        true,
    );
    std::fs::remove_file(&key).unwrap();
    check("server.key` (listen.tls) does not exist", true);
    let rig = rig.file("k", "[{}]");
    let shown = text(&run(&rig, &["check", "--config", "server.toml"]).stdout);
    assert!(
        shown.contains("(identity.keys) cannot be used: it is not a list of keys"),
        "{shown}"
    );
}
