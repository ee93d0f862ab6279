//! The tools that the server has listed in this session, with their compiled schemas.
//!
//! ```text
//!            learn, last page                    list_changed
//! Unknown ───────────────────────► Listed ─────────────────────► Stale
//!    │ mark_unlistable                ▲  learn, last page          │ mark_unlistable
//!    └────────────► Unlistable ───────┴────────────────────────────┘
//! ```
//! Another server in the place of the one that listed them makes them `Stale` too; then it is found out
//! whether its list is the same.
//!
//! While it is `Unknown` or `Stale`, a call of a tool asks for the list first. What was learnt
//! before a change stays in use until the next list replaces it. Everything is bounded: a server
//! that lists without end fills the book and no more.

use super::inject::Listed;
use super::mirrors::{Mirror, mirrors};
use super::schema::{Compiled, Flat, Unusable, compile};
use crate::mcp::{elements, members, text};
use foldhash::HashMap;
use jsonschema::Validator;
use std::hash::BuildHasher;

/// Most tools that are remembered; the largest server met lists 32.
const MAX_TOOLS: usize = 1024;
/// Most bytes of schemas that are kept, over all tools.
const MAX_SCHEMA_BYTES: usize = 4 * 1024 * 1024;
/// Longest name that is remembered, in bytes; the specification says 128 characters.
const MAX_NAME_BYTES: usize = 1024;
/// Longest cursor that is followed, in bytes.
const MAX_CURSOR_BYTES: usize = 16 * 1024;
/// Most pages of one list that are followed.
const MAX_PAGES: u32 = 256;
/// Most subschemas that are compiled at one time; beyond, all are dropped and compiled again when called.
const MAX_COMPILED: usize = 32 * 1024;

/// Learnt from `tools/list` results as they pass (or as cofferdam asks for them).
#[derive(Debug, Default)]
pub struct ToolBook {
    tools: HashMap<Box<str>, Entry>,
    state: State,
    schema_bytes: usize,
    compiled: usize,
    cursor: Option<Box<[u8]>>,
    pages: u32,
    /// Which walk over all pages this is.
    walk: u64,
    /// Since another server serves: whether it lists anything else than the last one did.
    differs: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Unknown,
    Listed,
    Stale,
    Unlistable,
}

#[derive(Debug, Default)]
struct Entry {
    input: Option<Schema>,
    output: Option<Schema>,
    /// Arguments that clients repeat in headers.
    mirrors: Box<[Mirror]>,
    /// Of all that was said of it.
    digest: u64,
    /// The last walk that has seen it.
    walk: u64,
}

#[derive(Debug)]
struct Schema {
    raw: Box<[u8]>,
    /// `None` until the first call that needs it.
    compiled: Option<Compiled>,
}

/// What there is to check a value with.
#[derive(Debug)]
pub(super) enum Checker<'b> {
    /// Nothing: no schema, or one that accepts everything.
    None,
    /// This one.
    Schema {
        validator: &'b Validator,
        /// The deepest value that it checks.
        depth: usize,
        /// Says yes at once to what is plainly valid.
        shortcut: Option<&'b Flat>,
        /// What it was compiled from.
        raw: &'b [u8],
    },
    /// There is a schema that cannot be used.
    Unusable(Unusable),
}

/// What there is to check the arguments of a tool with, if it is in the book.
#[derive(Debug)]
pub(super) enum Input<'b> {
    /// Listed; its schemas are current as far as is known.
    Known(Checker<'b>),
    /// Not listed, and the list is complete: the server will say that it is unknown.
    Absent,
    /// The list has to be asked for first.
    Unlisted,
    /// The server cannot list.
    Unlistable,
}

impl ToolBook {
    /// Learns one page: the raw `result` of a `tools/list` answer. `first_page` starts a new walk over
    /// all pages when cofferdam asks itself; pages that a client asked for are learnt by `Policy::server`.
    ///
    /// Schemas that did not change keep their compiled form. A result that is no tool list teaches
    /// nothing: then [`Self::next_cursor`] is `None` and the caller marks the book unlistable.
    pub fn learn(&mut self, result: &[u8], first_page: bool) {
        if first_page {
            self.pages = 0;
            self.walk += 1;
        }
        self.pages = self.pages.saturating_add(1);
        let Some(cursor) = self.learn_page(result) else {
            self.cursor = None;
            return;
        };
        self.cursor = cursor
            .filter(|cursor| cursor.len() <= MAX_CURSOR_BYTES && self.pages < MAX_PAGES)
            .map(Into::into);
        if self.cursor.is_none() {
            self.state = State::Listed;
            if cursor.is_none() {
                self.forget_vanished();
            }
        }
    }

    /// What the server of before has listed and this one does not.
    fn forget_vanished(&mut self) {
        let (walk, before) = (self.walk, self.tools.len());
        let Some(differs) = &mut self.differs else {
            return;
        };
        let (bytes, compiled) = (&mut self.schema_bytes, &mut self.compiled);
        self.tools.retain(|_, entry| {
            let stays = entry.walk == walk;
            if !stays {
                for schema in [entry.input.take(), entry.output.take()] {
                    release(schema, bytes, compiled);
                }
            }
            stays
        });
        *differs |= self.tools.len() < before;
    }

    /// Learns a page that the client asked for; cofferdam's own walk, if one is under way, goes on.
    pub(super) fn learn_passing(&mut self, result: &[u8]) {
        // The page without a cursor is the last, and its cursor came from the page before.
        if self.learn_page(result) == Some(None) {
            self.state = State::Listed;
        }
    }

    /// True when the list is complete.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.state == State::Listed
    }

    /// True when the list has to be asked for before anything can be said of a tool.
    #[must_use]
    pub fn wants_list(&self) -> bool {
        matches!(self.state, State::Unknown | State::Stale)
    }

    /// True when the server has listed a tool of exactly this name.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.tools.contains_key(name)
    }

    /// True when the list is complete, or there will be none: nothing is gained by asking now.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.state, State::Listed | State::Unlistable)
    }

    /// The arguments of a tool that clients on HTTP repeat in headers; none for an unknown tool.
    #[must_use]
    pub fn mirrors(&self, name: &str) -> &[Mirror] {
        self.tools.get(name).map_or(&[], |entry| &entry.mirrors)
    }

    /// The outer `None`: no tool list. The inner one: no further page.
    fn learn_page<'r>(&mut self, result: &'r [u8]) -> Option<Option<&'r [u8]>> {
        let mut seen = None;
        let mut cursor = None;
        for (key, value) in members(result) {
            match &*key {
                "tools" if value.text.first() == Some(&b'[') => seen = Some(value.text),
                "nextCursor" if value.text.first() == Some(&b'"') => cursor = Some(value.text),
                _ => {}
            }
        }
        for tool in elements(seen?) {
            self.learn_tool(tool.text);
        }
        Some(cursor)
    }

    /// The cursor of the next page as a raw JSON string, when the last page learnt was not the end.
    #[must_use]
    pub fn next_cursor(&self) -> Option<&[u8]> {
        self.cursor.as_deref()
    }

    /// The server cannot list its tools: calls pass without a check until it says that the list changed.
    pub fn mark_unlistable(&mut self) {
        self.state = State::Unlistable;
        self.cursor = None;
    }

    /// The server says that its tools changed; the next call asks for the list again.
    pub fn mark_stale(&mut self) {
        self.state = match self.state {
            State::Unknown => State::Unknown,
            State::Listed | State::Stale | State::Unlistable => State::Stale,
        };
    }

    /// Another server takes the place of the one that has listed its tools; the next call asks it.
    pub fn mark_replaced(&mut self) {
        self.mark_stale();
        self.differs = (self.state == State::Stale).then_some(false);
    }

    /// Whoever has to know was told that the list may be another.
    pub fn mark_told(&mut self) {
        self.differs = None;
    }

    /// True while it is not known whether another server lists the same.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.state == State::Stale && self.differs.is_some()
    }

    /// True once when the list of the server that serves now is complete and another than the one before.
    pub fn take_difference(&mut self) -> bool {
        self.state == State::Listed && self.differs.take() == Some(true)
    }

    /// The input schema of a tool as the server wrote it.
    pub(super) fn schema(&self, name: &str) -> Listed<'_> {
        let raw = || {
            self.tools
                .get(name)?
                .input
                .as_ref()
                .map(|schema| &*schema.raw)
        };
        match (self.state, raw()) {
            (State::Stale, _) | (State::Unknown, None) => Listed::Unknown,
            (_, Some(raw)) => Listed::Schema(raw),
            (State::Listed | State::Unlistable, None) => Listed::Nothing,
        }
    }

    /// What to check this tool's arguments with; compiles on the first use.
    pub(super) fn input(&mut self, name: &str) -> Input<'_> {
        if self.state == State::Stale {
            return Input::Unlisted;
        }
        self.relieve();
        match (self.tools.get_mut(name), self.state) {
            (Some(entry), _) => Input::Known(checker(entry.input.as_mut(), &mut self.compiled)),
            (None, State::Listed) => Input::Absent,
            (None, State::Unlistable) => Input::Unlistable,
            (None, State::Unknown | State::Stale) => Input::Unlisted,
        }
    }

    /// What to check this tool's result with; compiles on the first use.
    pub(super) fn output(&mut self, name: &str) -> Checker<'_> {
        self.relieve();
        let schema = self.tools.get_mut(name).and_then(|e| e.output.as_mut());
        checker(schema, &mut self.compiled)
    }

    fn learn_tool(&mut self, tool: &[u8]) {
        let (mut name, mut input, mut output) = (None, None, None);
        for (key, value) in members(tool) {
            match &*key {
                "name" => name = text(value.text),
                "inputSchema" => input = Some(value.text),
                "outputSchema" => output = Some(value.text),
                _ => {}
            }
        }
        let Some(name) = name.filter(|name| name.len() <= MAX_NAME_BYTES) else {
            return;
        };
        if !self.tools.contains_key(&*name) {
            if self.tools.len() >= MAX_TOOLS {
                return;
            }
            self.tools.insert((&*name).into(), Entry::default());
        }
        let (digest, walk) = (
            foldhash::fast::FixedState::default().hash_one(tool),
            self.walk,
        );
        let Some(entry) = self.tools.get_mut(&*name) else {
            return;
        };
        if let Some(differs) = &mut self.differs {
            *differs |= entry.digest != digest;
        }
        (entry.digest, entry.walk) = (digest, walk);
        for (slot, fresh) in [(&mut entry.input, input), (&mut entry.output, output)] {
            if slot.as_ref().map(|schema| &*schema.raw) == fresh {
                continue;
            }
            release(slot.take(), &mut self.schema_bytes, &mut self.compiled);
            let Some(fresh) = fresh else { continue };
            if self.schema_bytes + fresh.len() > MAX_SCHEMA_BYTES {
                // No room: remembered as one that cannot be checked, so that a warning says so.
                *slot = Some(Schema {
                    raw: Box::default(),
                    compiled: Some(Compiled::Unusable(Unusable::TooLarge)),
                });
                continue;
            }
            self.schema_bytes += fresh.len();
            *slot = Some(Schema {
                raw: fresh.into(),
                compiled: None,
            });
        }
        entry.mirrors = input.map_or_else(Box::default, mirrors);
    }

    /// Forgets what was compiled when it is too much.
    fn relieve(&mut self) {
        if self.compiled <= MAX_COMPILED {
            return;
        }
        self.compiled = 0;
        for entry in self.tools.values_mut() {
            for schema in [&mut entry.input, &mut entry.output].into_iter().flatten() {
                if matches!(schema.compiled, Some(Compiled::Ready { .. })) {
                    schema.compiled = None;
                }
            }
        }
    }
}

/// Gives back what a schema takes of the totals.
fn release(old: Option<Schema>, bytes: &mut usize, compiled: &mut usize) {
    let Some(old) = old else { return };
    *bytes = bytes.saturating_sub(old.raw.len());
    if let Some(Compiled::Ready { weight, .. }) = old.compiled {
        *compiled = compiled.saturating_sub(weight);
    }
}

/// What a schema is good for; compiled at the first use, with its weight added to `total`.
fn checker<'b>(schema: Option<&'b mut Schema>, total: &mut usize) -> Checker<'b> {
    let Some(Schema { raw, compiled }) = schema else {
        return Checker::None;
    };
    let compiled = compiled.get_or_insert_with(|| {
        let fresh = compile(raw);
        if let Compiled::Ready { weight, .. } = &fresh {
            *total += weight;
        }
        fresh
    });
    match compiled {
        Compiled::Trivial => Checker::None,
        Compiled::Ready {
            validator,
            depth,
            shortcut,
            ..
        } => Checker::Schema {
            validator,
            depth: *depth,
            shortcut: shortcut.as_ref(),
            raw,
        },
        Compiled::Unusable(why) => Checker::Unusable(*why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(tools: &str, cursor: Option<&str>) -> Vec<u8> {
        match cursor {
            Some(cursor) => format!(r#"{{"tools":[{tools}],"nextCursor":"{cursor}"}}"#),
            None => format!(r#"{{"tools":[{tools}]}}"#),
        }
        .into_bytes()
    }

    const ECHO: &str = r#"{"name":"echo","inputSchema":{"type":"object","required":["a"]}}"#;

    fn compiled(book: &ToolBook, name: &str) -> bool {
        book.tools
            .get(name)
            .and_then(|entry| entry.input.as_ref())
            .is_some_and(|schema| schema.compiled.is_some())
    }

    #[test]
    fn a_list_of_two_pages_is_complete_after_the_second() {
        let mut book = ToolBook::default();
        assert!(matches!(book.input("echo"), Input::Unlisted));
        book.learn(&page(ECHO, Some("p2")), true);
        assert_eq!(book.next_cursor(), Some(&b"\"p2\""[..]));
        assert!(matches!(book.input("echo"), Input::Known(_)));
        assert!(matches!(book.input("other"), Input::Unlisted));
        book.learn(&page(r#"{"name":"other"}"#, None), false);
        assert_eq!(book.next_cursor(), None);
        assert!(matches!(book.input("other"), Input::Known(_)));
        assert!(matches!(book.input("third"), Input::Absent));
    }

    #[test]
    fn a_change_asks_again_and_keeps_the_old_schema() {
        let mut book = ToolBook::default();
        book.mark_stale();
        assert!(matches!(book.input("echo"), Input::Unlisted));
        book.learn(&page(ECHO, None), true);
        assert!(matches!(
            book.input("echo"),
            Input::Known(Checker::Schema { .. })
        ));
        book.mark_stale();
        assert!(matches!(book.input("echo"), Input::Unlisted));
        assert!(compiled(&book, "echo"));
        book.learn(&page(ECHO, None), true);
        assert!(
            compiled(&book, "echo"),
            "the same bytes keep what was compiled"
        );
        book.learn(
            &page(r#"{"name":"echo","inputSchema":{"required":["b"]}}"#, None),
            true,
        );
        assert!(!compiled(&book, "echo"), "other bytes do not");
    }

    #[test]
    fn another_server_is_known_by_another_list() {
        const OTHER: &str = r#"{"name":"other"}"#;
        let both = format!("{ECHO},{OTHER}");
        let mut book = ToolBook::default();
        book.mark_replaced();
        book.learn(&page(&both, None), true);
        assert!(!book.take_difference(), "nobody knew of any");
        let mut next = |lists: &[(&str, Option<&str>)]| {
            book.mark_replaced();
            assert!(book.wants_list() && !book.take_difference());
            for (at, (tools, cursor)) in lists.iter().enumerate() {
                book.learn(&page(tools, *cursor), at == 0);
            }
            let differs = book.take_difference();
            assert!(!book.take_difference(), "it is told once");
            (differs, book.knows("other"), book.schema_bytes)
        };
        let bytes = ECHO.len() - r#"{"name":"echo","inputSchema":}"#.len();
        assert_eq!(next(&[(&both, None)]), (false, true, bytes));
        let pages = [(OTHER, Some("2")), (ECHO, None)];
        assert_eq!(next(&pages), (false, true, bytes));
        assert_eq!(next(&[(ECHO, None)]), (true, false, bytes));
        assert_eq!(next(&[(ECHO, None)]), (false, false, bytes));
        let said =
            r#"{"name":"echo","description":"?","inputSchema":{"type":"object","required":["a"]}}"#;
        assert_eq!(next(&[(said, None)]), (true, false, bytes));
        assert_eq!(next(&[(OTHER, None)]), (true, true, 0));
    }

    #[test]
    fn a_server_that_cannot_list_is_not_asked_twice() {
        let mut book = ToolBook::default();
        book.mark_unlistable();
        assert!(matches!(book.input("echo"), Input::Unlistable));
        book.mark_stale();
        assert!(matches!(book.input("echo"), Input::Unlisted));
    }

    #[test]
    fn nonsense_teaches_nothing() {
        let mut book = ToolBook::default();
        for result in ["null", "[]", "{}", r#"{"tool":[]}"#, "7"] {
            book.learn(result.as_bytes(), true);
            assert!(matches!(book.input("echo"), Input::Unlisted), "{result}");
        }
        book.learn(
            br#"{"tools":[1,null,{"name":7},{"inputSchema":{}},[]]}"#,
            true,
        );
        assert!(book.tools.is_empty());
        assert!(matches!(book.input("echo"), Input::Absent));
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = ToolBook::default();
        let many: Vec<String> = (0..3000).map(|n| format!(r#"{{"name":"t{n}"}}"#)).collect();
        book.learn(&page(&many.join(","), None), true);
        assert_eq!(book.tools.len(), MAX_TOOLS);

        let mut book = ToolBook::default();
        let pad = "x".repeat(200_000);
        for n in 0..40 {
            let tool =
                format!(r#"{{"name":"t{n}","inputSchema":{{"minProperties":1,"title":"{pad}"}}}}"#);
            book.learn(&page(&tool, Some("more")), n == 0);
        }
        assert!(book.schema_bytes <= MAX_SCHEMA_BYTES);
        assert!(matches!(
            book.input("t0"),
            Input::Known(Checker::Schema { .. })
        ));
        assert!(matches!(
            book.input("t39"),
            Input::Known(Checker::Unusable(Unusable::TooLarge))
        ));
        // A tool that changes again and again does not use the room up.
        for n in 0..100 {
            let tool =
                format!(r#"{{"name":"t0","inputSchema":{{"minProperties":{n},"title":"{pad}"}}}}"#);
            book.learn(&page(&tool, None), true);
        }
        assert!(matches!(
            book.input("t0"),
            Input::Known(Checker::Schema { .. })
        ));
    }

    #[test]
    fn a_list_without_end_ends() {
        let mut book = ToolBook::default();
        book.learn(&page("", Some("again")), true);
        let mut asked = 1;
        while book.next_cursor().is_some() {
            book.learn(&page("", Some("again")), false);
            asked += 1;
            assert!(asked <= MAX_PAGES);
        }
        assert!(matches!(book.input("echo"), Input::Absent));
    }

    #[test]
    fn compiled_schemas_are_bounded_together() {
        let mut book = ToolBook::default();
        let members: Vec<String> = (0..3000)
            .map(|n| format!(r#""p{n}":{{"type":"string"}}"#))
            .collect();
        let properties = members.join(",");
        let tools: Vec<String> = (0..20)
            .map(|n| {
                format!(r#"{{"name":"t{n}","inputSchema":{{"properties":{{{properties}}}}}}}"#)
            })
            .collect();
        book.learn(&page(&tools.join(","), None), true);
        for n in 0..20 {
            assert!(matches!(
                book.input(&format!("t{n}")),
                Input::Known(Checker::Schema { .. })
            ));
            assert!(book.compiled <= MAX_COMPILED + 4096);
        }
    }
}
