//! What the header of a request says.

use super::{HeaderMap, HeaderName, HeaderValue, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;

/// The one value of a header, without outer blanks; `None` when there is none. A header that is there
/// twice or is no text has the value that nothing equals.
#[must_use]
pub fn value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() {
        return Some("\n");
    }
    Some(first.to_str().map_or("\n", str::trim))
}

/// The value with `=?base64?…?=` undone (MCP 2026-07-28, transports); `None` when that is broken.
#[must_use]
pub fn decoded(value: &str) -> Option<Cow<'_, str>> {
    let Some(coded) = value
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="))
    else {
        return Some(Cow::Borrowed(value));
    };
    let bytes = STANDARD.decode(coded).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// A text as the value of a header: itself where that is safe, else coded (the reverse of [`decoded`]).
#[must_use]
pub fn coded(text: &str) -> HeaderValue {
    let plain = text.bytes().all(|byte| (0x20..0x7F).contains(&byte));
    let bare = plain && text.trim() == text && !text.starts_with("=?base64?");
    let value = match bare {
        true => HeaderValue::from_str(text),
        false => HeaderValue::from_str(&format!("=?base64?{}?=", STANDARD.encode(text))),
    };
    // Either has nothing but printable ASCII.
    value.unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// True when the body is a stream of events.
#[must_use]
pub fn carries_events(headers: &HeaderMap) -> bool {
    value(headers, &header::CONTENT_TYPE).is_some_and(|kind| {
        let name = kind.split(';').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("text/event-stream")
    })
}

/// True when the body is JSON.
#[must_use]
pub fn carries_json(headers: &HeaderMap) -> bool {
    value(headers, &header::CONTENT_TYPE).is_some_and(|kind| {
        let mut parts = kind.split(';');
        let json = parts
            .next()
            .is_some_and(|name| name.trim().eq_ignore_ascii_case("application/json"));
        // JSON is UTF-8 (RFC 8259 §8.1); another charset would be read as another message.
        let charset = |part: &str| {
            let (name, value) = part.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("charset")
                .then(|| value.trim().trim_matches('"').to_owned())
        };
        json && parts
            .filter_map(charset)
            .all(|set| set.eq_ignore_ascii_case("utf-8"))
    })
}

/// True when the client takes `application/json`.
#[must_use]
pub fn accepts_json(headers: &HeaderMap) -> bool {
    accepts(headers, "application", "json")
}

/// True when the client takes `text/event-stream`.
#[must_use]
pub fn accepts_events(headers: &HeaderMap) -> bool {
    accepts(headers, "text", "event-stream")
}

fn accepts(headers: &HeaderMap, kind: &str, subtype: &str) -> bool {
    let ranges = headers.get_all(header::ACCEPT).iter();
    ranges
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|range| {
            let mut parts = range.split(';');
            let name = parts.next().unwrap_or_default().trim();
            let fits = name.split_once('/').is_some_and(|(a, b)| {
                let (any, all) = (
                    b == "*" && a.eq_ignore_ascii_case(kind),
                    a == "*" && b == "*",
                );
                any || all || (a.eq_ignore_ascii_case(kind) && b.eq_ignore_ascii_case(subtype))
            });
            let none = |part: &str| {
                let weight = part
                    .trim()
                    .strip_prefix("q=")
                    .and_then(|q| q.parse::<f32>().ok());
                weight.is_some_and(|q| q <= 0.0)
            };
            fits && !parts.any(none)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, text: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(text).unwrap())])
    }

    #[test]
    fn accept_is_a_list_of_ranges() {
        for (text, json, events) in [
            ("application/json, text/event-stream", true, true),
            ("text/event-stream;q=0.5,Application/JSON", true, true),
            ("*/*", true, true),
            ("application/*", true, false),
            ("application/json;q=0, text/event-stream", false, true),
            ("application/jsonp", false, false),
            ("", false, false),
        ] {
            let headers = headers(header::ACCEPT, text);
            assert_eq!(
                (accepts_json(&headers), accepts_events(&headers)),
                (json, events),
                "{text}"
            );
        }
        assert!(!accepts_json(&HeaderMap::new()));
    }

    #[test]
    fn only_json_in_utf_8_is_json() {
        for (text, json) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/json; charset=utf-16", false),
            ("application/json-rpc", false),
            ("text/plain", false),
        ] {
            assert_eq!(
                carries_json(&headers(header::CONTENT_TYPE, text)),
                json,
                "{text}"
            );
        }
    }

    #[test]
    fn a_coded_value_is_decoded_strictly() {
        assert_eq!(decoded("plain").as_deref(), Some("plain"));
        assert_eq!(decoded("=?base64?w7w=?=").as_deref(), Some("ü"));
        assert_eq!(decoded("=?base64?w7w?="), None);
        assert_eq!(decoded("=?base64?/w==?="), None);
        assert_eq!(
            decoded("=?BASE64?w7w=?=").as_deref(),
            Some("=?BASE64?w7w=?=")
        );
    }

    #[test]
    fn what_is_coded_is_decoded_to_the_same() {
        for text in [
            "plain",
            "",
            " a",
            "a ",
            "\u{fc}",
            "=?base64?w7w=?=",
            "a\r\nb: c",
            "a\tb",
        ] {
            let value = coded(text);
            let bytes = value.to_str().unwrap();
            assert!(bytes.bytes().all(|byte| (0x20..0x7F).contains(&byte)));
            assert_eq!(bytes.trim(), bytes, "{text:?}");
            assert_eq!(decoded(bytes).as_deref(), Some(text), "{text:?}");
        }
        assert_eq!(coded("a b"), "a b");
    }

    #[test]
    fn a_header_that_is_there_twice_equals_nothing() {
        let mut twice = headers(header::CONTENT_TYPE, "application/json");
        assert_eq!(
            value(&twice, &header::CONTENT_TYPE),
            Some("application/json")
        );
        twice.append(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        assert_eq!(value(&twice, &header::CONTENT_TYPE), Some("\n"));
        assert!(!carries_json(&twice));
    }
}
