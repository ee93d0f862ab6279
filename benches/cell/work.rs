//! Work that is mostly the kernel's, in slices that take turns: the same process outside, in a cell with
//! namespaces, in one on the floor, and under the least that a cell can be: one landlock rule, and a filter of one
//! instruction. What that costs is the kernel's part.

use super::{Failure, median};
use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
};
use rustix::fs::{Mode, OFlags, open};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Instant;

/// What a cell may take, for what has a target; outside is 1.
const TARGET: f64 = 1.03;
/// Files of one slice.
const FILES: usize = 200;

/// One kind of work.
struct Kind {
    name: &'static str,
    /// Whether the target is meant for it; the others say where it goes.
    judged: bool,
    /// How often a slice does it.
    times: usize,
    run: fn(&mut Bench, usize) -> io::Result<()>,
}

const KINDS: [Kind; 9] = [
    Kind {
        name: "files: make, write 1 KiB, stat, read, rename, unlink",
        judged: true,
        times: FILES,
        run: Bench::files,
    },
    Kind {
        name: "a source tree: list, stat and read 200 files",
        judged: true,
        times: 4,
        run: Bench::tree,
    },
    Kind {
        name: "calls: a pipe each way, stat, getppid",
        judged: true,
        times: 4000,
        run: Bench::calls,
    },
    Kind {
        name: "getppid alone",
        judged: false,
        times: 40_000,
        run: |_, times| {
            for _ in 0..times {
                black_box(rustix::process::getppid());
            }
            Ok(())
        },
    },
    Kind {
        name: "a byte through a pipe",
        judged: false,
        times: 10_000,
        run: |bench, times| (0..times).try_for_each(|_| bench.pipe()),
    },
    Kind {
        name: "stat",
        judged: false,
        times: 10_000,
        run: |bench, times| {
            for _ in 0..times {
                black_box(fs::symlink_metadata(&bench.known)?);
            }
            Ok(())
        },
    },
    Kind {
        name: "open and close",
        judged: false,
        times: 10_000,
        run: |bench, times| {
            for _ in 0..times {
                black_box(open(&bench.known, OFlags::RDONLY, Mode::empty())?);
            }
            Ok(())
        },
    },
    Kind {
        name: "make and unlink",
        judged: false,
        times: 1000,
        run: |bench, times| {
            let path = bench.directory.join("one");
            for _ in 0..times {
                fs::File::create(&path)?;
                fs::remove_file(&path)?;
            }
            Ok(())
        },
    },
    Kind {
        name: "chmod",
        judged: false,
        times: 1000,
        run: |bench, times| {
            for time in 0..times {
                let mode = [0o600, 0o640][time % 2];
                fs::set_permissions(&bench.known, fs::Permissions::from_mode(mode))?;
            }
            Ok(())
        },
    },
];

/// What a worker works on.
struct Bench {
    directory: PathBuf,
    /// A file that is always there.
    known: PathBuf,
    tree: Vec<PathBuf>,
    pipe: (io::PipeReader, io::PipeWriter),
}

impl Bench {
    fn new(directory: &Path) -> io::Result<Self> {
        let known = directory.join("known");
        fs::write(&known, "x")?;
        let mut tree = Vec::new();
        for branch in 0..10 {
            let branch = directory.join(format!("src/part-{branch}"));
            fs::create_dir_all(&branch)?;
            for leaf in 0..20 {
                fs::write(branch.join(format!("module_{leaf}.js")), [b'x'; 2048])?;
            }
            tree.push(branch);
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            known,
            tree,
            pipe: io::pipe()?,
        })
    }

    fn files(&mut self, files: usize) -> io::Result<()> {
        let (one, other) = (self.directory.join("made"), self.directory.join("renamed"));
        for _ in 0..files {
            fs::write(&one, [7; 1024])?;
            black_box(fs::metadata(&one)?);
            black_box(fs::read(&one)?);
            fs::rename(&one, &other)?;
            fs::remove_file(&other)?;
        }
        Ok(())
    }

    fn tree(&mut self, times: usize) -> io::Result<()> {
        for _ in 0..times {
            for branch in &self.tree {
                for entry in fs::read_dir(branch)? {
                    let path = entry?.path();
                    black_box(fs::metadata(&path)?);
                    black_box(fs::read(&path)?);
                }
            }
        }
        Ok(())
    }

    fn calls(&mut self, times: usize) -> io::Result<()> {
        for _ in 0..times {
            self.pipe()?;
            black_box(fs::metadata(&self.known)?);
            black_box(rustix::process::getppid());
        }
        Ok(())
    }

    fn pipe(&mut self) -> io::Result<()> {
        let (reader, writer) = &mut self.pipe;
        let mut byte = [7];
        writer.write_all(&byte)?;
        reader.read_exact(&mut byte)
    }
}

/// One landlock rule for all of the directory, and a filter that refuses nothing.
fn confine(directory: &Path) -> Result<(), Failure> {
    let all = AccessFs::from_all(ABI::V5);
    Ruleset::default()
        .handle_access(all)?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(directory)?, all))?
        .restrict_self()?;
    let refuse = SeccompAction::Errno(1);
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(BTreeMap::new(), SeccompAction::Allow, refuse, arch)?;
    Ok(seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?)
}

/// Does what it is told, a slice for each line, and says how many nanoseconds that took.
pub(super) fn worker(directory: &Path) -> Result<ExitCode, Failure> {
    let mut bench = Bench::new(directory)?;
    if directory.ends_with("least") {
        confine(directory)?;
    }
    for line in io::stdin().lines() {
        let kind: usize = line?.parse()?;
        let kind = KINDS.get(kind).ok_or("no such work")?;
        let begin = Instant::now();
        (kind.run)(&mut bench, kind.times)?;
        println!("{}", begin.elapsed().as_nanos());
        io::stdout().flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a worker runs.
struct Place {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Place {
    fn start(name: &str, directory: &Path) -> Result<Self, Failure> {
        let own = std::env::current_exe()?;
        let place = directory.join(name);
        fs::create_dir(&place)?;
        let mut command = match cell(name, &place) {
            None => Command::new(&own),
            Some(mut command) => {
                command.arg(&own);
                command
            }
        };
        let mut child = command
            .arg("__work")
            .arg(&place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes".into());
        };
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    fn slice(&mut self, kind: usize) -> Result<f64, Failure> {
        writeln!(self.input, "{kind}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }
}

/// The words before the worker.
fn cell(name: &str, directory: &Path) -> Option<Command> {
    let flags: &[&str] = match name {
        "tier-a" => &["--require", "namespaces"],
        "tier-b" => &["--off", "namespaces", "--require", "supervision"],
        _ => return None,
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.args(["exec", "-q", "--write"]).arg(directory);
    command.args(flags);
    if name == "tier-b" && rustix::process::geteuid().is_root() {
        // Another user could not write here, and there is nothing that maps owners.
        command.args(["--user", "root"]);
    }
    command.arg("--");
    Some(command)
}

/// Prints the table; whether everything is within its target.
pub(super) fn report(rounds: usize) -> Result<bool, Failure> {
    let directory = tempfile::Builder::new()
        .prefix("cell-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let names = ["outside", "tier-a", "tier-b", "least"];
    let mut places = Vec::new();
    for name in names {
        places.push(Place::start(name, directory.path())?);
    }
    let mut within = true;
    println!("Work in a cell; medians of {rounds} rounds, in which the places take turns.\n");
    println!("| | outside | tier A | tier B | the kernel's part |\n|---|---|---|---|---|");
    for (number, kind) in KINDS.iter().enumerate() {
        let mut all: Vec<Vec<f64>> = vec![Vec::new(); places.len()];
        for round in 0..=rounds {
            for turn in 0..places.len() {
                let at = (round + turn) % places.len();
                let took = places[at].slice(number)?;
                // The first round warms up.
                if round > 0 {
                    all[at].push(took / kind.times as f64);
                }
            }
        }
        // Round by round: what the machine does meanwhile it does to all of them.
        let ratio = |at: usize| median(all[at].iter().zip(&all[0]).map(|(it, base)| it / base));
        let [a, b, least] = [1, 2, 3].map(ratio);
        within &= !kind.judged || (a <= TARGET && b <= TARGET);
        let outside = median(all[0].iter().copied()) / 1e3;
        println!(
            "| {} | {outside:.2} µs | {a:.3} | {b:.3} | {least:.3} |",
            kind.name
        );
    }
    println!();
    for mut place in places {
        drop(place.input);
        place.child.wait()?;
    }
    Ok(within)
}
