use super::*;
use crate::config::{ByteSize, Cores, EgressRule, EnvRule};

fn spec(config: &Cell, command: &[&str], cwd: &Path, tmp: &Path) -> Result<CellSpec, PlanError> {
    let env = |name: &str| match name {
        "SECRET_TOKEN" => Some("hunter2".into()),
        "LD_PRELOAD" => Some("/x.so".into()),
        "LANG" => Some("de_DE.UTF-8".into()),
        "HOME" => Some("/nobody-lives-here".into()),
        "PATH" => Some("/usr/local/bin:/usr/bin:/bin".into()),
        _ => None,
    };
    let host = Host {
        env: &env,
        cwd: cwd.to_owned(),
    };
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    Planner::new(host, config).plan(&command, tmp)
}

fn value<'a>(spec: &'a CellSpec, name: &str) -> Option<&'a str> {
    spec.env
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

#[test]
fn a_plain_binary_gets_itself_and_little_else() {
    let tmp = tempfile::tempdir().unwrap();
    let spec = spec(&Cell::default(), &["cat"], Path::new("/"), tmp.path()).unwrap();
    let cat = Path::new("/usr/bin/cat").canonicalize().unwrap();
    assert!(spec.execute.contains(&cat), "{:?}", spec.execute);
    assert_eq!(spec.args, ["cat"]);
    assert_eq!(spec.cwd, tmp.path().join("home"));
    assert_eq!(value(&spec, "HOME"), tmp.path().join("home").to_str());
    assert_eq!(value(&spec, "LANG"), Some("de_DE.UTF-8"));
    assert_eq!(value(&spec, "SECRET_TOKEN"), None);
    assert_eq!(value(&spec, "LD_PRELOAD"), None);
    assert_eq!(value(&spec, "RES_OPTIONS"), None);
    assert!(spec.connect_ports.is_empty());
    assert!(!spec.write.iter().any(|path| tmp.path().starts_with(path)));
    assert_eq!(spec.canary, Some(tmp.path().join("canary")));
    for path in [&spec.read, &spec.write, &spec.execute]
        .into_iter()
        .flatten()
    {
        assert!(path.exists(), "{}", path.display());
        let shells = ["sh", "bash", "dash", "zsh", "busybox"];
        assert!(
            !shells.iter().any(|shell| path.ends_with(shell)),
            "{}",
            path.display()
        );
    }
    assert_eq!(spec.warnings, [""; 0]);
}

#[test]
fn what_the_operator_names_must_be_there() {
    let tmp = tempfile::tempdir().unwrap();
    for (read, write) in [
        (vec!["/not/there".into()], vec![]),
        (vec![], vec!["/not/there".into()]),
    ] {
        let flag = if read.is_empty() { "--write" } else { "--read" };
        let config = Cell {
            read,
            write,
            ..Cell::default()
        };
        let error = spec(&config, &["cat"], Path::new("/"), tmp.path()).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        let text = error.to_string();
        assert!(text.contains("/not/there") && text.contains(flag), "{text}");
    }
    let config = Cell {
        execute: vec!["no-such-program".into()],
        ..Cell::default()
    };
    let error = spec(&config, &["cat"], Path::new("/"), tmp.path()).unwrap_err();
    assert_eq!(error.exit_code(), 78);
    let config = Cell {
        optional: vec!["landlok".into()],
        ..Cell::default()
    };
    let error = spec(&config, &["cat"], Path::new("/"), tmp.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("landlock-net"), "{error}");
}

#[test]
fn the_operator_may_name_anything_but_hears_about_it() {
    let tmp = tempfile::tempdir().unwrap();
    let config = Cell {
        read: vec!["/".into()],
        env: vec![
            EnvRule::Pass("SECRET_TOKEN".into()),
            EnvRule::Pass("LD_PRELOAD".into()),
            EnvRule::Pass("ABSENT".into()),
            EnvRule::Set("HOME".into(), "/elsewhere".into()),
        ],
        memory: Some(ByteSize(1 << 30)),
        processes: Some(8),
        optional: vec!["landlock-net".into(), "seccomp".into()],
        require: vec!["seccomp".into()],
        ..Cell::default()
    };
    let spec = spec(&config, &["cat"], Path::new("/"), tmp.path()).unwrap();
    assert_eq!(value(&spec, "SECRET_TOKEN"), Some("hunter2"));
    assert_eq!(value(&spec, "LD_PRELOAD"), Some("/x.so"));
    assert_eq!(value(&spec, "ABSENT"), None);
    assert_eq!(value(&spec, "HOME"), Some("/elsewhere"));
    assert_eq!((spec.memory, spec.processes), (Some(1 << 30), Some(8)));
    let optional = [&[Layer::LandlockNet], &Layer::DEGRADES[..]].concat();
    assert_eq!(spec.optional, optional);
    assert_eq!(spec.canary, None, "a granted root covers it");
    assert_eq!(spec.warnings.len(), 2, "{:?}", spec.warnings);
}

#[test]
fn a_cell_without_a_cgroup_starts_unless_somebody_counts_on_it() {
    let tmp = tempfile::tempdir().unwrap();
    let plan = |config: &Cell| spec(config, &["cat"], Path::new("/"), tmp.path()).unwrap();
    assert_eq!(plan(&Cell::default()).optional, Layer::DEGRADES);
    let others = [Layer::Namespaces, Layer::NamespaceNet, Layer::Supervision];
    let required = Cell {
        require: vec!["cgroup".into()],
        ..Cell::default()
    };
    assert_eq!(plan(&required).optional, others);
    let limited = Cell {
        cpu: Some(Cores(1500)),
        ..Cell::default()
    };
    let spec = plan(&limited);
    assert_eq!(spec.cpu, Some(1500));
    assert_eq!((spec.optional, spec.cgroup), (others.into(), None));
    let off = Cell {
        off: vec!["cgroup".into()],
        ..Cell::default()
    };
    assert_eq!(plan(&off).cgroup, Some(CellCgroup::off()));
}

#[test]
fn an_allowed_address_opens_its_port_and_no_names() {
    let tmp = tempfile::tempdir().unwrap();
    let egress = vec![EgressRule {
        host: "192.0.2.7".into(),
        port: 443,
    }];
    let config = Cell {
        egress,
        ..Cell::default()
    };
    let spec = spec(&config, &["cat"], Path::new("/"), tmp.path()).unwrap();
    assert_eq!(spec.connect_ports, [443]);
    assert_eq!(value(&spec, "RES_OPTIONS"), None);
    assert!(!spec.datagrams);
}

#[test]
fn an_allowed_name_brings_the_way_that_its_name_server_answers() {
    let tmp = tempfile::tempdir().unwrap();
    let egress = vec![EgressRule {
        host: "a.example".into(),
        port: 443,
    }];
    let config = Cell {
        egress,
        ..Cell::default()
    };
    let spec = spec(&config, &["cat"], Path::new("/"), tmp.path()).unwrap();
    assert_eq!(spec.connect_ports, [53, 443]);
    // Which of the two depends on where the test runs; never both, never none.
    let by_tcp = value(&spec, "RES_OPTIONS") == Some("use-vc");
    assert_ne!(by_tcp, spec.datagrams);
    let told = spec.floor_warnings.iter().any(|text| text.contains("UDP"));
    assert_eq!(told, spec.datagrams);
}

#[test]
fn the_working_directory_stays_when_something_in_it_is_granted() {
    let tmp = tempfile::tempdir().unwrap();
    let work = tempfile::tempdir().unwrap();
    let docs = work.path().join("docs");
    std::fs::create_dir(&docs).unwrap();
    let config = Cell {
        read: vec!["docs".into()],
        ..Cell::default()
    };
    let below = spec(&config, &["cat"], work.path(), tmp.path()).unwrap();
    assert_eq!(below.cwd, work.path());
    assert!(below.read.contains(&docs));
    let none = spec(&Cell::default(), &["cat"], work.path(), tmp.path()).unwrap();
    assert_eq!(none.cwd, tmp.path().join("home"));
    let above = spec(&Cell::default(), &["cat"], tmp.path(), tmp.path()).unwrap();
    assert_eq!(
        above.cwd,
        tmp.path().join("home"),
        "its own directories do not count"
    );
}

#[test]
fn a_known_package_brings_the_program_it_runs() {
    let tmp = tempfile::tempdir().unwrap();
    let config = Cell {
        execute: vec!["git".into()],
        ..Cell::default()
    };
    let Ok(spec) = spec(&config, &["cat"], Path::new("/"), tmp.path()) else {
        return;
    };
    assert!(spec.execute.iter().any(|path| path.ends_with("git")));
    assert!(spec.execute.iter().any(|path| path.ends_with("git-core")));
}
