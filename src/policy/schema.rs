//! JSON Schemas of tools: compiled within bounds, checked without a word of the value in the answer.
//!
//! A schema is text from the server, so it is weighed before it is compiled: size, depth, number of
//! subschemas, patterns and paths through references. `$ref` never leaves the document. The dialect
//! is 2020-12 unless `$schema` names 2019-09, draft-07, -06 or -04. `format` is an annotation, as
//! 2020-12 has it: implementations differ too much for a refusal to hang on it.

mod flat;
mod nesting;
mod reason;
mod weight;

pub(super) use self::flat::Flat;
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

/// Largest schema that is compiled, in bytes. The largest tool list met in the wild had 82 KB in all.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// Bytes that one compiled pattern may take, and its lazy automaton as well.
const PATTERN_BYTES: usize = 512 * 1024;
/// Steps after which a pattern that needs backtracking gives up; the check then fails.
const BACKTRACK_STEPS: usize = 20_000;

/// A schema in the state that the next call needs.
#[derive(Debug)]
pub(super) enum Compiled {
    /// Everything that the protocol lets through passes; nothing to compile.
    Trivial,
    /// Ready to check.
    Ready {
        validator: Box<Validator>,
        /// How many subschemas it has; the tool book bounds the sum.
        weight: usize,
        /// The deepest value that it checks.
        depth: usize,
        /// Says yes at once to what is plainly valid.
        shortcut: Option<Flat>,
    },
    /// Cannot be used.
    Unusable(Unusable),
}

/// Why a schema cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("its schema is larger or deeper than is checked")]
    TooLarge,
    #[error("its schema names a dialect that is not known")]
    Dialect,
    /// The specification: such a reference must not be followed, and rejecting beats ignoring.
    #[error("its schema refers to another document, which is never fetched")]
    Remote,
    #[error("its schema embeds another document")]
    Embedded,
    #[error("its schema is not a valid one")]
    Invalid,
}

/// Compiles `raw`, which is untrusted text.
pub(super) fn compile(raw: &[u8]) -> Compiled {
    match try_compile(raw) {
        Ok(compiled) => compiled,
        Err(unusable) => Compiled::Unusable(unusable),
    }
}

fn try_compile(raw: &[u8]) -> Result<Compiled, Unusable> {
    if raw.len() > MAX_BYTES {
        return Err(Unusable::TooLarge);
    }
    // `serde_json` stops at 128 levels by itself; the weight below stops earlier.
    let schema: Value = serde_json::from_slice(raw).map_err(|_| Unusable::Invalid)?;
    if is_trivial(&schema) {
        return Ok(Compiled::Trivial);
    }
    let draft = draft(&schema)?;
    let weight = weight::weigh(&schema)?;
    // The engine without backtracking first: linear for every input. Patterns with a lookaround
    // (zod writes them for e-mail addresses) need the other one, which gives up after a while.
    let linear = PatternOptions::regex()
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES);
    let options = jsonschema::options()
        .with_draft(draft)
        .offline()
        .should_validate_formats(false);
    let built = options
        .clone()
        .with_pattern_options(linear)
        .build(&schema)
        .or_else(|_| {
            let backtracking = PatternOptions::fancy_regex()
                .backtrack_limit(BACKTRACK_STEPS)
                .size_limit(PATTERN_BYTES)
                .dfa_size_limit(PATTERN_BYTES);
            options.with_pattern_options(backtracking).build(&schema)
        });
    let validator = Box::new(built.map_err(|_| Unusable::Invalid)?);
    Ok(Compiled::Ready {
        validator,
        weight: weight.subschemas,
        depth: weight.depth,
        shortcut: Flat::of(&schema),
    })
}

/// `true`, `{}` and `{"type":"object"}` with annotations only: the protocol itself says as much.
fn is_trivial(schema: &Value) -> bool {
    match schema {
        Value::Bool(all) => *all,
        Value::Object(members) => members.iter().all(|(key, value)| match key.as_str() {
            "type" => value == "object",
            "properties" | "$defs" | "definitions" => {
                value.as_object().is_some_and(serde_json::Map::is_empty)
            }
            "required" => value.as_array().is_some_and(Vec::is_empty),
            "additionalProperties" => {
                value == true || value.as_object().is_some_and(serde_json::Map::is_empty)
            }
            "title" | "description" | "$comment" | "default" | "examples" | "$schema" => true,
            _ => false,
        }),
        _ => false,
    }
}

/// The dialect that `$schema` names. A final `#` and the scheme make no difference.
fn draft(schema: &Value) -> Result<Draft, Unusable> {
    let Some(named) = schema.get("$schema") else {
        return Ok(Draft::Draft202012);
    };
    let named = named.as_str().ok_or(Unusable::Dialect)?;
    let named = named.strip_suffix('#').unwrap_or(named);
    let named = named
        .strip_prefix("https://")
        .or_else(|| named.strip_prefix("http://"))
        .unwrap_or_default();
    match named {
        "json-schema.org/draft/2020-12/schema" => Ok(Draft::Draft202012),
        "json-schema.org/draft/2019-09/schema" => Ok(Draft::Draft201909),
        "json-schema.org/draft-07/schema" => Ok(Draft::Draft7),
        "json-schema.org/draft-06/schema" => Ok(Draft::Draft6),
        "json-schema.org/draft-04/schema" => Ok(Draft::Draft4),
        _ => Err(Unusable::Dialect),
    }
}

/// Why a value was not accepted; nothing in it comes from the value itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    /// JSON pointer of the place; segments that the schema does not name are `*`.
    pub(super) path: String,
    /// What is expected there.
    pub(super) expected: String,
}

/// Checks `value` (raw JSON). `schema` is the text that `validator` was compiled from; names of
/// properties are only repeated when they stand in it.
/// `depth` is the deepest value that is checked.
pub(super) fn check(
    validator: &Validator,
    depth: usize,
    schema: &[u8],
    value: &[u8],
) -> Result<(), Reason> {
    let Ok(value) = serde_json::from_slice::<Value>(value) else {
        // Proved JSON that is still no `Value`: a number beyond any double, or too many levels.
        return Err(Reason {
            path: String::new(),
            expected: "numbers and nesting within the limits of a double and 128 levels".to_owned(),
        });
    };
    if depth < crate::mcp::MAX_DEPTH && levels(&value) > depth {
        return Err(Reason {
            path: String::new(),
            expected: format!("at most {depth} levels of nesting, as the schema branches at each"),
        });
    }
    if validator.is_valid(&value) {
        return Ok(());
    }
    match validator.validate(&value) {
        Ok(()) => Ok(()),
        Err(error) => Err(reason::describe(&error, schema)),
    }
}

/// Objects and arrays inside each other.
fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: &str, value: &str) -> Result<(), Reason> {
        match compile(schema.as_bytes()) {
            Compiled::Ready {
                validator, depth, ..
            } => super::check(&validator, depth, schema.as_bytes(), value.as_bytes()),
            other => panic!("{other:?} for {schema}"),
        }
    }

    #[test]
    fn a_schema_that_branches_at_each_level_bounds_the_depth() {
        // Two alternatives that both look into `c`: 2^100 looks without a bound.
        let bomb = r##"{"$defs":{"n":{"anyOf":[{"properties":{"c":{"$ref":"#/$defs/n"}},"required":["x"]},{"properties":{"c":{"$ref":"#/$defs/n"}},"required":["y"]}]}},"$ref":"#/$defs/n"}"##;
        let nested =
            |levels: usize| format!("{}1{}", r#"{"c":"#.repeat(levels), "}".repeat(levels));
        let start = std::time::Instant::now();
        let reason = check(bomb, &nested(100)).expect_err("too deep");
        assert!(reason.expected.contains("levels of nesting"), "{reason:?}");
        assert!(check(bomb, &nested(9)).is_err());
        assert!(start.elapsed().as_secs() < 10);
        // Without a reference the same, level by level.
        let mut flat = r#"{"type":"string"}"#.to_owned();
        for _ in 0..10 {
            flat = format!(r#"{{"anyOf":[{{"properties":{{"c":{flat}}}}},{{"required":["x"]}}]}}"#);
        }
        assert!(matches!(compile(flat.as_bytes()), Compiled::Ready { depth, .. } if depth > 126));
        // Alternatives of different kinds do not multiply.
        let json = r##"{"$defs":{"j":{"anyOf":[{"type":"string"},{"type":"number"},{"type":"array","items":{"$ref":"#/$defs/j"}},{"type":"object","additionalProperties":{"$ref":"#/$defs/j"}}]}},"properties":{"v":{"$ref":"#/$defs/j"}}}"##;
        assert!(
            check(
                json,
                &format!(r#"{{"v":{}1{}}}"#, "[".repeat(100), "]".repeat(100))
            )
            .is_ok()
        );
        // A filter with three ways to nest is fine at every depth that people write.
        let filter = r##"{"$defs":{"f":{"oneOf":[{"properties":{"and":{"type":"array","items":{"$ref":"#/$defs/f"}}},"required":["and"]},{"properties":{"or":{"type":"array","items":{"$ref":"#/$defs/f"}}},"required":["or"]},{"properties":{"eq":{"type":"string"}},"required":["eq"]}]}},"$ref":"#/$defs/f"}"##;
        assert!(
            check(
                filter,
                r#"{"and":[{"or":[{"and":[{"eq":"a"},{"or":[{"eq":"b"}]}]}]}]}"#
            )
            .is_ok()
        );
    }

    fn unusable(schema: &str) -> Unusable {
        match compile(schema.as_bytes()) {
            Compiled::Unusable(why) => why,
            other => panic!("{other:?} for {schema}"),
        }
    }

    fn accepts(schema: &str, value: &str) -> bool {
        check(schema, value).is_ok()
    }

    #[test]
    fn trivial_schemas_cost_nothing() {
        for schema in [
            "{}",
            "true",
            r#"{"type":"object"}"#,
            r#"{"type":"object","properties":{}}"#,
            r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","additionalProperties":{}}"#,
        ] {
            assert!(
                matches!(compile(schema.as_bytes()), Compiled::Trivial),
                "{schema}"
            );
        }
        assert!(matches!(
            compile(br#"{"type":"object","additionalProperties":false}"#),
            Compiled::Ready { .. }
        ));
    }

    #[test]
    fn dialects_are_honoured() {
        // `items` as an array is a tuple up to 2019-09 and invalid in 2020-12.
        let tuple = |dialect: &str| {
            format!(
                r#"{{"$schema":"{dialect}","properties":{{"a":{{"items":[{{"type":"integer"}}]}}}}}}"#
            )
        };
        for dialect in [
            "http://json-schema.org/draft-07/schema#",
            "https://json-schema.org/draft-07/schema",
            "http://json-schema.org/draft-06/schema#",
            "http://json-schema.org/draft-04/schema#",
            "https://json-schema.org/draft/2019-09/schema",
        ] {
            assert!(accepts(&tuple(dialect), r#"{"a":[1]}"#), "{dialect}");
            assert!(!accepts(&tuple(dialect), r#"{"a":["x"]}"#), "{dialect}");
        }
        assert_eq!(
            unusable(&tuple("https://json-schema.org/draft/2020-12/schema")),
            Unusable::Invalid
        );
        assert_eq!(
            unusable(&tuple("https://example.com/own")),
            Unusable::Dialect
        );
        // A draft-07 word means nothing in the default dialect and the other way round.
        let prefix = r#"{"properties":{"a":{"prefixItems":[{"type":"integer"}]}}}"#;
        assert!(!accepts(prefix, r#"{"a":["x"]}"#));
    }

    #[test]
    fn references_never_leave_the_document() {
        for schema in [
            r#"{"properties":{"a":{"$ref":"https://example.com/s.json"}}}"#,
            r#"{"properties":{"a":{"$ref":"file:///etc/passwd"}}}"#,
            r#"{"properties":{"a":{"$ref":"other.json#/a"}}}"#,
            r#"{"properties":{"a":{"$dynamicRef":"https://example.com/s.json#x"}}}"#,
            r#"{"$schema":"https://json-schema.org/draft/2019-09/schema","$recursiveRef":"http://x/y"}"#,
        ] {
            assert_eq!(unusable(schema), Unusable::Remote, "{schema}");
        }
        let local =
            r##"{"$defs":{"n":{"type":"integer"}},"properties":{"a":{"$ref":"#/$defs/n"}}}"##;
        assert!(accepts(local, r#"{"a":1}"#));
        assert!(!accepts(local, r#"{"a":"1"}"#));
        let anchor = r##"{"$defs":{"n":{"$anchor":"num","type":"integer"}},"properties":{"a":{"$ref":"#num"}}}"##;
        assert!(!accepts(anchor, r#"{"a":"1"}"#));
        // A property that happens to be called `$ref` is no reference.
        let named = r#"{"properties":{"$ref":{"type":"integer"}}}"#;
        assert!(!accepts(named, r#"{"$ref":"x"}"#));
    }

    #[test]
    fn bounds_hold_before_anything_is_compiled() {
        let deep = format!("{}{}{}", r#"{"not":"#.repeat(80), "{}", "}".repeat(80));
        assert_eq!(unusable(&deep), Unusable::TooLarge);
        let wide = format!(r#"{{"anyOf":[{}{{"type":"null"}}]}}"#, "{},".repeat(5000));
        assert_eq!(unusable(&wide), Unusable::TooLarge);
        let long = format!(
            r#"{{"minProperties":1,"description":"{}"}}"#,
            "x".repeat(MAX_BYTES)
        );
        assert_eq!(unusable(&long), Unusable::TooLarge);
        let patterns: Vec<String> = (0..300)
            .map(|n| format!(r#""p{n}":{{"pattern":"a{n}"}}"#))
            .collect();
        assert_eq!(
            unusable(&format!(r#"{{"properties":{{{}}}}}"#, patterns.join(","))),
            Unusable::TooLarge
        );
        let huge = r#"{"properties":{"a":{"pattern":"((a{1000}){1000}){1000}"}}}"#;
        assert_eq!(unusable(huge), Unusable::Invalid);
    }

    #[test]
    fn references_that_double_at_each_step_are_refused() {
        let mut defs = vec![r#""d0":{"type":"string"}"#.to_owned()];
        for n in 1..=40 {
            let before = n - 1;
            defs.push(format!(
                r##""d{n}":{{"anyOf":[{{"$ref":"#/$defs/d{before}"}},{{"$ref":"#/$defs/d{before}"}}]}}"##
            ));
        }
        let bomb = format!(
            r##"{{"$defs":{{{}}},"$ref":"#/$defs/d40"}}"##,
            defs.join(",")
        );
        assert_eq!(unusable(&bomb), Unusable::TooLarge);
    }

    #[test]
    fn references_in_a_circle_do_not_end_the_process() {
        for schema in [
            r##"{"$ref":"#"}"##,
            r##"{"allOf":[{"$ref":"#"}]}"##,
            r##"{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}"##,
            r##"{"$dynamicRef":"#"}"##,
            r##"{"$dynamicAnchor":"x","$dynamicRef":"#x"}"##,
            r##"{"$anchor":"x","not":{"$ref":"#x"}}"##,
            r##"{"$id":"http://a/b","not":{"$ref":"b"}}"##,
            r##"{"$defs":{"x":{"$id":"http://a/b","$ref":"#"}},"$ref":"#/$defs/x"}"##,
            r##"{"properties":{"z":{"$ref":"#/$defs/y"}},"allOf":[{"$ref":"#/$defs/y"}],"$defs":{"y":{"$ref":"#"}}}"##,
            r##"{"if":{"$ref":"#"},"then":{"$ref":"#"}}"##,
            r##"{"properties":{"a":{"dependentSchemas":{"b":{"$ref":"#/properties/a"}}}}}"##,
            r##"{"$schema":"https://json-schema.org/draft/2019-09/schema","$recursiveAnchor":true,"allOf":[{"$recursiveRef":"#"}]}"##,
        ] {
            if let Compiled::Ready { .. } = compile(schema.as_bytes()) {
                drop(check(schema, r#"{"a":{"b":{}}}"#));
            }
        }
        // A tree that consumes a level at each turn is a fine schema.
        let tree = r##"{"$defs":{"n":{"type":"object","properties":{"child":{"$ref":"#/$defs/n"}},"additionalProperties":false}},"$ref":"#/$defs/n"}"##;
        assert!(accepts(tree, r#"{"child":{"child":{}}}"#));
        assert!(!accepts(tree, r#"{"child":{"kid":{}}}"#));
    }

    #[test]
    fn the_deepest_value_and_the_longest_chain_fit_on_the_stack() {
        // 31 applicators at each of 125 levels; the main thread has 8 MiB, and so has this one.
        let links = 29;
        let schema = format!(
            r##"{{"$defs":{{"n":{}{{"properties":{{"c":{{"$ref":"#/$defs/n"}}}},"required":["c"]}}{}}},"$ref":"#/$defs/n"}}"##,
            r#"{"anyOf":[{"type":"null"},"#.repeat(links),
            "]}".repeat(links)
        );
        let value = format!("{}{{}}{}", r#"{"c":"#.repeat(124), "}".repeat(124));
        let outcome = std::thread::Builder::new()
            .stack_size(8 * 1024 * 1024)
            .spawn(move || check(&schema, &value))
            .expect("a thread")
            .join()
            .expect("no overflow");
        assert!(outcome.is_err());
    }

    #[test]
    fn a_lookaround_is_checked_and_cannot_run_away() {
        let zod = r#"{"properties":{"a":{"pattern":"^(?!\\.)(?!.*\\.\\.)[a-z.]+@[a-z.]+$"}}}"#;
        assert!(accepts(zod, r#"{"a":"me@example.com"}"#));
        assert!(!accepts(zod, r#"{"a":".me@example.com"}"#));
        let bomb = r#"{"properties":{"a":{"pattern":"^(?=(a+)+$)(a|a)+b$"}}}"#;
        let start = std::time::Instant::now();
        assert!(!accepts(
            bomb,
            &format!(r#"{{"a":"{}!"}}"#, "a".repeat(4000))
        ));
        assert!(start.elapsed().as_secs() < 5);
    }

    #[test]
    fn numbers_beyond_a_double_are_told_apart() {
        let schema = r#"{"properties":{"a":{"type":"number"}}}"#;
        assert!(accepts(schema, r#"{"a":123456789012345678901234567890}"#));
        assert!(!accepts(schema, r#"{"a":1e999}"#));
    }
}
