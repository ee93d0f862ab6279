//! Weighs a schema before it is compiled: what compiling and checking may cost at most.

use super::{Unusable, nesting};
use crate::policy::uris::percent_decoded;
use serde_json::Value;
use std::collections::HashMap;

/// Deepest nesting of a schema, in levels of JSON.
const MAX_DEPTH: usize = 64;
/// Objects and booleans that a schema may have where subschemas stand.
const MAX_SUBSCHEMAS: usize = 4096;
/// Regular expressions in one schema.
const MAX_PATTERNS: usize = 256;
/// Ways through the schema that one place of a value may have to try, references included.
pub(super) const MAX_PATHS: u64 = 65_536;

/// Longest chain of applicators and references at one place of a value. Checking recurses once for
/// each, times the levels of the value, so this is what keeps the stack small.
const MAX_CHAIN: usize = 32;

/// What a schema weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weight {
    /// How many subschemas there are.
    pub(super) subschemas: usize,
    /// The deepest value that can be checked, in levels of JSON.
    pub(super) depth: usize,
}

/// Weighs a schema, or says why it cannot be used.
pub(super) fn weigh(schema: &Value) -> Result<Weight, Unusable> {
    let mut tally = Tally::default();
    tally.walk(schema, 0, Place::Schema)?;
    let mut paths = Paths {
        root: schema,
        known: HashMap::new(),
        open: Vec::new(),
    };
    for subschema in &tally.subschemas {
        if paths.count(subschema)?.ways > MAX_PATHS {
            return Err(Unusable::TooLarge);
        }
    }
    Ok(Weight {
        subschemas: tally.subschemas.len(),
        depth: nesting::deepest(schema, &paths)?,
    })
}

/// What a JSON value inside a schema is.
#[derive(Clone, Copy)]
enum Place {
    /// A subschema.
    Schema,
    /// A map from names (of properties, definitions) to subschemas.
    Named,
    /// Data: `const`, `default`, `enum`, `examples` and what no dialect knows.
    Data,
}

/// What the value of a keyword is. Unknown words are walked as schemas, because a reference may
/// point into them.
fn place(keyword: &str) -> Place {
    match keyword {
        "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas"
        | "dependencies" => Place::Named,
        "const" | "default" | "enum" | "examples" | "example" => Place::Data,
        _ => Place::Schema,
    }
}

#[derive(Default)]
struct Tally<'s> {
    subschemas: Vec<&'s Value>,
    patterns: usize,
}

impl<'s> Tally<'s> {
    fn walk(&mut self, value: &'s Value, depth: usize, here: Place) -> Result<(), Unusable> {
        if depth > MAX_DEPTH {
            return Err(Unusable::TooLarge);
        }
        match value {
            Value::Object(members) => {
                if matches!(here, Place::Schema) {
                    self.subschemas.push(value);
                }
                for (key, value) in members {
                    let below = match here {
                        Place::Schema => {
                            self.keyword(key, value, depth)?;
                            place(key)
                        }
                        Place::Named => Place::Schema,
                        Place::Data => Place::Data,
                    };
                    self.walk(value, depth + 1, below)?;
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.walk(item, depth + 1, here)?;
                }
            }
            Value::Bool(_) if matches!(here, Place::Schema) => self.subschemas.push(value),
            _ => {}
        }
        if self.subschemas.len() > MAX_SUBSCHEMAS || self.patterns > MAX_PATTERNS {
            return Err(Unusable::TooLarge);
        }
        Ok(())
    }

    fn keyword(&mut self, key: &str, value: &Value, depth: usize) -> Result<(), Unusable> {
        match (key, value) {
            // Below the root it starts a document of its own, in which `#` means something else.
            ("$id" | "id", Value::String(_)) if depth > 0 => return Err(Unusable::Embedded),
            ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(target))
                if !target.starts_with('#') =>
            {
                return Err(Unusable::Remote);
            }
            ("pattern", Value::String(_)) => self.patterns += 1,
            ("patternProperties", Value::Object(members)) => self.patterns += members.len(),
            _ => {}
        }
        Ok(())
    }
}

/// What is known of one subschema, at one place of a value.
#[derive(Clone, Copy)]
struct Load {
    /// How many subschemas are tried there.
    ways: u64,
    /// How deep they nest.
    chain: usize,
}

/// Follows the keywords that look at the *same* place of a value; `properties` and `items` go one
/// level down, where the count starts again.
pub(super) struct Paths<'s> {
    root: &'s Value,
    /// Finished subschemas by address.
    known: HashMap<*const Value, Load>,
    /// Those being followed; meeting one of them again is a circle that consumes no part of the
    /// value and would never end.
    open: Vec<*const Value>,
}

impl<'s> Paths<'s> {
    fn count(&mut self, schema: &'s Value) -> Result<Load, Unusable> {
        let address: *const Value = schema;
        if let Some(known) = self.known.get(&address) {
            return Ok(*known);
        }
        if self.open.contains(&address) {
            return Err(Unusable::Invalid);
        }
        if self.open.len() > MAX_CHAIN {
            return Err(Unusable::TooLarge);
        }
        self.open.push(address);
        let mut load = Load { ways: 1, chain: 1 };
        for below in self.same_place(schema) {
            let more = self.count(below)?;
            load.ways = load.ways.saturating_add(more.ways);
            load.chain = load.chain.max(more.chain + 1);
        }
        self.open.pop();
        if load.chain > MAX_CHAIN {
            return Err(Unusable::TooLarge);
        }
        self.known.insert(address, load);
        Ok(load)
    }

    /// The subschemas that are tried at the place where `schema` is.
    pub(super) fn same_place(&self, schema: &'s Value) -> Vec<&'s Value> {
        let mut found = Vec::new();
        let Value::Object(members) = schema else {
            return found;
        };
        for (key, value) in members {
            match (key.as_str(), value) {
                ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(target)) => {
                    found.extend(self.target(target));
                }
                ("allOf" | "anyOf" | "oneOf", Value::Array(items)) => found.extend(items),
                ("not" | "if" | "then" | "else" | "extends", value) => found.push(value),
                ("dependentSchemas" | "dependencies", Value::Object(named)) => {
                    found.extend(named.values());
                }
                _ => {}
            }
        }
        found
    }

    /// How many subschemas are tried at the place of a subschema that was counted.
    pub(super) fn ways(&self, schema: &Value) -> u64 {
        let address: *const Value = schema;
        self.known.get(&address).map_or(1, |load| load.ways)
    }

    /// Resolves `#`, `#/pointer` and `#anchor` within the document.
    fn target(&self, reference: &str) -> Option<&'s Value> {
        let fragment = reference.strip_prefix('#')?;
        if fragment.is_empty() || fragment.starts_with('/') {
            return self.root.pointer(&percent_decoded(fragment));
        }
        find_anchor(self.root, fragment)
    }
}

fn find_anchor<'s>(value: &'s Value, name: &str) -> Option<&'s Value> {
    match value {
        Value::Object(members) => {
            let here = ["$anchor", "$dynamicAnchor"]
                .iter()
                .any(|key| members.get(*key).and_then(Value::as_str) == Some(name));
            if here {
                return Some(value);
            }
            members.values().find_map(|value| find_anchor(value, name))
        }
        Value::Array(items) => items.iter().find_map(|value| find_anchor(value, name)),
        _ => None,
    }
}
