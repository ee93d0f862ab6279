//! Says why a value was refused, in words that hold nothing of the value.
//!
//! The messages of the library quote the value, so none of them is used. Limits, types and names
//! of required properties are the schema's own words, which the caller has seen in the tool list.

use super::Reason;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;

/// Longest name of a property that is repeated, in characters; tokens are longer.
const MAX_NAME: usize = 32;
/// Longest pointer that is shown, in bytes.
const MAX_PATH: usize = 256;

/// Turns the library's error into a sentence of our own.
pub(super) fn describe(error: &ValidationError<'_>, schema: &[u8]) -> Reason {
    Reason {
        path: masked_path(error.instance_path().as_str(), schema),
        expected: if error
            .schema_path()
            .as_str()
            .ends_with("/additionalProperties")
        {
            // `false` with no property named at all comes as a schema that accepts nothing.
            additional(error.kind())
        } else {
            expected(error.kind())
        },
    }
}

fn additional(kind: &ValidationErrorKind) -> String {
    match kind {
        ValidationErrorKind::FalseSchema => "only properties that the schema names".to_owned(),
        other => expected(other),
    }
}

fn expected(kind: &ValidationErrorKind) -> String {
    use ValidationErrorKind as Kind;
    match kind {
        Kind::Type { kind } => match kind {
            TypeKind::Single(one) => format!("type {one}"),
            TypeKind::Multiple(set) => {
                let names: Vec<&str> = set.iter().map(JsonType::as_str).collect();
                format!("one of the types {}", names.join(", "))
            }
        },
        Kind::Required { property } => match property.as_str().and_then(shown) {
            Some(name) => format!("the required property {name}"),
            None => "a required property".to_owned(),
        },
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            match unexpected.first().and_then(|name| shown(name)) {
                Some(name) => format!("no property {name}, which the schema does not name"),
                None => "only properties that the schema names".to_owned(),
            }
        }
        Kind::Enum { .. } => "one of the values that the schema lists".to_owned(),
        Kind::Constant { .. } => "the one value that the schema names".to_owned(),
        Kind::Pattern { .. } => "text that matches the schema's pattern".to_owned(),
        Kind::BacktrackLimitExceeded { .. } | Kind::RegexEngineFailure { .. } => {
            "text that can be matched against the schema's pattern within the limits".to_owned()
        }
        Kind::MaxLength { limit } => format!("at most {limit} characters"),
        Kind::MinLength { limit } => format!("at least {limit} characters"),
        Kind::MaxItems { limit } => format!("at most {limit} items"),
        Kind::MinItems { limit } => format!("at least {limit} items"),
        Kind::AdditionalItems { limit } => format!("at most {limit} items"),
        Kind::MaxProperties { limit } => format!("at most {limit} properties"),
        Kind::MinProperties { limit } => format!("at least {limit} properties"),
        Kind::Maximum { limit } => format!("at most {}", number(limit)),
        Kind::Minimum { limit } => format!("at least {}", number(limit)),
        Kind::ExclusiveMaximum { limit } => format!("less than {}", number(limit)),
        Kind::ExclusiveMinimum { limit } => format!("more than {}", number(limit)),
        Kind::MultipleOf { multiple_of } => format!("a multiple of {multiple_of}"),
        Kind::UniqueItems => "items that all differ".to_owned(),
        Kind::Contains => "an item of the kind that the schema asks for".to_owned(),
        Kind::PropertyNames { .. } => "names of properties as the schema asks for".to_owned(),
        Kind::UnevaluatedItems { .. } => "no more items than the schema describes".to_owned(),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => {
            "a value that fits one of the schema's alternatives".to_owned()
        }
        Kind::OneOfMultipleValid { .. } => {
            "a value that fits exactly one of the schema's alternatives".to_owned()
        }
        Kind::Not { .. } | Kind::FalseSchema => "no such value there".to_owned(),
        other => format!("a value that passes the keyword {}", other.keyword()),
    }
}

/// Only a number is repeated: a limit is one in every dialect.
fn number(limit: &Value) -> String {
    match limit {
        Value::Number(number) => number.to_string(),
        _ => "the schema's limit".to_owned(),
    }
}

/// A name that looks like one: short, and made of what identifiers are made of.
fn shown(name: &str) -> Option<&str> {
    let plain = !name.is_empty()
        && name.len() <= MAX_NAME
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$'));
    plain.then_some(name)
}

/// Keys of a map are data, so a segment is only shown when it is an index or a name in the schema.
fn masked_path(pointer: &str, schema: &[u8]) -> String {
    let mut path = String::new();
    for segment in pointer.split('/').skip(1) {
        path.push('/');
        let index = segment.len() < 8 && segment.bytes().all(|byte| byte.is_ascii_digit());
        let known = index
            || shown(segment).is_some_and(|name| {
                memchr::memmem::find(schema, format!("\"{name}\"").as_bytes()).is_some()
            });
        path.push_str(if known { segment } else { "*" });
        if path.len() > MAX_PATH {
            path.push('…');
            break;
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::super::{Compiled, check, compile};
    use proptest::prelude::*;

    fn refused(schema: &str, value: &str) -> String {
        let Compiled::Ready {
            validator, depth, ..
        } = compile(schema.as_bytes())
        else {
            panic!("{schema} does not compile");
        };
        let reason = check(&validator, depth, schema.as_bytes(), value.as_bytes())
            .expect_err("the value must be refused");
        format!("{}: {}", reason.path, reason.expected)
    }

    #[test]
    fn each_keyword_has_words_and_none_quotes_the_value() {
        for (part, value, words) in [
            (r#"{"type":"integer"}"#, r#""hunter2""#, "/a: type integer"),
            (
                r#"{"type":["integer","null"]}"#,
                r#""hunter2""#,
                "/a: one of the types null, integer",
            ),
            (
                r#"{"enum":["x"]}"#,
                r#""hunter2""#,
                "/a: one of the values that the schema lists",
            ),
            (
                r#"{"const":"x"}"#,
                r#""hunter2""#,
                "/a: the one value that the schema names",
            ),
            (
                r#"{"pattern":"^x$"}"#,
                r#""hunter2""#,
                "/a: text that matches the schema's pattern",
            ),
            (
                r#"{"maxLength":3}"#,
                r#""hunter2""#,
                "/a: at most 3 characters",
            ),
            (
                r#"{"minLength":30}"#,
                r#""hunter2""#,
                "/a: at least 30 characters",
            ),
            (r#"{"maximum":3}"#, "77234", "/a: at most 3"),
            (r#"{"minimum":3}"#, "-77234", "/a: at least 3"),
            (r#"{"exclusiveMaximum":3}"#, "77234", "/a: less than 3"),
            (r#"{"exclusiveMinimum":3}"#, "-77234", "/a: more than 3"),
            (r#"{"multipleOf":2}"#, "77235", "/a: a multiple of 2"),
            (
                r#"{"maxItems":1}"#,
                r#"["hunter2",2]"#,
                "/a: at most 1 items",
            ),
            (
                r#"{"minItems":3}"#,
                r#"["hunter2"]"#,
                "/a: at least 3 items",
            ),
            (
                r#"{"uniqueItems":true}"#,
                r#"["hunter2","hunter2"]"#,
                "/a: items that all differ",
            ),
            (
                r#"{"contains":{"type":"null"}}"#,
                r#"["hunter2"]"#,
                "/a: an item of the kind that the schema asks for",
            ),
            (
                r#"{"items":{"type":"null"}}"#,
                r#"["hunter2"]"#,
                "/a/0: type null",
            ),
            (
                r#"{"required":["b"]}"#,
                r#"{"c":"hunter2"}"#,
                "/a: the required property b",
            ),
            (
                r#"{"properties":{"b":{}},"additionalProperties":false}"#,
                r#"{"c":"hunter2"}"#,
                "/a: no property c, which the schema does not name",
            ),
            (
                r#"{"additionalProperties":false}"#,
                r#"{"c":"hunter2"}"#,
                "/a: only properties that the schema names",
            ),
            (
                r#"{"additionalProperties":{"type":"null"}}"#,
                r#"{"hunter2":1}"#,
                "/a/*: type null",
            ),
            (
                r#"{"maxProperties":1}"#,
                r#"{"hunter2":1,"b":2}"#,
                "/a: at most 1 properties",
            ),
            (
                r#"{"minProperties":3}"#,
                r#"{"hunter2":1}"#,
                "/a: at least 3 properties",
            ),
            (
                r#"{"propertyNames":{"maxLength":2}}"#,
                r#"{"hunter2":1}"#,
                "/a: names of properties as the schema asks for",
            ),
            (
                r#"{"anyOf":[{"type":"null"}]}"#,
                r#""hunter2""#,
                "/a: a value that fits one of the schema's alternatives",
            ),
            (
                r#"{"oneOf":[{"type":"null"}]}"#,
                r#""hunter2""#,
                "/a: a value that fits one of the schema's alternatives",
            ),
            (
                r#"{"oneOf":[{},{}]}"#,
                r#""hunter2""#,
                "/a: a value that fits exactly one of the schema's alternatives",
            ),
            (r#"{"not":{}}"#, r#""hunter2""#, "/a: no such value there"),
            ("false", r#""hunter2""#, "/a: no such value there"),
            (
                r#"{"unevaluatedProperties":false}"#,
                r#"{"hunter2-is-far-too-long-to-be-a-name-of-a-property":1}"#,
                "/a: only properties that the schema names",
            ),
        ] {
            let schema = format!(r#"{{"properties":{{"a":{part}}}}}"#);
            let text = refused(&schema, &format!(r#"{{"a":{value}}}"#));
            assert_eq!(text, words, "{part}");
            assert!(
                !text.contains("hunter2") && !text.contains("7723"),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_reason_holds_the_value(
            value in "[A-Z]{12}[a-z]{4}",
            part in prop::sample::select(vec![
                r#"{"type":"integer"}"#, r#"{"enum":["x"]}"#, r#"{"const":1}"#, r#"{"pattern":"^x$"}"#,
                r#"{"maxLength":3}"#, r#"{"not":{"type":"string"}}"#, r#"{"anyOf":[{"type":"null"},{"maxLength":1}]}"#,
                r#"{"oneOf":[{},{}]}"#, r#"{"allOf":[{"type":"array"}]}"#,
            ]),
        ) {
            let schema = format!(r#"{{"properties":{{"a":{part}}}}}"#);
            let text = refused(&schema, &format!(r#"{{"a":"{value}"}}"#));
            prop_assert!(!text.contains(&value), "{}", text);
        }
    }
}
