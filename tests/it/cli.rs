//! The command line: words in, text and exit code out.

use crate::rig::Rig;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Every key of the file.
const FULL: &str = r#"[server]
name = "github"
command = ["./server", "--stdio"]
transport = "stdio"
owner = "platform@example.com"
review_by = 2027-02-01
cwd = "."

[admin]
listen = "127.0.0.1:9464"

[cell]
preset = "node"
read = ["data"]
write = ["~/docs"]
execute = ["git"]
env = ["LANG", "MODE=quiet"]
egress = ["api.github.com:443"]
memory = "1GiB"
processes = 64
require = ["landlock", "seccomp"]
optional = ["landlock-scopes"]

[limits]
request = "2MiB"
response = "64KiB"
timeout = "30s"
timeout_total = "10m"

[scrub]
secrets = "refuse"

[schema]
arguments = "warn"
output = "off"

[methods]
deny = ["resources/subscribe"]

[resources]
allow = ["file:///srv/*"]

[prompts]
allow = []

[tools."*"]
allow = true

[tools."delete_repo"]
allow = false

[tools."create_issue"]
timeout = "60s"
arguments = "refuse"

[audit]
file = "audit.jsonl"
payloads = "redacted"

[packages]
scripts = true
token_env = ["NPM_TOKEN"]
cache = "cache"
"#;

#[test]
fn no_command() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&[]), @r"
    exit: 64
    --- stderr ---
    cofferdam: error: no command was given
    Makes one MCP server safe to run: a landlock + seccomp cell, and policy on every message

    Usage: cofferdam <COMMAND>

    Commands:
      run          Run one MCP server in a cell, with policy on every message
      exec         Run any program in the very same cell, without the protocol
      check        Validate a configuration and print what is effective, with the origin of each value
      status       Show what runs, and how it is
      reload       Read the configuration again, and say what came of it
      drain        Take no new requests, answer those that are open, and end
      freeze       Stop a server where it stands, until `resume`, and write down what is known
      kill         Switch a server off, or some of its tools: at once, and until `resume`
      resume       Switch on again what `kill` has switched off
      credentials  List the credentials of a server, rehearse a rotation, or revoke a value
      doctor       Print what this host can enforce, and what is missing
      client       Keys for network clients
      tls          Certificates for the listener
      demo         See it work: a small hostile server, built in
      schema       Print the JSON Schema of the configuration file
      completions  Print a completion script for a shell
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Example:
      cofferdam run --read ~/docs -- npx -y @modelcontextprotocol/server-filesystem ~/docs
    ");
}

#[test]
fn unknown_command() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["rnu"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: unrecognized subcommand 'rnu'
    Usage: cofferdam <COMMAND>

    For more information, try '--help'.
    "#);
}

#[test]
fn nothing_to_run() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: no server to run: there is neither a command nor a configuration
    hint: cofferdam run --read ~/docs -- npx -y @modelcontextprotocol/server-filesystem ~/docs
    hint: cofferdam run --config github.toml
    hint: `cofferdam run --help` lists every flag
    "#);
}

#[test]
fn unknown_flag() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--memroy", "1GiB", "--", "x"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: unexpected argument '--memroy' found
      tip: a similar argument exists: '--memory'

    Usage: cofferdam run --memory <SIZE> [-- <CMD>...]

    For more information, try '--help'.
    "#);
}

#[test]
fn flag_without_a_value() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--read"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: a value is required for '--read <PATH>' but none was supplied
    For more information, try '--help'.
    "#);
}

#[test]
fn command_without_dashes() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "npx", "server"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: unexpected argument 'npx' found
    Usage: cofferdam run [OPTIONS] [-- <CMD>...]

    For more information, try '--help'.
    "#);
}

#[test]
fn bad_size() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--memory", "1M", "--", "x"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: invalid value '1M' for '--memory <SIZE>': `1M` is not a size; write `KiB`, `MiB`, `GiB` (powers of 1024) or `kB`, `MB`, `GB` (powers of 1000)
    For more information, try '--help'.
    "#);
}

#[test]
fn bad_duration() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--timeout", "30", "--", "x"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: invalid value '30' for '--timeout <DURATION>': `30` is not a duration; write a whole number and a unit, as in `500ms`, `30s`, `10m` or `1h`
    For more information, try '--help'.
    "#);
}

#[test]
fn bad_host() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--allow-host", "https://example.com", "--", "x"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: invalid value 'https://example.com' for '--allow-host <HOST[:PORT]>': `https://example.com` is an address, not a host; write a host and a port, as in `api.example.com:443` or `[::1]:8080`
    For more information, try '--help'.
    "#);
}

#[test]
fn bad_variable() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--allow-env", "A B", "--", "x"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: invalid value 'A B' for '--allow-env <NAME[=VALUE]>': `A B` is not the name of a variable; write NAME to pass a variable on, or NAME=value to set one
    For more information, try '--help'.
    "#);
}

#[test]
fn bad_word() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--scrub", "redcat", "--", "x"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: invalid value 'redcat' for '--scrub <MODE>'
      [possible values: redact, refuse, flag, off]

      tip: a similar value exists: 'redact'

    For more information, try '--help'.
    "#);
}

#[test]
fn bad_values_of_flags() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--memory", "1KiB", "--name", "a/b", "--read", "", "--", "x"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: --name: `a/b` is not a name for a server
    hint: a name has up to 64 letters, digits, `-`, `_` and `.`, and starts with a letter or digit
    hint: also, --memory: `cell.memory` must be from 16MiB to 64TiB
    hint: also, --read: this is not a path
    "#);
}

#[test]
fn tool_allowed_and_denied() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--allow-tool", "x", "--deny-tool", "x", "--", "x"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: --deny-tool: the tool `x` is both allowed and denied
    "#);
}

#[test]
fn layer_required_and_optional() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--require", "seccomp", "--optional", "seccomp", "--", "x"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: --optional: the layer `seccomp` is both required and optional
    "#);
}

#[test]
fn policy_flags_are_not_for_exec() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["exec", "--timeout", "1s", "--", "x"]), @r#"
    exit: 64
    --- stderr ---
    cofferdam: error: unexpected argument '--timeout' found
    Usage: cofferdam exec [OPTIONS] [-- <CMD>...]

    For more information, try '--help'.
    "#);
}

#[test]
fn missing_file() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--config", "no.toml"]), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: cannot read the configuration no.toml: No such file or directory (os error 2)
    "#);
}

#[test]
fn file_that_is_a_directory() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--config", "home"]), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: the configuration home is not a regular file
    hint: two processes read the configuration, so a pipe would be empty for the second; name a file
    "#);
}

#[test]
fn missing_path() {
    let rig = Rig::new().file("bin/x", "");
    insta::assert_snapshot!(rig.run(&["run", "--read", "data", "--write", "more", "--", "./bin/x"]), @r#"
    exit: 126
    --- stderr ---
    cofferdam: error: `[DIR]/bin/x` cannot be executed
    hint: is it a program, and does it have the permission to execute?
    hint: also, `[DIR]/data` (cell.read) does not exist
    hint: also, `[DIR]/more` (cell.write) does not exist
    "#);
}

#[test]
fn command_not_found() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--", "nosuch"]), @r#"
    exit: 127
    --- stderr ---
    cofferdam: error: the program `nosuch` was not found on PATH
    hint: write its whole path, or set PATH where cofferdam is started
    "#);
}

#[test]
fn command_path_not_found() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--", "./nosuch"]), @r#"
    exit: 127
    --- stderr ---
    cofferdam: error: the program `[DIR]/nosuch` does not exist
    "#);
}

#[test]
fn command_not_executable() {
    let rig = Rig::new().file("bin/tool", "x");
    insta::assert_snapshot!(rig.run(&["run", "--", "tool"]), @r#"
    exit: 126
    --- stderr ---
    cofferdam: error: `[DIR]/bin/tool` cannot be executed
    hint: is it a program, and does it have the permission to execute?
    "#);
}

#[test]
fn check_warns_of_what_run_would_stop_at() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["check", "--read", "data", "--allow-env", "NOT_SET", "--optional", "seccomp", "--", "nosuch"]), @r"
    exit: 0
    --- stdout ---
    Server
      name              nosuch                                        command
      command           nosuch                                        command
      cwd               where cofferdam is started                    default
      transport         stdio                                         default
      restart           always                                        default
      replace           swap                                          default

    Cell
      preset            chosen by the command                         default
      read              [DIR]/data  flag --read
      write             only a private temporary directory            default
      execute           only what the preset needs                    default
      env               NOT_SET (ours)                                flag --allow-env
      egress            no network                                    default
      memory            that of the preset                            default
      processes         that of the preset                            default
      user              never root                                    default
      cpu               not limited                                   default
      syscalls          all that the cell does not refuse             default
      require           every layer of the floor but the optional     default
      optional          seccomp                                       flag --optional
      off               none                                          default

    Packages
      scripts           never run                                     default
      token env         none                                          default
      cache             [DIR]/home/.cache/cofferdam  default

    Policy
      secrets           redact                                        default
      arguments         refuse                                        default
      output            warn                                          default
      methods           all                                           default
      resources         all                                           default
      prompts           all                                           default
      tools             allow                                         default

    Limits
      request           1MiB                                          default
      response          1MiB                                          default
      timeout           5m of silence                                 default
      timeout total     1h in all                                     default

    Audit and admin
      audit             [DIR]/home/.local/state/cofferdam/nosuch/audit.jsonl  default
      payloads          digest                                        default
      listen            no listener                                   default

    the command line is valid, but on this host:
      warning: the program `nosuch` was not found on PATH
               `run` would end with exit code 127
               hint: write its whole path, or set PATH where cofferdam is started
      warning: `[DIR]/data` (cell.read) does not exist
               `run` would end with exit code 78
      warning: the variable `NOT_SET` is passed on, but is not set here
      warning: the server starts also where `seccomp` cannot be enforced
    ");
}

#[test]
fn check_shows_the_whole_file() {
    let rig = Rig::new().file("server.toml", FULL);
    insta::assert_snapshot!(rig.run(&["check", "--config", "server.toml"]), @r"
    exit: 0
    --- stdout ---
    Server
      name              github                                        file, line 2
      command           [DIR]/server --stdio  file, line 3
      cwd               [DIR]file, line 7
      transport         stdio                                         file, line 4
      restart           always                                        default
      replace           swap                                          default
      owner             platform@example.com                          file, line 5
      review by         2027-02-01                                    file, line 6

    Cell
      preset            node                                          file, line 13
      read              [DIR]/data  file, line 14
      write             [DIR]/home/docs  file, line 15
      execute           git                                           file, line 16
      env               LANG (ours)                                   file, line 17
                        MODE (set here)                               file, line 17
      egress            api.github.com:443                            file, line 18
      memory            1GiB                                          file, line 19
      processes         64                                            file, line 20
      user              never root                                    default
      cpu               not limited                                   default
      syscalls          all that the cell does not refuse             default
      require           landlock                                      file, line 21
                        seccomp                                       file, line 21
      optional          landlock-scopes                               file, line 22
      off               none                                          default

    Packages
      scripts           run, inside the install cell                  file, line 61
      token env         NPM_TOKEN                                     file, line 62
      cache             [DIR]/cache  file, line 63

    Policy
      secrets           refuse                                        file, line 31
      arguments         warn                                          file, line 34
      output            off                                           file, line 35
      methods           deny resources/subscribe                      file, line 38
      resources         allow file:///srv/*                           file, line 41
      prompts           none                                          file, line 44
      tools             allow                                         file, line 47
      tool create_issue  timeout 1m                                    file, line 53
                        arguments refuse                              file, line 54
      tool delete_repo  deny                                          file, line 50

    Limits
      request           2MiB                                          file, line 25
      response          64KiB                                         file, line 26
      timeout           30s of silence                                file, line 27
      timeout total     10m in all                                    file, line 28

    Audit and admin
      audit             [DIR]/audit.jsonl  file, line 57
      payloads          redacted                                      file, line 58
      listen            127.0.0.1:9464                                file, line 10

    server.toml is valid, but on this host:
      warning: the program `[DIR]/server` does not exist
               `run` would end with exit code 127
      warning: `[DIR]/data` (cell.read) does not exist
               `run` would end with exit code 78
      warning: `[DIR]/home/docs` (cell.write) does not exist
               `run` would end with exit code 78
      warning: the variable `LANG` is passed on, but is not set here
      warning: the server starts also where `landlock-scopes` cannot be enforced
    ");
}

#[test]
fn flags_win_over_the_file() {
    let rig = Rig::new().file("server.toml", FULL);
    insta::assert_snapshot!(rig.run(&["check", "--config", "server.toml", "--name", "mine", "--preset", "python", "--read", "more", "--allow-env", "MODE", "--require", "landlock-scopes", "--response-limit", "1MiB", "--scrub", "flag", "--allow-tool", "get_*", "--deny-tool", "create_issue", "--admin", "unix:sock", "--audit", "off", "--", "./other"]), @r"
    exit: 0
    --- stdout ---
    Server
      name              mine                                          flag --name
      command           [DIR]/other  command
      cwd               [DIR]file, line 7
      transport         stdio                                         file, line 4
      restart           always                                        default
      replace           swap                                          default
      owner             platform@example.com                          file, line 5
      review by         2027-02-01                                    file, line 6

    Cell
      preset            python                                        flag --preset
      read              [DIR]/data  file, line 14
                        [DIR]/more  flag --read
      write             [DIR]/home/docs  file, line 15
      execute           git                                           file, line 16
      env               LANG (ours)                                   file, line 17
                        MODE (ours)                                   flag --allow-env
      egress            api.github.com:443                            file, line 18
      memory            1GiB                                          file, line 19
      processes         64                                            file, line 20
      user              never root                                    default
      cpu               not limited                                   default
      syscalls          all that the cell does not refuse             default
      require           landlock                                      file, line 21
                        seccomp                                       file, line 21
                        landlock-scopes                               flag --require
      optional          none                                          default
      off               none                                          default

    Packages
      scripts           run, inside the install cell                  file, line 61
      token env         NPM_TOKEN                                     file, line 62
      cache             [DIR]/cache  file, line 63

    Policy
      secrets           flag                                          flag --scrub
      arguments         warn                                          file, line 34
      output            off                                           file, line 35
      methods           deny resources/subscribe                      file, line 38
      resources         allow file:///srv/*                           file, line 41
      prompts           none                                          file, line 44
      tools             deny                                          flag --allow-tool
      tool create_issue  deny                                          flag --deny-tool
                        timeout 1m                                    file, line 53
                        arguments refuse                              file, line 54
      tool delete_repo  deny                                          file, line 50
      tool get_*        allow                                         flag --allow-tool

    Limits
      request           2MiB                                          file, line 25
      response          1MiB                                          flag --response-limit
      timeout           30s of silence                                file, line 27
      timeout total     10m in all                                    file, line 28

    Audit and admin
      audit             off                                           flag --audit
      listen            unix:[DIR]/sock  flag --admin

    server.toml is valid, but on this host:
      warning: the program `[DIR]/other` does not exist
               `run` would end with exit code 127
      warning: `[DIR]/data` (cell.read) does not exist
               `run` would end with exit code 78
      warning: `[DIR]/more` (cell.read) does not exist
               `run` would end with exit code 78
      warning: `[DIR]/home/docs` (cell.write) does not exist
               `run` would end with exit code 78
      warning: the variable `LANG` is passed on, but is not set here
      warning: the variable `MODE` is passed on, but is not set here
    ");
}

#[test]
fn dry_run_prints_the_plan() {
    let rig = Rig::new().file("server.toml", "[server]\ncommand = [\"node\", \"x.js\"]\n");
    insta::assert_snapshot!(rig.run(&["run", "--dry-run", "--config", "server.toml"]), @r"
    exit: 0
    --- stdout ---
    Server
      name              node                                          command
      command           node x.js                                     file, line 2
      cwd               where cofferdam is started                    default
      transport         stdio                                         default
      restart           always                                        default
      replace           swap                                          default

    Cell
      preset            chosen by the command                         default
      read              only what the preset needs                    default
      write             only a private temporary directory            default
      execute           only what the preset needs                    default
      env               only what the preset needs                    default
      egress            no network                                    default
      memory            that of the preset                            default
      processes         that of the preset                            default
      user              never root                                    default
      cpu               not limited                                   default
      syscalls          all that the cell does not refuse             default
      require           every layer of the floor but the optional     default
      optional          none                                          default
      off               none                                          default

    Packages
      scripts           never run                                     default
      token env         none                                          default
      cache             [DIR]/home/.cache/cofferdam  default

    Policy
      secrets           redact                                        default
      arguments         refuse                                        default
      output            warn                                          default
      methods           all                                           default
      resources         all                                           default
      prompts           all                                           default
      tools             allow                                         default

    Limits
      request           1MiB                                          default
      response          1MiB                                          default
      timeout           5m of silence                                 default
      timeout total     1h in all                                     default

    Audit and admin
      audit             [DIR]/home/.local/state/cofferdam/node/audit.jsonl  default
      payloads          digest                                        default
      listen            no listener                                   default
    ");
}

#[test]
fn check_as_json() {
    let rig = Rig::new().file("server.toml", "[server]\ncommand = [\"node\", \"x.js\"]\n");
    insta::assert_snapshot!(rig.run(&["check", "--config", "server.toml", "--format", "json"]), @r#"
    exit: 0
    --- stdout ---
    {
      "valid": true,
      "name": "node",
      "values": [
        {
          "key": "server.name",
          "value": "node",
          "origin": "command"
        },
        {
          "key": "server.command",
          "value": [
            "node",
            "x.js"
          ],
          "origin": "file, line 2"
        },
        {
          "key": "server.cwd",
          "value": null,
          "origin": "default"
        },
        {
          "key": "server.transport",
          "value": "stdio",
          "origin": "default"
        },
        {
          "key": "server.restart",
          "value": "always",
          "origin": "default"
        },
        {
          "key": "server.replace",
          "value": "swap",
          "origin": "default"
        },
        {
          "key": "cell.preset",
          "value": null,
          "origin": "default"
        },
        {
          "key": "cell.read",
          "value": [],
          "origin": "default"
        },
        {
          "key": "cell.write",
          "value": [],
          "origin": "default"
        },
        {
          "key": "cell.execute",
          "value": [],
          "origin": "default"
        },
        {
          "key": "cell.env",
          "value": [],
          "origin": "default"
        },
        {
          "key": "cell.egress",
          "value": [],
          "origin": "default"
        },
        {
          "key": "cell.memory",
          "value": null,
          "origin": "default"
        },
        {
          "key": "cell.processes",
          "value": null,
          "origin": "default"
        },
        {
          "key": "cell.user",
          "value": null,
          "origin": "default"
        },
        {
          "key": "cell.cpu",
          "value": null,
          "origin": "default"
        },
        {
          "key": "cell.syscalls",
          "value": null,
          "origin": "default"
        },
        {
          "key": "cell.require",
          "value": [],
          "origin": "default"
        },
        {
          "key": "cell.optional",
          "value": [],
          "origin": "default"
        },
        {
          "key": "cell.off",
          "value": [],
          "origin": "default"
        },
        {
          "key": "packages.scripts",
          "value": false,
          "origin": "default"
        },
        {
          "key": "packages.token_env",
          "value": [],
          "origin": "default"
        },
        {
          "key": "packages.cache",
          "value": "[DIR]/home/.cache/cofferdam",
          "origin": "default"
        },
        {
          "key": "scrub.secrets",
          "value": "redact",
          "origin": "default"
        },
        {
          "key": "schema.arguments",
          "value": "refuse",
          "origin": "default"
        },
        {
          "key": "schema.output",
          "value": "warn",
          "origin": "default"
        },
        {
          "key": "methods.allow",
          "value": null,
          "origin": "default"
        },
        {
          "key": "resources.allow",
          "value": null,
          "origin": "default"
        },
        {
          "key": "prompts.allow",
          "value": null,
          "origin": "default"
        },
        {
          "key": "tools.*.allow",
          "value": true,
          "origin": "default"
        },
        {
          "key": "limits.request",
          "value": 1048576,
          "origin": "default"
        },
        {
          "key": "limits.response",
          "value": 1048576,
          "origin": "default"
        },
        {
          "key": "limits.timeout",
          "value": "5m",
          "origin": "default"
        },
        {
          "key": "limits.timeout_total",
          "value": "1h",
          "origin": "default"
        },
        {
          "key": "audit.file",
          "value": "[DIR]/home/.local/state/cofferdam/node/audit.jsonl",
          "origin": "default"
        },
        {
          "key": "audit.payloads",
          "value": "digest",
          "origin": "default"
        },
        {
          "key": "admin.listen",
          "value": null,
          "origin": "default"
        }
      ],
      "warnings": [
        {
          "message": "the program `node` was not found on PATH",
          "hint": "write its whole path, or set PATH where cofferdam is started",
          "exit": 127
        }
      ]
    }
    "#);
}

#[test]
fn mistakes_as_json() {
    let rig = Rig::new().file("server.toml", "[server]\ncomand = [\"x\"]\n");
    insta::assert_snapshot!(rig.run(&["check", "--config", "server.toml", "--format", "json"]), @r#"
    exit: 78
    --- stdout ---
    {
      "valid": false,
      "exit": 78,
      "message": "the configuration server.toml is not valid",
      "problems": [
        {
          "message": "unknown key `comand`",
          "label": "not a key of [server]",
          "hints": [
            "did you mean `command`?",
            "[server] takes `name`, `command`, `url`, `ca`, `pins`, `min_version`, `plain_http`, `health`, `transport`, `owner`, `review_by`, `cwd`, `restart`, `kill_file`, `replace`"
          ],
          "line": 2,
          "column": 1
        }
      ]
    }
    "#);
}

#[test]
fn version() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["--version"]), @r#"
    exit: 0
    --- stdout ---
    cofferdam 0.1.0
    "#);
}

#[test]
fn help_of_run() {
    let rig = Rig::new();
    insta::assert_snapshot!(rig.run(&["run", "--help"]), @r#"
    exit: 0
    --- stdout ---
    Run one MCP server in a cell, with policy on every message

    Usage: cofferdam run [OPTIONS] [-- <CMD>...]

    Arguments:
      [CMD]...  The program to run, and its arguments

    Options:
      -c, --config <FILE>        Configuration file (TOML); flags and the command win over it
          --name <NAME>          Name of the server in logs, metrics and paths [default: made from the
                                 command]
      -v, --verbose...           Say more on stderr; twice for everything
      -q, --quiet                Say only what went wrong
          --dry-run              Print what would be done, and do nothing
          --log-format <FORMAT>  How log lines on stderr look [default: human] [possible values: human,
                                 json]
      -h, --help                 Print help

    A server on HTTP:
          --url <URL>  Front the HTTP server at URL; with a command, that server runs in the cell and
                       listens there
          --ca <FILE>  Certificates that may vouch for the server at URL [default: the system's]
          --pin <PIN>  Key that the certificate of the server at URL must have, as in sha256/BASE64

    Cell:
          --preset <PRESET>             What the runtime needs [default: chosen by looking at the
                                        command] [possible values: node, python, none]
          --read <PATH>                 Let the server read a file or directory
          --write <PATH>                Let the server read and write a file or directory
          --allow-exec <PROGRAM>        Let the server execute a program, by path or by name
          --allow-env <NAME[=VALUE]>    Pass a variable to the server, or set one
          --credential <VARIABLE=FILE>  Give the server a secret from a file that is watched: another
                                        value is another process
          --allow-host <HOST[:PORT]>    Let the server connect to the TCP port of a host [default port:
                                        443]
          --memory <SIZE>               Largest data segment of each process, as in 1GiB
          --processes <N>               Largest number of processes and threads
          --user <USER>                 Whom root's server runs as: a name, a number, or `root`
                                        [default: a number nobody else has]
          --cpu <CORES>                 Processors that all of the server may use together, as in 1.5;
                                        needs a delegated cgroup
          --syscalls <FILE>             Let the server make only the system calls that FILE lists, one
                                        `name = "why"` on a line
          --optional <LAYER>            Start although this layer cannot be enforced [possible values:
                                        no-new-privs, landlock, landlock-net, landlock-scopes, seccomp,
                                        capabilities, rlimits, environment, descriptors, namespaces,
                                        namespace-net, cgroup, supervision]
          --off <LAYER>                 Do not use this layer [possible values: namespaces, cgroup,
                                        supervision]
          --require <LAYER>             Do not start without this layer, whatever the file says
                                        [possible values: no-new-privs, landlock, landlock-net,
                                        landlock-scopes, seccomp, capabilities, rlimits, environment,
                                        descriptors, namespaces, namespace-net, cgroup, supervision]
          --allow-scripts               Let install scripts of packages run, inside the install cell

    Policy:
          --request-limit <SIZE>   Largest message of the client [default: 1MiB]
          --response-limit <SIZE>  Largest message of the server [default: 1MiB]
          --timeout <DURATION>     Silence after which a request expires [default: 300s]
          --restart <WHEN>         Whether another server takes the place of one that has ended unasked
                                   [default: always] [possible values: always, never]
          --scrub <MODE>           What happens to credentials in messages [default: redact] [possible
                                   values: redact, refuse, flag, off]
          --allow-tool <GLOB>      Allow these tools and deny the rest; `*` matches any run of
                                   characters
          --deny-tool <GLOB>       Deny these tools

    Seen from outside:
          --listen <ADDR>     Serve clients on HTTP at ADDRESS:PORT or unix:PATH instead of stdin and
                              stdout
          --admin <ADDR>      Serve /health and /metrics at ADDRESS:PORT or unix:PATH
          --audit <FILE|off>  Where the audit log goes, or `off` [default: the state directory]

    Examples:
      cofferdam run --read ~/docs -- npx -y @modelcontextprotocol/server-filesystem ~/docs
      cofferdam run --allow-host api.github.com --allow-env GITHUB_TOKEN -- npx -y @scope/server
      cofferdam run --url https://mcp.example.com/mcp
      cofferdam run --url http://127.0.0.1:3001/mcp -- npx -y @scope/http-server
      cofferdam run --config github.toml

    With both a file and flags, a flag replaces a value of the file and adds to a list of it.
    `cofferdam check` takes the same words and shows what they come to.
    "#);
}

#[test]
fn every_shell_gets_a_completion_script() {
    let rig = Rig::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = rig.command(&["completions", shell]).output().unwrap();
        assert!(output.status.success(), "{shell}");
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["doctor", "allow-host", "completions"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
        assert!(
            !script.contains("__cell"),
            "{shell} offers what is not for people"
        );
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let rig = Rig::new();
    let mut child = rig
        .command(&["schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(rig.show(&output), "exit: 0\n");
}

#[test]
fn a_full_disk_is_an_error() {
    let rig = Rig::new();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = rig.command(&["schema"]).stdout(full).output().unwrap();
    insta::assert_snapshot!(rig.show(&output), @r#"
    exit: 69
    --- stderr ---
    cofferdam: error: cannot write to stdout: No space left on device (os error 28)
    "#);
}

/// Runs as an ordinary user: root may read everything.
fn as_nobody(rig: &Rig, words: &[&str]) -> String {
    const NOBODY: u32 = 65534;
    let mut command = rig.command(words);
    if nix::unistd::geteuid().is_root() {
        // The program may lie below a directory that only root can enter; the test's may not.
        let copy = rig.path().join("cofferdam");
        std::fs::copy(env!("CARGO_BIN_EXE_cofferdam"), &copy).unwrap();
        std::fs::set_permissions(rig.path(), Permissions::from_mode(0o755)).unwrap();
        let old = command;
        command = Command::new(copy);
        command
            .args(old.get_args())
            .current_dir(rig.path())
            .env_clear();
        for (name, value) in old.get_envs() {
            command.env(name, value.unwrap());
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    // Another test may have forked while the copy was open for writing (ETXTBSY); it lets go soon.
    let mut output = command.output();
    for _ in 0..100 {
        match &output {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(20));
                output = command.output();
            }
            _ => break,
        }
    }
    rig.show(&output.unwrap())
}

#[test]
fn unreadable_directory() {
    let rig = Rig::new().file("bin/tool", "#!/bin/sh\n");
    let mode = |name: &str, mode| {
        std::fs::set_permissions(rig.path().join(name), Permissions::from_mode(mode)).unwrap();
    };
    mode("bin/tool", 0o755);
    std::fs::create_dir(rig.path().join("secret")).unwrap();
    mode("secret", 0o000);
    insta::assert_snapshot!(as_nobody(&rig, &["run", "--read", "secret", "--", "tool"]), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: `[DIR]/secret` (cell.read) cannot be read: Permission denied (os error 13)
    "#);
    mode("secret", 0o700);
}

#[test]
fn unreadable_file() {
    let rig = Rig::new().file("server.toml", "");
    let path = rig.path().join("server.toml");
    std::fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
    insta::assert_snapshot!(as_nobody(&rig, &["run", "--config", "server.toml"]), @r#"
    exit: 78
    --- stderr ---
    cofferdam: error: cannot read the configuration server.toml: Permission denied (os error 13)
    "#);
}

#[test]
fn words_that_are_not_utf8_are_refused() {
    let rig = Rig::new();
    let word = OsStr::from_bytes(b"\xff");
    let output = rig.command(&["run", "--"]).arg(word).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(output.stdout.is_empty());
}

#[test]
fn doctor_tells_what_the_exit_code_tells() {
    let rig = Rig::new().file("bin/node", "");
    let output = rig
        .command(&["doctor", "--format", "json"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let enforceable = report["enforceable"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if enforceable { 0 } else { 77 }));
    let layers = report["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 13);
    fn name(layer: &serde_json::Value) -> &str {
        layer["layer"].as_str().unwrap()
    }
    let around = |layer: &serde_json::Value| name(layer).starts_with("namespace");
    let mut floor = layers
        .iter()
        .filter(|layer| !around(layer) && !["cgroup", "supervision"].contains(&name(layer)));
    assert_eq!(floor.all(|layer| layer["enforceable"] == true), enforceable);
    // Tried, and so the same as what a cell gets.
    let inside = crate::support::namespaces_work();
    let mut rest = layers.iter().filter(|layer| around(layer));
    assert!(rest.all(|layer| layer["enforceable"] == inside), "{report}");
    // There, but not executable.
    assert_eq!(report["programs"]["node"], serde_json::Value::Null);

    let output = rig.command(&["doctor"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("bin/node is not executable"), "{text}");
    assert!(!text.contains('\u{1b}'), "colours without a terminal");
}

#[test]
fn what_is_set_and_cannot_be_meant_is_said_by_run_too() {
    let config = "[methods]\nallow = [\"tools/lst\", \"tools/*\", \"ping\", \"acme/do\"]\ndeny = [\"tools/cal\", \"Ping\"]\n";
    let rig = Rig::new().file("c.toml", config);
    let url = ["--url", "http://127.0.0.1:9/mcp", "--config", "c.toml"];
    let dead = ["--memory", "1GiB", "--processes", "3"];
    for command in ["run", "check"] {
        let said = rig.run(&[&[command][..], &url, &dead].concat());
        for warned in [
            "the server runs elsewhere, so nothing that is granted to a cell has any effect, nor do its limits",
            "`tools/lst` (methods.allow) is no method of the protocol",
            "did you mean `tools/list`?",
            "`acme/do` (methods.allow) is no method",
            "`tools/cal` (methods.deny) is no method of the protocol",
            "did you mean `tools/call`?",
        ] {
            assert!(said.contains(warned), "{command}: {warned}: {said}");
        }
        assert_eq!(
            said.matches("is no method of the protocol").count(),
            3,
            "{said}"
        );
        assert_eq!(said.matches("did you mean").count(), 2, "{said}");
    }
}
