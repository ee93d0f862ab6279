//! Server-sent events: how a message becomes one, and where a client wants to go on.
//!
//! A message is one proved line without a control byte, so it is one `data` field.

use super::Bytes;

/// A comment that says that the stream is alive; clients skip it (HTML, server-sent events, 9.2.6).
pub const COMMENT: Bytes = Bytes::from_static(b":\n\n");

const DATA: &[u8] = b"event: message\ndata: ";

/// One message as an event.
#[must_use]
pub fn event(line: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(line.len() + DATA.len() + 2);
    bytes.extend_from_slice(DATA);
    bytes.extend_from_slice(line);
    bytes.extend_from_slice(b"\n\n");
    bytes.into()
}

/// One message as an event that a client can go on from: the stream's number and the event's.
#[must_use]
pub fn numbered(line: &[u8], stream: u32, event: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(line.len() + DATA.len() + 40);
    bytes.extend_from_slice(format!("id: {stream}-{event}\n").as_bytes());
    bytes.extend_from_slice(DATA);
    bytes.extend_from_slice(line);
    bytes.extend_from_slice(b"\n\n");
    bytes.into()
}

/// The empty event that opens a stream, so that a client can come back to it, after `retry`
/// milliseconds at the earliest (MCP 2025-11-25, transports).
#[must_use]
pub fn prime(stream: u32, event: u64, retry: u64) -> Bytes {
    format!("id: {stream}-{event}\nretry: {retry}\ndata: \n\n").into()
}

/// The stream and the event in a `Last-Event-ID`; `None` when it is none of ours.
#[must_use]
pub fn resume_from(id: &str) -> Option<(u32, u64)> {
    let (stream, event) = id.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(stream) || !digits(event) {
        return None;
    }
    Some((stream.parse().ok()?, event.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_where_it_stands() {
        let bytes = numbered(b"{}", 3, 17);
        assert_eq!(&*bytes, b"id: 3-17\nevent: message\ndata: {}\n\n");
        assert_eq!(resume_from("3-17"), Some((3, 17)));
        for wrong in ["", "3", "3-", "-3", "+3-1", "3-1-2", "a-b", "99999999999-1"] {
            assert_eq!(resume_from(wrong), None, "{wrong}");
        }
    }
}
