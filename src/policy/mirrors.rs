//! Arguments that a schema wants repeated in HTTP headers (`x-mcp-header`, MCP 2026-07-28,
//! transports): what is repeated, and whether a header says the same as the arguments.
//!
//! An annotation that the specification does not allow counts as none: not a scalar, not a token, a
//! name twice, or not reachable through `properties` alone.

use crate::mcp::{Raw, elements, members, text};

/// Annotations of one tool that are kept.
const MOST: usize = 64;
/// How deep `properties` lie inside each other.
const DEPTH: usize = 8;

/// What kind of value is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    Text,
    Integer,
    Boolean,
}

/// One argument with a header of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// What follows `mcp-param-`, in lower case.
    pub header: Box<str>,
    /// Members that lead from `arguments` to the value.
    pub path: Box<[Box<str>]>,
    pub scalar: Scalar,
}

impl Mirror {
    /// True when `header` (decoded, without outer blanks) repeats what `arguments` hold; a value
    /// that is absent or null has no header.
    #[must_use]
    pub fn agrees(&self, arguments: Option<Raw<'_>>, header: Option<&str>) -> bool {
        let value = self.path.iter().try_fold(arguments, |value, key| {
            Some(value?.member(key)).filter(Option::is_some)
        });
        let value = value.flatten().filter(|value| value.text != b"null");
        let (value, header) = match (value, header) {
            (None, None) => return true,
            (Some(value), Some(header)) => (value, header),
            _ => return false,
        };
        if let Some(said) = text(value.text) {
            return said == header;
        }
        let Ok(written) = std::str::from_utf8(value.text) else {
            return false;
        };
        written == header
            || matches!((number(written), number(header)), (Some(a), Some(b)) if a == b)
    }
}

impl Mirror {
    /// What a header has to say for these arguments; `None`: there must be none.
    #[must_use]
    pub fn said(&self, arguments: Option<Raw<'_>>) -> Option<String> {
        let value = self.path.iter().try_fold(arguments, |value, key| {
            Some(value?.member(key)).filter(Option::is_some)
        });
        let value = value.flatten().filter(|value| value.text != b"null")?;
        match text(value.text) {
            Some(text) => Some(text.into_owned()),
            None => std::str::from_utf8(value.text).ok().map(str::to_owned),
        }
    }
}

/// What a page of a tool list says about headers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Names of all tools, each with its annotations.
    pub tools: Vec<(String, Box<[Mirror]>)>,
    /// Which of them carry an annotation that the specification does not allow: a client on HTTP must
    /// not offer them. Places in `tools` of the result.
    pub unfit: Vec<usize>,
}

/// Reads the result of a `tools/list`.
#[must_use]
pub fn listed(result: &[u8]) -> Listed {
    let mut listed = Listed::default();
    let tools = members(result).find_map(|(key, value)| (key == "tools").then_some(value));
    for (place, tool) in tools
        .iter()
        .flat_map(|tools| elements(tools.text))
        .enumerate()
    {
        let schema = tool.member("inputSchema");
        let mirrors = schema
            .map(|schema| mirrors(schema.text))
            .unwrap_or_default();
        let written = schema.map_or(0, |schema| annotations(schema.text));
        if written != mirrors.len() {
            listed.unfit.push(place);
        }
        if let Some(name) = tool.member("name").and_then(|name| name.as_text()) {
            listed.tools.push((name.into_owned(), mirrors));
        }
    }
    listed
}

/// How many annotations there are, wherever they stand.
fn annotations(schema: &[u8]) -> usize {
    fn count(raw: &[u8], depth: usize) -> usize {
        if depth > 4 * DEPTH || memchr::memmem::find(raw, b"x-mcp-header").is_none() {
            return 0;
        }
        match raw.first() {
            Some(b'{') => members(raw)
                .map(|(key, value)| {
                    usize::from(key == "x-mcp-header") + count(value.text, depth + 1)
                })
                .sum(),
            Some(b'[') => elements(raw)
                .map(|value| count(value.text, depth + 1))
                .sum(),
            _ => 0,
        }
    }
    count(schema, 0)
}

/// Integers compare as numbers: `1`, `1.0` and `1e0` are one.
fn number(text: &str) -> Option<i128> {
    if let Ok(whole) = text.parse::<i128>() {
        return Some(whole);
    }
    let float: f64 = text.parse().ok()?;
    let exact = float.is_finite() && float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0;
    // Proved to be whole and to fit.
    exact.then(|| format!("{float:.0}").parse().ok()).flatten()
}

/// The annotations of an input schema.
pub(super) fn mirrors(schema: &[u8]) -> Box<[Mirror]> {
    // Almost no schema has one, and a walk over all of them costs more than looking for the word.
    if memchr::memmem::find(schema, b"x-mcp-header").is_none() {
        return Box::default();
    }
    let mut found: Vec<Mirror> = Vec::new();
    walk(
        Raw {
            start: 0,
            text: schema,
        },
        &mut Vec::new(),
        &mut found,
    );
    let twice = |mirror: &Mirror| found.iter().filter(|m| m.header == mirror.header).count() > 1;
    let single = found.iter().filter(|mirror| !twice(mirror)).cloned();
    single.collect()
}

fn walk(schema: Raw<'_>, path: &mut Vec<Box<str>>, found: &mut Vec<Mirror>) {
    if path.len() >= DEPTH {
        return;
    }
    let Some(properties) = schema.member("properties") else {
        return;
    };
    for (key, property) in members(properties.text) {
        if found.len() >= MOST {
            return;
        }
        path.push((&*key).into());
        let header = property
            .member("x-mcp-header")
            .and_then(|raw| raw.as_text());
        let scalar = property.member("type").and_then(|raw| raw.as_text());
        let scalar = match scalar.as_deref() {
            Some("string") => Some(Scalar::Text),
            Some("integer") => Some(Scalar::Integer),
            Some("boolean") => Some(Scalar::Boolean),
            _ => None,
        };
        if let (Some(header), Some(scalar)) = (header.filter(|h| is_token(h)), scalar) {
            found.push(Mirror {
                header: header.to_ascii_lowercase().into(),
                path: path.as_slice().into(),
                scalar,
            });
        }
        walk(property, path, found);
        path.pop();
    }
}

/// A token of RFC 9110 §5.6.2: what a header's name may be made of.
fn is_token(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"type":"object","properties":{
        "region":{"type":"string","x-mcp-header":"Region"},
        "deep":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"Count"}}},
        "list":{"type":"array","items":{"type":"string","x-mcp-header":"Item"}},
        "rate":{"type":"number","x-mcp-header":"Rate"},
        "a":{"type":"boolean","x-mcp-header":"Twice"},"b":{"type":"boolean","x-mcp-header":"twice"},
        "bad":{"type":"string","x-mcp-header":"no token"}}}"#;

    fn agrees(mirror: &Mirror, arguments: &str, header: Option<&str>) -> bool {
        let raw = Raw {
            start: 0,
            text: arguments.as_bytes(),
        };
        mirror.agrees(Some(raw), header)
    }

    #[test]
    fn only_what_the_specification_allows_is_an_annotation() {
        let found = mirrors(&crate::mcp::flatten(SCHEMA.as_bytes()));
        let names: Vec<&str> = found.iter().map(|mirror| &*mirror.header).collect();
        assert_eq!(names, ["region", "count"]);
        assert!(mirrors(br#"{"type":"object"}"#).is_empty());
    }

    #[test]
    fn a_header_agrees_exactly_when_it_says_the_same() {
        let found = mirrors(&crate::mcp::flatten(SCHEMA.as_bytes()));
        let (region, count) = (&found[0], &found[1]);
        assert!(agrees(region, r#"{"region":"e\u0075"}"#, Some("eu")));
        assert!(!agrees(region, r#"{"region":"eu"}"#, Some("EU")));
        assert!(!agrees(region, r#"{"region":"eu"}"#, None));
        assert!(!agrees(region, r#"{"region":null}"#, Some("null")));
        assert!(agrees(region, r#"{"region":null}"#, None) && agrees(region, "{}", None));
        assert!(!agrees(region, "{}", Some("eu")));
        assert!(agrees(count, r#"{"deep":{"n":42}}"#, Some("42.0")));
        assert!(agrees(count, r#"{"deep":{"n":4e1}}"#, Some("40")));
        assert!(!agrees(count, r#"{"deep":{"n":42}}"#, Some("43")));
        assert!(agrees(count, r#"{"deep":{}}"#, None));
    }
}
