//! What the message process may ask the spawner for: 16 bytes that name a cell, and nothing else.

use super::protocol::{MAGIC, ProtocolError, opened, words};

/// A request is this long, in bytes.
pub(super) const REQUEST_BYTES: usize = 16;

/// How a cell is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM to the server's main process.
    Terminate,
    /// SIGINT to the server's main process.
    Interrupt,
    /// SIGHUP to the server's main process.
    Hangup,
    /// SIGKILL to the whole tree.
    Kill,
}

/// What the message process may say. There is nothing else it can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Start {
        cell: u32,
    },
    Stop {
        cell: u32,
        how: Stop,
    },
    /// The audit log has grown to its limit: move it aside and open a new one. Its path is in the
    /// configuration.
    Rotate,
    /// The credential files may have changed: read them now.
    Reread,
    /// Kill what runs, and start nothing until the switch says so.
    SwitchOff,
    /// Read the configuration, and everything that it names, again: `Config` follows.
    Reload,
    /// The values of the last `Credentials` are looked for in what servers say: servers may have them.
    Taken,
}

impl Request {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(self) -> [u8; REQUEST_BYTES] {
        let (op, cell, argument) = match self {
            Self::Start { cell } => (1, cell, 0),
            Self::Stop { cell, how } => (
                2,
                cell,
                match how {
                    Stop::Terminate => 1,
                    Stop::Interrupt => 2,
                    Stop::Hangup => 3,
                    Stop::Kill => 4,
                },
            ),
            Self::Rotate => (3, 0, 0),
            Self::Reread => (4, 0, 0),
            Self::SwitchOff => (5, 0, 0),
            Self::Reload => (6, 0, 0),
            Self::Taken => (7, 0, 0),
        };
        words(MAGIC, op, cell, argument)
    }

    /// Reads one request.
    ///
    /// # Errors
    /// Any bytes that [`Request::encode`] does not produce.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let wrong = ProtocolError::Length { bytes: bytes.len() };
        let bytes: &[u8; REQUEST_BYTES] = bytes.try_into().map_err(|_| wrong)?;
        let (op, cell, argument) = opened(bytes)?;
        match (op, argument) {
            (1, 0) => Ok(Self::Start { cell }),
            (2, 1) => Ok(Self::Stop {
                cell,
                how: Stop::Terminate,
            }),
            (2, 2) => Ok(Self::Stop {
                cell,
                how: Stop::Interrupt,
            }),
            (2, 3) => Ok(Self::Stop {
                cell,
                how: Stop::Hangup,
            }),
            (2, 4) => Ok(Self::Stop {
                cell,
                how: Stop::Kill,
            }),
            (3, 0) if cell == 0 => Ok(Self::Rotate),
            (4, 0) if cell == 0 => Ok(Self::Reread),
            (5, 0) if cell == 0 => Ok(Self::SwitchOff),
            (6, 0) if cell == 0 => Ok(Self::Reload),
            (7, 0) if cell == 0 => Ok(Self::Taken),
            (1..=7, value) => Err(ProtocolError::Field {
                field: "argument",
                value,
            }),
            (value, _) => Err(ProtocolError::Field { field: "op", value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::MAX_CELLS;
    use super::*;
    use proptest::prelude::*;

    fn requests() -> Vec<Request> {
        let mut all = vec![];
        for cell in 0..MAX_CELLS {
            all.push(Request::Start { cell });
            for how in [Stop::Terminate, Stop::Interrupt, Stop::Hangup, Stop::Kill] {
                all.push(Request::Stop { cell, how });
            }
        }
        all.extend([
            Request::Rotate,
            Request::Reread,
            Request::SwitchOff,
            Request::Reload,
            Request::Taken,
        ]);
        all
    }

    #[test]
    fn every_request_survives_the_wire() {
        for request in requests() {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
    }

    #[test]
    fn a_request_cannot_name_a_cell_beyond_the_last() {
        let bytes = Request::Start { cell: MAX_CELLS }.encode();
        let refused = ProtocolError::Field {
            field: "cell",
            value: MAX_CELLS,
        };
        assert_eq!(Request::decode(&bytes), Err(refused));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_valid_request_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(&request.encode()[..], &bytes[..]);
            }
        }

        #[test]
        fn a_request_with_any_byte_changed_is_refused_or_means_what_it_says(
            which in 0usize..80, at in 0usize..16, to in any::<u8>()
        ) {
            let request = requests()[which];
            let mut bytes = request.encode();
            bytes[at] = to;
            if let Ok(read) = Request::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }
}
