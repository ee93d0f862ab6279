//! `doctor`: what this host can enforce, what is missing, and which programs servers need.

use super::args::Format;
use super::exit::{Exit, print};
use super::preflight::{Search, find};
use crate::cell::spawn::{try_namespaces, try_supervision};
use crate::cell::{HostReport, Layer, probe};
use serde_json::{Value, json};
use std::fmt::Write;
use std::process::ExitCode;

/// What MCP servers are usually started with.
const PROGRAMS: [&str; 7] = ["node", "npx", "npm", "python3", "uv", "pipx", "git"];

/// What was found out about this host.
struct Host {
    floor: HostReport,
    /// Why a server has no namespaces of its own here.
    no_namespaces: Option<String>,
    no_supervision: Option<String>,
    /// The uid of a server, when nothing else is asked for and it could be tried.
    user: Option<u32>,
}

/// Ends with 0 when the whole floor of the cell can be enforced, else with 77.
pub(super) fn doctor(format: Format) -> ExitCode {
    let (namespaces, user) = try_namespaces();
    let host = Host {
        floor: probe(),
        no_namespaces: namespaces.err(),
        no_supervision: try_supervision().err(),
        user,
    };
    let programs: Vec<(&str, Search)> = PROGRAMS.iter().map(|name| (*name, find(name))).collect();
    let text = match format {
        Format::Human => human(&host, &programs),
        Format::Json => format!("{:#}\n", report(&host, &programs)),
    };
    let printed = print(&text);
    match host.floor.missing.is_empty() || printed != ExitCode::SUCCESS {
        true => printed,
        false => Exit::CELL.into(),
    }
}

/// Why this host lacks a layer.
fn reason(host: &Host, layer: Layer) -> Option<&str> {
    match layer {
        Layer::Namespaces | Layer::NamespaceNet => return host.no_namespaces.as_deref(),
        Layer::Supervision => return host.no_supervision.as_deref(),
        Layer::Cgroup => return host.floor.cgroup.as_deref(),
        _ => {}
    }
    host.floor
        .missing
        .iter()
        .find(|(missing, _)| *missing == layer)
        .map(|(_, reason)| reason.as_str())
}

fn human(host: &Host, programs: &[(&str, Search)]) -> String {
    let mut text = "Host\n".to_owned();
    let abi = match host.floor.landlock_abi {
        0 => "absent or switched off".to_owned(),
        abi => format!("ABI {abi}"),
    };
    line(
        &mut text,
        "kernel",
        &format!("{} ({})", host.floor.kernel, host.floor.arch),
    );
    line(&mut text, "landlock", &abi);

    text.push_str("\nFloor of the cell\n");
    let floor = Layer::ALL
        .into_iter()
        .filter(|layer| !Layer::DEGRADES.contains(layer));
    for layer in floor {
        match reason(host, layer) {
            None => line(&mut text, layer.name(), "can be enforced"),
            Some(reason) => line(&mut text, layer.name(), &format!("MISSING: {reason}")),
        }
    }

    text.push_str("\nAround the floor\n");
    for layer in Layer::DEGRADES {
        match reason(host, layer) {
            None if layer == Layer::Cgroup => line(&mut text, layer.name(), "can be used"),
            None => line(&mut text, layer.name(), "tried here, and held"),
            Some(reason) => line(&mut text, layer.name(), &format!("not here: {reason}")),
        }
    }

    if let Some(uid) = host.user {
        line(&mut text, "cell.user", &format!("uid {uid} by default"));
    }

    text.push_str("\nPrograms\n");
    for (name, search) in programs {
        let found = match search {
            Search::Found(path) => path.display().to_string(),
            Search::NotExecutable(path) => format!("{} is not executable", path.display()),
            Search::Nowhere => "not found".to_owned(),
        };
        line(&mut text, name, &found);
    }
    let verdict = if host.floor.missing.is_empty() {
        "The whole floor of the cell can be enforced here.\n".to_owned()
    } else {
        let flags: Vec<String> = host
            .floor
            .missing
            .iter()
            .map(|(layer, _)| format!("--optional {}", layer.name()))
            .collect();
        format!(
            "The floor of the cell cannot be enforced here: `run` ends with exit code {}.\n\
             hint: a newer kernel (6.12 or later) has every layer\n\
             hint: to run without what is missing: {}\n",
            Exit::CELL,
            flags.join(" ")
        )
    };
    text.push('\n');
    text.push_str(&verdict);
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    const WIDTH: usize = 16;
    writeln!(text, "  {name:WIDTH$}  {value}").ok();
}

fn report(host: &Host, programs: &[(&str, Search)]) -> Value {
    let layers: Vec<Value> = Layer::ALL
        .into_iter()
        .map(|layer| {
            let reason = reason(host, layer);
            json!({"layer": layer.name(), "enforceable": reason.is_none(), "reason": reason})
        })
        .collect();
    let programs: serde_json::Map<String, Value> = programs
        .iter()
        .map(|(name, search)| {
            let path = match search {
                Search::Found(path) => json!(path.to_string_lossy()),
                Search::NotExecutable(_) | Search::Nowhere => Value::Null,
            };
            ((*name).to_owned(), path)
        })
        .collect();
    json!({
        "enforceable": host.floor.missing.is_empty(),
        "kernel": host.floor.kernel,
        "architecture": host.floor.arch,
        "landlock_abi": host.floor.landlock_abi,
        "no_new_privs": host.floor.no_new_privs,
        "user_namespaces": host.no_namespaces.is_none(),
        "server_uid": host.user,
        "layers": layers,
        "programs": programs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(missing: Vec<(Layer, String)>) -> Host {
        let floor = HostReport {
            kernel: "6.12.0".to_owned(),
            arch: "x86_64",
            landlock_abi: 6,
            seccomp: true,
            no_new_privs: false,
            cgroup: Some("not delegated".to_owned()),
            missing,
        };
        Host {
            floor,
            no_namespaces: Some("sysctl".to_owned()),
            no_supervision: None,
            user: Some(77),
        }
    }

    #[test]
    fn a_missing_layer_is_named_with_its_reason_and_flag() {
        let host = host(vec![(Layer::LandlockScopes, "needs ABI 6".to_owned())]);
        let text = human(&host, &[("node", Search::Nowhere)]);
        assert!(
            text.contains("landlock-scopes   MISSING: needs ABI 6"),
            "{text}"
        );
        assert!(
            text.contains("namespaces        not here: sysctl"),
            "{text}"
        );
        assert!(
            text.contains("cgroup            not here: not delegated"),
            "{text}"
        );
        assert!(text.contains("--optional landlock-scopes"), "{text}");
        assert!(
            text.contains("cell.user         uid 77 by default"),
            "{text}"
        );
        assert!(text.contains("node              not found"), "{text}");
        let report = report(&host, &[]);
        assert_eq!(report["enforceable"], false);
        assert_eq!(report["layers"][3]["reason"], "needs ABI 6");
    }

    #[test]
    fn a_whole_floor_is_said_to_be_one() {
        let text = human(&host(Vec::new()), &[]);
        assert!(text.ends_with("The whole floor of the cell can be enforced here.\n"));
    }

    #[test]
    fn the_config_knows_the_layers_of_the_cell() {
        assert_eq!(crate::config::LAYERS, Layer::ALL.map(Layer::name));
    }
}
