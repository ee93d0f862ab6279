//! Reads server-sent events of a stream that somebody else writes, with a bound on each (HTML, server-sent
//! events, 9.2.6).

/// Longest line that is no `data`, in bytes.
const FIELD: usize = 8 * 1024;
/// The byte order mark, which may stand at the beginning.
const MARK: &[u8; 3] = b"\xEF\xBB\xBF";
/// Longest `id` that is kept, in bytes.
const ID: usize = 1024;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its name; empty when it has none.
    pub name: Vec<u8>,
    /// Its `data` lines, with line feeds between them.
    pub data: Vec<u8>,
}

/// What the stream has said, as far as it is whole.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Event(Event),
    /// An event of more than the cap has begun; nothing of it is kept.
    TooLong,
}

/// A stream as it comes in.
#[derive(Debug)]
pub struct Events {
    cap: usize,
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    /// The event that is being read is too long.
    skipped: bool,
    /// The line that is being read is.
    cut: bool,
    /// The last byte was a CR, so that a LF belongs to it.
    returned: bool,
    /// Nothing has been read but perhaps the beginning of a byte order mark.
    fresh: bool,
    id: Option<Vec<u8>>,
    retry: Option<u64>,
}

impl Events {
    /// Events may have `cap` bytes of data.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self {
            cap,
            line: Vec::new(),
            event: Event::default(),
            has_data: false,
            skipped: false,
            cut: false,
            returned: false,
            fresh: true,
            id: None,
            retry: None,
        }
    }

    /// The stream was cut, and another one goes on where it ended: half an event is none.
    pub fn restart(&mut self) {
        *self = Self {
            id: self.id.take(),
            retry: self.retry,
            ..Self::new(self.cap)
        };
    }

    /// The id of the last event that had one: where a client can go on.
    #[must_use]
    pub fn last_id(&self) -> Option<&[u8]> {
        self.id.as_deref()
    }

    /// The pause that the server wants before a client comes back, in milliseconds.
    #[must_use]
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Reads from `bytes` until there is news, and takes what it has read off their front.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<News> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.returned) && bytes.first() == Some(&b'\n') {
                *bytes = bytes.get(1..).unwrap_or_default();
                continue;
            }
            let end = memchr::memchr2(b'\r', b'\n', bytes);
            let piece = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
            let too_long = self.take(piece);
            match end {
                None => *bytes = &[],
                Some(at) => {
                    self.returned = bytes.get(at) == Some(&b'\r');
                    *bytes = bytes.get(at + 1..).unwrap_or_default();
                }
            }
            if too_long {
                if end.is_some() {
                    self.line_end();
                }
                return Some(News::TooLong);
            }
            if end.is_some()
                && let Some(event) = self.line_end()
            {
                return Some(News::Event(event));
            }
        }
        None
    }

    /// Adds to the line that is being read; true when the event has just become too long.
    fn take(&mut self, piece: &[u8]) -> bool {
        if self.cut {
            return false;
        }
        const DATA: &[u8] = b"data: ";
        let mark = self.fresh && self.line.first().or(piece.first()) == Some(&MARK[0]);
        let skipped = if mark { MARK.len() } else { 0 };
        let head = self.line.iter().chain(piece).skip(skipped).take(4);
        let is_data = head.eq(DATA.iter().take(4));
        let room = match is_data {
            // Empty lines add to it too.
            true if self.event.data.len() > self.cap => 0,
            true => self.cap - self.event.data.len() + DATA.len() + skipped,
            false => FIELD,
        };
        if self.line.len() + piece.len() <= room {
            self.line.extend_from_slice(piece);
            return false;
        }
        self.cut = true;
        self.line = Vec::new();
        // A comment or an unknown field may be as long as it likes.
        is_data && self.skip()
    }

    fn skip(&mut self) -> bool {
        self.event.data = Vec::new();
        !std::mem::replace(&mut self.skipped, true)
    }

    fn line_end(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.cut) {
            self.fresh = false;
            return None;
        }
        let mut whole = std::mem::take(&mut self.line);
        let mut line = whole.as_slice();
        if std::mem::take(&mut self.fresh) {
            line = line.strip_prefix(MARK).unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" if !self.skipped => {
                if self.has_data {
                    self.event.data.push(b'\n');
                }
                self.has_data = true;
                if self.event.data.is_empty() {
                    // The line becomes the data: most events have one line.
                    let from = whole.len() - value.len();
                    whole.drain(..from);
                    self.event.data = whole;
                } else {
                    self.event.data.extend_from_slice(value);
                }
            }
            b"event" => self.event.name = value.to_vec(),
            b"id" if value.len() <= ID && !value.contains(&0) => self.id = Some(value.to_vec()),
            b"retry" => {
                let text = std::str::from_utf8(value).ok();
                let digits = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                self.retry = digits.and_then(|text| text.parse().ok()).or(self.retry);
            }
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        let event = std::mem::take(&mut self.event);
        let whole = std::mem::take(&mut self.has_data) && !std::mem::take(&mut self.skipped);
        self.skipped = false;
        whole.then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stream says, handed in in pieces of `size` bytes.
    fn read(text: &[u8], cap: usize, size: usize) -> (Vec<String>, Events) {
        let mut events = Events::new(cap);
        let mut seen = Vec::new();
        for piece in text.chunks(size) {
            let mut rest = piece;
            while let Some(news) = events.next(&mut rest) {
                seen.push(match news {
                    News::Event(event) => format!(
                        "{}|{}",
                        String::from_utf8_lossy(&event.name),
                        String::from_utf8_lossy(&event.data)
                    ),
                    News::TooLong => "too long".to_owned(),
                });
            }
        }
        (seen, events)
    }

    #[test]
    fn any_way_to_write_and_to_cut_a_stream_is_the_same_stream() {
        let text: &[u8] = b"\xEF\xBB\xBF: hello\n\nid: 7\nretry: 250\nevent: message\ndata: {\"a\":1}\n\ndata:one\rdata: two\r\rdata\r\n\r\nid\ndata:  x\n\nevent: y\n\nnonsense: z\ndata: last, never ended";
        let expected = ["message|{\"a\":1}", "|one\ntwo", "|", "| x"];
        for size in 1..text.len() {
            let (seen, events) = read(text, 100, size);
            assert_eq!(seen, expected, "in pieces of {size}");
            assert_eq!(events.retry(), Some(250));
            assert_eq!(events.last_id(), Some(&b""[..]));
        }
    }

    #[test]
    fn what_is_too_long_is_told_once_and_costs_no_memory() {
        let long = [
            &b"data: "[..],
            &[b'x'; 60_000],
            b"\ndata: more\n\ndata: ok\n\n",
        ]
        .concat();
        for size in [1, 7, 4096, 100_000] {
            let (seen, events) = read(&long, 1000, size);
            assert_eq!(seen, ["too long", "|ok"], "{size}");
            assert!(events.line.capacity() < 20_000);
        }
        // Many lines are one event.
        let lines = b"data: 0123456789\n".repeat(2000);
        let (seen, _) = read(&[&lines[..], b"\ndata: ok\n\n"].concat(), 1000, 512);
        assert_eq!(seen, ["too long", "|ok"]);
        // Lines without anything add a line feed each.
        let empty = b"data:\n".repeat(5000);
        let (seen, _) = read(&[&empty[..], b"\ndata: ok\n\n"].concat(), 1000, 512);
        assert_eq!(seen, ["too long", "|ok"]);
        // What is no data is no event, however long it is.
        let comment = [&b":"[..], &[b'x'; 60_000], b"\ndata: ok\n\n"].concat();
        assert_eq!(read(&comment, 1000, 512).0, ["|ok"]);
    }

    proptest::proptest! {
        #[test]
        fn pieces_make_no_difference(words in proptest::collection::vec(0_usize..14, 0..60), step in 1_usize..40) {
            const WORDS: [&str; 14] = [
                "data", ":", " ", "\n", "\r", "\r\n", "\n\n", "id", "event", "retry", "7", "\u{feff}",
                "xxxxxxxxxxxxxxxxxxxx", "data: y\n",
            ];
            let text: String = words.iter().map(|word| WORDS[*word]).collect();
            let (one, whole) = read(text.as_bytes(), 50, text.len().max(1));
            let (other, cut) = read(text.as_bytes(), 50, step);
            proptest::prop_assert_eq!(one, other);
            proptest::prop_assert_eq!((whole.last_id(), whole.retry()), (cut.last_id(), cut.retry()));
            proptest::prop_assert!(whole.event.data.len() < 60);
        }
    }

    #[test]
    fn an_id_that_cannot_be_sent_back_is_none() {
        let (_, events) = read(
            b"id: 5\ndata: a\n\nid: b\0c\ndata: d\n\nretry: 1x\n\n",
            100,
            3,
        );
        assert_eq!((events.last_id(), events.retry()), (Some(&b"5"[..]), None));
    }
}
