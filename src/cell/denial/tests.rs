//! Lines of real programs, and lines that only look like them.

use super::rules::RULES;
use super::*;
use regex_automata::meta::Regex;

fn flag(line: &str) -> Option<String> {
    explain(line.as_bytes(), &Grants::default()).map(|d| d.flag())
}

#[test]
fn every_rule_compiles_and_says_why_it_is_there() {
    for rule in RULES {
        Regex::new(rule.pattern).unwrap();
        assert!(rule.reason.len() > 5, "{}", rule.pattern);
    }
    assert_eq!(rules().unwrap().len(), RULES.len());
}

#[test]
fn the_words_of_real_programs_become_flags() {
    // Copied from the programs themselves.
    let cases = [
        (
            "Error: EACCES: permission denied, open '/etc/hosts'",
            "--read /etc/hosts",
        ),
        (
            "Error: EACCES: permission denied, scandir '/srv/data'",
            "--read /srv/data",
        ),
        (
            "Error: EACCES: permission denied, mkdir '/srv/data/new'",
            "--write /srv/data",
        ),
        (
            "Error: EROFS: read-only file system, open '/srv/a/b/x'",
            "--write /srv/a/b",
        ),
        ("Error: spawn git EACCES", "--allow-exec git"),
        (
            "Error: listen EACCES: permission denied 0.0.0.0:3999",
            "--url http://127.0.0.1:3999/mcp",
        ),
        (
            "PermissionError: [Errno 13] error while attempting to bind on address ('127.0.0.1', 3999): permission denied",
            "--url http://127.0.0.1:3999/mcp",
        ),
        (
            "listen tcp :8080: bind: permission denied",
            "--url http://127.0.0.1:8080/mcp",
        ),
        (
            "Error: connect EACCES 140.82.121.6:443",
            "--allow-host 140.82.121.6:443",
        ),
        (
            "Error: connect EACCES 2606:50c0:8000::153:443 - Local (:::0)",
            "--allow-host [2606:50c0:8000::153]:443",
        ),
        (
            "Error: getaddrinfo EAI_AGAIN api.github.com",
            "--allow-host api.github.com:443",
        ),
        (
            "PermissionError: [Errno 13] Permission denied: '/root/x y'",
            "--read '/root/x y'",
        ),
        (
            "PermissionError: [Errno 13] Permission denied: 'git'",
            "--allow-exec git",
        ),
        (
            "PermissionError: [Errno 13] Permission denied: '/usr/bin/git'",
            "--allow-exec /usr/bin/git",
        ),
        (
            "OSError: [Errno 30] Read-only file system: '/srv/a/b'",
            "--write /srv/a",
        ),
        (
            "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='example.org', port=8443): Max retries",
            "--allow-host example.org:8443",
        ),
        (
            "fatal: unable to access 'https://github.com/a/b/': Could not resolve host: github.com",
            "--allow-host github.com:443",
        ),
        (
            "curl: (6) Could not resolve host: example.org",
            "--allow-host example.org:443",
        ),
        (
            "Get \"https://x\": dial tcp: lookup example.org: no such host",
            "--allow-host example.org:443",
        ),
        (
            "dial tcp 10.0.0.1:5432: connect: permission denied",
            "--allow-host 10.0.0.1:5432",
        ),
        (
            "panic: fork/exec /usr/bin/git: permission denied",
            "--allow-exec /usr/bin/git",
        ),
        (
            "open /var/lib/x/db: permission denied",
            "--read /var/lib/x/db",
        ),
        (
            "mkdir /var/lib/x/db: permission denied",
            "--write /var/lib/x",
        ),
        ("cat: /etc/shadow: Permission denied", "--read /etc/shadow"),
        (
            "ls: cannot open directory '/root': Permission denied",
            "--read /root",
        ),
        (
            "touch: cannot touch '/srv/a/x': Permission denied",
            "--write /srv/a",
        ),
        (
            "mkdir: cannot create directory \u{2018}/srv/a/x\u{2019}: Permission denied",
            "--write /srv/a",
        ),
        (
            "sh: 1: cannot create /srv/a/x: Permission denied",
            "--write /srv/a",
        ),
        ("sh: 1: git: Permission denied", "--allow-exec git"),
        (
            "bash: line 1: /usr/bin/git: Permission denied",
            "--allow-exec /usr/bin/git",
        ),
        (
            "error: cannot run ssh: Permission denied",
            "--allow-exec ssh",
        ),
        (
            "env: \u{2018}git\u{2019}: Permission denied",
            "--allow-exec git",
        ),
        (
            "warning: unable to access '/root/.gitconfig': Permission denied",
            "--read /root/.gitconfig",
        ),
        (
            "Error: failed to open /srv/a/x: Permission denied (os error 13)",
            "--read /srv/a/x",
        ),
        (
            "ImportError: /srv/v/lib/x.so: failed to map segment from shared object",
            "--read /srv/v/lib",
        ),
        (
            "java.io.FileNotFoundException: /srv/a (Permission denied)",
            "--read /srv/a",
        ),
        (
            "error sending request for url (http://example.org:8080/x): dns error",
            "--allow-host example.org:8080",
        ),
    ];
    let found: Vec<(&str, Option<String>)> = cases.iter().map(|(l, _)| (*l, flag(l))).collect();
    let expected: Vec<(&str, Option<String>)> = cases
        .iter()
        .map(|(l, f)| (*l, Some((*f).to_owned())))
        .collect();
    pretty_assertions::assert_eq!(found, expected);
}

#[test]
fn ordinary_lines_are_not_denials() {
    for line in [
        "listening on stdio",
        "connect ECONNREFUSED 127.0.0.1:5432",
        "Permission denied",
        "open 'relative': Permission denied",
        "GET /lookup 200",
        "",
    ] {
        assert_eq!(flag(line), None, "{line}");
    }
}

#[test]
fn what_a_server_writes_cannot_run_in_the_operators_shell() {
    let line = "Error: EACCES: permission denied, open '/x$(reboot);`id`'";
    assert_eq!(flag(line).unwrap(), "--read '/x$(reboot);`id`'");
    assert_eq!(quoted("a'b"), r"'a'\''b'");
    assert_eq!(
        flag("Error: EACCES: permission denied, open '/x\u{1b}[2J'"),
        None
    );
}

#[test]
fn a_readable_path_that_refuses_wants_to_be_written() {
    let grants = Grants {
        read: vec!["/srv".into()],
        write: vec!["/tmp".into()],
        ports: vec![443],
        ..Grants::default()
    };
    let line = b"Error: EACCES: permission denied, open '/srv/data/x'";
    assert_eq!(explain(line, &grants).unwrap().flag(), "--write /srv/data");
    assert_eq!(explain(b"cat: /tmp/x: Permission denied", &grants), None);
    assert_eq!(
        explain(b"Error: getaddrinfo EAI_AGAIN api.github.com", &grants),
        None
    );
}

#[test]
fn each_denial_is_shown_once_and_a_directory_after_its_second_file() {
    let mut denials = Denials::default();
    let mut note = |line: &str| denials.note(line.as_bytes()).map(|d| d.to_string());
    let first = "denied: read /srv/data/a: allow it with --read /srv/data/a";
    assert_eq!(
        note("cat: /srv/data/a: Permission denied").as_deref(),
        Some(first)
    );
    assert_eq!(note("cat: /srv/data/a: Permission denied"), None);
    let second = "denied: read /srv/data: allow it with --read /srv/data";
    assert_eq!(
        note("cat: /srv/data/b: Permission denied").as_deref(),
        Some(second)
    );
    assert_eq!(note("cat: /srv/data/c: Permission denied"), None);
}

#[test]
fn what_was_told_with_certainty_needs_no_words_of_the_server() {
    let mut denials = Denials::default();
    denials.told("denied: change the mode of /srv/a by x (pid 7), layer supervision: …");
    let words = |name: &str| format!("[Errno 1] Operation not permitted: '{name}'");
    assert_eq!(denials.note(words("/srv/a").as_bytes()), None);
    assert!(denials.note(words("/srv/b").as_bytes()).is_some());
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut denials = Denials::default();
    let shown = (0..200)
        .filter(|n| {
            denials
                .note(format!("cat: /d{n}: Permission denied").as_bytes())
                .is_some()
        })
        .count();
    assert_eq!(shown, REMEMBERED);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_explained_or_not(line in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let with_trigger = [&line[..], b" EACCES: x, open '/", &line[..], b"': Permission denied"].concat();
        drop(explain(&line, &Grants::default()));
        if let Some(denial) = explain(&with_trigger, &Grants::default()) {
            proptest::prop_assert!(!denial.to_string().chars().any(char::is_control));
        }
    }
}
