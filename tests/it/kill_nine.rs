//! kill -9 of any one of our processes, again and again: what the server detached, and what ignores
//! every request to end, is gone in a moment. 20 times in each cell; `COFFERDAM_FULL=1` makes it
//! 1,000. Time in which somebody waited for a processor is the machine's: a turn that took long for it is
//! taken again.
//! `COFFERDAM_SEED` repeats an order of victims.

use crate::spawn_tree::{BEST, FLOOR, Run, is_launcher, kill, pids, words};
use crate::support::{full, namespaces_work};
use crate::wire::eventually;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Nothing may be left after this.
const MOMENT: Duration = Duration::from_millis(100);
/// Turns that are taken for each that must be judged, at most.
const AGAIN: usize = 3;
/// How long a failure is watched, to tell slow from never.
const PATIENCE: Duration = Duration::from_secs(5);

fn turns() -> usize {
    if full() { 1000 } else { 20 }
}

/// Xorshift: all that is asked of it is that every victim has its turn.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("COFFERDAM_SEED").ok();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = seed.map_or_else(
            || u64::from(now.unwrap().subsec_nanos()) | 1,
            |seed| seed.parse().unwrap(),
        );
        println!("COFFERDAM_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(most).unwrap()).unwrap()
    }
}

/// For how long at least one task had waited for a processor since the machine was started
/// (`/proc/pressure/cpu`, `some`); without that nothing is the machine's. A killed process needs a processor
/// to end, and on a busy machine each of seven waits for a slice of its own.
fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let total = text
        .lines()
        .next()
        .and_then(|line| line.rsplit_once("total="));
    let micros = total.and_then(|(_, micros)| micros.parse().ok());
    Duration::from_micros(micros.unwrap_or(0))
}

/// Starts a server with three double-forked, TERM-deaf children, kills one of ours, and measures
/// until nothing is left.
fn turn(cell: &[&str], dice: &mut Dice) -> (&'static str, Duration, Duration) {
    let mut run = Run::start_in(cell, "daemons", "0");
    // Message process, guardian, spawner, main, three helpers.
    assert!(eventually(|| pids(&run.marker).len() == 7));
    let between = run.between();
    let mut ours = vec![
        ("message process", run.outer_pid()),
        ("guardian", run.guardian_pid()),
        ("spawner", run.spawner_pid()),
    ];
    let names = match between.len() {
        1 => &["supervisor"][..],
        _ => &["pid 1", "launcher"],
    };
    assert_eq!(between.len(), names.len(), "who stands above the server");
    ours.extend(names.iter().copied().zip(between.clone()));
    let (name, victim) = ours[dice.below(ours.len())];
    let all = pids(&run.marker);
    let before = waited();
    kill(victim);
    let begin = Instant::now();
    // Ours have another name, and zombies have none.
    let lives =
        |pid: &i32| words(*pid).contains(&run.marker) || between.contains(pid) && is_launcher(*pid);
    let role = |pid: i32| match ours.iter().find(|(_, one)| *one == pid) {
        Some((name, _)) => *name,
        None => "the server's",
    };
    let mut watched: Vec<i32> = all.into_iter().chain(between.clone()).collect();
    let mut order = Vec::new();
    loop {
        drop(run.outer.try_wait());
        let (left, gone): (Vec<i32>, Vec<i32>) = watched.iter().partition(|pid| lives(pid));
        let now = begin.elapsed().as_millis();
        let gone = gone.iter().map(|pid| format!("{} {now} ms", role(*pid)));
        order.extend(gone);
        watched = left.clone();
        if left.is_empty() {
            break;
        }
        let told: Vec<String> = left
            .iter()
            .map(|pid| format!("{pid}: {}", words(*pid)))
            .collect();
        assert!(
            begin.elapsed() < PATIENCE,
            "killed the {name}, still there: {told:#?}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let (took, late) = (begin.elapsed(), waited().saturating_sub(before));
    if took > MOMENT {
        println!("killed the {name}; gone were: {}", order.join(", "));
    }
    // Nobody new, either.
    assert_eq!(pids(&run.marker), Vec::<i32>::new(), "killed the {name}");
    (name, took, late)
}

fn all_turns(cell: &[&str]) {
    let mut dice = Dice::new();
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let (mut slow, mut starved, mut judged) = (Vec::new(), Vec::new(), 0);
    let turns = turns();
    for _ in 0..turns * AGAIN {
        if judged == turns {
            break;
        }
        let (name, took, late) = turn(cell, &mut dice);
        if took > MOMENT && took.saturating_sub(late) <= MOMENT {
            starved.push((name, took, late));
            continue;
        }
        judged += 1;
        times.entry(name).or_default().push(took);
        if took > MOMENT {
            slow.push((name, took, late));
        }
    }
    for (name, times) in &mut times {
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 1000];
        println!(
            "{name}, {} times: median {:?}, 90 % {:?}, 99 % {:?}, longest {:?}",
            times.len(),
            at(500),
            at(900),
            at(990),
            at(1000)
        );
    }
    // Everything was gone in the end; only how fast is not known of these.
    println!("not judged, because somebody waited for a processor meanwhile: {starved:?}");
    assert!(
        slow.is_empty(),
        "of {turns} turns these took longer than {MOMENT:?}: {slow:?}"
    );
    assert!(
        judged * 2 >= turns,
        "a machine too busy to judge: {starved:?}"
    );
}

#[test]
fn nothing_is_left_a_moment_later_with_namespaces() {
    if namespaces_work() {
        all_turns(BEST);
    }
}

#[test]
fn nothing_is_left_a_moment_later_on_the_floor() {
    all_turns(FLOOR);
}
