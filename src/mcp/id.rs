//! Request ids: the raw token travels, the key is what tables compare.

use super::{Fault, MAX_ID_BYTES, Raw, json};
use std::hash::{Hash, Hasher};
use std::ops::Range;

/// An id as it stands on the wire: `7`, `"7"`.
#[derive(Clone, Copy, Debug)]
pub struct Id<'a> {
    /// Offset of the token in the line.
    pub start: usize,
    /// The token, quotes included.
    pub raw: &'a [u8],
    form: Form,
}

/// What kind of token it is; an integer with its value, so that its digits are read once.
#[derive(Clone, Copy, Debug)]
enum Form {
    Number(i64),
    Wide,
    Text,
}

/// An id as tables know it: the number 7 and the string "7" differ, `"7"` and `"\u0037"` do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// An integer that fits.
    Number(i64),
    /// An integer that does not fit, by its digits.
    Wide(Box<str>),
    /// A string, unescaped.
    Text(Box<str>),
}

/// What differs may hash alike: that is rare, and almost every id is a number.
impl Hash for RequestId {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Number(number) => state.write_i64(*number),
            Self::Wide(text) | Self::Text(text) => text.hash(state),
        }
    }
}

impl RequestId {
    /// A raw token that means this id.
    #[must_use]
    pub fn raw(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Wide(digits) => digits.as_ref().to_owned(),
            Self::Text(text) => serde_json::Value::from(&**text).to_string(),
        }
    }
}

/// The raw token of an id, kept without an allocation when it is as short as almost all are.
#[derive(Clone, Debug)]
pub enum RawId {
    /// Its bytes and their number.
    Short([u8; SHORT], u8),
    /// Any other.
    Long(Box<[u8]>),
}

/// A number of 64 bits has 20 bytes with its sign.
const SHORT: usize = 22;

impl From<&[u8]> for RawId {
    fn from(raw: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..raw.len()), u8::try_from(raw.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(raw);
                Self::Short(bytes, length)
            }
            _ => Self::Long(raw.into()),
        }
    }
}

impl std::ops::Deref for RawId {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short(bytes, length) => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(raw) => raw,
        }
    }
}

impl<'a> Id<'a> {
    /// Takes a raw value as an id (request ids and progress tokens follow the same rule): an
    /// integer without fraction, exponent, leading zero or minus zero, or a string without half a
    /// surrogate pair; at most [`MAX_ID_BYTES`] long.
    pub fn read(value: Raw<'a>) -> Result<Self, Fault> {
        let raw = value.text;
        if raw.len() > MAX_ID_BYTES {
            return Err(Fault::IdLength);
        }
        let form = match raw.first() {
            Some(b'"') => match json::text_and_lone(raw) {
                Some((_, false)) => Form::Text,
                Some((_, true)) => return Err(Fault::Surrogate),
                None => return Err(Fault::IdForm),
            },
            _ => integer(raw).ok_or(Fault::IdForm)?,
        };
        Ok(Self {
            start: value.start,
            raw,
            form,
        })
    }

    /// Where it stands in the line that it was read from.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.start..self.start + self.raw.len()
    }

    /// The line that it was read from, with another raw token in its place.
    #[must_use]
    pub fn replaced(&self, line: &[u8], raw: &[u8]) -> Vec<u8> {
        let Range { start, end } = self.span();
        let before = line.get(..start).unwrap_or_default();
        [before, raw, line.get(end..).unwrap_or_default()].concat()
    }

    /// The key under which tables keep this id.
    #[must_use]
    pub fn key(&self) -> RequestId {
        match self.form {
            Form::Number(number) => RequestId::Number(number),
            // A proved integer has nothing but digits and a sign: nothing is lost here.
            Form::Wide => RequestId::Wide(String::from_utf8_lossy(self.raw).into()),
            Form::Text => RequestId::Text(json::text(self.raw).unwrap_or_default().into()),
        }
    }
}

/// Digits that always fit in 64 bits.
const FIT: usize = 18;

/// Minus zero is out: JavaScript and Python answer it with 0, which is another id on the wire.
fn integer(raw: &[u8]) -> Option<Form> {
    let (sign, digits) = match raw {
        [b'-', digits @ ..] => (-1, digits),
        digits => (1, digits),
    };
    match digits {
        b"0" if sign == 1 => {}
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    if digits.len() <= FIT {
        let mut number = 0_i64;
        for byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            number = number * 10 + i64::from(digit);
        }
        return Some(Form::Number(sign * number));
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(raw).ok()?.parse();
    Some(number.map_or(Form::Wide, Form::Number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn read(text: &str) -> Result<RequestId, Fault> {
        Id::read(Raw {
            start: 0,
            text: text.as_bytes(),
        })
        .map(|id| id.key())
    }

    #[test]
    fn numbers_and_strings_are_different_ids() {
        assert_eq!(read("7"), Ok(RequestId::Number(7)));
        assert_eq!(read("-7"), Ok(RequestId::Number(-7)));
        assert_eq!(read("\"7\""), Ok(RequestId::Text("7".into())));
        assert_eq!(read(r#""\u0037""#), Ok(RequestId::Text("7".into())));
        assert_eq!(read("0"), Ok(RequestId::Number(0)));
        assert_eq!(read("\"\""), Ok(RequestId::Text("".into())));
    }

    #[test]
    fn a_key_is_written_as_an_id_that_means_the_same() {
        for raw in ["7", "-7", "123456789012345678901234567890", r#""a\"b""#] {
            let key = read(raw).unwrap();
            assert_eq!(read(&key.raw()), Ok(key), "{raw}");
        }
        assert_eq!(
            read("12345678901234567890123").unwrap().raw(),
            "12345678901234567890123"
        );
    }

    #[test]
    fn integers_beyond_64_bits_keep_their_digits() {
        assert_eq!(read("9223372036854775807"), Ok(RequestId::Number(i64::MAX)));
        assert_eq!(
            read("9223372036854775808"),
            Ok(RequestId::Wide("9223372036854775808".into()))
        );
    }

    #[test]
    fn raw_tokens_are_kept_whole() {
        for length in [0, 1, SHORT - 1, SHORT, SHORT + 1, MAX_ID_BYTES] {
            let raw = vec![b'1'; length];
            assert_eq!(*RawId::from(&*raw), raw);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "null", "true", "1.0", "1e3", "-0", "01", "-", "", "+1", "{}", "[]", "0x1", "\"", "1 ",
        ] {
            assert_eq!(read(text), Err(Fault::IdForm), "{text}");
        }
        assert_eq!(read(r#""\ud800""#), Err(Fault::Surrogate));
        assert_eq!(read(&"1".repeat(MAX_ID_BYTES)).is_ok(), true);
        assert_eq!(read(&"1".repeat(MAX_ID_BYTES + 1)), Err(Fault::IdLength));
    }
}
