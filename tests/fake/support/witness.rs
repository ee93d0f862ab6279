//! Looks at what was planted: how each act's own file, process and memory fare.

use crate::planted::{Planted, Victim};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

/// Longer than two beats of a daemon.
const BEAT: Duration = Duration::from_millis(150);

/// What can be told from outside, by act.
pub(crate) struct State(BTreeMap<String, String>);

impl State {
    pub(crate) fn take(planted: &mut Planted, acts: &[Value]) -> Self {
        let mut all = BTreeMap::new();
        for act in acts.iter().map(|act| act["act"].as_str().unwrap()) {
            let mut text = String::new();
            describe(&planted.outside.path().join(act), &mut text);
            if let Some(victim) = planted.victims.get_mut(act) {
                text.push_str(&condition(victim));
            }
            all.insert(act.to_owned(), text);
        }
        Self(all)
    }

    pub(crate) fn differs(&self, other: &Self, act: &str) -> bool {
        self.0.get(act) != other.0.get(act)
    }
}

/// Everything about a file or a directory and what is below.
fn describe(path: &Path, text: &mut String) {
    let Ok(about) = path.symlink_metadata() else {
        return;
    };
    let (mode, links, owner) = (about.mode(), about.nlink(), about.uid());
    // Reading changes the time of access; nothing else does without changing more.
    let written = about.mtime_nsec() + about.mtime() * 1_000_000_000;
    *text += &format!("{} {mode:o} {links} {owner} {written}", path.display());
    if about.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .collect();
        names.sort();
        names.iter().for_each(|name| describe(name, text));
    } else if about.is_file() {
        let mut value = [0u8; 64];
        let attribute = rustix::fs::lgetxattr(path, "user.probe", &mut value[..]).is_ok();
        let content = fs::read(path).unwrap_or_default();
        *text += &format!("{attribute} {}\n", String::from_utf8_lossy(&content));
    }
}

/// How a process fares: whether it lives and runs, its rank, processors, limits, and its word.
fn condition(victim: &mut Victim) -> String {
    if victim.child.try_wait().unwrap().is_some() {
        return "dead".to_owned();
    }
    let pid = victim.child.id();
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = file("stat");
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let fields: Vec<&str> = after.split_whitespace().collect();
    let field = |at: usize| fields.get(at).copied().unwrap_or("");
    let (stopped, nice, policy) = (matches!(field(0), "T" | "t"), field(16), field(38));
    let status = file("status");
    let processors = status
        .lines()
        .find(|line| line.starts_with("Cpus_allowed:"));
    let mut word = [0; 8];
    let memory = File::open(format!("/proc/{pid}/mem"));
    let read = memory.and_then(|memory| memory.read_exact_at(&mut word, victim.word));
    let (limits, score) = (file("limits"), file("oom_score_adj"));
    format!(
        "{stopped} {nice} {policy} {processors:?} {limits} {score} {word:?} {}",
        read.is_ok()
    )
}

/// The daemons that still write to their file.
pub(crate) fn beating(planted: &Planted, acts: &[Value]) -> BTreeSet<String> {
    let daemons = acts.iter().filter(|act| act["category"] == "life");
    let names: Vec<&str> = daemons.map(|act| act["act"].as_str().unwrap()).collect();
    let length = |name: &&str| {
        planted
            .work
            .path()
            .join(name)
            .metadata()
            .map_or(0, |m| m.len())
    };
    let before: Vec<u64> = names.iter().map(length).collect();
    std::thread::sleep(BEAT);
    let grown = names
        .iter()
        .zip(before)
        .filter(|(name, before)| length(name) > *before);
    grown.map(|(name, _)| (*name).to_owned()).collect()
}

/// Processes of this run that are still there: the targets are among their words.
pub(crate) fn leftovers(outside: &Path) -> Vec<i32> {
    let marker = outside.to_str().unwrap().as_bytes();
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.windows(marker.len()).any(|part| part == marker)
    };
    pids.filter(ours).collect()
}
