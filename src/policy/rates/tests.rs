//! Limits over time: what runs, what waits, in which turn, and that nothing leaks.

use super::*;
use crate::config::sample;
use proptest::prelude::*;

const NOON: Clock = Clock {
    monotonic: 10_000_000,
    unix: 1_800_014_400,
};

fn limiter(text: &str) -> Limiter {
    Limiter::new(&config(text))
}

fn config(text: &str) -> Config {
    let text = format!(
        "{text}\n[server]\nname = \"t\"\ncommand = [\"/bin/true\"]\n[listen]\nhttp = \"127.0.0.1:8080\"\n"
    );
    sample(&text)
}

fn caller(client: &str) -> Caller {
    Caller {
        client: client.to_owned(),
        how: How::Key,
        ..Caller::loopback()
    }
}

fn call(tool: &str) -> Subject {
    Subject {
        capability: Capability::Tool,
        method: "tools/call".into(),
        name: Some(tool.into()),
    }
}

fn method(name: &'static str) -> Subject {
    Subject {
        capability: Capability::of(name),
        method: name.into(),
        name: None,
    }
}

fn after(clock: Clock, seconds: u64) -> Clock {
    Clock {
        monotonic: clock.monotonic + seconds * 1_000_000,
        unix: clock.unix + seconds,
    }
}

/// What became of it: `run`, `wait`, or the rule and the seconds.
fn outcome(limiter: &mut Limiter, client: &str, tool: &str, clock: Clock) -> String {
    match limiter.admit(&caller(client), &call(tool), false, clock) {
        Admission::Run(permit) => {
            limiter.release(permit);
            "run".to_owned()
        }
        Admission::Wait { .. } => "wait".to_owned(),
        Admission::Refuse(refusal) => {
            let seconds = refusal.retry_after_seconds().unwrap();
            assert_eq!(refusal.shape, Shape::ToolResult);
            assert!(refusal.text.contains(&format!("again in {seconds} s")));
            format!("{} {seconds}", refusal.rule)
        }
    }
}

fn run(limiter: &mut Limiter, client: &str, tool: &str) -> Permit {
    match limiter.admit(&caller(client), &call(tool), false, NOON) {
        Admission::Run(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn wait(limiter: &mut Limiter, client: &str, tool: &str) -> Ticket {
    match limiter.admit(&caller(client), &call(tool), false, NOON) {
        Admission::Wait { ticket, displaced } => {
            assert_eq!(displaced, None);
            ticket
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_limited_unless_somebody_says_so() {
    let mut limiter = limiter("");
    for _ in 0..1000 {
        assert_eq!(outcome(&mut limiter, "a", "x", NOON), "run");
    }
    assert!(limiter.accounts.is_empty());
}

#[test]
fn rates_are_by_client_and_by_tool() {
    let mut limiter = limiter(
        "limits.rate = '3/min'\nclients.big.rate = '5/min'\ntools.slow.rate = '1/h'\n[tools.'del_*']\nrate = '1/day'\n",
    );
    let mut ask = |client: &str, tool: &str, seconds| {
        outcome(&mut limiter, client, tool, after(NOON, seconds))
    };
    assert_eq!(ask("a", "slow", 0), "run");
    assert_eq!(ask("a", "slow", 0), "limits.rate 3600");
    // Another spelling is the same tool; another client has its own bucket.
    assert_eq!(ask("a", "SLOW", 0), "limits.rate 3600");
    assert_eq!(ask("b", "slow", 0), "run");
    assert_eq!(ask("a", "del_x", 0), "run");
    assert_eq!(ask("a", "del_x", 0), "limits.rate 86400");
    // What was refused took nothing.
    assert_eq!(ask("a", "x", 0), "run");
    assert_eq!(ask("a", "x", 0), "limits.rate 20");
    assert_eq!(ask("a", "x", 19), "limits.rate 1");
    assert_eq!(ask("a", "x", 20), "run");
    for _ in 0..5 {
        assert_eq!(ask("big", "x", 20), "run");
    }
    assert_eq!(ask("big", "x", 20), "limits.rate 12");
}

#[test]
fn other_requests_count_and_are_refused_as_errors() {
    let mut limiter = limiter("limits.rate = '1/min'");
    let who = caller("a");
    let mut admit = |subject: Subject, continued| limiter.admit(&who, &subject, continued, NOON);
    for name in ["initialize", "server/discover", "ping"] {
        assert!(matches!(admit(method(name), false), Admission::Run(_)));
    }
    assert!(matches!(
        admit(method("tools/list"), false),
        Admission::Run(_)
    ));
    let Admission::Refuse(refusal) = admit(method("prompts/list"), false) else {
        panic!("it ran");
    };
    assert_eq!(refusal.shape, Shape::Error(code::RATE));
    assert_eq!(refusal.retry_after_ms, Some(60_000));
    // A further round of a call that was counted.
    assert!(matches!(admit(call("x"), true), Admission::Run(_)));
}

#[test]
fn a_quota_is_for_one_day() {
    let mut limiter = limiter("limits.quota = 2\nclients.big.quota = 3\n");
    let mut ask = |client: &str, seconds| outcome(&mut limiter, client, "x", after(NOON, seconds));
    assert_eq!((ask("a", 0), ask("a", 1)), ("run".into(), "run".into()));
    let left = DAY - (NOON.unix + 2) % DAY;
    assert_eq!(ask("a", 2), format!("limits.quota {left}"));
    assert_eq!(ask("a", left + 1), format!("limits.quota 1"));
    assert_eq!(ask("a", left + 2), "run");
    for _ in 0..3 {
        assert_eq!(ask("big", 0), "run");
    }
    assert!(ask("big", 0).starts_with("limits.quota"));
}

#[test]
fn places_are_given_in_turn_among_clients() {
    let mut limiter = limiter("limits.concurrency = 2\nlimits.queue = 100\n");
    let mut permits = vec![
        run(&mut limiter, "flood", "x"),
        run(&mut limiter, "flood", "x"),
    ];
    let flood: Vec<Ticket> = (0..10).map(|_| wait(&mut limiter, "flood", "x")).collect();
    let (calm, other) = (
        wait(&mut limiter, "calm", "x"),
        wait(&mut limiter, "other", "x"),
    );
    assert!(limiter.next().is_none());
    let mut order = Vec::new();
    for _ in 0..5 {
        limiter.release(permits.remove(0));
        let (ticket, permit) = limiter.next().unwrap();
        assert!(limiter.next().is_none());
        order.push(ticket);
        permits.push(permit);
    }
    assert_eq!(order, [flood[0], calm, other, flood[1], flood[2]]);
    assert_eq!((limiter.running(), limiter.waiting()), (2, 7));
}

#[test]
fn one_client_and_one_tool_have_places_of_their_own() {
    let mut limiter = limiter(
        "limits.concurrency = 10\nclients.small.concurrency = 1\ntools.heavy.concurrency = 1\n",
    );
    let small = run(&mut limiter, "small", "x");
    let second = wait(&mut limiter, "small", "x");
    let heavy = run(&mut limiter, "a", "heavy");
    let blocked = wait(&mut limiter, "b", "HEAVY");
    // What waits for the tool holds up nothing else of another client.
    let free = run(&mut limiter, "c", "x");
    assert!(limiter.next().is_none());
    limiter.release(free);
    assert!(limiter.next().is_none());
    limiter.release(heavy);
    let (ticket, heavy) = limiter.next().unwrap();
    assert_eq!(ticket, blocked);
    limiter.release(small);
    let (ticket, small) = limiter.next().unwrap();
    assert_eq!(ticket, second);
    limiter.release(heavy);
    limiter.release(small);
    assert_eq!((limiter.running(), limiter.waiting()), (0, 0));
    assert!(limiter.tools.is_empty() && limiter.turns.is_empty());
}

#[test]
fn a_full_queue_is_shared() {
    let mut limiter = limiter("limits.concurrency = 1\nlimits.queue = 4\n");
    let permit = run(&mut limiter, "flood", "x");
    let flood: Vec<Ticket> = (0..4).map(|_| wait(&mut limiter, "flood", "x")).collect();
    assert_eq!(
        outcome(&mut limiter, "flood", "x", NOON),
        "limits.concurrency 1"
    );
    let mut displaced = Vec::new();
    for client in ["a", "b", "a"] {
        match limiter.admit(&caller(client), &call("x"), false, NOON) {
            Admission::Wait {
                displaced: Some(gone),
                ..
            } => displaced.push(gone),
            Admission::Refuse(refusal) => assert_eq!(refusal.rule, LIMITS_CONCURRENCY),
            other => panic!("{other:?}"),
        }
    }
    // The youngest of the flood made room for one of each; nobody pushes out an equal.
    assert_eq!(displaced, [flood[3], flood[2]]);
    assert_eq!(limiter.waiting(), 4);
    assert_eq!(Limiter::crowded(&call("x")).retry_after_ms, Some(1000));
    limiter.release(permit);
    assert_eq!(
        limiter.next().map(|(ticket, _permit)| ticket),
        Some(flood[0])
    );
}

#[test]
fn whoever_goes_away_takes_no_turn() {
    let mut limiter = limiter("limits.concurrency = 1\n");
    let permit = run(&mut limiter, "a", "x");
    let (gone, stays) = (wait(&mut limiter, "b", "x"), wait(&mut limiter, "c", "x"));
    assert!(limiter.leave(gone));
    assert!(!limiter.leave(gone));
    limiter.release(permit);
    let (ticket, permit) = limiter.next().unwrap();
    assert_eq!(ticket, stays);
    limiter.release(permit);
    assert!(limiter.next().is_none());
}

#[test]
fn a_stream_that_listens_takes_no_place() {
    let mut limiter = limiter("limits.concurrency = 1\n");
    for _ in 0..10 {
        let admission = limiter.admit(&caller("a"), &method("subscriptions/listen"), false, NOON);
        assert!(matches!(admission, Admission::Run(_)));
    }
    assert_eq!(limiter.running(), 0);
}

#[test]
fn accounts_are_bounded_and_forgotten_when_they_are_as_good_as_new() {
    let mut limiter = limiter("limits.rate = '2/min'\n");
    for at in 0..MOST_ACCOUNTS + 50 {
        outcome(&mut limiter, &format!("c{at}"), "x", NOON);
    }
    assert!(limiter.accounts.len() <= MOST_ACCOUNTS + 1);
    // Those beyond share one bucket: making up names brings nothing.
    let refused = outcome(&mut limiter, "one more", "x", NOON);
    assert!(refused.starts_with("limits.rate"), "{refused}");
    let later = after(NOON, 120);
    assert_eq!(outcome(&mut limiter, "one more", "x", later), "run");
    assert!(limiter.accounts.len() < 10);
    // Tools that nobody has are bounded as well.
    let mut limiter = self::limiter("[tools.'*']\nrate = '2/min'\n");
    for at in 0..1000 {
        outcome(&mut limiter, "a", &format!("t{at}"), NOON);
    }
    let account = &limiter.accounts[&caller("a").principal()];
    assert!(account.tools.len() <= MOST_TOOLS + 1);
}

#[test]
fn tenants_and_users_are_kept_apart() {
    let mut limiter = limiter("limits.rate = '1/min'\n");
    let admit = |limiter: &mut Limiter, tenant: &str, user: &str| {
        let who = Caller {
            tenant: Some(tenant.to_owned()),
            user: Some(user.to_owned()),
            ..caller("app")
        };
        matches!(
            limiter.admit(&who, &call("x"), false, NOON),
            Admission::Run(_)
        )
    };
    assert!(admit(&mut limiter, "a", "ann"));
    assert!(!admit(&mut limiter, "a", "ann"));
    assert!(admit(&mut limiter, "a", "bob"));
    assert!(admit(&mut limiter, "b", "ann"));
}

#[test]
fn a_reload_keeps_what_was_counted() {
    let mut limiter = limiter("limits.rate = '2/min'\n");
    outcome(&mut limiter, "a", "x", NOON);
    outcome(&mut limiter, "a", "x", NOON);
    limiter.reload(&config("limits.rate = '2/min'\nlimits.quota = 10\n"));
    assert_eq!(outcome(&mut limiter, "a", "x", NOON), "limits.rate 30");
}

#[derive(Debug, Clone)]
enum Step {
    Ask(u8, u8),
    Done(usize),
    Leave(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u8..5, 0_u8..3).prop_map(|(client, tool)| Step::Ask(client, tool)),
        2 => any::<usize>().prop_map(Step::Done),
        1 => any::<usize>().prop_map(Step::Leave),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn places_are_never_exceeded_lost_or_given_twice(steps in steps()) {
        let mut limiter = limiter(
            "limits.concurrency = 4\nlimits.queue = 8\nclients.c0.concurrency = 2\ntools.t0.concurrency = 1\n",
        );
        let mut running: Vec<Permit> = Vec::new();
        let mut waiting: Vec<Ticket> = Vec::new();
        for step in steps {
            match step {
                Step::Ask(client, tool) => {
                    let (who, what) = (caller(&format!("c{client}")), call(&format!("t{tool}")));
                    match limiter.admit(&who, &what, false, NOON) {
                        Admission::Run(permit) => running.push(permit),
                        Admission::Wait { ticket, displaced } => {
                            waiting.retain(|other| Some(*other) != displaced);
                            prop_assert!(!waiting.contains(&ticket) || displaced == Some(ticket));
                            waiting.push(ticket);
                        }
                        Admission::Refuse(refusal) => prop_assert_eq!(refusal.rule, LIMITS_CONCURRENCY),
                    }
                }
                Step::Done(which) if !running.is_empty() => {
                    let at = which % running.len();
                    limiter.release(running.remove(at));
                }
                Step::Leave(which) if !waiting.is_empty() => {
                    let at = which % waiting.len();
                    prop_assert!(limiter.leave(waiting.remove(at)));
                }
                _ => {}
            }
            while let Some((ticket, permit)) = limiter.next() {
                let at = waiting.iter().position(|other| *other == ticket);
                prop_assert!(at.is_some());
                waiting.remove(at.unwrap_or_default());
                running.push(permit);
            }
            prop_assert!(limiter.running() <= 4 && limiter.waiting() <= 8);
            prop_assert_eq!(limiter.running(), running.len());
            prop_assert_eq!(limiter.waiting(), waiting.len());
            prop_assert!(limiter.tools.get("t0").is_none_or(|count| *count <= 1));
        }
        // Everything ends: nothing runs, waits or is remembered.
        let mut rounds = 0;
        while !running.is_empty() || !waiting.is_empty() {
            rounds += 1;
            prop_assert!(rounds < 1000);
            for permit in running.drain(..) {
                limiter.release(permit);
            }
            while let Some((ticket, permit)) = limiter.next() {
                waiting.retain(|other| *other != ticket);
                running.push(permit);
            }
        }
        prop_assert_eq!((limiter.running(), limiter.waiting()), (0, 0));
        prop_assert!(limiter.turns.is_empty() && limiter.tools.is_empty());
    }
}

#[test]
fn alone_places_go_round_the_tools() {
    let mut limiter = limiter("limits.concurrency = 1");
    let mut ask = |tool: &str| limiter.admit_alone(&call(tool), NOON);
    let Admission::Run(permit) = ask("a") else {
        panic!("a place is free")
    };
    let mut tickets = Vec::new();
    for tool in ["a", "a", "a", "b"] {
        match ask(tool) {
            Admission::Wait { ticket, .. } => tickets.push(ticket),
            other => panic!("{other:?}"),
        }
    }
    let mut order = Vec::new();
    let mut permit = Some(permit);
    while let Some(free) = permit.take() {
        limiter.release(free);
        if let Some((ticket, next)) = limiter.next() {
            order.push(tickets.iter().position(|known| *known == ticket).unwrap());
            permit = Some(next);
        }
    }
    assert_eq!(order, [0, 3, 1, 2], "b does not wait for all of a");
}

#[test]
fn alone_rates_are_of_all_tools_and_of_each() {
    let mut limiter = limiter("limits.rate = '3/min'\ntools.slow.rate = '1/h'");
    let mut ask = |tool: &str| match limiter.admit_alone(&call(tool), NOON) {
        Admission::Run(_) => "run",
        Admission::Wait { .. } => "wait",
        Admission::Refuse(refusal) => refusal.rule,
    };
    assert_eq!(ask("slow"), "run");
    assert_eq!(ask("SLOW"), "limits.rate");
    assert_eq!((ask("a"), ask("b")), ("run", "run"));
    assert_eq!(ask("c"), "limits.rate");
}

#[test]
fn who_would_wait_in_vain_is_turned_away_at_once() {
    let mut limiter =
        limiter("limits.concurrency = 1\nlimits.wait = '10s'\ntools.t.concurrency = 1");
    let at = |seconds| after(NOON, seconds);
    // Each takes 4 s.
    for n in 0..10 {
        let Admission::Run(permit) = limiter.admit_alone(&call("t"), at(4 * n)) else {
            panic!("a place is free")
        };
        limiter.release_at(permit, at(4 * n + 4).monotonic);
    }
    let now = at(40);
    let Admission::Run(_running) = limiter.admit_alone(&call("t"), now) else {
        panic!("a place is free")
    };
    for _ in 0..2 {
        let waits = limiter.admit_alone(&call("t"), now);
        assert!(matches!(waits, Admission::Wait { .. }), "{waits:?}");
    }
    let Admission::Refuse(refusal) = limiter.admit_alone(&call("t"), now) else {
        panic!("12 s are more than 10")
    };
    assert_eq!(refusal.rule, "limits.concurrency");
    assert_eq!(refusal.retry_after_seconds(), Some(2));
    assert!(
        refusal.text.contains("nothing was done"),
        "{}",
        refusal.text
    );
    assert_eq!(limiter.waiting(), 2);
}
