//! API keys, and the file that has them.

use super::tests::{NOW, bearer, verifier};
use super::*;
use proptest::prelude::*;

fn key(byte: u8) -> ApiKey {
    ApiKey::new(&[byte; 32])
}

fn entry(client: &str, key: &ApiKey) -> Entry {
    Entry {
        client: client.to_owned(),
        tenant: None,
        scopes: vec!["issues:write".to_owned()],
        sha256: key.sha256(),
        added: None,
        expires: None,
        revoked: None,
    }
}

fn book(entries: &[Entry]) -> KeyBook {
    KeyBook::parse(KeyBook::render(entries).as_bytes()).unwrap()
}

#[test]
fn keys_open_the_door_until_they_do_not() {
    let at = |seconds: u64| jiff::Timestamp::from_second(i64::try_from(seconds).unwrap()).ok();
    let mut revoked = entry("old", &key(2));
    revoked.revoked = at(NOW - 1);
    let mut expired = entry("late", &key(3));
    expired.expires = at(NOW);
    let mut soon = entry("soon", &key(4));
    soon.expires = at(NOW + 1);
    let banned = entry("banned", &key(5));
    let mut listed = entry("ci", &key(6));
    listed.tenant = Some("b".to_owned());
    let keys = book(&[
        entry("laptop", &key(1)),
        revoked,
        expired,
        soon,
        banned,
        listed,
    ]);
    let verifier = verifier().with_keys(keys);

    let caller = bearer(&verifier, key(1).expose()).unwrap();
    assert_eq!((caller.client.as_str(), caller.how), ("laptop", How::Key));
    assert_eq!(caller.scopes, ["issues:write"]);
    assert_eq!(
        bearer(&verifier, key(4).expose()).unwrap().expires,
        Some(NOW + 1)
    );
    // What the configuration says of the client adds to it.
    let caller = bearer(&verifier, key(6).expose()).unwrap();
    assert_eq!(
        caller.scopes,
        ["builds:read", "issues:read", "issues:write"]
    );
    assert_eq!(caller.tenant.as_deref(), Some("b"));

    let good = key(1).expose().to_owned();
    let swapped: String = good
        .chars()
        .map(|c| match c.is_ascii_lowercase() {
            true => c.to_ascii_uppercase(),
            false => c.to_ascii_lowercase(),
        })
        .collect();
    for (name, presented) in [
        ("revoked", key(2).expose().to_owned()),
        ("expired", key(3).expose().to_owned()),
        ("unknown", key(9).expose().to_owned()),
        ("wrong case", format!("cfd_{}", &swapped[4..])),
        ("shorter", good[..good.len() - 1].to_owned()),
        ("longer", format!("{good}A")),
        ("the prefix alone", "cfd_".to_owned()),
        ("its hash", format!("cfd_{}", key(1).sha256())),
    ] {
        let denied = bearer(&verifier, &presented).expect_err(name);
        // The same for each: nobody is told that a key was one once.
        assert_eq!((denied, denied.status()), (Denied::Key, 401), "{name}");
    }
    assert_eq!(
        bearer(&verifier, &key(1).sha256()),
        Err(Denied::Token(TokenFault::Malformed))
    );
    let blocked = bearer(&verifier, key(5).expose()).unwrap_err();
    assert_eq!((blocked, blocked.status()), (Denied::Blocked, 403));
}

#[test]
fn the_file_of_keys_is_read_whole_or_not_at_all() {
    assert_eq!(book(&[]).entries().count(), 0);
    assert_eq!(KeyBook::parse(b" \n").unwrap().entries().count(), 0);
    let good = KeyBook::render(&[entry("a", &key(1))]);
    assert!(!good.contains(key(1).expose()));
    assert_eq!(good.matches("sha256").count(), 1);
    let parse = |text: &str| KeyBook::parse(text.as_bytes()).map(drop);
    assert!(parse(&good).is_ok());
    for (name, text) in [
        ("no list", "{}".to_owned()),
        ("cut", good[..good.len() - 4].to_owned()),
        ("a typo", good.replace("scopes", "scope")),
        ("no client", good.replace("\"client\": \"a\",", "")),
        ("everybody", good.replace("\"a\"", "\"*\"")),
        ("a name with a blank", good.replace("\"a\"", "\"a b\"")),
        ("a short hash", good.replace(&key(1).sha256(), "abcd")),
        ("no hash", good.replace(&key(1).sha256(), &"g".repeat(64))),
        (
            "a key itself",
            good.replace(&key(1).sha256(), key(1).expose()),
        ),
        (
            "a key twice",
            KeyBook::render(&[entry("a", &key(1)), entry("b", &key(1))]),
        ),
        (
            "not a time",
            good.replace("\"sha256\"", "\"expires\": \"soon\", \"sha256\""),
        ),
        (
            "too many",
            KeyBook::render(&vec![entry("a", &key(1)); 4097]),
        ),
    ] {
        assert!(parse(&text).is_err(), "{name}");
    }
    assert_eq!(format!("{:?}", key(1)), "ApiKey");
}

#[test]
fn a_comparison_of_keys_takes_the_same_time_wherever_it_stands() {
    // The first, the last and none: nothing but the number of keys decides how much is compared.
    let keys: Vec<ApiKey> = (0..=255).map(key).collect();
    let entries: Vec<Entry> = keys.iter().map(|key| entry("a", key)).collect();
    let book = book(&entries);
    let unknown = ApiKey::new(&[7; 32].map(|byte: u8| byte ^ 0xa5));
    let mut times = [const { Vec::new() }; 3];
    for round in 0..600 {
        let which = round % 3;
        let presented = [&keys[0], &keys[255], &unknown][which].expose();
        let start = std::time::Instant::now();
        for _ in 0..20 {
            std::hint::black_box(book.find(std::hint::black_box(presented), NOW));
        }
        times[which].push(start.elapsed());
    }
    let median = times.map(|mut all| {
        all.sort_unstable();
        all[all.len() / 2].as_secs_f64()
    });
    let (least, most) = median.iter().fold((f64::MAX, 0.0_f64), |(low, high), one| {
        (low.min(*one), high.max(*one))
    });
    // A search that stops at the first would differ by a factor of 200.
    assert!(most < 2.0 * least, "{median:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_key_opens_only_its_own_entry(one in any::<[u8; 32]>(), two in any::<[u8; 32]>()) {
        let (one, two) = (ApiKey::new(&one), ApiKey::new(&two));
        let keys = book(&[entry("one", &one)]);
        let client = keys.find(one.expose(), NOW).map(|found| found.client.clone());
        prop_assert_eq!(client.as_deref(), Some("one"));
        prop_assert!(one.expose() == two.expose() || keys.find(two.expose(), NOW).is_none());
    }
}
