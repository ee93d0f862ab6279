//! Text as tools return it (logs, code, JSON), already escaped for a JSON string.

use std::fmt::Write;

/// Exactly `size` bytes that may stand between the quotes of a JSON string.
pub(crate) fn blob(size: usize) -> String {
    let mut text = String::with_capacity(size + 256);
    let mut n = 0_u32;
    while text.len() < size {
        let start = text.len();
        let written = match n % 4 {
            0 => write!(
                text,
                "2026-11-21T08:{:02}:00Z INFO worker-{n} took {} ms for GET /api/v1/items\\n",
                n % 60,
                n % 977
            ),
            1 => write!(
                text,
                "    let total = items.iter().map(|item| item.price * {n}).sum::<u64>();\\n"
            ),
            2 => write!(
                text,
                "{{\\\"id\\\": {n}, \\\"name\\\": \\\"item {n}\\\", \\\"tags\\\": [\\\"a\\\", \\\"b\\\"], \\\"ok\\\": true}}\\n"
            ),
            _ => write!(
                text,
                "The quick brown fox reads line {n} of the report and finds it unremarkable.\\n"
            ),
        };
        if written.is_err() || text.len() > size {
            // Never cut inside an escape: the rest is filled instead.
            text.truncate(start);
            text.extend(std::iter::repeat_n('.', size - start));
        }
        n = n.wrapping_add(1);
    }
    text
}
