//! Every mistake that a file can hold, and the exact words that it gets.
//!
//! All of them end with 78 before anything is started.

use crate::rig::Rig;
use cofferdam::config::{self, File, Overrides, Surroundings};
use proptest::prelude::*;
use serde_json::Value;

fn check(text: &str) -> String {
    Rig::new()
        .file("server.toml", text)
        .run(&["check", "--config", "server.toml"])
}

#[test]
fn unknown_key() {
    insta::assert_snapshot!(check("[server]\ncomand = [\"x\"]\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: unknown key `comand`
     --> server.toml:2:1
      |
    2 | comand = ["x"]
      | ^^^^^^ not a key of [server]
      |
      = help: did you mean `command`?
      = help: [server] takes `name`, `command`, `url`, `ca`, `pins`, `min_version`, `plain_http`, `health`, `transport`, `owner`, `review_by`, `cwd`, `restart`, `kill_file`, `replace`
    "#);
}

#[test]
fn unknown_table() {
    insta::assert_snapshot!(check("[sever]\nname = \"x\"\n"), @r"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: unknown key `sever`
     --> server.toml:1:2
      |
    1 | [sever]
      |  ^^^^^ not a key of the top level
      |
      = help: did you mean `server`?
      = help: the top level takes `server`, `listen`, `identity`, `clients`, `groups`, `admin`, `cell`, `limits`, `breaker`, `retry`, `repeats`, `budget`, `scrub`, `schema`, `methods`, `resources`, `prompts`, `tools`, `audit`, `packages`, `credentials`
    ");
}

#[test]
fn unknown_key_of_a_tool() {
    insta::assert_snapshot!(check("[tools.\"create_issue\"]\nalow = false\n"), @r"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: unknown key `alow`
     --> server.toml:2:1
      |
    2 | alow = false
      | ^^^^ not a key of [tools.create_issue]
      |
      = help: did you mean `allow`?
      = help: [tools.create_issue] takes `allow`, `timeout`, `timeout_total`, `arguments`, `output`, `effect`, `scopes`, `rate`, `concurrency`, `idempotent`, `breaker`, `repeats`, `budget`, `result`, `result_tokens`, `overlong`, `cached`, `alternative`
    ");
}

#[test]
fn key_of_a_later_version() {
    insta::assert_snapshot!(check("[scrub]\npii = \"flag\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `pii` is not in this version
     --> server.toml:2:1
      |
    2 | pii = "flag"
      | ^^^ this version cannot do it, so it does not accept it
      |
      = help: [scrub] takes `secrets`
    "#);
}

#[test]
fn value_of_a_later_version() {
    insta::assert_snapshot!(check("[cell]\npreset = \"go\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `cell.preset = "go"` is not in this version
     --> server.toml:2:10
      |
    2 | preset = "go"
      |          ^^^^
      |
      = help: `cell.preset` takes `node`, `python`, `none`
    "#);
}

#[test]
fn wrong_type() {
    insta::assert_snapshot!(check("[server]\nname = 5\ncommand = \"npx -y server\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `server.name` has a wrong value
     --> server.toml:2:8
      |
    2 | name = 5
      |        ^ this is integer `5`, expected a string
    error: `server.command` has a wrong value
     --> server.toml:3:11
      |
    3 | command = "npx -y server"
      |           ^^^^^^^^^^^^^^^ this is string "npx -y server", expected a list
    "#);
}

#[test]
fn wrong_type_of_a_table() {
    insta::assert_snapshot!(check("server = \"x\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `server` has a wrong value
     --> server.toml:1:10
      |
    1 | server = "x"
      |          ^^^ this is string "x", expected a table
    "#);
}

#[test]
fn wrong_type_in_a_list() {
    insta::assert_snapshot!(check("[cell]\nread = [\"/srv\", 5]\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `cell.read` has a wrong value
     --> server.toml:2:17
      |
    2 | read = ["/srv", 5]
      |                 ^ this is integer `5`, expected a string
    "#);
}

#[test]
fn wrong_word() {
    insta::assert_snapshot!(check("[scrub]\nsecrets = \"redcat\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `redcat` is not a value of `scrub.secrets`
     --> server.toml:2:11
      |
    2 | secrets = "redcat"
      |           ^^^^^^^^
      |
      = help: did you mean `redact`?
      = help: `scrub.secrets` takes `redact`, `refuse`, `flag`, `off`
    "#);
}

#[test]
fn ambiguous_size() {
    insta::assert_snapshot!(check("[limits]\nrequest = \"1M\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `limits.request` has a wrong value
     --> server.toml:2:11
      |
    2 | request = "1M"
      |           ^^^^ `1M` is not a size
      |
      = help: write `KiB`, `MiB`, `GiB` (powers of 1024) or `kB`, `MB`, `GB` (powers of 1000)
    "#);
}

#[test]
fn duration_without_a_unit() {
    insta::assert_snapshot!(check("[limits]\ntimeout = 30\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `limits.timeout` has a wrong value
     --> server.toml:2:11
      |
    2 | timeout = 30
      |           ^^ this is integer `30`, expected a duration such as "30s"
    "#);
}

#[test]
fn duration_with_a_wrong_unit() {
    insta::assert_snapshot!(check("[limits]\ntimeout = \"30 sec\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `limits.timeout` has a wrong value
     --> server.toml:2:11
      |
    2 | timeout = "30 sec"
      |           ^^^^^^^^ `30 sec` is not a duration
      |
      = help: write a whole number and a unit, as in `500ms`, `30s`, `10m` or `1h`
    "#);
}

#[test]
fn tool_rule_twice() {
    insta::assert_snapshot!(check("[tools.\"x\"]\nallow = true\n\n[tools.\"x\"]\nallow = false\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `x` is written twice
     --> server.toml:4:8
      |
    4 | [tools."x"]
      |        ^^^ it is already there above
      |
      = help: keep one of them
    "#);
}

#[test]
fn key_twice() {
    insta::assert_snapshot!(check("[server]\nname = \"a\"\nname = \"b\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `name` is written twice
     --> server.toml:3:1
      |
    3 | name = "b"
      | ^^^^ it is already there above
      |
      = help: keep one of them
    "#);
}

#[test]
fn not_toml() {
    insta::assert_snapshot!(check("[server\nname = \"x\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: this is not TOML
     --> server.toml:1:8
      |
    1 | [server
      |        ^ unclosed table, expected `]`
    "#);
}

#[test]
fn no_command() {
    insta::assert_snapshot!(check("[server]\nname = \"x\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `server.command` is missing
     |
     = help: write the program and its arguments, as in `command = ["npx", "-y", "SERVER"]`, or put them after `--`; for a server that runs elsewhere, `url = "https://…"`
    "#);
}

#[test]
fn out_of_range() {
    insta::assert_snapshot!(check("[server]\ncommand = [\"x\"]\n[limits]\nresponse = \"2GiB\"\n[cell]\nmemory = \"1KiB\"\nprocesses = -1\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `limits.response` must be from 1KiB to 1GiB
     --> server.toml:4:12
      |
    4 | response = "2GiB"
      |            ^^^^^^
    error: `cell.memory` must be from 16MiB to 64TiB
     --> server.toml:6:10
      |
    6 | memory = "1KiB"
      |          ^^^^^^
    error: `cell.processes` must be from 1 to 4194304
     --> server.toml:7:13
      |
    7 | processes = -1
      |             ^^
    "#);
}

#[test]
fn name_that_is_a_path() {
    insta::assert_snapshot!(check("[server]\ncommand = [\"x\"]\nname = \"../x\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `../x` is not a name for a server
     --> server.toml:3:8
      |
    3 | name = "../x"
      |        ^^^^^^
      |
      = help: a name has up to 64 letters, digits, `-`, `_` and `.`, and starts with a letter or digit
    "#);
}

#[test]
fn silence_longer_than_the_whole() {
    insta::assert_snapshot!(check("[server]\ncommand = [\"x\"]\n[limits]\ntimeout = \"2h\"\ntimeout_total = \"1h\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `timeout` (2h) is longer than `timeout_total` (1h)
     --> server.toml:4:11
      |
    4 | timeout = "2h"
      |           ^^^^
      |
      = help: the time of silence cannot be longer than the whole time
    "#);
}

#[test]
fn path_twice() {
    insta::assert_snapshot!(check("[server]\ncommand = [\"x\"]\n[cell]\nread = [\"/a\", \"/a/.\"]\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: this entry is listed twice
     --> server.toml:4:15
      |
    4 | read = ["/a", "/a/."]
      |               ^^^^^^
      |
      = help: keep one of them
    "#);
}

#[test]
fn contradictions() {
    insta::assert_snapshot!(check("[server]\ncommand = [\"x\"]\n[cell]\nread = [\"/a\"]\nwrite = [\"/a\"]\nenv = [\"A\", \"A=1\"]\nrequire = [\"seccomp\"]\noptional = [\"seccomp\"]\n[methods]\nallow = [\"ping\"]\ndeny = [\"ping\"]\n[audit]\nenabled = false\nfile = \"x\"\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `/a` is in `cell.read` and in `cell.write`
     --> server.toml:5:10
      |
    5 | write = ["/a"]
      |          ^^^^
      |
      = help: keep it in the one that you mean
    error: the variable `A` is listed twice
     --> server.toml:6:13
      |
    6 | env = ["A", "A=1"]
      |             ^^^^^
      |
      = help: keep one of them
    error: `seccomp` is in `cell.require` and in `cell.optional`
     --> server.toml:8:13
      |
    8 | optional = ["seccomp"]
      |             ^^^^^^^^^
      |
      = help: keep it in the one that you mean
    error: `ping` is in `methods.allow` and in `methods.deny`
      --> server.toml:11:9
       |
    11 | deny = ["ping"]
       |         ^^^^^^
       |
       = help: keep it in the one that you mean
    error: `audit.file` is set, but audit is off
      --> server.toml:14:8
       |
    14 | file = "x"
       |        ^^^
       |
       = help: take out `file`, or `enabled = false`
    "#);
}

#[test]
fn unknown_layer() {
    insta::assert_snapshot!(check("[server]\ncommand = [\"x\"]\n[cell]\nrequire = [\"landlok\"]\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `landlok` is not a layer of this version; did you mean `landlock`?
     --> server.toml:4:12
      |
    4 | require = ["landlok"]
      |            ^^^^^^^^^
      |
      = help: `cofferdam doctor` lists the layers and what this host can enforce
    "#);
}

#[test]
fn bad_entries() {
    insta::assert_snapshot!(check("[server]\ncommand = [\"x\"]\nreview_by = 2027-02-01T10:00:00\n[cell]\nread = [\"~root/x\", \"\"]\nenv = [\"A B\"]\negress = [\"https://example.com\"]\n[admin]\nlisten = \"9464\"\n[packages]\ntoken_env = [\"a-b\"]\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `server.review_by` is not a date
     --> server.toml:3:13
      |
    3 | review_by = 2027-02-01T10:00:00
      |             ^^^^^^^^^^^^^^^^^^^
      |
      = help: write year, month and day, as in `review_by = 2027-02-01`
    error: `~root/x` names the home of another user
     --> server.toml:5:9
      |
    5 | read = ["~root/x", ""]
      |         ^^^^^^^^^
      |
      = help: write the whole path, or `./~…` for a file of that name
    error: this is not a path
     --> server.toml:5:20
      |
    5 | read = ["~root/x", ""]
      |                    ^^
      |
      = help: write a file or a directory
    error: `A B` is not the name of a variable
     --> server.toml:6:8
      |
    6 | env = ["A B"]
      |        ^^^^^
      |
      = help: write NAME to pass a variable on, or NAME=value to set one
    error: `https://example.com` is an address, not a host
     --> server.toml:7:11
      |
    7 | egress = ["https://example.com"]
      |           ^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write a host and a port, as in `api.example.com:443` or `[::1]:8080`
    error: `9464` is not an address to listen on
     --> server.toml:9:10
      |
    9 | listen = "9464"
      |          ^^^^^^
      |
      = help: write an address and a port, as in `127.0.0.1:9464`, or `unix:/path/to.sock`
    error: `a-b` is not the name of a variable
      --> server.toml:11:14
       |
    11 | token_env = ["a-b"]
       |              ^^^^^
       |
       = help: write NAME to pass a variable on, or NAME=value to set one
    "#);
}

#[test]
fn admin_without_an_address() {
    insta::assert_snapshot!(check("[server]\ncommand = [\"x\"]\n[admin]\n"), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not valid
    error: `admin.listen` is missing
     |
     = help: write `listen = "127.0.0.1:9464"`, or leave [admin] out
    "#);
}

#[test]
fn bytes_that_are_not_text() {
    let rig = Rig::new().file("server.toml", b"[server]\nname = \"\xff\"\n");
    insta::assert_snapshot!(rig.run(&["check", "--config", "server.toml"]), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is not UTF-8 (byte 17)
    hint: the configuration is a TOML file; is this the right one?
    "#);
}

#[test]
fn a_file_that_is_too_large() {
    let rig = Rig::new().file("server.toml", "#".repeat((1 << 20) + 1));
    insta::assert_snapshot!(rig.run(&["check", "--config", "server.toml"]), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration server.toml is larger than 1 MiB
    hint: the configuration is a TOML file; is this the right one?
    "#);
}

#[test]
fn mistakes_of_a_terminal_are_not_passed_on_to_one() {
    let shown =
        check("\"\\u001b[2Jx\" = 1\n[server]\nname = \"\\u001b]0;x\\u0007\"\n# \u{1b}[2J\n");
    assert!(shown.starts_with("exit: 78"), "{shown}");
    assert!(
        !shown.contains('\u{1b}') && !shown.contains('\u{7}'),
        "{shown:?}"
    );
}

#[test]
fn the_schema_for_editors_is_up_to_date() {
    let kept = include_str!("../../policy/schema/cofferdam.schema.json");
    let rig = Rig::new();
    let output = rig.command(&["schema"]).output().unwrap();
    assert!(
        String::from_utf8(output.stdout).unwrap() == kept,
        "run `cargo run -- schema > policy/schema/cofferdam.schema.json`"
    );
}

#[test]
fn the_schema_takes_what_the_program_takes() {
    let schema: Value = serde_json::from_str(&config::json_schema()).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    for (text, valid) in [
        ("server.command = ['x']", true),
        ("limits.request = '1MiB'", true),
        ("limits.request = 512", true),
        ("limits.request = '1M'", false),
        ("limits.timeout = 30", false),
        ("scrub.secrets = 'redcat'", false),
        ("server.comand = ['x']", false),
        ("tools.'a b'.allow = false", true),
        ("tools.x.alow = false", false),
        ("cell.preset = 'go'", false),
    ] {
        let value: toml::Value = toml::from_str(text).unwrap();
        let value = serde_json::to_value(value).unwrap();
        assert_eq!(schema.is_valid(&value), valid, "{text}");
        assert_eq!(File::parse("server.toml", text).is_ok(), valid, "{text}");
    }
}

/// Lines that come near a real file, so that more than the parser is reached.
fn line() -> impl Strategy<Value = String> {
    let key = r#"(server|cell|limits|tools|audit|methods|"\*"|name|command|read|env|egress|timeout|allow|deny|é)"#;
    let value = r#"("[^"\\\n]{0,12}"|-?[0-9]{1,25}|true|\[("[a-z~/:=]{0,6}",){0,3}\]|\{\}|2027-02-01|1e999|nan)"#;
    let table = proptest::string::string_regex(&format!(r"\[{key}(\.{key})?\]")).unwrap();
    let entry = proptest::string::string_regex(&format!(r"{key}(\.{key})? = {value}")).unwrap();
    prop_oneof![2 => table, 6 => entry, 1 => ".{0,20}"]
}

/// Everything that a file goes through, and what is said about it.
fn take(text: &str) {
    let around = Surroundings {
        directory: "/".into(),
        ..Surroundings::default()
    };
    let built = File::parse("server.toml", text)
        .and_then(|file| config::build(Some(&file), &Overrides::default(), &around));
    match built {
        Ok(effective) => assert!(!effective.config.server.command.is_empty()),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(!error.details(false).is_empty(), "{error:?} has no details");
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused(text: String) {
        take(&text);
    }

    #[test]
    fn any_lines_are_taken_or_refused(lines in proptest::collection::vec(line(), 0..12)) {
        take(&lines.join("\n"));
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes: Vec<u8>) {
        let rig = Rig::new().file("server.toml", &bytes);
        match config::load(&rig.path().join("server.toml")) {
            Ok(_) => prop_assert!(std::str::from_utf8(&bytes).is_ok()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        take(&format!(
            "x = {}{}",
            open.repeat(50_000),
            close.repeat(50_000)
        ));
    }
    take(&format!("{}x = 1", "a.".repeat(50_000)));
}
