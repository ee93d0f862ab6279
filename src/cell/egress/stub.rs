//! The cell's name server: answers from the rules, asks nobody (RFC 1035 §4.1).
//!
//! It reads what a hostile server sends, so anything but one plain question is an error, and nothing
//! of what was asked goes anywhere but into a bounded log.

use super::rules::Book;
use std::net::Ipv4Addr;

/// The header of a message.
const HEADER: usize = 12;
/// The longest name, in bytes with its lengths (RFC 1035 §2.3.4).
const MOST_NAME: usize = 255;
/// Seconds for which an answer may be kept: as long as an address stands for the same name.
const LIFETIME: u32 = 60;

const TYPE_A: u16 = 1;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;

/// Answer codes (RFC 1035 §4.1.1).
const FORMAT_ERROR: u8 = 1;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

/// An answer, and the name that was refused with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) refused: Option<String>,
}

/// One question as it was asked.
struct Question<'a> {
    /// In lower case, without a final dot.
    name: String,
    kind: u16,
    class: u16,
    /// The question as it came, to be repeated.
    bytes: &'a [u8],
}

/// Answers one message; `None` for what is no question at all.
pub(super) fn answer(message: &[u8], book: &mut Book) -> Option<Answer> {
    let (header, rest) = message.split_first_chunk::<HEADER>()?;
    let [id0, id1, flags, _, counts @ ..] = header;
    // An answer that is sent to us is none of our business, and two could talk to each other.
    if flags & 0x80 != 0 {
        return None;
    }
    let reply = |code: u8, question: &[u8], address: Option<Ipv4Addr>| {
        let one = |there: bool| [0, u8::from(there)];
        // QR and AA, the opcode and RD as they came; RA, so that clients do not look further.
        let mut bytes = vec![*id0, *id1, 0x84 | (flags & 0x79), 0x80 | code];
        bytes.extend(one(!question.is_empty()));
        bytes.extend(one(address.is_some()));
        bytes.extend([0; 4]);
        bytes.extend_from_slice(question);
        if let Some(address) = address {
            // The name is the one of the question, at offset 12.
            bytes.extend([0xc0, 12, 0, 1, 0, 1]);
            bytes.extend(LIFETIME.to_be_bytes());
            bytes.extend([0, 4]);
            bytes.extend(address.octets());
        }
        bytes
    };
    let plain = |bytes| {
        let refused = None;
        Some(Answer { bytes, refused })
    };
    if flags & 0x78 != 0 {
        return plain(reply(NOT_IMPLEMENTED, &[], None));
    }
    if counts.get(..2) != Some(&[0, 1]) {
        return plain(reply(FORMAT_ERROR, &[], None));
    }
    let Some(question) = read_question(rest) else {
        return plain(reply(FORMAT_ERROR, &[], None));
    };
    if question.class != CLASS_IN {
        return plain(reply(REFUSED, question.bytes, None));
    }
    let address = match question.name.as_str() {
        "localhost" => Some(Ipv4Addr::LOCALHOST),
        name => book.address(name),
    };
    let Some(address) = address else {
        // Definite, so that no client asks again: NXDOMAIN.
        return Some(Answer {
            bytes: reply(NO_SUCH_NAME, question.bytes, None),
            refused: Some(question.name),
        });
    };
    let wanted = matches!(question.kind, TYPE_A | TYPE_ANY);
    plain(reply(0, question.bytes, wanted.then_some(address)))
}

fn read_question(bytes: &[u8]) -> Option<Question<'_>> {
    let mut name = String::new();
    let mut rest = bytes;
    loop {
        let (length, after) = rest.split_first()?;
        // Two bits that say "pointer": a question has nothing to point at.
        if *length > 63 {
            return None;
        }
        if *length == 0 {
            rest = after;
            break;
        }
        let (label, after) = after.split_at_checked(usize::from(*length))?;
        let known = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
        // With a dot before it, and on the wire with its own length and the final 0.
        if !label.iter().all(known) || name.len() + label.len() + 3 > MOST_NAME {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
        rest = after;
    }
    let (numbers, after) = rest.split_first_chunk::<4>()?;
    let [k0, k1, c0, c1] = *numbers;
    let asked = bytes.len() - after.len();
    Some(Question {
        name,
        kind: u16::from_be_bytes([k0, k1]),
        class: u16::from_be_bytes([c0, c1]),
        bytes: bytes.get(..asked)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::rules::Rules;
    use super::*;
    use proptest::prelude::*;

    fn book() -> Book {
        let rules = ["api.example.com:443", "*.b.example:443"];
        let rules: Vec<_> = rules.iter().map(|text| text.parse().unwrap()).collect();
        Book::new(Rules::new(&rules))
    }

    fn ask(name: &str, kind: u8) -> Vec<u8> {
        let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend_from_slice(label.as_bytes());
        }
        message.extend([0, 0, kind, 0, 1]);
        // EDNS, as every resolver adds it (RFC 6891).
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        message
    }

    #[test]
    fn an_allowed_name_has_its_synthetic_address() {
        let answer = answer(&ask("API.example.com", 1), &mut book()).unwrap();
        assert_eq!(answer.refused, None);
        assert_eq!(answer.bytes[..4], [7, 9, 0x85, 0x80]);
        assert_eq!(answer.bytes[4..12], [0, 1, 0, 1, 0, 0, 0, 0]);
        assert!(answer.bytes.ends_with(&[0, 4, 198, 18, 0, 1]));
        // The question is repeated as it came, capitals and all.
        assert!(answer.bytes[12..].starts_with(b"\x03API\x07example\x03com\0\0\x01\0\x01"));
    }

    #[test]
    fn other_types_have_no_data_and_other_names_do_not_exist() {
        for kind in [28, 16, 65, 15] {
            let answer = answer(&ask("x.b.example", kind), &mut book()).unwrap();
            assert_eq!((answer.bytes[3], answer.bytes[7]), (0x80, 0), "{kind}");
        }
        for name in ["evil.example", "example.com", "secret.api.example.com"] {
            let answer = answer(&ask(name, 1), &mut book()).unwrap();
            assert_eq!((answer.bytes[3], answer.bytes[7]), (0x83, 0), "{name}");
            assert_eq!(answer.refused.as_deref(), Some(name));
        }
    }

    #[test]
    fn what_is_no_question_gets_an_error_or_nothing() {
        let mut response = ask("a.b", 1);
        response[2] = 0x80;
        assert_eq!(answer(&response, &mut book()), None);
        assert_eq!(answer(&[0; 11], &mut book()), None);
        let mut update = ask("a.b", 1);
        update[2] = 5 << 3;
        assert_eq!(answer(&update, &mut book()).unwrap().bytes[3] & 15, 4);
        let mut two = ask("a.b", 1);
        two[5] = 2;
        assert_eq!(answer(&two, &mut book()).unwrap().bytes[3] & 15, 1);
        let pointer = [&ask("a.b", 1)[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
        assert_eq!(answer(&pointer, &mut book()).unwrap().bytes[3] & 15, 1);
    }

    #[test]
    fn the_longest_name_is_the_longest() {
        let longest = [&"a".repeat(63); 3].map(String::as_str).join(".") + "." + &"b".repeat(61);
        assert_eq!(longest.len(), 253);
        let code = |name: &str| answer(&ask(name, 1), &mut book()).unwrap().bytes[3] & 15;
        assert_eq!(code(&longest), NO_SUCH_NAME);
        assert_eq!(code(&(longest + "b")), FORMAT_ERROR);
    }

    proptest! {
        #[test]
        fn any_bytes_get_a_short_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(answer) = answer(&bytes, &mut book()) {
                prop_assert!(answer.bytes.len() <= HEADER + MOST_NAME + 4 + 16);
            }
        }
    }
}
