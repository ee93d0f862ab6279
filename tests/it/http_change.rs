//! What changes while many clients are served: a credential, the operator's switch.

use crate::rig::Rig;
use crate::web::{Site, modern};
use crate::wire::{Wire, eventually, rule, said};
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
    assert!(
        refused.status == 503 && refused.body.contains("\"id\":3"),
        "{refused:?}"
    );
    let list = json!({"jsonrpc": "2.0", "id": 4, "method": "tools/list"});
    assert!([404, 503].contains(&site.post(&session, &list).status));
    assert!(
        site.wire
            .rig()
            .command(&["resume", "many"])
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(eventually(|| site
        .call(&json!(5), "work", &json!({"key": 5}))
        .status
        == 200));

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
fn a_session_that_holds_a_revoked_value_is_ended_and_others_go_on() {
    let site = mortal(
        &[
            "--credential",
            "TOKEN={dir}/token",
            "--admin",
            "unix:{dir}/admin.sock",
        ],
        &[],
    );
    let print = |token: &str| crate::rotation::fingerprint(token);
    let session = site.initialize("2025-06-18");
    let ask = |id: u32| {
        let params = json!({"name": "token", "arguments": {}});
        let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        site.post(&session, &call)
    };
    let first = "tok-0-Zq7vLm2Xw9";
    assert!(ask(1).body.contains(&print(first)));
    let new = site.wire.path().join("new");
    std::fs::write(&new, "tok-1-Zq7vLm2Xw9").unwrap();
    std::fs::rename(new, site.wire.path().join("token")).unwrap();
    let modern = || said(&site.call(&json!(1), "token", &json!({})).json()).to_owned();
    assert!(eventually(|| modern() == print("tok-1-Zq7vLm2Xw9")));
    assert!(
        ask(2).body.contains(&print(first)),
        "a session keeps its process"
    );

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
    assert!(!ask(3).body.contains(&print(first)), "its process is gone");
    assert_eq!(modern(), print("tok-1-Zq7vLm2Xw9"));
    let health = site.wire.admin("/health");
    assert!(
        !health.contains("Zq7vLm2Xw9") && health.contains("\"generation\": 2"),
        "{health}"
    );
}
