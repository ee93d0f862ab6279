//! `cargo xtask escapes`: the hostile probe without a sandbox, in both cells of cofferdam and in
//! other sandboxes that are installed, side by side, judged by the same program outside of them.

use crate::say::say;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The ordinary user that root runs everything as once more: `nobody`.
const NOBODY: u32 = 65534;

/// What the probe gets through, by the name of the act: its category, and whether it did.
type Acts = BTreeMap<String, (String, bool)>;

/// One column.
struct Sandbox {
    name: &'static str,
    /// Where its program lies, or how to get it.
    program: Result<PathBuf, String>,
    /// What stands between the program and the probe's own words.
    words: Vec<String>,
}

/// Runs every sandbox that is here, prints the tables and writes `target/escapes.json`.
pub(crate) fn run(root: &Path) -> Result<bool, String> {
    let mut build = crate::cargo(root);
    build.args([
        "build",
        "--bin",
        "cofferdam",
        "--example",
        "probe",
        "--example",
        "outside",
    ]);
    if !crate::succeeds(&mut build)? {
        return Ok(false);
    }
    let built = crate::target_dir(root).join("debug");
    let mut users = vec![("this user", None)];
    if nobody_differs()? {
        users = vec![("root", None), ("an ordinary user", Some(NOBODY))];
    }
    let mut report = Map::new();
    for (title, user) in users {
        let columns = columns(root, &built, title == "root");
        let mut results = Vec::new();
        for sandbox in &columns {
            say!("xtask: {} as {title}", sandbox.name);
            results.push(sandbox.acts(&built, user));
        }
        let names: Vec<&str> = columns.iter().map(|sandbox| sandbox.name).collect();
        let text = table(title, &names, &results)?;
        say!("{text}");
        report.insert(title.to_owned(), record(&names, &results));
    }
    let path = crate::target_dir(root).join("escapes.json");
    crate::fixtures::write(&path, &format!("{:#}\n", Value::Object(report)))?;
    say!("xtask: every act by name: {}", path.display());
    Ok(true)
}

fn nobody_differs() -> Result<bool, String> {
    let output = Command::new("id")
        .arg("-u")
        .output()
        .map_err(|e| format!("id: {e}"))?;
    Ok(output.stdout.trim_ascii() == b"0")
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The strictest flags of each that leave the probe its own program and one directory to write.
fn columns(root: &Path, built: &Path, as_root: bool) -> Vec<Sandbox> {
    let cofferdam = |cell: &[&str]| {
        let limits = [
            "--write",
            "{work}",
            "--processes",
            "20",
            "--memory",
            "1GiB",
            "--",
        ];
        let mut words = strings(&["exec"]);
        words.extend(strings(cell));
        words.extend(strings(&limits));
        (Ok(built.join("cofferdam")), words)
    };
    let srt = crate::target_dir(root).join("tools/srt");
    let place = srt.display().to_string();
    let bwrap = installed("bwrap", "apt-get install bubblewrap");
    let jail = installed("firejail", "apt-get install firejail");
    let runtime = (sandbox_runtime(&srt), strings(&["-c", SRT, "sh", &place]));
    // Nothing maps root's files there, and what is planted belongs to whoever asks.
    let user = match as_root {
        true => &["--user", "root"][..],
        false => &[],
    };
    let floor = cofferdam(&[&["--off", "namespaces"], user].concat());
    let sandboxes = [
        ("none", (Ok("env".into()), Vec::new())),
        ("cofferdam", cofferdam(&["--require", "namespaces"])),
        ("cofferdam, no namespaces", floor),
        ("bubblewrap", (bwrap, bubblewrap())),
        ("firejail", (jail, firejail())),
        ("srt", runtime),
    ];
    let column = |(name, (program, words))| Sandbox {
        name,
        program,
        words,
    };
    sandboxes.map(column).into()
}

fn bubblewrap() -> Vec<String> {
    let words = "--unshare-all --die-with-parent --new-session --clearenv --cap-drop ALL --ro-bind \
         /usr /usr --symlink usr/lib /lib --symlink usr/lib64 /lib64 --symlink usr/bin /bin \
         --ro-bind-try /etc/ld.so.cache /etc/ld.so.cache --proc /proc --dev /dev --tmpfs /tmp \
         --ro-bind {probe} {probe} --bind {work} {work} --chdir {work} --";
    words.split_whitespace().map(Into::into).collect()
}

fn firejail() -> Vec<String> {
    let words = "--quiet --noprofile --caps.drop=all --nonewprivs --noroot --seccomp \
         --seccomp.block-secondary --restrict-namespaces --net=none --ipc-namespace \
         --private-dev --private-tmp --whitelist={work} --whitelist={probe} --dbus-user=none \
         --dbus-system=none --disable-mnt --nogroups --noinput --rlimit-as=1073741824 \
         --rlimit-nproc=20 --rlimit-fsize=4294967296 --rlimit-nofile=1024 --";
    words.split_whitespace().map(Into::into).collect()
}

/// It takes a file of settings, which has to name the directory: the shell writes it.
const SRT: &str = r#"srt=$1; shift
cat >"{home}/srt.json" <<END
{"network": {"allowedDomains": [], "deniedDomains": []},
 "filesystem": {"denyRead": ["/tmp", "/root", "/home", "/srv", "/var", "/etc/shadow", "/etc/gshadow"],
  "allowRead": ["{work}", "{probe}"], "allowWrite": ["{work}"], "denyWrite": []}}
END
exec "$srt/node_modules/.bin/srt" --settings "{home}/srt.json" -- "$@""#;

fn installed(program: &str, how: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file());
    found.ok_or_else(|| how.to_owned())
}

fn sandbox_runtime(home: &Path) -> Result<PathBuf, String> {
    let how = format!(
        "npm install --prefix {} @anthropic-ai/sandbox-runtime, with bubblewrap, socat and ripgrep",
        home.display()
    );
    let needs = ["bwrap", "socat", "rg"];
    let here = needs.iter().all(|program| installed(program, "").is_ok());
    if here && home.join("node_modules/.bin/srt").exists() {
        return Ok("sh".into());
    }
    Err(how)
}

impl Sandbox {
    /// `Err` says why there is no result.
    fn acts(&self, built: &Path, user: Option<u32>) -> Result<Acts, String> {
        let program = self
            .program
            .as_ref()
            .map_err(|how| format!("not installed ({how})"))?;
        let examples = built.join("examples");
        let mut outside = Command::new(examples.join("outside"));
        outside
            .arg(examples.join("probe"))
            .arg(program)
            .args(&self.words)
            .args(["{probe}", "{targets}"]);
        if let Some(user) = user {
            outside.uid(user).gid(user).current_dir("/");
        }
        let output = outside.output().map_err(|e| format!("cannot run: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let acts: Acts = text.lines().filter_map(read).collect();
        if acts.is_empty() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let first = errors.lines().find(|line| !line.is_empty());
            return Err(format!(
                "does not start: {}",
                first.unwrap_or("without a word")
            ));
        }
        Ok(acts)
    }
}

fn read(line: &str) -> Option<(String, (String, bool))> {
    let line: Value = serde_json::from_str(line).ok()?;
    let through = line["through"] == true || line["effect"] == true;
    let category = line["category"].as_str()?.to_owned();
    Some((line["act"].as_str()?.to_owned(), (category, through)))
}

/// Acts that got through, of those that work without a sandbox; an honest act counts the other way.
fn table(title: &str, names: &[&str], results: &[Result<Acts, String>]) -> Result<String, String> {
    let bare = results.first().and_then(|acts| acts.as_ref().ok());
    let bare = bare.ok_or("the probe does not run without a sandbox")?;
    let worked = |category: &str| -> BTreeSet<&String> {
        let acts = bare
            .iter()
            .filter(|(_, (of, through))| *through && of == category);
        acts.map(|(name, _)| name).collect()
    };
    let categories: BTreeSet<&str> = bare
        .values()
        .map(|(category, _)| category.as_str())
        .collect();
    let hostile: Vec<&str> = categories
        .iter()
        .copied()
        .filter(|of| *of != "honest")
        .collect();
    let all: BTreeSet<&String> = hostile
        .iter()
        .flat_map(|category| worked(category))
        .collect();
    let rows = hostile.iter().map(|category| (*category, worked(category)));
    let rows = rows.chain([("all", all), ("honest, works", worked("honest"))]);

    let mut text =
        format!("\nas {title}: acts that got through, of those that work without a sandbox\n\n| |");
    let mut line = |cells: String| text.push_str(&(cells + "\n"));
    line(
        names
            .iter()
            .fold(String::new(), |row, name| row + &format!(" {name} |")),
    );
    line(format!("|---|{}", "---|".repeat(names.len())));
    for (category, tried) in rows {
        let mut row = format!("| {category} |");
        for acts in results {
            let cell = acts.as_ref().map_or_else(
                |_| "–".to_owned(),
                |acts| {
                    let through =
                        |name: &&&String| acts.get(**name).is_none_or(|(_, through)| *through);
                    // An honest act that was not reached did not work; a hostile one is not excused.
                    let honest =
                        |name: &&&String| acts.get(**name).is_some_and(|(_, through)| *through);
                    let count = match category {
                        "honest, works" => tried.iter().filter(honest).count(),
                        _ => tried.iter().filter(through).count(),
                    };
                    format!("{count}/{}", tried.len())
                },
            );
            row.push_str(&format!(" {cell} |"));
        }
        line(row);
    }
    for (name, acts) in names.iter().zip(results) {
        if let Err(reason) = acts {
            line(format!("{name}: {reason}"));
        }
    }
    Ok(text)
}

fn record(names: &[&str], results: &[Result<Acts, String>]) -> Value {
    let one = |acts: &Result<Acts, String>| match acts {
        Err(reason) => json!({"missing": reason}),
        Ok(acts) => {
            let named = |wanted: bool, honest: bool| -> Vec<&String> {
                let fits =
                    |of: &str, through: bool| (of == "honest") == honest && through == wanted;
                let found = acts.iter().filter(|(_, (of, through))| fits(of, *through));
                found.map(|(name, _)| name).collect()
            };
            json!({
                "through": named(true, false),
                "refused": named(false, false),
                "honest_refused": named(false, true),
            })
        }
    };
    let columns = names
        .iter()
        .zip(results)
        .map(|(name, acts)| ((*name).to_owned(), one(acts)));
    Value::Object(columns.collect())
}
