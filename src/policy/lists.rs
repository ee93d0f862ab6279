//! Takes hidden entries out of the lists that a server answers with.
//!
//! Only the entries go; every other byte of the line stays where it was, in the order in which the
//! server wrote it. A page may become empty and still have a cursor.

use crate::mcp::{Direction, Kind, Raw, elements, members, method, parse, text};
use std::ops::Range;

/// A list method: the member that holds the entries, and the member of an entry that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) member: &'static str,
    pub(super) name: &'static str,
}

impl Listing {
    pub(super) const TOOLS: Self = Self {
        member: "tools",
        name: "name",
    };
    pub(super) const PROMPTS: Self = Self {
        member: "prompts",
        name: "name",
    };
    pub(super) const RESOURCES: Self = Self {
        member: "resources",
        name: "uri",
    };
    pub(super) const TEMPLATES: Self = Self {
        member: "resourceTemplates",
        name: "uriTemplate",
    };
}

/// Splices out each entry whose name `hides` (an entry without a readable name has `None`).
/// Returns the new line, or `None` when nothing is hidden.
pub(super) fn without_hidden(
    line: &[u8],
    result: Raw<'_>,
    listing: Listing,
    hides: impl Fn(Option<&str>) -> bool,
) -> Option<Vec<u8>> {
    let mut cuts: Vec<Range<usize>> = Vec::new();
    for (key, list) in members(result.text) {
        // Clients in Go read keys without case.
        if key.eq_ignore_ascii_case(listing.member) {
            let base = result.start + list.start;
            cut_entries(line, base, list.text, listing, &hides, &mut cuts);
        }
    }
    if cuts.is_empty() {
        return None;
    }
    let mut kept = Vec::with_capacity(line.len());
    let mut from = 0;
    for cut in cuts {
        kept.extend_from_slice(line.get(from..cut.start).unwrap_or_default());
        from = cut.end;
    }
    kept.extend_from_slice(line.get(from..).unwrap_or_default());
    Some(kept)
}

/// How long a cache may keep what depends on who asks, in milliseconds: until then a right that was taken
/// away can still be seen.
const LONGEST_MS: u64 = 30_000;

/// True for methods whose results say how long and for whom they may be kept (MCP 2026-07-28, caching).
pub(super) fn may_be_cached(method: &str) -> bool {
    matches!(
        method,
        method::TOOLS_LIST
            | method::PROMPTS_LIST
            | method::RESOURCES_LIST
            | method::RESOURCES_TEMPLATES_LIST
            | method::RESOURCES_READ
            | method::SERVER_DISCOVER
    )
}

/// The line with its result marked `cacheScope: "private"` and `ttlMs` of at most 30 s; `None` when it
/// is so already. Every member of these names is changed: which of two counts is the reader's choice.
pub(super) fn marked_private(line: &[u8]) -> Option<Vec<u8>> {
    const PRIVATE: &[u8] = br#""private""#;
    let envelope = parse(line, Direction::ToClient).ok()?;
    let Kind::Result { result, .. } = envelope.kind else {
        return None;
    };
    let mut edits: Vec<(Range<usize>, Vec<u8>)> = Vec::new();
    let (mut scoped, mut first) = (false, true);
    for (key, value) in members(result.text) {
        first = false;
        let start = result.start + value.start;
        let span = start..start + value.text.len();
        if key.eq_ignore_ascii_case("cacheScope") {
            scoped |= key == "cacheScope";
            if value.text != PRIVATE {
                edits.push((span, PRIVATE.to_vec()));
            }
        } else if key.eq_ignore_ascii_case("ttlMs") && !is_short(value.text) {
            edits.push((span, LONGEST_MS.to_string().into_bytes()));
        }
    }
    if !scoped {
        let open = result.start + result.text.iter().position(|byte| *byte == b'{')? + 1;
        let comma = if first { "" } else { "," };
        let member = format!(r#""cacheScope":"private"{comma}"#);
        edits.insert(0, (open..open, member.into_bytes()));
    }
    if edits.is_empty() {
        return None;
    }
    let mut marked = Vec::with_capacity(line.len() + 32);
    let mut from = 0;
    for (span, with) in edits {
        marked.extend_from_slice(line.get(from..span.start).unwrap_or_default());
        marked.extend_from_slice(&with);
        from = span.end;
    }
    marked.extend_from_slice(line.get(from..).unwrap_or_default());
    Some(marked)
}

/// True for a number of milliseconds that is plainly short enough; whatever is spelled oddly is not.
fn is_short(value: &[u8]) -> bool {
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse::<u64>().ok())
        .is_some_and(|ms| ms <= LONGEST_MS)
}

/// Adds a range for each hidden entry of one array: with the comma before it, or, when nothing
/// before it stays, with the comma after it.
fn cut_entries(
    line: &[u8],
    base: usize,
    list: &[u8],
    listing: Listing,
    hides: &impl Fn(Option<&str>) -> bool,
    cuts: &mut Vec<Range<usize>>,
) {
    // Where the last entry that stays ended; what lies between is commas and blanks.
    let mut kept_end: Option<usize> = None;
    // A hidden run at the front waits for the first entry that stays.
    let mut front: Option<Range<usize>> = None;
    for entry in elements(list) {
        let span = base + entry.start..base + entry.start + entry.text.len();
        if is_hidden(entry.text, listing, hides) {
            match kept_end {
                Some(end) => cuts.push(end..span.end),
                None => {
                    front = Some(front.map_or(span.clone(), |run| run.start..span.end));
                }
            }
            // The next cut starts where this one ended, so that they never overlap.
            kept_end = kept_end.map(|_| span.end);
        } else {
            if let Some(run) = front.take() {
                cuts.push(run.start..span.start);
            }
            kept_end = Some(span.end);
        }
    }
    if let Some(run) = front {
        cuts.push(run);
    }
    debug_assert!(cuts.iter().all(|cut| cut.end <= line.len()));
}

/// All members with that name are looked at: which of two equal keys counts is the reader's choice.
fn is_hidden(entry: &[u8], listing: Listing, hides: &impl Fn(Option<&str>) -> bool) -> bool {
    let mut named = false;
    for (key, value) in members(entry) {
        if key.eq_ignore_ascii_case(listing.name) {
            let name = text(value.text);
            named |= name.is_some();
            if hides(name.as_deref()) {
                return true;
            }
        }
    }
    !named && hides(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(line: &str, hidden: &[&str]) -> Option<String> {
        let start = line.find(r#""result":"#).expect("a result") + r#""result":"#.len();
        let result = Raw {
            start,
            text: &line.as_bytes()[start..line.len() - 1],
        };
        without_hidden(line.as_bytes(), result, Listing::TOOLS, |name| {
            name.is_some_and(|name| hidden.contains(&name))
        })
        .map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
    }

    fn line(list: &str) -> String {
        format!(r#"{{"id":1,"result":{{"a":1.0e2,"tools":{list},"nextCursor":"c"}}}}"#)
    }

    #[test]
    fn nothing_hidden_nothing_written() {
        assert_eq!(filter(&line(r#"[{"name":"a"}]"#), &["b"]), None);
        assert_eq!(filter(&line("[]"), &["b"]), None);
        assert_eq!(filter(&line("7"), &["b"]), None);
    }

    #[test]
    fn entries_go_and_the_rest_stays() {
        let (a, b, c) = (
            r#"{"name":"a"}"#,
            r#"{"x":[1],"name":"b"}"#,
            r#"{"name":"c"}"#,
        );
        for (list, hidden, left) in [
            (format!("[{a}]"), &["a"][..], "[]".to_owned()),
            (format!("[ {a} ]"), &["a"], "[  ]".to_owned()),
            (format!("[{a},{b}]"), &["a"], format!("[{b}]")),
            (format!("[{a},{b}]"), &["b"], format!("[{a}]")),
            (format!("[{a}, {b} ,{c}]"), &["b"], format!("[{a} ,{c}]")),
            (format!("[{a},{b},{c}]"), &["a", "b"], format!("[{c}]")),
            (format!("[{a},{b},{c}]"), &["b", "c"], format!("[{a}]")),
            (format!("[{a},{b},{c}]"), &["a", "c"], format!("[{b}]")),
            (format!("[{a},{b},{c}]"), &["a", "b", "c"], "[]".to_owned()),
            (
                format!("[{a},{b},{a},{c},{a}]"),
                &["a"],
                format!("[{b},{c}]"),
            ),
        ] {
            assert_eq!(
                filter(&line(&list), hidden),
                Some(line(&left)),
                "{list} {hidden:?}"
            );
        }
    }

    #[test]
    fn an_escaped_or_doubled_name_is_still_hidden() {
        assert_eq!(
            filter(&line(r#"[{"name":"\u0061"}]"#), &["a"]),
            Some(line("[]"))
        );
        assert_eq!(
            filter(&line(r#"[{"n\u0061me":"a"}]"#), &["a"]),
            Some(line("[]"))
        );
        assert_eq!(
            filter(&line(r#"[{"name":"b","name":"a"}]"#), &["a"]),
            Some(line("[]"))
        );
        assert_eq!(
            filter(&line(r#"[{"name":"a","name":"b"}]"#), &["a"]),
            Some(line("[]"))
        );
        let doubled = r#"{"id":1,"result":{"tools":[],"tools":[{"name":"a"}]}}"#;
        assert_eq!(
            filter(doubled, &["a"]).as_deref(),
            Some(r#"{"id":1,"result":{"tools":[],"tools":[]}}"#)
        );
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_a_tree_would_leave(
            names in prop::collection::vec("[abcd]", 0..8),
            hidden in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d"]), 0..4),
            blank in " {0,2}",
        ) {
            let entries: Vec<String> = names.iter().map(|name| format!(r#"{blank}{{"name":"{name}"}}{blank}"#)).collect();
            let text = line(&format!("[{}]", entries.join(",")));
            let after = filter(&text, &hidden).unwrap_or_else(|| text.clone());
            let tree: serde_json::Value = serde_json::from_str(&after).expect("still JSON");
            let left: Vec<&str> = tree["result"]["tools"].as_array().expect("a list")
                .iter().map(|tool| tool["name"].as_str().expect("a name")).collect();
            let expected: Vec<&str> = names.iter().map(String::as_str).filter(|name| !hidden.contains(name)).collect();
            prop_assert_eq!(left, expected);
            prop_assert_eq!(&tree["result"]["nextCursor"], "c");
        }
    }
}
