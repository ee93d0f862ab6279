//! What file and flags come to.

use super::*;
use crate::config::{Origin, Payloads, TimeSpan, ToolRule};
use std::time::Duration;

fn around() -> Surroundings {
    Surroundings {
        directory: "/work".into(),
        home: Some("/home/me".into()),
        ..Surroundings::default()
    }
}

fn both(text: &str, flags: &Overrides) -> Effective {
    let file = File::parse("/etc/cofferdam/x.toml", text).unwrap();
    build(Some(&file), flags, &around()).unwrap()
}

fn flags(command: &[&str]) -> Overrides {
    Overrides {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..Overrides::default()
    }
}

const COMMAND: &str = "server.command = ['npx', '-y', '@a/thing@1']\n";

#[test]
fn nothing_but_a_command_gets_the_documented_defaults() {
    let config = build(None, &flags(&["npx", "-y", "@a/thing@1"]), &around())
        .unwrap()
        .config;
    assert_eq!(config.server.name, "thing");
    assert_eq!(config.server.command, ["npx", "-y", "@a/thing@1"]);
    assert_eq!(config.limits.request, ByteSize(1 << 20));
    assert_eq!(config.limits.response, ByteSize(1 << 20));
    assert_eq!(config.limits.timeout, Duration::from_secs(300));
    assert_eq!(config.limits.timeout_total, Duration::from_secs(3600));
    assert_eq!(config.scrub, SecretsMode::Redact);
    assert_eq!(config.schema.arguments, Check::Refuse);
    assert_eq!(config.schema.output, Check::Warn);
    assert!(config.audit.enabled);
    assert_eq!(config.audit.payloads, Payloads::Digest);
    assert_eq!(config.admin, None);
    assert!(!config.packages.scripts);
    assert_eq!(
        config.packages.cache.to_str(),
        Some("/home/me/.cache/cofferdam")
    );
    assert_eq!(
        config.state_dir.to_str(),
        Some("/home/me/.local/state/cofferdam/thing")
    );
    assert!(config.cell.read.is_empty() && config.cell.egress.is_empty());
    assert!(config.methods.allow.is_none() && config.tools.default == ToolRule::default());
}

#[test]
fn relative_paths_are_relative_to_where_they_are_written() {
    let text = format!("{COMMAND}cell.read = ['a', '~/b', '/c', './d/../e']\naudit.file = 'log'");
    let mut extra = flags(&["./server"]);
    extra.read = vec!["f".into(), "~".into()];
    let Effective { config, origins } = both(&text, &extra);
    let read: Vec<_> = config
        .cell
        .read
        .iter()
        .map(|p| p.to_str().unwrap())
        .collect();
    assert_eq!(
        read,
        [
            "/etc/cofferdam/a",
            "/home/me/b",
            "/c",
            "/etc/cofferdam/d/../e",
            "/work/f",
            "/home/me"
        ]
    );
    assert_eq!(origins.entry("cell.read", 3), Origin::File { line: 2 });
    assert_eq!(origins.entry("cell.read", 4), Origin::Flag("--read"));
    assert_eq!(config.server.command, ["/work/server"]);
    assert_eq!(origins.of("server.command"), Origin::Command);
    assert_eq!(
        config.audit.file.unwrap().to_str(),
        Some("/etc/cofferdam/log")
    );
}

#[test]
fn a_file_named_without_a_directory_lies_in_the_current_one() {
    let file = File::parse("x.toml", format!("{COMMAND}cell.read = ['a']")).unwrap();
    let config = build(Some(&file), &Overrides::default(), &around())
        .unwrap()
        .config;
    assert_eq!(config.cell.read, [PathBuf::from("/work/a")]);
}

#[test]
fn a_time_that_is_not_given_follows_the_one_that_is() {
    let limits = |text: &str| {
        both(&format!("{COMMAND}{text}"), &Overrides::default())
            .config
            .limits
    };
    let hour = Duration::from_secs(3600);
    let long = limits("limits.timeout = '2h'");
    assert_eq!((long.timeout, long.timeout_total), (2 * hour, 2 * hour));
    let short = limits("limits.timeout_total = '10s'");
    let ten = Duration::from_secs(10);
    assert_eq!((short.timeout, short.timeout_total), (ten, ten));
}

#[test]
fn the_time_of_a_tool_lengthens_its_whole() {
    let text = format!("{COMMAND}tools.slow.timeout = '3h'\ntools.quick.timeout = '3s'");
    let tools = both(&text, &Overrides::default()).config.tools.named;
    assert_eq!(
        tools["slow"].timeout_total,
        Some(Duration::from_secs(3 * 3600))
    );
    assert_eq!(tools["quick"].timeout_total, None);
}

#[test]
fn flags_replace_values_and_add_to_lists() {
    let text = format!(
        "{COMMAND}server.name = 'a'\nlimits.timeout = '1m'\ncell.egress = ['a.org']\n\
         cell.env = ['A', 'B=1']\ncell.optional = ['seccomp', 'landlock']"
    );
    let mut extra = Overrides {
        name: Some("b".into()),
        timeout: Some(TimeSpan(Duration::from_secs(5))),
        ..Overrides::default()
    };
    extra.egress = vec!["a.org:443".parse().unwrap(), "b.org".parse().unwrap()];
    extra.env = vec!["B".parse().unwrap(), "C=2".parse().unwrap()];
    extra.require = vec!["seccomp".into()];
    let Effective { config, origins } = both(&text, &extra);
    assert_eq!(config.server.name, "b");
    assert_eq!(config.limits.timeout, Duration::from_secs(5));
    let hosts: Vec<_> = config
        .cell
        .egress
        .iter()
        .map(|rule| rule.host.as_str())
        .collect();
    assert_eq!(hosts, ["a.org", "b.org"]);
    assert_eq!(
        origins.entry("cell.egress", 1),
        Origin::Flag("--allow-host")
    );
    let pass = |name: &str| EnvRule::Pass(name.into());
    let set = EnvRule::Set("C".into(), "2".into());
    assert_eq!(config.cell.env, [pass("A"), pass("B"), set]);
    assert_eq!(origins.entry("cell.env", 1), Origin::Flag("--allow-env"));
    assert_eq!(config.cell.require, ["seccomp"]);
    assert_eq!(config.cell.optional, ["landlock"]);
    assert_eq!(origins.entry("cell.optional", 0), Origin::File { line: 6 });
}

#[test]
fn allowing_one_tool_denies_the_rest() {
    let text = format!("{COMMAND}tools.'*'.allow = true\ntools.x.timeout = '1m'");
    let extra = Overrides {
        allow_tools: vec!["x".into()],
        deny_tools: vec!["y".into()],
        ..Overrides::default()
    };
    let tools = both(&text, &extra).config.tools;
    assert_eq!(tools.default.allow, Some(false));
    assert_eq!(tools.named["x"].allow, Some(true));
    assert_eq!(tools.named["x"].timeout, Some(Duration::from_secs(60)));
    assert_eq!(tools.named["y"].allow, Some(false));
}

#[test]
fn an_empty_allow_list_is_not_the_same_as_none() {
    let methods = |text: &str| {
        both(&format!("{COMMAND}{text}"), &Overrides::default())
            .config
            .methods
    };
    assert_eq!(methods("methods.allow = []").allow, Some(Vec::new()));
    assert_eq!(methods("").allow, None);
}

#[test]
fn directories_of_systemd_and_xdg_come_first() {
    let around = Surroundings {
        state_directory: Some("/var/lib/cofferdam/x:/other".into()),
        xdg_cache_home: Some("/cache".into()),
        xdg_state_home: Some("/state".into()),
        ..around()
    };
    let config = build(None, &flags(&["x"]), &around).unwrap().config;
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/cofferdam/x"));
    assert_eq!(config.packages.cache, PathBuf::from("/cache/cofferdam"));

    let around = Surroundings {
        state_directory: Some("relative".into()),
        xdg_state_home: Some("relative".into()),
        home: None,
        ..around
    };
    let config = build(None, &flags(&["x"]), &around).unwrap().config;
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/cofferdam/x"));
}

#[test]
fn a_mistake_of_the_flags_is_not_blamed_on_the_file() {
    let file = File::parse("x.toml", COMMAND).unwrap();
    let wrong = Overrides {
        memory: Some(ByteSize(1)),
        ..Overrides::default()
    };
    let error = build(Some(&file), &wrong, &around()).unwrap_err();
    assert!(matches!(error, Error::Flags { problems } if problems.len() == 1));

    let file = File::parse("x.toml", format!("{COMMAND}cell.memory = 1")).unwrap();
    let error = build(Some(&file), &Overrides::default(), &around()).unwrap_err();
    assert!(matches!(error, Error::Invalid { problems, .. } if problems.len() == 1));
    // What a flag replaces is not in force, so it cannot be out of range.
    let right = Overrides {
        memory: Some(ByteSize(1 << 30)),
        ..Overrides::default()
    };
    assert!(build(Some(&file), &right, &around()).is_ok());
}

const ELSEWHERE: &str = "server.url = 'https://Mcp.Example.com/mcp?k=secret'\n";

#[test]
fn a_server_elsewhere_has_a_url_in_place_of_a_command() {
    let effective = both(ELSEWHERE, &Overrides::default());
    let server = effective.config.server;
    let upstream = server.upstream.unwrap();
    assert!(server.command.is_empty());
    assert_eq!(server.name, "mcp.example.com");
    assert_eq!(upstream.url.to_string(), "https://mcp.example.com/mcp?…");
    assert_eq!((upstream.ca, upstream.pins.len()), (None, 0));
    // The words after `--` win, as a flag does.
    let run = both(ELSEWHERE, &flags(&["prog"])).config.server;
    assert_eq!((run.command.len(), run.upstream), (1, None));
    let url = Overrides {
        url: Some("http://127.0.0.1:1/x".parse().unwrap()),
        ..Overrides::default()
    };
    let server = both(COMMAND, &url).config.server;
    assert!(server.command.is_empty() && server.upstream.is_some());
}

const INSIDE: &str = "server.url = 'http://127.0.0.1:8080/mcp'\nserver.command = ['prog', 'x']\n";

#[test]
fn a_url_and_a_command_are_a_server_in_the_cell() {
    let effective = both(INSIDE, &Overrides::default());
    let server = &effective.config.server;
    assert!(server.upstream.is_some() && !server.is_elsewhere());
    assert_eq!((&*server.name, server.command.len()), ("prog", 2));
    assert_eq!(effective.config.cell.serves, Some(8080));
    // Each is replaced by its flag; the other stays.
    let at = |url: &str, command: &[&str]| Overrides {
        url: Some(url.parse().unwrap()),
        ..flags(command)
    };
    let words = both(INSIDE, &flags(&["other"])).config;
    assert_eq!(
        (words.server.command.len(), words.cell.serves),
        (1, Some(8080))
    );
    let moved = both(INSIDE, &at("http://localhost:9090/", &[])).config;
    assert_eq!(
        (moved.server.command.len(), moved.cell.serves),
        (2, Some(9090))
    );
    let all = both("", &at("http://[::1]:9090/", &["prog"])).config;
    assert_eq!((all.server.command.len(), all.cell.serves), (1, Some(9090)));
    // A URL in place of the file's command, and a command in place of its URL, are what they were.
    let elsewhere = both(COMMAND, &at("http://127.0.0.1:9090/", &[])).config;
    assert!(elsewhere.server.is_elsewhere() && elsewhere.cell.serves.is_none());
    let stdio = both(ELSEWHERE, &flags(&["prog"])).config;
    assert!(stdio.server.upstream.is_none() && stdio.cell.serves.is_none());
}

#[test]
fn a_server_in_the_cell_is_near_and_its_port_is_for_everybody() {
    let server = |text: &str| {
        let text = format!("[server]\ncommand = ['prog']\n{text}");
        let file = File::parse("/etc/x.toml", &text).unwrap();
        build(Some(&file), &Overrides::default(), &around())
    };
    for (text, fits) in [
        ("url = 'http://127.0.0.1:1024/mcp'", true),
        (
            "url = 'http://localhost:65535/mcp'\ntransport = 'http'",
            true,
        ),
        ("url = 'http://[::1]:8080/mcp?k=v'", true),
        (
            "url = 'http://127.0.0.1:8080/mcp'\ntransport = 'stdio'",
            false,
        ),
        ("transport = 'http'", false),
        ("url = 'https://127.0.0.1:8080/mcp'", false),
        ("url = 'https://mcp.example.com/mcp'", false),
        ("url = 'http://10.0.0.1:8080/mcp'\nplain_http = true", false),
        ("url = 'http://0.0.0.0:8080/mcp'\nplain_http = true", false),
        ("url = 'http://127.0.0.2:8080/mcp'", false),
        ("url = 'http://127.0.0.1/mcp'", false),
        ("url = 'http://127.0.0.1:1023/mcp'", false),
    ] {
        assert_eq!(server(text).is_ok(), fits, "{text}");
    }
}

#[test]
fn a_check_has_times_that_fit_and_is_of_a_server_at_a_url() {
    let read = |server: &str, flags: &Overrides| {
        let file = File::parse("/etc/x.toml", server)?;
        build(Some(&file), flags, &around())
    };
    let check = |health: &str| {
        let text = format!("[server]\nurl = 'https://x.example/mcp'\nhealth = {{ {health} }}\n");
        read(&text, &Overrides::default())
            .map(|effective| effective.config.server.upstream.unwrap().health.unwrap())
    };
    let seconds = Duration::from_secs;
    let plain = check("").unwrap();
    assert_eq!((plain.every, plain.timeout), (seconds(30), seconds(5)));
    assert_eq!((plain.failures, plain.path), (3, None));
    let short = check("every = '2s', failures = 1, path = '/up'").unwrap();
    assert_eq!((short.every, short.timeout), (seconds(2), seconds(2)));
    assert_eq!((short.failures, short.path.as_deref()), (1, Some("/up")));
    for wrong in [
        "every = '500ms'",
        "every = '2d'",
        "timeout = '10ms'",
        "every = '2s', timeout = '3s'",
        "failures = 0",
        "path = 'up'",
        "path = 'https://elsewhere/up'",
        "path = '/a b'",
        "interval = '1s'",
    ] {
        assert!(check(wrong).is_err(), "{wrong}");
    }
    let stdio = "[server]\ncommand = ['prog']\nhealth = {}\n";
    assert!(read(stdio, &Overrides::default()).is_err());
    // A command in place of the URL takes the check with it.
    let both = format!("{ELSEWHERE}server.health = {{}}\n");
    let run = read(&both, &flags(&["prog"])).unwrap();
    assert_eq!(run.config.server.upstream, None);
}

#[test]
fn a_server_elsewhere_gets_headers_and_one_of_ours_gets_variables() {
    let credential = |server: &str, inject: &str| {
        let text = format!("{server}[credentials.a]\nfile = 'f'\ninject = {{ {inject} }}\n");
        let file = File::parse("/etc/x.toml", &text).unwrap();
        build(Some(&file), &Overrides::default(), &around())
    };
    let header = credential(ELSEWHERE, "header = 'Authorization'").unwrap();
    assert_eq!(
        header.config.credentials[0].inject,
        crate::config::Inject::Header {
            name: "authorization".into(),
            format: "Bearer {}".into()
        }
    );
    assert!(credential(ELSEWHERE, "header = 'X-Key', format = 'k={};v=1'").is_ok());
    assert!(credential(COMMAND, "env = 'KEY'").is_ok());
    for inject in [
        "env = 'KEY'",
        "header = 'X-Key'",
        "file = 'k'",
        "argument = '/t'",
    ] {
        assert!(credential(INSIDE, inject).is_ok(), "{inject}");
    }
    for (server, inject) in [
        (ELSEWHERE, "env = 'KEY'"),
        (COMMAND, "header = 'X-Key'"),
        (ELSEWHERE, "header = 'X-Key', env = 'KEY'"),
        (ELSEWHERE, "header = 'Host'"),
        (ELSEWHERE, "header = 'Mcp-Session-Id'"),
        (ELSEWHERE, "header = 'X Key'"),
        (ELSEWHERE, "header = 'X-Key', format = 'no place'"),
        (ELSEWHERE, "header = 'X-Key', format = \"{}\\r\\nX: y\""),
        (COMMAND, "env = 'KEY', format = '{}'"),
        (ELSEWHERE, ""),
    ] {
        assert!(credential(server, inject).is_err(), "{inject}");
    }
}

#[test]
fn what_others_could_read_is_not_sent_in_the_clear() {
    let server = |text: &str| {
        let file = File::parse("/etc/x.toml", format!("[server]\n{text}")).unwrap();
        build(Some(&file), &Overrides::default(), &around())
    };
    for (text, fits) in [
        ("url = 'http://localhost:80/mcp'", true),
        ("url = 'http://[::1]/mcp'", true),
        ("url = 'http://10.0.0.1/mcp'", false),
        ("url = 'http://example.com/mcp'", false),
        ("url = 'http://example.com/mcp'\nplain_http = true", true),
        ("url = 'https://example.com/mcp'\ntransport = 'http'", true),
        (
            "url = 'https://example.com/mcp'\ntransport = 'stdio'",
            false,
        ),
        ("command = ['x']\ntransport = 'http'", false),
        ("url = 'https://example.com/mcp'\ncommand = ['x']", false),
        ("url = 'nonsense'", false),
        ("url = 'https://example.com/'\npins = ['sha256/no']", false),
        (
            "url = 'https://example.com/'\npins = ['sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=']",
            true,
        ),
    ] {
        let built = server(text);
        assert_eq!(built.is_ok(), fits, "{text}: {built:?}");
    }
}
