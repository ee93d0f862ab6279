//! The audit line of what becomes of a credential: which generation, never which value.

use super::record::{Context, number, quoted, string};
use std::time::Instant;

/// Something that has happened to a credential: no message, and so a direction and members of its own.
#[derive(Debug)]
pub struct Rotation<'a> {
    /// `rotated`, `kept` (its file gives no value), `revoked`, `retired` (its overlap is over), `placed`
    /// (servers hold it, or will not), `refused` (a server elsewhere does not take it), `used` (an older
    /// one still is).
    pub act: &'static str,
    pub name: &'a str,
    /// The one that this is about, counted from 1, and its keyed fingerprint.
    pub generation: u32,
    pub fingerprint: &'a str,
    /// The one before, when another has taken its place.
    pub previous: Option<(u32, &'a str)>,
    /// `success`, `error`, or `incident`.
    pub status: &'static str,
    /// The line for people.
    pub text: &'a str,
}

impl Rotation<'_> {
    /// Appends the line, LF included.
    pub(super) fn write(&self, line: &mut Vec<u8>, now: Instant, context: &mut Context) {
        context.start(line, now);
        line.extend_from_slice(br#"credential","type":"#);
        quoted(line, self.act);
        line.extend_from_slice(br#","target":"#);
        string(line, self.name);
        line.extend_from_slice(br#","decision":"forward","status":"#);
        quoted(line, self.status);
        value(line, self.generation, self.fingerprint);
        if let Some((generation, fingerprint)) = self.previous {
            line.extend_from_slice(br#","previous":{"of":"#);
            string(line, self.name);
            value(line, generation, fingerprint);
            line.push(b'}');
        }
        line.extend_from_slice(br#","detail":"#);
        string(line, self.text);
        line.extend_from_slice(&context.tail);
    }
}

fn value(line: &mut Vec<u8>, generation: u32, fingerprint: &str) {
    line.extend_from_slice(br#","generation":"#);
    number(line, generation);
    line.extend_from_slice(br#","fingerprint":"#);
    string(line, fingerprint);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_is_a_line_with_both_generations() {
        let rotation = Rotation {
            act: "rotated",
            name: "c/a\"b\n",
            generation: 2,
            fingerprint: "0123456789ab",
            previous: Some((1, "ba9876543210")),
            status: "success",
            text: "put \u{1b} there",
        };
        let mut line = Vec::new();
        rotation.write(&mut line, Instant::now(), &mut Context::new("s", "p"));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["direction"], "credential");
        assert_eq!(
            (&value["type"], &value["status"]),
            (&"rotated".into(), &"success".into())
        );
        assert_eq!(value["target"], rotation.name);
        assert_eq!(
            (&value["generation"], &value["fingerprint"]),
            (&2.into(), &"0123456789ab".into())
        );
        assert_eq!(
            (
                &value["previous"]["generation"],
                &value["previous"]["fingerprint"]
            ),
            (&1.into(), &"ba9876543210".into())
        );
        assert_eq!(value["detail"], rotation.text);
    }
}
