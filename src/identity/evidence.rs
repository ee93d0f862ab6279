//! What a connection and the headers of one request show of who is asking.

use super::{Certificate, Denied, KEY_PREFIX};

/// The header in which a gateway says for whom it asks: an access token, never a name. Names that a
/// client could write itself (`X-Forwarded-User` and the like) are not read at all.
pub const GATEWAY_HEADER: &str = "cofferdam-on-behalf-of";

/// A token is refused before it is looked at when it has more bytes; those of real issuers have 1 to 4 KiB.
const MOST_BYTES: usize = 8 * 1024;

/// What there is to go by. Every field is as the peer sent it, but for the certificate, which TLS has proved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence<'a> {
    /// Every value of `Authorization`.
    pub authorization: &'a [&'a [u8]],
    /// The raw query of the request's target.
    pub query: Option<&'a str>,
    /// The certificate of the TLS connection.
    pub certificate: Option<&'a Certificate>,
    /// The user at the other end of a Unix socket (`SO_PEERCRED`).
    pub uid: Option<u32>,
    /// Every value of [`GATEWAY_HEADER`].
    pub on_behalf_of: &'a [&'a [u8]],
}

impl<'a> Evidence<'a> {
    /// The bearer token, when there is one (RFC 6750 §2.1).
    pub(super) fn bearer(&self) -> Result<Option<&'a str>, Denied> {
        let value = match self.authorization {
            [] => return Ok(None),
            [one] => one,
            // Which of two counts is each parser's choice.
            _ => {
                return Err(Denied::Malformed(
                    "there is more than one Authorization header",
                ));
            }
        };
        let text = std::str::from_utf8(value)
            .map_err(|_| Denied::Malformed("the Authorization header is not text"))?;
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Scheme);
        }
        token(rest.trim_matches(' ')).map(Some)
    }

    /// The token of the user for whom a gateway asks.
    pub(super) fn asserted(&self) -> Result<Option<&'a str>, Denied> {
        let value = match self.on_behalf_of {
            [] => return Ok(None),
            [one] => one,
            _ => return Err(Denied::Malformed("a gateway asks for one user at a time")),
        };
        let text = std::str::from_utf8(value)
            .map_err(|_| Denied::Malformed("the token of the user is not text"))?;
        token(text.trim_matches(' ')).map(Some)
    }
}

/// RFC 6750 §2.1: `b64token`.
fn token(text: &str) -> Result<&str, Denied> {
    if text.len() > MOST_BYTES {
        return Err(Denied::Malformed("the token is too long"));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(Denied::Malformed("there is no bearer token"));
    }
    Ok(text)
}

/// True when a query carries a token or key. It would stand in every log on the way (RFC 6750 §5.3,
/// and the MCP authorization chapter forbids it).
#[must_use]
pub fn has_credential_in_query(query: &str) -> bool {
    const NAMES: [&str; 9] = [
        "access_token",
        "accesstoken",
        "token",
        "id_token",
        "api_key",
        "apikey",
        "api-key",
        "authorization",
        "bearer",
    ];
    query.split(['&', ';']).any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name);
        let value = decoded(value);
        NAMES.iter().any(|known| name.eq_ignore_ascii_case(known)) || value.contains(KEY_PREFIX)
    })
}

/// Percent-decoded once, bytes that are no text replaced.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    let hex = |byte: u8| char::from(byte).to_digit(16);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%'
            && let [high, low, tail @ ..] = after
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
            && let Ok(value) = u8::try_from(high * 16 + low)
        {
            bytes.push(value);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
