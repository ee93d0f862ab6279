//! What is verified once a shape has matched: checksums, structure, and that it is not filler.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Decodes both alphabets' common part leniently: padding and trailing bits do not matter here.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// How much of a token is decoded to look at its structure.
const DECODED: usize = 1024;

/// So many bytes of a long token say whether it is random, and hold the mark that some have inside.
const MARKED: usize = 256;

/// What a detector verifies about the bytes that its shape matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// The shape and the floor are enough.
    None,
    /// The last six characters are the CRC-32 of the thirty before them, in base 62.
    GithubCrc,
    /// The first part is base64 of a JSON object that names an algorithm.
    JwtHeader,
    /// These characters occur.
    Contains(&'static str),
    /// The part behind the prefix decodes from base64 to text that starts like this.
    Decodes(&'static str),
    /// The whole decodes from base64 to text in which this occurs.
    Holds(&'static str),
    /// At least so many digits stand right before the match.
    AfterDigits(usize),
    /// Upper case, lower case and digits all occur.
    Mixed,
    /// The same, and it is no part of a base64 text: the prefix is so short that it happens there.
    Alone,
}

impl Check {
    /// `crc-github`, `jwt-header`, `mixed`, `alone`, `contains:X`, `decodes:X`, `holds:X`, `after-digits:N`.
    pub(super) fn parse(text: &'static str) -> Option<Self> {
        Some(match text {
            "crc-github" => Self::GithubCrc,
            "jwt-header" => Self::JwtHeader,
            "mixed" => Self::Mixed,
            "alone" => Self::Alone,
            _ => match text.split_once(':')? {
                ("contains", part) => Self::Contains(part),
                ("decodes", part) => Self::Decodes(part),
                ("holds", part) => Self::Holds(part),
                ("after-digits", count) => Self::AfterDigits(count.parse().ok()?),
                _ => return None,
            },
        })
    }

    /// Looks at what stands before the match, so that the rule about the left neighbour is its own.
    pub(super) fn looks_before(self) -> bool {
        matches!(self, Self::AfterDigits(_))
    }

    /// Holds for `token`, whose first `prefix` bytes are literal and which stands behind `before`?
    pub(super) fn holds(self, token: &[u8], prefix: usize, before: &[u8]) -> bool {
        let body = token.get(prefix..).unwrap_or_default();
        match self {
            Self::None => true,
            Self::AfterDigits(count) => {
                let digits = before.iter().rev().take_while(|b| b.is_ascii_digit());
                digits.take(count).count() == count && mixed(body)
            }
            Self::GithubCrc => github_crc(body),
            Self::JwtHeader => jwt_header(token),
            Self::Contains(part) => {
                let head = token.get(..MARKED).unwrap_or(token);
                memchr::memmem::find(head, part.as_bytes()).is_some()
            }
            Self::Decodes(start) => decode(body).starts_with(start.as_bytes()),
            Self::Holds(part) => memchr::memmem::find(&decode(token), part.as_bytes()).is_some(),
            Self::Mixed => mixed(body),
            Self::Alone => {
                mixed(body) && !matches!(before.last(), Some(b'+' | b'/' | b'=' | b'-' | b'_'))
            }
        }
    }
}

fn mixed(body: &[u8]) -> bool {
    body.iter().any(u8::is_ascii_uppercase)
        && body.iter().any(u8::is_ascii_lowercase)
        && body.iter().any(u8::is_ascii_digit)
}

/// Filler and documentation (`xxxx…`, `1234567890`, `abcdef…`) have few distinct pairs of neighbours;
/// random text hardly repeats one. Steps of zero and one do not count, so that sequences are filler.
/// Counting stops at `floor`, so that long bodies cost no more than short ones.
pub(super) fn is_varied(body: &[u8], floor: usize) -> bool {
    let mut seen = [0u64; 64];
    let mut distinct = 0;
    if floor == 0 {
        return true;
    }
    let head = body.get(..MARKED).unwrap_or(body);
    for pair in head.windows(2) {
        let &[a, b] = pair else { continue };
        if a == b || a.wrapping_add(1) == b {
            continue;
        }
        // Six bits of each byte: enough to tell letters apart within a case.
        let (row, bit) = (usize::from(a & 63), b & 63);
        if let Some(row) = seen.get_mut(row) {
            distinct += usize::from(*row >> bit & 1 == 0);
            *row |= 1 << bit;
        }
        if distinct >= floor {
            return true;
        }
    }
    false
}

/// GitHub: "the last six digits are a checksum", CRC-32 in base 62, digits before upper case.
/// <https://github.blog/engineering/behind-githubs-new-authentication-token-formats/>
fn github_crc(body: &[u8]) -> bool {
    let Some((random, sum)) = body.split_at_checked(30) else {
        return false;
    };
    sum == base62(crc32(random))
}

/// Six digits of base 62.
pub(super) fn base62(mut number: u32) -> [u8; 6] {
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        let value = u8::try_from(number % 62).unwrap_or(0);
        *digit = match value {
            0..10 => b'0' + value,
            10..36 => b'A' + value - 10,
            _ => b'a' + value - 36,
        };
        number /= 62;
    }
    digits
}

/// CRC-32 (IEEE 802.3), bit by bit: it only ever sees thirty bytes.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
        })
    })
}

/// RFC 7515 §4.1.1: every JWS header names `alg`; RFC 7516 §4.1.2: every JWE header names `enc` too.
fn jwt_header(token: &[u8]) -> bool {
    let header = token.split(|&b| b == b'.').next().unwrap_or_default();
    let header = decode(header);
    header.first() == Some(&b'{') && memchr::memmem::find(&header, b"\"alg\"").is_some()
}

/// The first part of what `text` decodes to, from either base64 alphabet; empty when it is not base64.
pub(super) fn decode(text: &[u8]) -> Vec<u8> {
    let text = text.get(..DECODED).unwrap_or(text);
    // A cut group of one character decodes to nothing and would fail the whole.
    let whole = if text.len() % 4 == 1 {
        text.get(..text.len() - 1).unwrap_or(text)
    } else {
        text
    };
    let url = whole.iter().any(|b| matches!(b, b'-' | b'_'));
    let engine = if url { &URL_SAFE } else { &STANDARD };
    engine.decode(whole).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(&base62(61), b"00000z");
    }

    #[test]
    fn filler_is_not_varied() {
        for filler in [
            "x".repeat(36),
            "1234567890".repeat(4),
            "abcdefghijklmnop".into(),
        ] {
            assert!(!is_varied(filler.as_bytes(), 6), "{filler}");
        }
        assert!(is_varied(b"q8Zt3LwPx0Vn", 8));
    }

    #[test]
    fn a_jwt_needs_an_algorithm() {
        let encode = |json: &str| URL_SAFE.encode(json).replace('=', "");
        assert!(jwt_header(
            encode(r#"{"typ":"JWT","alg":"HS256"}"#).as_bytes()
        ));
        assert!(!jwt_header(encode(r#"{"page":2,"after":"x"}"#).as_bytes()));
        assert!(!jwt_header(b"eyJ!"));
    }
}
