//! A shortcut for the schemas that most tools have: named properties of plain types.
//!
//! It reads the bytes as they are, builds no tree, and only ever says yes. Whatever it is not sure of
//! is left to the library, so a value that it accepts is one that the library accepts too.

use crate::mcp::members;
use serde_json::{Map, Value};

/// More properties than this are looked up better by the library.
const MAX_PROPERTIES: usize = 32;

/// `{"type":"object","properties":{…},"required":[…],"additionalProperties":…}` with plain types.
#[derive(Debug)]
pub(in crate::policy) struct Flat {
    properties: Vec<Property>,
    /// One bit for each required property.
    required: u32,
    closed: bool,
}

#[derive(Debug)]
struct Property {
    name: Box<str>,
    /// Types that are allowed, by the first byte of a value: `{`, `[`, `"`, `t`, `n`, `0` (number), `1` (integer).
    kinds: Vec<u8>,
}

impl Flat {
    /// `None` when the schema says anything that is not understood here.
    pub(super) fn of(schema: &Value) -> Option<Self> {
        let mut flat = Self {
            properties: Vec::new(),
            required: 0,
            closed: false,
        };
        let mut required: &[Value] = &[];
        for (key, value) in schema.as_object()? {
            match key.as_str() {
                "type" if value == "object" => {}
                "properties" => {
                    for (name, property) in value.as_object()? {
                        flat.properties.push(Property {
                            name: name.as_str().into(),
                            kinds: kinds(property.as_object()?)?,
                        });
                    }
                }
                "required" => required = value.as_array()?,
                "additionalProperties" => flat.closed = !value.as_bool()?,
                other if is_annotation(other) => {}
                _ => return None,
            }
        }
        if flat.properties.len() > MAX_PROPERTIES {
            return None;
        }
        for name in required {
            let name = name.as_str()?;
            let at = flat
                .properties
                .iter()
                .position(|property| &*property.name == name)?;
            flat.required |= 1 << at;
        }
        Some(flat)
    }

    /// True when the value is certainly valid; `false` says nothing.
    pub(in crate::policy) fn accepts(&self, value: &[u8]) -> bool {
        if value.first() != Some(&b'{') {
            return false;
        }
        let mut seen = 0u32;
        for (key, value) in members(value) {
            let known = self
                .properties
                .iter()
                .position(|property| *property.name == *key);
            match known.and_then(|at| Some((at, self.properties.get(at)?))) {
                Some((at, property)) if property.accepts(value.text) => seen |= 1 << at,
                None if !self.closed => {}
                _ => return false,
            }
        }
        seen & self.required == self.required
    }
}

impl Property {
    fn accepts(&self, value: &[u8]) -> bool {
        if self.kinds.is_empty() {
            return true;
        }
        let Some(first) = value.first() else {
            return false;
        };
        self.kinds.iter().any(|kind| match (kind, first) {
            (b't', b't' | b'f') => true,
            // Short, so that no number is beyond a double; `1.0` as an integer is left to the library.
            (b'0' | b'1', b'-' | b'0'..=b'9') => {
                value.len() <= 15
                    && value.iter().all(|byte| {
                        matches!(byte, b'-' | b'0'..=b'9') || (*kind == b'0' && *byte == b'.')
                    })
            }
            (kind, first) => kind == first,
        })
    }
}

/// The types of one property; empty for any.
fn kinds(property: &Map<String, Value>) -> Option<Vec<u8>> {
    let mut kinds = Vec::new();
    for (key, value) in property {
        match (key.as_str(), value) {
            ("type", Value::String(one)) => kinds.push(kind(one)?),
            ("type", Value::Array(several)) => {
                for one in several {
                    kinds.push(kind(one.as_str()?)?);
                }
            }
            (other, _) if is_annotation(other) => {}
            _ => return None,
        }
    }
    Some(kinds)
}

fn kind(name: &str) -> Option<u8> {
    Some(match name {
        "object" => b'{',
        "array" => b'[',
        "string" => b'"',
        "boolean" => b't',
        "null" => b'n',
        "number" => b'0',
        "integer" => b'1',
        _ => return None,
    })
}

/// Words that no dialect checks anything by.
fn is_annotation(key: &str) -> bool {
    matches!(
        key,
        "title" | "description" | "$comment" | "default" | "examples" | "$schema"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const SCHEMA: &str = r#"{"type":"object","properties":{"s":{"type":"string","description":"d"},"i":{"type":"integer"},"n":{"type":["number","null"]},"o":{"type":"object"},"a":{"type":"array"},"b":{"type":"boolean"},"x":{}},"required":["s"],"additionalProperties":false}"#;

    fn flat(schema: &str) -> Option<Flat> {
        Flat::of(&serde_json::from_str(schema).expect("JSON"))
    }

    #[test]
    fn plain_calls_take_the_shortcut() {
        let flat = flat(SCHEMA).expect("flat");
        assert!(flat.accepts(br#"{"s":"x","i":-3,"n":1.5,"o":{},"a":[],"b":false,"x":"any"}"#));
        assert!(flat.accepts(br#"{"\u0073":"x","n":null}"#));
        for unsure in [
            r#"{}"#,
            r#"{"s":1}"#,
            r#"{"s":"x","i":1.0}"#,
            r#"{"s":"x","i":1e3}"#,
            r#"{"s":"x","y":1}"#,
            "[]",
            "null",
        ] {
            assert!(!flat.accepts(unsure.as_bytes()), "{unsure}");
        }
    }

    #[test]
    fn what_is_not_understood_is_left_to_the_library() {
        for schema in [
            r#"{"properties":{"a":{"enum":[1]}}}"#,
            r#"{"properties":{"a":true}}"#,
            r#"{"properties":{"a":{"type":"strin"}}}"#,
            r#"{"required":["a"]}"#,
            r#"{"type":"array"}"#,
            r#"{"additionalProperties":{"type":"string"}}"#,
            r#"{"patternProperties":{}}"#,
            "true",
        ] {
            assert!(flat(schema).is_none(), "{schema}");
        }
    }

    proptest! {
        #[test]
        fn a_yes_is_the_librarys_yes(
            value in prop::collection::hash_map(
                prop::sample::select(vec!["s", "i", "n", "o", "a", "b", "x", "y"]),
                prop::sample::select(vec![
                    json!(null), json!(true), json!(1), json!(-1.5), json!("t"), json!([1]), json!({"a": 1}), json!(1e300),
                ]),
                0..6,
            ),
            open in any::<bool>(),
        ) {
            let schema = if open { SCHEMA.replace("false", "true") } else { SCHEMA.to_owned() };
            let value = json!(value);
            if flat(&schema).expect("flat").accepts(value.to_string().as_bytes()) {
                let schema: Value = serde_json::from_str(&schema).expect("JSON");
                prop_assert!(jsonschema::is_valid(&schema, &value), "{}", value);
            }
        }
    }
}
