//! What changes while many clients are served: a credential, the operator's switch.

use crate::rig::Rig;
use crate::web::{self, Site, modern};
use crate::wire::{Wire, eventually, refused_by, rule, said};
use serde_json::json;
use std::time::{Duration, Instant};

/// The fake server that reads its token once, behind the listener.
fn mortal(flags: &[&str], server: &[&str]) -> Site {
    let rig = Rig::new();
    std::fs::write(rig.path().join("token"), "tok-0-Zq7vLm2Xw9").unwrap();
    let own = ["--listen", "127.0.0.1:0", "--name", "many"];
    let flags = [&own, flags].concat();
    Site::around(Wire::mortal(rig, &flags, server))
}

#[test]
fn a_credential_that_changes_loses_no_request_and_old_values_are_taken_out() {
    let site = mortal(&["--credential", "TOKEN={dir}/token"], &["slow=300"]);
    let mut id = 0;
    let mut token = || {
        id += 1;
        let reply = site.call(&json!(id), "token", &json!({}));
        assert_eq!(reply.status, 200, "{reply:?}");
        said(&reply.json()).to_owned()
    };
    let mut before = token();
    for round in 1..=3 {
        let new = site.wire.path().join("new");
        std::fs::write(&new, format!("tok-{round}-Zq7vLm2Xw9")).unwrap();
        std::fs::rename(new, site.wire.path().join("token")).unwrap();
        let begun = Instant::now();
        let after = loop {
            let now = token();
            assert!(now.starts_with("token "), "{now}");
            if now != before {
                break now;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "{}",
                site.wire.stderr()
            );
            std::thread::sleep(Duration::from_millis(20));
        };
        println!("round {round}: {:?}", begun.elapsed());
        before = after;
    }
    let leak = site.call(&json!("leak"), "leak", &json!({}));
    assert!(
        said(&leak.json()).starts_with("the token is CFD-REDACTED"),
        "{leak:?}"
    );
    assert!(!site.wire.stderr().contains("Zq7vLm2Xw9"));
}

#[test]
fn the_switch_answers_who_waits_and_who_comes_until_it_is_on_again() {
    let site = mortal(&[], &[]);
    assert_eq!(
        said(&site.call(&json!(1), "work", &json!({"key": 1})).json()),
        "1"
    );
    let session = site.initialize("2025-06-18");
    let mut waits = site.connect();
    let params = json!({"name": "hang", "arguments": {}});
    waits.send(modern(&json!(2), "tools/call", &params, ""));
    std::thread::sleep(Duration::from_millis(300));
    let output = site.wire.rig().command(&["kill", "many"]).output().unwrap();
    assert!(output.status.success());
    let waiting = waits.reply();
    assert!(!rule(&waiting.json()).is_empty(), "{waiting:?}");
    let refused = site.call(&json!(3), "work", &json!({"key": 3}));
    assert_eq!(refused.status, 200, "{refused:?}");
    refused_by(&refused.json(), "switch.server");
    // The session stays, and whoever wants one is told why there is none.
    let list = json!({"jsonrpc": "2.0", "id": 4, "method": "tools/list"});
    let listed = site.post(&session, &list);
    assert_eq!(rule(&listed.json()), "switch.server", "{listed:?}");
    let new = site.ask(&web::post(&web::initialize("2025-06-18"), ""));
    assert_eq!((new.status, rule(&new.json())), (503, "switch.server"));
    assert!(
        site.wire
            .rig()
            .command(&["resume", "many"])
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(eventually(|| {
        said(&site.call(&json!(5), "work", &json!({"key": 5})).json()) == "5"
    }));
    let listed = site.post(&session, &list).json();
    assert!(listed["result"]["tools"].is_array(), "{listed}");

    let tool = ["kill", "many", "--tool", "work"];
    assert!(
        site.wire
            .rig()
            .command(&tool)
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(eventually(|| {
        rule(&site.call(&json!(6), "work", &json!({"key": 6})).json()) == "switch.tool"
    }));
    assert!(said(&site.call(&json!(7), "look", &json!({"key": 7})).json()) == "7");
}

#[test]
fn each_tenant_is_served_with_its_own_credential() {
    let rig = Rig::new().file(
        "c.toml",
        "[listen]\nhttp = \"127.0.0.1:0\"\nauth = \"required\"\n[identity]\nkeys = \"clients.json\"\n\
         [credentials.each]\nfile = \"secrets/{tenant}/token\"\ninject = { argument = \"/token\" }\n",
    );
    let write = |dir: &std::path::Path, tenant: &str, value: &str| {
        let at = dir.join("secrets").join(tenant);
        std::fs::create_dir_all(&at).unwrap();
        std::fs::write(at.join("token"), value).unwrap();
    };
    write(rig.path(), "acme", "tok-acme-Zq7vLm2Xw9");
    write(rig.path(), "zeta", "tok-zeta-Zq7vLm2Xw9");
    let add = |name: &str| {
        let words = [
            "client",
            "add",
            name,
            "--tenant",
            name,
            "--keys",
            "clients.json",
        ];
        let output = rig.command(&words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let key = String::from_utf8(output.stdout).unwrap();
        format!("Authorization: Bearer {}\r\n", key.trim())
    };
    let [acme, zeta, other] = ["acme", "zeta", "other"].map(add);
    let flags = ["--config", "{dir}/c.toml"];
    let site = Site::around(Wire::mortal(rig, &flags, &[]));
    let ask = |who: &str, key: u32| {
        let params = json!({"name": "given", "arguments": {"key": key}});
        let reply = site.ask(&modern(&json!(1), "tools/call", &params, who));
        reply.json()
    };
    let print = |token: &str| crate::rotation::fingerprint(token);
    assert_eq!(said(&ask(&acme, 0)), print("tok-acme-Zq7vLm2Xw9"));
    assert_eq!(said(&ask(&zeta, 0)), print("tok-zeta-Zq7vLm2Xw9"));
    assert_eq!(rule(&ask(&other, 0)), "credentials.missing");
    assert!(said(&ask(&acme, 1)).starts_with("it is CFD-REDACTED"));
    // One that changes, and one that comes.
    write(site.wire.path(), "acme", "tok-new-Zq7vLm2Xw9");
    write(site.wire.path(), "other", "tok-other-Zq7vLm2Xw9");
    assert!(eventually(
        || said(&ask(&acme, 0)) == print("tok-new-Zq7vLm2Xw9")
    ));
    assert!(eventually(
        || said(&ask(&other, 0)) == print("tok-other-Zq7vLm2Xw9")
    ));
    assert_eq!(said(&ask(&zeta, 0)), print("tok-zeta-Zq7vLm2Xw9"));
    assert!(!site.wire.stderr().contains("Zq7vLm2Xw9"));
}

#[test]
fn a_session_keeps_its_value_only_where_its_server_may_not_be_replaced_or_until_that_is_revoked() {
    let rig = Rig::new().file("c.toml", "[server]\nreplace = \"never\"\n");
    std::fs::write(rig.path().join("token"), "tok-0-Zq7vLm2Xw9").unwrap();
    let flags = [
        "--config",
        "{dir}/c.toml",
        "--credential",
        "TOKEN={dir}/token",
        "--admin",
        "unix:{dir}/admin.sock",
        "--audit",
        "{dir}/audit.jsonl",
        "--listen",
        "127.0.0.1:0",
        "--name",
        "many",
    ];
    let site = Site::around(Wire::mortal(rig, &flags, &[]));
    let print = |token: &str| crate::rotation::fingerprint(token);
    let session = site.initialize("2025-06-18");
    let ask = |id: u32| {
        let params = json!({"name": "token", "arguments": {}});
        let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        said(&site.post(&session, &call).json()).to_owned()
    };
    let first = "tok-0-Zq7vLm2Xw9";
    assert_eq!(ask(1), print(first));
    let new = site.wire.path().join("new");
    std::fs::write(&new, "tok-1-Zq7vLm2Xw9").unwrap();
    std::fs::rename(new, site.wire.path().join("token")).unwrap();
    site.wire.until_stderr("pending, servers keep the old one");
    assert_eq!(ask(2), print(first), "a session keeps its process");
    let audit = || std::fs::read_to_string(site.wire.path().join("audit.jsonl")).unwrap();
    assert!(eventually(
        || audit().contains("pending: the server keeps the old one")
    ));
    assert!(!audit().contains("\"placed\""), "{}", audit());

    let words = [
        "credentials",
        "revoke",
        "token",
        "--previous",
        "--server",
        "many",
    ];
    let output = site.wire.rig().command(&words).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(told.contains("none of them uses it"), "{told}");
    assert_eq!(ask(3), print("tok-1-Zq7vLm2Xw9"), "it has another process");
    let modern = said(&site.call(&json!(1), "token", &json!({})).json()).to_owned();
    assert_eq!(modern, print("tok-1-Zq7vLm2Xw9"));
    assert!(eventually(|| audit().contains("\"placed\"")), "{}", audit());
    let health = site.wire.admin("/health");
    assert!(
        !health.contains("Zq7vLm2Xw9") && health.contains("\"generation\": 2"),
        "{health}"
    );
}

#[test]
fn whoever_is_not_served_because_of_a_revoked_credential_is_told_so() {
    for inject in ["env = \"TOKEN\"", "file = \"token\", env = \"TOKEN_FILE\""] {
        let tool = if inject.starts_with("env") {
            "token"
        } else {
            "file"
        };
        let rig = Rig::new().file("token", "tok-0-Zq7vLm2Xw9").file(
            "c.toml",
            format!(
                "[server]\nname = \"many\"\n[listen]\nhttp = \"127.0.0.1:0\"\n\
                 [credentials.github]\nfile = \"token\"\ninject = {{ {inject} }}\n"
            ),
        );
        let site = Site::around(Wire::mortal(rig, &["--config", "{dir}/c.toml"], &[]));
        let session = site.initialize("2025-11-25");
        let params = json!({"name": tool, "arguments": {}});
        let ask = |id: u32| {
            let call =
                json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
            site.post(&session, &call).json()
        };
        let modern = || site.call(&json!(1), tool, &json!({})).json();
        let old = crate::rotation::fingerprint("tok-0-Zq7vLm2Xw9");
        assert_eq!((said(&ask(1)), said(&modern())), (&*old, &*old));
        let words = ["credentials", "revoke", "github", "--server", "many"];
        let output = site.wire.rig().command(&words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        for refused in [ask(2), modern()] {
            refused_by(&refused, "credentials.missing");
            assert!(
                said(&refused).starts_with("Credential problem"),
                "{refused}"
            );
        }
        let new = site.ask(&web::post(&web::initialize("2025-06-18"), ""));
        assert_eq!(
            (new.status, rule(&new.json())),
            (503, "credentials.missing")
        );
        // With another value the same session goes on.
        let file = site.wire.path().join("new");
        std::fs::write(&file, "tok-1-Zq7vLm2Xw9").unwrap();
        std::fs::rename(file, site.wire.path().join("token")).unwrap();
        let new = crate::rotation::fingerprint("tok-1-Zq7vLm2Xw9");
        assert!(eventually(|| said(&ask(3)) == new && said(&modern()) == new));
    }
}
