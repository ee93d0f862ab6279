//! What ends a server is named: out of memory, a filter, a limit, a signal; and its tree is one.

use crate::rig::Rig;
use crate::support::skip;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An interpreter that is no shim.
fn python() -> Option<String> {
    let code = "import os, sys; print(os.path.realpath(sys.executable))";
    let out = Command::new("python3").args(["-c", code]).output();
    let found = out.ok().filter(|out| out.status.success());
    if found.is_none() {
        skip("cell.runtime.python3", "it is not installed");
    }
    found.map(|out| String::from_utf8(out.stdout).unwrap().trim().to_owned())
}

fn exec(rig: &Rig, flags: &[&str], command: &[&str]) -> Output {
    let words = [&["exec"], flags, &["--"], command].concat();
    rig.command(&words).output().unwrap()
}

/// The leaves below our own cgroup of version 2, when we may make some.
fn leaves() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = text.lines().find(|line| line.contains(" - cgroup2 "))?;
    let point = mount.split(' ').nth(4)?;
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = Path::new(point).join(own);
    let writable = rustix::fs::access(path.join("cgroup.procs"), rustix::fs::Access::WRITE_OK);
    let newer = path.join("cgroup.stat").exists();
    (writable.is_ok() && newer && nix::unistd::geteuid().is_root()).then_some(path)
}

#[test]
fn the_server_runs_in_a_cgroup_of_its_own_which_goes_with_it() {
    let Some(own) = leaves() else {
        return skip("cgroup.real", "no cgroup that we may divide");
    };
    let rig = Rig::new();
    let output = exec(&rig, &[], &["/bin/cat", "/proc/self/cgroup"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("0::")).unwrap();
    let (_, leaf) = line.rsplit_once('/').unwrap();
    assert!(leaf.starts_with("cofferdam.") && leaf.len() > 42, "{line}");
    assert!(!own.join(leaf).exists(), "{leaf} is left");
}

#[test]
fn a_required_cgroup_that_cannot_be_had_stops_the_start() {
    let rig = Rig::new();
    let said = |flags: &[&str]| {
        let output = exec(&rig, flags, &["/bin/true"]);
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    for flags in [["--require", "cgroup"], ["--cpu", "1.5"]] {
        match said(&flags) {
            (Some(0), _) => skip("cgroup.required", "this host can limit a whole cell"),
            (code, text) => {
                assert_eq!(code, Some(77), "{text}");
                assert!(text.contains("cgroup cannot be enforced: "), "{text}");
            }
        }
    }
    let optional = said(&["--cpu", "1.5", "--optional", "cgroup"]);
    assert_eq!(optional, (Some(0), String::new()));
}

#[test]
fn a_cgroup_that_is_switched_off_is_not_made() {
    let rig = Rig::new();
    let output = exec(
        &rig,
        &["-v", "--off", "cgroup"],
        &["/bin/cat", "/proc/self/cgroup"],
    );
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("cgroup MISSING (switched off)"), "{text}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("/cofferdam."), "{text}");

    let output = exec(&rig, &["--off", "cgroup", "--cpu", "1"], &["/bin/true"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("`cell.cpu` needs the layer"), "{text}");
}

#[test]
fn each_cause_of_an_end_has_its_words() {
    let Some(python) = python() else { return };
    let rig = Rig::new();
    let seccomp = r"
import ctypes, os, struct
libc = ctypes.CDLL(None)
# A filter of its own that kills: getppid is the one call that it names.
number = {'x86_64': 110, 'aarch64': 173}[os.uname().machine]
code = struct.pack('HBBI', 0x20, 0, 0, 0) + struct.pack('HBBI', 0x15, 0, 1, number)
code += struct.pack('HBBI', 6, 0, 0, 0x80000000) + struct.pack('HBBI', 6, 0, 0, 0x7fff0000)
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 4, ctypes.addressof(buffer)))
assert libc.prctl(22, 2, program) == 0
os.getppid()
";
    let cases = [
        (seccomp, 31, "killed by seccomp (SIGSYS)"),
        (
            "import signal, os; signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\nopen(os.environ['TMPDIR'] + '/x', 'wb').truncate(64 << 30)",
            25,
            "a file grew past its limit (SIGXFSZ)",
        ),
        (
            "import resource, os; resource.setrlimit(resource.RLIMIT_CPU, (1, 3))\nwhile True: pass",
            24,
            "its processor time is used up (SIGXCPU)",
        ),
        ("import os; os.kill(os.getpid(), 9)", 9, "killed by SIGKILL"),
    ];
    for (code, signal, words) in cases {
        let output = exec(&rig, &["-v"], &[&python, "-c", code]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(128 + signal), "{text}");
        assert!(text.contains(words), "{words}: {text}");
        assert!(!text.contains("want of memory"), "{text}");
    }
}

/// A memory cgroup of either version that holds the whole of cofferdam, as a unit's MemoryMax does.
struct Confined(PathBuf);

impl Confined {
    fn make(bytes: u64) -> Option<Self> {
        let first = Path::new("/sys/fs/cgroup/memory");
        let name = format!("cofferdam-test-{}", std::process::id());
        let path = first.join(name);
        if std::fs::create_dir(&path).is_err() {
            skip(
                "cgroup.memory",
                "no memory cgroup of version 1 that we may make",
            );
            return None;
        }
        let made = Self(path);
        std::fs::write(made.0.join("memory.limit_in_bytes"), bytes.to_string()).unwrap();
        Some(made)
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        for _ in 0..500 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        println!("{} is left", self.0.display());
    }
}

#[test]
fn out_of_memory_is_not_a_plain_signal() {
    let Some(python) = python() else { return };
    let Some(cgroup) = Confined::make(128 << 20) else {
        return;
    };
    let rig = Rig::new();
    // The shell goes in first, so that all of cofferdam is inside.
    let program = env!("CARGO_BIN_EXE_cofferdam");
    let procs = cgroup.0.join("cgroup.procs");
    let script = format!(
        "echo $$ > {} && exec {program} exec -- {python} -c \"x = bytearray(512 << 20)\"",
        procs.display()
    );
    let output = Command::new("/bin/sh")
        .args(["-c", &script])
        .current_dir(rig.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(137), "{text}");
    assert!(text.contains("for want of memory"), "{text}");
}
