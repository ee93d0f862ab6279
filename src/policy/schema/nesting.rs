//! How deep a value may be before checking it takes forever.
//!
//! `{"anyOf":[{"properties":{"c":A}},{"properties":{"c":A}}]}` looks at `c` twice; if `A` is the same
//! again, four times one level below, and so on. Types of filters and documents are often written
//! like that, so the schema is fine and only the depth of the values is bounded.

use super::Unusable;
use super::weight::{MAX_PATHS, Paths};
use serde_json::Value;
use std::collections::HashMap;

/// Ways down from one place that are looked at in all.
const MAX_EDGES: usize = 50_000;
/// No proved message is deeper.
const UNLIMITED: usize = crate::mcp::MAX_DEPTH + 1;

/// A place one level below.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Slot<'s> {
    Named(&'s str),
    AnyName,
    At(usize),
    AnyItem,
}

/// The depth up to which no place of a value is looked at more than [`MAX_PATHS`] times.
pub(super) fn deepest<'s>(root: &'s Value, paths: &Paths<'s>) -> Result<usize, Unusable> {
    let mut graph = Graph::default();
    graph.add(root, paths)?;
    let mut looks: Vec<u64> = graph.nodes.iter().map(|node| node.ways).collect();
    for depth in 1..UNLIMITED {
        let next: Vec<u64> = graph.nodes.iter().map(|node| node.looks(&looks)).collect();
        if next.first().is_some_and(|looks| *looks > MAX_PATHS) {
            return Ok(depth - 1);
        }
        if next == looks {
            break;
        }
        looks = next;
    }
    Ok(UNLIMITED)
}

#[derive(Default)]
struct Graph<'s> {
    nodes: Vec<Node<'s>>,
    index: HashMap<*const Value, usize>,
    edges: usize,
}

struct Node<'s> {
    ways: u64,
    /// Where each subschema below is looked at from here, once for each way to it.
    below: Vec<(Slot<'s>, usize)>,
}

impl Node<'_> {
    fn looks(&self, at: &[u64]) -> u64 {
        let mut sums: HashMap<Slot<'_>, u64> = HashMap::new();
        for (slot, node) in &self.below {
            let sum = sums.entry(*slot).or_default();
            *sum = sum.saturating_add(at.get(*node).copied().unwrap_or(1));
        }
        let sum = |slot| sums.get(&slot).copied().unwrap_or(0);
        let (names, items) = (sum(Slot::AnyName), sum(Slot::AnyItem));
        let most = sums.iter().map(|(slot, sum)| match slot {
            Slot::Named(_) => sum.saturating_add(names),
            Slot::At(_) => sum.saturating_add(items),
            Slot::AnyName | Slot::AnyItem => *sum,
        });
        most.max().unwrap_or(0).max(self.ways)
    }
}

impl<'s> Graph<'s> {
    /// Adds everything that can be reached from `root`; the root is node 0.
    fn add(&mut self, root: &'s Value, paths: &Paths<'s>) -> Result<(), Unusable> {
        let mut waiting = vec![root];
        self.number(root);
        let mut done = 0;
        while let Some(schema) = waiting.get(done).copied() {
            done += 1;
            let mut below = Vec::new();
            let mut here = vec![schema];
            while let Some(one) = here.pop() {
                here.extend(paths.same_place(one));
                self.edges += here.len() + 1;
                if self.edges > MAX_EDGES * 4 || below.len() > MAX_EDGES {
                    return Err(Unusable::TooLarge);
                }
                for (slot, target) in slots(one) {
                    let (node, fresh) = self.number(target);
                    if fresh {
                        waiting.push(target);
                    }
                    below.push((slot, node));
                }
            }
            self.nodes.push(Node {
                ways: paths.ways(schema),
                below,
            });
        }
        Ok(())
    }

    /// The number of a subschema, and whether it was not met before.
    fn number(&mut self, schema: &Value) -> (usize, bool) {
        let next = self.index.len();
        let address: *const Value = schema;
        let number = *self.index.entry(address).or_insert(next);
        (number, number == next)
    }
}

/// The subschemas one level below, each with the place that it looks at.
fn slots(schema: &Value) -> Vec<(Slot<'_>, &Value)> {
    let mut found = Vec::new();
    let Value::Object(members) = schema else {
        return found;
    };
    for (key, value) in members {
        match (key.as_str(), value) {
            ("properties", Value::Object(named)) => {
                found.extend(named.iter().map(|(name, value)| (Slot::Named(name), value)));
            }
            ("patternProperties", Value::Object(named)) => {
                found.extend(named.values().map(|value| (Slot::AnyName, value)));
            }
            ("additionalProperties" | "unevaluatedProperties", value) => {
                found.push((Slot::AnyName, value));
            }
            ("items" | "prefixItems", Value::Array(items)) => {
                found.extend(
                    items
                        .iter()
                        .enumerate()
                        .map(|(at, value)| (Slot::At(at), value)),
                );
            }
            ("items" | "additionalItems" | "unevaluatedItems" | "contains", value) => {
                found.push((Slot::AnyItem, value));
            }
            _ => {}
        }
    }
    found
}
