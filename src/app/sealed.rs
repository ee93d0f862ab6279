//! Texts from the spawner to the message process, in a sealed memfd: each after its length (32 bits,
//! little endian).

use crate::cell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use zeroize::Zeroizing;

/// In place of the length of a text that there is not.
const ABSENT: u32 = u32::MAX;

/// Texts on their way; wiped when they have been sent.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Packed(Zeroizing<Vec<u8>>);

impl Packed {
    /// Adds a text, or notes that there is none.
    pub(super) fn add(&mut self, text: Option<&[u8]>) {
        // Nothing that is packed is larger than a file that was read within a cap.
        let length = text.and_then(|text| u32::try_from(text.len()).ok());
        let length = length.unwrap_or(ABSENT).to_le_bytes();
        self.0.extend_from_slice(&length);
        self.0.extend_from_slice(text.unwrap_or_default());
    }

    /// A descriptor that holds all of it, and can be changed by nobody.
    ///
    /// # Errors
    /// No memory, or no descriptor.
    pub(super) fn seal(&self, name: &str) -> io::Result<OwnedFd> {
        let mut file = File::from(cell::seal(name, &self.0)?);
        // Whoever gets it shares the offset, and is caged: it can read and do nothing else.
        file.seek(SeekFrom::Start(0))?;
        Ok(file.into())
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({} bytes)", self.0.len())
    }
}

/// Texts that have come.
pub(super) struct Unpacked {
    bytes: Zeroizing<Vec<u8>>,
    at: usize,
}

impl Unpacked {
    /// Takes them out of a descriptor: `texts` of them, none larger than `most` bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read(from: OwnedFd, texts: usize, most: u64) -> io::Result<Self> {
        let mut bytes = Zeroizing::new(Vec::new());
        let all = (most + 4).saturating_mul(texts as u64);
        File::from(from).take(all).read_to_end(&mut bytes)?;
        Ok(Self { bytes, at: 0 })
    }

    /// The next text; `None` where there is none.
    ///
    /// # Errors
    /// The descriptor holds something else.
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let rest = self.bytes.get(self.at..).ok_or_else(wrong)?;
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
        self.at += 4;
        let length = u32::from_le_bytes(*length);
        if length == ABSENT {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| wrong())?;
        let text = after.get(..length).ok_or_else(wrong)?;
        self.at += length;
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_travel_and_what_is_missing_stays_missing() {
        let mut packed = Packed::default();
        for text in [Some(&b"one"[..]), None, Some(b"")] {
            packed.add(text);
        }
        let sealed = packed.seal("test").unwrap();
        let mut back = Unpacked::read(sealed, 3, 16).unwrap();
        assert_eq!(back.next().unwrap(), Some(&b"one"[..]));
        assert_eq!(back.next().unwrap(), None);
        assert_eq!(back.next().unwrap(), Some(&b""[..]));
        assert!(back.next().is_err());
        assert!(!format!("{packed:?}").contains("one"));
    }

    #[test]
    fn a_descriptor_that_holds_less_than_it_announces_is_refused() {
        for bytes in [&b""[..], b"\x05\0\0\0abc", b"\xfe\xff\xff\xffabc"] {
            let mut file = File::from(cell::seal("test", bytes).unwrap());
            file.seek(SeekFrom::Start(0)).unwrap();
            let mut back = Unpacked::read(file.into(), 1, 16).unwrap();
            assert!(back.next().is_err(), "{bytes:?}");
        }
    }
}
