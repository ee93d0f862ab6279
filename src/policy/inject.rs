//! Credentials as arguments of calls: taken out of what clients see, refused in what they send, spliced
//! into what the server gets.
//!
//! ```text
//! tools/list ──▶ the argument is cut out of `properties` and `required`
//! tools/call ──▶ the client's own is refused ──▶ value spliced in ──▶ checked against the whole schema
//! ```
//! The check comes after the splice: what the server gets is valid by its own schema, and what the
//! client must send is not checked twice. A value is that of the policy in force, so another one needs
//! nothing but another policy.

use super::names::{Glob, fold};
use crate::config::{Credential, Inject, Pointer};
use crate::mcp::{Direction, Kind, Raw, elements, members, parse, text};
use crate::secret::Secret;
use std::ops::Range;
use zeroize::Zeroizing;

/// How deep a schema is followed through alternatives.
const DEPTH: usize = 16;

/// All credentials that are arguments.
#[derive(Debug, Default)]
pub(super) struct Injections {
    all: Box<[Injection]>,
}

pub(super) struct Injection {
    name: Box<str>,
    pointer: Pointer,
    exact: Box<[Box<str>]>,
    globs: Box<[Glob]>,
    by_tenant: bool,
    /// As JSON, of each tenant, or of all.
    values: Vec<(Option<Box<str>>, Json)>,
}

impl std::fmt::Debug for Injection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Injection({} at {})", self.name, self.pointer)
    }
}

/// The text of a value that is wiped.
type Json = Zeroizing<Vec<u8>>;

/// What is known of the tool's input schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed<'b> {
    /// The tool is listed, with this schema.
    Schema(&'b [u8]),
    /// The list is known, or there is none, and nothing is said of this tool.
    Nothing,
    /// The list has to be asked for.
    Unknown,
}

/// What comes of a call.
pub(super) enum Filled {
    /// It stays as it is.
    Unchanged,
    /// The line with the values; where in it `arguments` lie.
    Line(Vec<u8>, Range<usize>),
    /// The client sends what is not its own: the pointer.
    Taken(String),
    /// There is no value to give: the name.
    Missing(Box<str>),
    /// A value cannot be put there: something else lies in the way.
    Blocked(String),
    /// The list of tools is needed first.
    NeedTools,
}

impl Injections {
    pub(super) fn new(credentials: &[Credential], values: &[Secret]) -> Self {
        let all = credentials.iter().filter_map(|credential| {
            let Inject::Argument { pointer, tools } = &credential.inject else {
                return None;
            };
            let values = values.iter().filter(|it| credential.is_called(it.name()));
            let values = values.filter_map(|it| {
                let tenant = it.name().split_once('/').map(|(_, tenant)| tenant.into());
                Some((tenant, as_json(it.expose())?))
            });
            let (globs, exact): (Vec<&String>, Vec<&String>) =
                tools.iter().partition(|tool| tool.contains('*'));
            Some(Injection {
                name: (*credential.name).into(),
                pointer: pointer.clone(),
                exact: exact.into_iter().map(|tool| (**tool).into()).collect(),
                globs: globs.into_iter().map(|tool| Glob::new(tool)).collect(),
                by_tenant: credential.is_by_tenant(),
                values: values.collect(),
            })
        });
        Self { all: all.collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// True when what is said of a tool decides whether it gets anything.
    fn wants_schema(&self, tool: &str) -> bool {
        let named = |it: &Injection| it.globs.iter().any(|glob| glob.matches(tool));
        self.all.iter().any(|it| !it.is_for(tool) && named(it))
    }

    /// Those of a tool. One that is named gets its argument in any case, the others where they have it.
    fn of<'i>(
        &'i self,
        tool: &'i str,
        schema: Option<&'i [u8]>,
    ) -> impl Iterator<Item = &'i Injection> {
        self.all.iter().filter(move |it| {
            it.is_for(tool)
                || it.globs.iter().any(|glob| glob.matches(tool))
                    && schema.is_some_and(|schema| declares(schema, it.pointer.members(), 0))
        })
    }

    /// The values of a call of `tool` for a tenant, spliced in. `params` are those of the line.
    pub(super) fn fill(
        &self,
        line: &[u8],
        params: Raw<'_>,
        (tool, tenant): (&str, Option<&str>),
        listed: Listed<'_>,
    ) -> Filled {
        if listed == Listed::Unknown && self.wants_schema(tool) {
            return Filled::NeedTools;
        }
        let schema = match listed {
            Listed::Schema(schema) => Some(schema),
            Listed::Nothing | Listed::Unknown => None,
        };
        let mut filled: Option<Vec<u8>> = None;
        for injection in self.of(tool, schema) {
            let path = injection.pointer.members();
            let current = filled.as_deref().unwrap_or(line);
            let params = match &filled {
                None => params,
                Some(line) => match params_of(line) {
                    Some(params) => params,
                    None => return Filled::Blocked(injection.pointer.to_string()),
                },
            };
            let place = match place(params, path) {
                Ok(place) => place,
                Err(Obstacle::Taken) => return Filled::Taken(injection.pointer.to_string()),
                Err(Obstacle::Other) => return Filled::Blocked(injection.pointer.to_string()),
            };
            let Some(value) = injection.value(tenant) else {
                return Filled::Missing(injection.name.clone());
            };
            let next = place.splice(current, path, value);
            if let Some(mut old) = filled.replace(next) {
                zeroize::Zeroize::zeroize(&mut old);
            }
        }
        match filled {
            None => Filled::Unchanged,
            Some(line) => {
                let arguments = params_of(&line).and_then(|params| {
                    let arguments = params.member("arguments")?;
                    Some(arguments.start..arguments.start + arguments.text.len())
                });
                match arguments {
                    Some(arguments) => Filled::Line(line, arguments),
                    None => Filled::Unchanged,
                }
            }
        }
    }

    /// The name of the credential whose place this is (a JSON pointer of a failed check).
    pub(super) fn at(&self, tool: &str, path: &str) -> bool {
        let mine =
            |it: &Injection| it.is_for(tool) || it.globs.iter().any(|glob| glob.matches(tool));
        let mut all = self.all.iter();
        all.any(|it| mine(it) && path.starts_with(&it.pointer.to_string()))
    }

    /// The names of those that a tool may get.
    pub(super) fn names(&self, tool: &str) -> impl Iterator<Item = &str> {
        let all = self
            .all
            .iter()
            .filter(move |it| it.is_for(tool) || it.globs.iter().any(|glob| glob.matches(tool)));
        all.map(|it| &*it.name)
    }

    /// A list of tools without the arguments; `None` when there are none in it.
    pub(super) fn hide(&self, line: &[u8]) -> Option<Vec<u8>> {
        let envelope = parse(line, Direction::ToClient).ok()?;
        let Kind::Result { result, .. } = envelope.kind else {
            return None;
        };
        let mut cuts = Vec::new();
        for (key, list) in members(result.text) {
            // Clients in Go read keys without case.
            if !key.eq_ignore_ascii_case("tools") {
                continue;
            }
            let base = result.start + list.start;
            for tool in elements(list.text) {
                self.hide_in_tool(tool, base, &mut cuts);
            }
        }
        if cuts.is_empty() {
            return None;
        }
        cuts.sort_by_key(|cut| cut.start);
        let mut kept = Vec::with_capacity(line.len());
        let mut from = 0;
        for cut in cuts {
            kept.extend_from_slice(line.get(from..cut.start).unwrap_or_default());
            from = from.max(cut.end);
        }
        kept.extend_from_slice(line.get(from..).unwrap_or_default());
        Some(kept)
    }

    fn hide_in_tool(&self, tool: Raw<'_>, base: usize, cuts: &mut Vec<Range<usize>>) {
        let name = members(tool.text)
            .find(|(key, _)| key.eq_ignore_ascii_case("name"))
            .and_then(|(_, value)| text(value.text));
        let Some(name) = name else { return };
        for (key, schema) in members(tool.text) {
            if key.eq_ignore_ascii_case("inputSchema") {
                let paths: Vec<&[String]> = self
                    .of(&name, Some(schema.text))
                    .map(|it| it.pointer.members())
                    .collect();
                let base = base + tool.start + schema.start;
                cut_paths(schema.text, base, &paths, cuts, 0);
            }
        }
    }
}

impl Injection {
    /// `None` while there is none to give.
    fn value(&self, tenant: Option<&str>) -> Option<&[u8]> {
        let wanted = tenant.filter(|_| self.by_tenant);
        if self.by_tenant && wanted.is_none() {
            return None;
        }
        let mut values = self.values.iter();
        let found = values.find(|(of, _)| of.as_deref() == wanted);
        found.map(|(_, value)| value.as_slice())
    }

    fn is_for(&self, tool: &str) -> bool {
        self.exact.iter().any(|name| **name == *tool)
    }
}

/// A JSON string that never lies in memory twice: the buffer has room for six bytes for each.
fn as_json(value: &[u8]) -> Option<Json> {
    let value = std::str::from_utf8(value).ok()?;
    let mut json = Zeroizing::new(Vec::with_capacity(value.len() * 6 + 2));
    serde_json::to_writer(&mut *json, value).ok()?;
    Some(json)
}

fn params_of(line: &[u8]) -> Option<Raw<'_>> {
    match parse(line, Direction::ToServer).ok()?.kind {
        Kind::Request { params, .. } | Kind::Notification { params, .. } => params,
        Kind::Result { .. } | Kind::Error { .. } => None,
    }
}

enum Obstacle {
    /// The client has put something there.
    Taken,
    /// What would have to be an object is something else.
    Other,
}

/// Where in the line the value goes, and how many members of the path are there already.
struct Place {
    at: Range<usize>,
    /// Names that are still to be written, counted from the end of `arguments/a/b`; the first one is
    /// `arguments` when that is absent.
    depth: usize,
    /// Members follow.
    more: bool,
    /// The whole value is replaced (`"arguments": null`), not a member added.
    whole: bool,
}

/// `depth` 0 is `arguments` itself.
fn place(params: Raw<'_>, path: &[String]) -> Result<Place, Obstacle> {
    let inside = |object: Raw<'_>, base: usize, depth: usize| {
        let start = base + object.start + 1;
        Place {
            at: start..start,
            depth,
            more: members(object.text).next().is_some(),
            whole: false,
        }
    };
    let Some(arguments) = params.member("arguments") else {
        return Ok(inside(params, 0, 0));
    };
    // A member found by name has its place in the line, one that is walked over that in its object.
    let mut base = 0;
    let mut object = arguments;
    for (depth, name) in path.iter().enumerate() {
        if object.text == b"null" && depth == 0 {
            let start = base + object.start;
            return Ok(Place {
                at: start..start + object.text.len(),
                depth: 1,
                more: false,
                whole: true,
            });
        }
        if object.text.first() != Some(&b'{') {
            return Err(Obstacle::Other);
        }
        let wanted = fold(name);
        let mut next = None;
        for (key, value) in members(object.text) {
            if fold(&key) != wanted {
                continue;
            }
            // Servers in Go read keys without case, the last of two counts: none of them may pass.
            if depth + 1 == path.len() || *key != **name {
                return Err(Obstacle::Taken);
            }
            next = Some(value);
        }
        match next {
            Some(value) => {
                base += object.start;
                object = value;
            }
            None => return Ok(inside(object, base, depth + 1)),
        }
    }
    Err(Obstacle::Taken)
}

impl Place {
    fn splice(&self, line: &[u8], path: &[String], value: &[u8]) -> Vec<u8> {
        let mut names: Vec<&str> = Vec::new();
        if self.depth == 0 {
            names.push("arguments");
        }
        names.extend(
            path.iter()
                .skip(self.depth.saturating_sub(1))
                .map(|it| &**it),
        );
        // A buffer that grows would leave a copy behind.
        let room: usize = names.iter().map(|name| name.len() * 6 + 5).sum();
        let mut out = Vec::with_capacity(line.len() + value.len() + room + 8);
        out.extend_from_slice(line.get(..self.at.start).unwrap_or_default());
        let braces = names.len() - usize::from(!self.whole);
        for (at, name) in names.iter().enumerate() {
            if at > 0 || self.whole {
                out.push(b'{');
            }
            // Into memory; names are text.
            serde_json::to_writer(&mut out, name).ok();
            out.push(b':');
        }
        out.extend_from_slice(value);
        out.extend(std::iter::repeat_n(b'}', braces));
        if self.more {
            out.push(b',');
        }
        out.extend_from_slice(line.get(self.at.end..).unwrap_or_default());
        out
    }
}

/// Keywords whose value is a schema for the same instance, or a list of them.
const SAME: [&str; 6] = ["allOf", "anyOf", "oneOf", "if", "then", "else"];

/// Whether a schema has the property at the end of the path, through `properties` and alternatives.
fn declares(schema: &[u8], path: &[String], depth: usize) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return true;
    };
    if depth >= DEPTH {
        return false;
    }
    members(schema).any(|(key, value)| match &*key {
        "properties" => members(value.text).any(|(name, property)| {
            fold(&name) == fold(first) && declares(property.text, rest, depth + 1)
        }),
        key if SAME.contains(&key) => {
            schemas(value).any(|schema| declares(schema.text, path, depth + 1))
        }
        _ => false,
    })
}

/// One schema, or those of a list.
fn schemas(value: Raw<'_>) -> impl Iterator<Item = Raw<'_>> {
    let one = (value.text.first() == Some(&b'{')).then_some(value);
    let many = elements(value.text).map(move |element| Raw {
        start: value.start + element.start,
        text: element.text,
    });
    one.into_iter().chain(many)
}

fn cut_paths(
    schema: &[u8],
    base: usize,
    paths: &[&[String]],
    cuts: &mut Vec<Range<usize>>,
    depth: usize,
) {
    if paths.is_empty() || depth >= DEPTH {
        return;
    }
    let last = |name: &str| {
        let name = fold(name);
        let mut ends = paths.iter().filter(|path| path.len() == 1);
        ends.any(|path| path.first().is_some_and(|it| fold(it) == name))
    };
    for (key, value) in members(schema) {
        let at = base + value.start;
        match &*key {
            "properties" => {
                let properties = members(value.text);
                let items = properties.map(|(name, it)| (it.start + it.text.len(), last(&name)));
                cut_items(value.text, at, items, cuts);
                for (name, property) in members(value.text).filter(|(name, _)| !last(name)) {
                    let deeper: Vec<&[String]> = paths
                        .iter()
                        .filter_map(|path| path.split_first())
                        .filter(|(first, rest)| !rest.is_empty() && fold(first) == fold(&name))
                        .map(|(_, rest)| rest)
                        .collect();
                    cut_paths(property.text, at + property.start, &deeper, cuts, depth + 1);
                }
            }
            "required" => {
                let items = elements(value.text).map(|it| {
                    let hidden = text(it.text).is_some_and(|name| last(&name));
                    (it.start + it.text.len(), hidden)
                });
                cut_items(value.text, at, items, cuts);
            }
            key if SAME.contains(&key) => {
                for schema in schemas(value) {
                    cut_paths(schema.text, base + schema.start, paths, cuts, depth + 1);
                }
            }
            _ => {}
        }
    }
}

/// Cuts members or elements, each with one comma: `items` are where they end, and whether they go.
fn cut_items(
    list: &[u8],
    base: usize,
    items: impl Iterator<Item = (usize, bool)>,
    cuts: &mut Vec<Range<usize>>,
) {
    // Between the brackets: what precedes the first that stays goes with the comma after it.
    let (mut kept, mut front) = (None, None);
    for (end, hidden) in items {
        if hidden {
            match kept {
                Some(from) => {
                    cuts.push(base + from..base + end);
                    kept = Some(end);
                }
                None => front = Some(end),
            }
        } else {
            if let Some(run) = front.take() {
                let comma = list.get(run..).and_then(|rest| memchr::memchr(b',', rest));
                let end = comma.map_or(run, |comma| run + comma + 1);
                cuts.push(base + 1..base + end);
            }
            kept = Some(end);
        }
    }
    if let Some(run) = front {
        cuts.push(base + 1..base + run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A credential that is called like its place.
    fn named(pointer: &str) -> String {
        pointer.trim_start_matches('/').replace('/', ".")
    }

    fn injections(list: &[(&str, &[&str], Option<&str>)]) -> Injections {
        let credentials: Vec<Credential> = list
            .iter()
            .map(|(pointer, tools, _)| Credential {
                name: named(pointer),
                file: "/x".into(),
                key: None,
                inject: Inject::Argument {
                    pointer: pointer.parse().unwrap(),
                    tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
                },
                environment: None,
                overlap: std::time::Duration::ZERO,
                rotate_every: None,
            })
            .collect();
        let values = list.iter().filter_map(|(pointer, _, value)| {
            Some(Secret::new(named(pointer), (*value)?.as_bytes().to_vec()))
        });
        Injections::new(&credentials, &values.collect::<Vec<_>>())
    }

    fn call(params: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
    }

    fn fill(injections: &Injections, params: &str, listed: Listed<'_>) -> String {
        let line = call(params);
        let raw = params_of(line.as_bytes()).unwrap();
        match injections.fill(line.as_bytes(), raw, ("t", None), listed) {
            Filled::Unchanged => "unchanged".to_owned(),
            Filled::Line(out, arguments) => {
                let text = String::from_utf8(out).unwrap();
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                let cut: serde_json::Value = serde_json::from_str(&text[arguments]).unwrap();
                assert_eq!(value["params"]["arguments"], cut);
                let start = text.find(r#""params":"#).unwrap() + 9;
                text[start..text.len() - 1].to_owned()
            }
            Filled::Taken(at) => format!("taken {at}"),
            Filled::Missing(name) => format!("missing {name}"),
            Filled::Blocked(at) => format!("blocked {at}"),
            Filled::NeedTools => "tools".to_owned(),
        }
    }

    const SCHEMA: &[u8] = br#"{"type":"object","properties":{"token":{"type":"string"}}}"#;

    #[test]
    fn a_value_is_spliced_in_wherever_arguments_are() {
        let one = injections(&[("/token", &["*"], Some("a\"b"))]);
        for (params, expected) in [
            (
                r#"{"name":"t"}"#,
                r#"{"arguments":{"token":"a\"b"},"name":"t"}"#,
            ),
            (
                r#"{"name":"t","arguments":null}"#,
                r#"{"name":"t","arguments":{"token":"a\"b"}}"#,
            ),
            (
                r#"{"name":"t","arguments": { }}"#,
                r#"{"name":"t","arguments": {"token":"a\"b" }}"#,
            ),
            (
                r#"{"arguments":{"x":1.0e2},"name":"t"}"#,
                r#"{"arguments":{"token":"a\"b","x":1.0e2},"name":"t"}"#,
            ),
        ] {
            assert_eq!(fill(&one, params, Listed::Schema(SCHEMA)), expected);
        }
        let deep = injections(&[
            ("/auth/token", &["t"], Some("v1")),
            ("/auth/user", &["t"], Some("v2")),
        ]);
        for (params, expected) in [
            (
                r#"{"name":"t"}"#,
                r#"{"arguments":{"auth":{"user":"v2","token":"v1"}},"name":"t"}"#,
            ),
            (
                r#"{"arguments":{"auth":{}}}"#,
                r#"{"arguments":{"auth":{"user":"v2","token":"v1"}}}"#,
            ),
            (
                r#"{"arguments":{"b":[],"auth":{"k":0}}}"#,
                r#"{"arguments":{"b":[],"auth":{"user":"v2","token":"v1","k":0}}}"#,
            ),
        ] {
            assert_eq!(fill(&deep, params, Listed::Nothing), expected);
        }
    }

    #[test]
    fn a_client_cannot_send_it_in_any_spelling() {
        let one = injections(&[("/token", &["t"], Some("v"))]);
        for key in ["token", "TOKEN", "to\\u006ben", "to\u{212a}en", "token "] {
            let params = format!(r#"{{"arguments":{{"{key}":"mine"}}}}"#);
            assert_eq!(
                fill(&one, &params, Listed::Nothing),
                "taken /token",
                "{key}"
            );
        }
        let deep = injections(&[("/auth/token", &["t"], Some("v"))]);
        for params in [
            r#"{"arguments":{"auth":{"Token":"mine"}}}"#,
            r#"{"arguments":{"Auth":{"token":"mine"}}}"#,
            r#"{"arguments":{"auth":{},"AUTH":{"token":"mine"}}}"#,
        ] {
            assert_eq!(fill(&deep, params, Listed::Nothing), "taken /auth/token");
        }
        for params in [r#"{"arguments":{"auth":7}}"#, r#"{"arguments":[]}"#] {
            assert_eq!(fill(&deep, params, Listed::Nothing), "blocked /auth/token");
        }
        assert_eq!(
            fill(&one, r#"{"arguments":{"x":{"token":1}}}"#, Listed::Nothing),
            r#"{"arguments":{"token":"v","x":{"token":1}}}"#
        );
    }

    #[test]
    fn a_pattern_reaches_only_tools_that_have_the_argument() {
        let one = injections(&[("/token", &["*"], Some("v"))]);
        let params = r#"{"arguments":{"token":"mine"}}"#;
        assert_eq!(fill(&one, params, Listed::Unknown), "tools");
        assert_eq!(fill(&one, params, Listed::Nothing), "unchanged");
        assert_eq!(fill(&one, params, Listed::Schema(b"{}")), "unchanged");
        assert_eq!(fill(&one, params, Listed::Schema(SCHEMA)), "taken /token");
        let any = br#"{"anyOf":[{"properties":{"x":{}}},{"properties":{"token":{}}}]}"#;
        assert_eq!(fill(&one, params, Listed::Schema(any)), "taken /token");
        let other = injections(&[("/token", &["u*"], Some("v"))]);
        assert_eq!(fill(&other, params, Listed::Unknown), "unchanged");
        let none = injections(&[("/token", &["*"], None)]);
        assert_eq!(fill(&none, "{}", Listed::Schema(SCHEMA)), "missing token");
    }

    #[test]
    fn a_tenant_gets_its_own_value_and_nobody_else_gets_it() {
        let credential = Credential {
            name: "c".to_owned(),
            file: "/s/{tenant}".into(),
            key: None,
            inject: Inject::Argument {
                pointer: "/token".parse().unwrap(),
                tools: vec!["t".to_owned()],
            },
            environment: None,
            overlap: std::time::Duration::ZERO,
            rotate_every: None,
        };
        let value = |name: &str, text: &str| Secret::new(name, text.as_bytes().to_vec());
        let values = [
            value("c/acme", "one"),
            value("c/zeta", "two"),
            value("c", "three"),
        ];
        let injections = Injections::new(&[credential], &values);
        let line = call("{}");
        let raw = params_of(line.as_bytes()).unwrap();
        let get =
            |tenant| match injections.fill(line.as_bytes(), raw, ("t", tenant), Listed::Nothing) {
                Filled::Line(line, arguments) => {
                    String::from_utf8(line[arguments].to_vec()).unwrap()
                }
                Filled::Missing(name) => format!("missing {name}"),
                _ => String::new(),
            };
        assert_eq!(get(Some("acme")), r#"{"token":"one"}"#);
        assert_eq!(get(Some("zeta")), r#"{"token":"two"}"#);
        assert_eq!(get(Some("other")), "missing c");
        assert_eq!(get(None), "missing c");
    }

    #[test]
    fn what_is_filled_in_is_not_shown() {
        let two = injections(&[("/token", &["*"], None), ("/auth/key", &["t"], None)]);
        let hidden = |schema: &str| {
            let line = format!(
                r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{{"name":"t","inputSchema":{schema}}}]}}}}"#
            );
            let out = two.hide(line.as_bytes())?;
            let out = String::from_utf8(out).unwrap();
            serde_json::from_str::<serde_json::Value>(&out).unwrap();
            let start = out.find(r#""inputSchema":"#).unwrap() + 14;
            Some(out[start..out.len() - 4].to_owned())
        };
        for (schema, expected) in [
            (
                r#"{"properties":{"token":{},"a":{}},"required":["token","a"]}"#,
                r#"{"properties":{"a":{}},"required":["a"]}"#,
            ),
            (
                r#"{"properties":{"a":{} , "token":{"x":[1,2]} },"required":["a","token"]}"#,
                r#"{"properties":{"a":{} },"required":["a"]}"#,
            ),
            (
                r#"{"required":["token"],"properties":{ "token":{} }}"#,
                r#"{"required":[],"properties":{ }}"#,
            ),
            (
                r#"{"properties":{"auth":{"properties":{"key":{},"b":{}},"required":["b","key"]}}}"#,
                r#"{"properties":{"auth":{"properties":{"b":{}},"required":["b"]}}}"#,
            ),
            (
                r#"{"allOf":[{"properties":{"token":{}}},{"required":["token","z"]}]}"#,
                r#"{"allOf":[{"properties":{}},{"required":["z"]}]}"#,
            ),
        ] {
            assert_eq!(hidden(schema).as_deref(), Some(expected), "{schema}");
        }
        assert_eq!(hidden(r#"{"properties":{"tokens":{}}}"#), None);
        assert_eq!(hidden(r#"{"title":"token"}"#), None);
    }
}
