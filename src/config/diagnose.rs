//! Mistakes in a file, told so that they can be mended: line, caret, and what to write instead.

use super::entries::shown;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was made.
    pub place: Place,
    /// One sentence, lower case, without a full stop.
    pub message: String,
    /// What stands beside the caret.
    pub label: String,
    /// What to do about it.
    pub hints: Vec<String>,
}

/// Where a value came from, when it is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// These bytes of the file.
    File(Range<usize>),
    /// This flag, as in `--memory`.
    Flag(&'static str),
    /// Nowhere: something is missing.
    Absent,
}

impl Problem {
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            message: message.into(),
            label: String::new(),
            hints: Vec::new(),
        }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// Keys that the documentation of later versions names, so that "unknown" would be a lie. `*` is
/// any one table; a table alone stands for everything below it.
const NOT_YET: &[&str] = &[
    "scrub.pii",
    "scrub.traces",
    "scrub.inside",
    "scrub.hidden",
    "scrub.injection",
];

/// Values that are known but not served by this version, by key.
const NOT_YET_VALUES: &[(&str, &[&str])] = &[("cell.preset", &["go", "jvm", "chromium"])];

/// Everything that the parser and the twin have to say about a text, the first mistakes first.
/// Called only when reading has failed.
pub(super) fn explain<T: serde::de::DeserializeOwned>(text: &str) -> Vec<Problem> {
    /// A file with more mistakes than this is the wrong file.
    const MOST: usize = 20;
    /// After a broken line the parser guesses, and its later complaints are mostly echoes.
    const MOST_SYNTAX: usize = 3;

    let (mut root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // A table that is written twice makes each of its keys a duplicate too.
        let echo = |at: usize, error: &toml::de::Error| at > 0 && error.message() == DUPLICATE;
        return errors
            .iter()
            .enumerate()
            .filter(|(at, error)| !echo(*at, error))
            .take(MOST_SYNTAX)
            .map(|(_, error)| syntax(error, text))
            .collect();
    }
    let mut problems = Vec::new();
    // serde stops at the first mistake: note it, take the offending entry out, and look again.
    while problems.len() < MOST {
        let Err(error) = T::deserialize(toml::de::Deserializer::from(root.clone())) else {
            break;
        };
        let span = error.span().unwrap_or(0..0);
        let path = remove(root.get_mut(), &span);
        problems.push(mistake(
            error.message(),
            span,
            path.as_deref().unwrap_or(&[]),
        ));
        if path.is_none() {
            break;
        }
    }
    in_order(&mut problems);
    problems
}

/// From the top of the file to its end, then what stands nowhere.
pub(super) fn in_order(problems: &mut [Problem]) {
    problems.sort_by_key(|problem| match &problem.place {
        Place::File(span) => span.start,
        Place::Flag(_) | Place::Absent => usize::MAX,
    });
}

/// What the parser says of a key or table that is there already.
const DUPLICATE: &str = "duplicate key";

fn syntax(error: &toml::de::Error, text: &str) -> Problem {
    let span = error.span().unwrap_or(0..0);
    if error.message() == DUPLICATE {
        let key = text.get(span.clone()).unwrap_or_default();
        let message = format!(
            "`{}` is written twice",
            shown(key.trim_matches(['"', '\'']))
        );
        return Problem::new(Place::File(span), message)
            .label("it is already there above")
            .hint("keep one of them");
    }
    Problem::new(Place::File(span), "this is not TOML").label(first_line(error.message()))
}

/// Words for what serde said about the entry at `path`.
fn mistake(message: &str, span: Range<usize>, path: &[String]) -> Problem {
    let place = Place::File(span);
    let table = path.split_last().map_or(&[][..], |(_, table)| table);
    if let Some((found, expected)) = unknown(message, "unknown field `") {
        let problem = if listed(NOT_YET, path) {
            Problem::new(place, format!("`{found}` is not in this version"))
                .label("this version cannot do it, so it does not accept it")
        } else {
            let problem = Problem::new(place, format!("unknown key `{}`", shown(found)))
                .label(format!("not a key of {}", table_name(table)));
            suggest(problem, found, &expected)
        };
        return problem.hint(format!("{} takes {}", table_name(table), quoted(&expected)));
    }
    if let Some((found, expected)) = unknown(message, "unknown variant `") {
        let key = path.join(".");
        let later = NOT_YET_VALUES
            .iter()
            .any(|(name, values)| *name == key && values.contains(&found));
        let problem = if later {
            Problem::new(
                place,
                format!("`{key} = \"{found}\"` is not in this version"),
            )
        } else {
            Problem::new(place, format!("`{found}` is not a value of `{key}`"))
        };
        return suggest(problem, found, &expected)
            .hint(format!("`{key}` takes {}", quoted(&expected)));
    }
    let key = path.join(".");
    let (what, hint) = message.split_once('\n').unwrap_or((message, ""));
    let mut problem =
        Problem::new(place, format!("`{key}` has a wrong value")).label(in_toml_words(what));
    if !hint.is_empty() {
        problem = problem.hint(hint);
    }
    problem
}

/// Splits serde's "unknown field `x`, expected one of `a`, `b`" into `x` and the list.
fn unknown<'a>(message: &'a str, start: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let rest = message.strip_prefix(start)?;
    let (found, rest) = rest.split_once("`, expected ")?;
    let expected = rest.split('`').skip(1).step_by(2).collect();
    Some((found, expected))
}

fn suggest(problem: Problem, found: &str, expected: &[&str]) -> Problem {
    match nearest(found, expected.iter().copied()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem,
    }
}

/// The candidate that is at most a third of its letters away.
pub(crate) fn nearest<'a>(
    found: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    /// No key is as long; a longer text would only cost time.
    const LONGEST: usize = 64;
    if found.len() > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(found, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn listed(list: &[&str], path: &[String]) -> bool {
    list.iter().any(|entry| {
        let mut parts = 0;
        let same = entry.split('.').zip(path).all(|(part, key)| {
            parts += 1;
            part == "*" || part == key
        });
        same && parts == entry.split('.').count()
    })
}

fn table_name(path: &[String]) -> String {
    if path.is_empty() {
        return "the top level".to_owned();
    }
    let bare = |key: &str| {
        !key.is_empty()
            && key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    let keys: Vec<String> = path
        .iter()
        .map(|key| match bare(key) {
            true => key.clone(),
            false => format!("{key:?}"),
        })
        .collect();
    format!("[{}]", keys.join("."))
}

pub(super) fn quoted(names: &[&str]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// serde speaks of Rust's types; the file has lists, tables and whole numbers.
fn in_toml_words(message: &str) -> String {
    let message = message.strip_prefix("invalid type: ").unwrap_or(message);
    let (found, expected) = message
        .rsplit_once(", expected ")
        .map_or((message, None), |(found, expected)| (found, Some(expected)));
    let found = match found {
        "sequence" => "a list",
        "map" => "a table",
        other => other,
    };
    if message == "wanted string or table" {
        return "expected a word in quotes".to_owned();
    }
    let expected = expected.map(|expected| match expected {
        "a sequence" => "a list",
        "a map" => "a table",
        "i64" => "a whole number",
        "a boolean" => "true or false",
        other => other,
    });
    match expected {
        None => found.to_owned(),
        Some(expected) => format!("this is {found}, expected {expected}"),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Takes out the entry that an error points at (its key or its value) and returns its path.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    let hit = table
        .iter()
        .find(|(key, value)| key.span() == *span || value.span() == *span)
        .map(|(key, _)| key.get_ref().to_string());
    if let Some(key) = hit {
        let _gone = table.remove(key.as_str());
        return Some(vec![key]);
    }
    for (key, value) in table.iter_mut() {
        let below = remove_within(value, span);
        if let Some(mut path) = below {
            path.insert(0, key.get_ref().to_string());
            return Some(path);
        }
    }
    None
}

fn remove_within(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<Vec<String>> {
    match value.get_mut() {
        DeValue::Table(table) => remove(table, span),
        DeValue::Array(array) => {
            if array.iter().any(|item| item.span() == *span) {
                let others = array.iter().filter(|item| item.span() != *span);
                *array = others.cloned().collect();
                return Some(Vec::new());
            }
            array.iter_mut().find_map(|item| remove_within(item, span))
        }
        _ => None,
    }
}

/// All problems of one file as text for people.
pub(super) fn render(file: &Path, text: &str, problems: &[Problem], colour: bool) -> String {
    let path = file.display().to_string();
    let mut groups = Vec::new();
    for problem in problems {
        let mut group = match &problem.place {
            Place::File(span) => {
                let mut mark = AnnotationKind::Primary.span(within(text, span));
                if !problem.label.is_empty() {
                    mark = mark.label(problem.label.as_str());
                }
                Level::ERROR
                    .primary_title(problem.message.as_str())
                    .element(Snippet::source(text).path(path.as_str()).annotation(mark))
            }
            Place::Flag(_) | Place::Absent => {
                Group::with_title(Level::ERROR.primary_title(problem.message.as_str()))
            }
        };
        for hint in &problem.hints {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        groups.push(group);
    }
    let renderer = match colour {
        true => Renderer::styled(),
        false => Renderer::plain(),
    };
    let mut rendered = String::new();
    for group in groups {
        rendered.push_str(&renderer.render(&[group]));
        rendered.push('\n');
    }
    rendered
}

/// The span, cut to whole characters of the text and to its first line: the renderer trusts it.
fn within(text: &str, span: &Range<usize>) -> Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    let end = floor(span.end.max(start)).max(start);
    let line = text
        .get(start..end)
        .and_then(|marked| marked.find('\n'))
        .map_or(end, |feed| start + feed);
    start..line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_messages_are_taken_apart() {
        assert_eq!(
            unknown(
                "unknown field `x`, expected one of `a`, `b`",
                "unknown field `"
            ),
            Some(("x", vec!["a", "b"]))
        );
        assert_eq!(
            unknown("unknown field `x`, expected `a` or `b`", "unknown field `"),
            Some(("x", vec!["a", "b"]))
        );
        assert_eq!(unknown("invalid type", "unknown field `"), None);
    }

    #[test]
    fn only_near_names_are_suggested() {
        assert_eq!(nearest("comand", ["command", "name"]), Some("command"));
        assert_eq!(nearest("wirte", ["read", "write"]), Some("write"));
        assert_eq!(nearest("zzz", ["read", "write"]), None);
    }

    #[test]
    fn keys_of_later_versions_match_whole_paths() {
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert!(listed(NOT_YET, &path("scrub.pii")));
        assert!(!listed(NOT_YET, &path("server.credentials")));
        assert!(!listed(NOT_YET, &path("credentials.header")));
    }
}
