//! Page cursors: opaque texts that say where a list goes on.
//!
//! A cursor holds the key of the row beside it, which way to go, and a fingerprint of the list with its filters
//! and its order. Decoding is strict: one encoding per cursor, nothing left over, and a cursor of another list,
//! workspace, filter or order is refused. Decoding is pure and never panics, whatever the text.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::StoreError;

const VERSION: u8 = 1;
const MAX_TEXT: usize = 256;
/// Version, direction, fingerprint, number, length of the name.
const FIXED: usize = 1 + 1 + 8 + 8 + 1;

/// Which way from the row that a cursor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The rows that follow.
    Next,
    /// The rows before.
    Prev,
}

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which way.
    pub direction: Direction,
    /// Which list, filters and order.
    pub fingerprint: [u8; 8],
    /// First part of the row's key: a time, a version or a position.
    pub number: i64,
    /// Second part of the row's key; may be empty.
    pub name: String,
}

impl Cursor {
    /// The cursor as text: URL-safe base64, without padding.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(FIXED + self.name.len());
        bytes.push(VERSION);
        bytes.push(match self.direction {
            Direction::Next => 0,
            Direction::Prev => 1,
        });
        bytes.extend_from_slice(&self.fingerprint);
        bytes.extend_from_slice(&self.number.to_be_bytes());
        debug_assert!(
            self.name.len() <= usize::from(u8::MAX),
            "keys are ids, at most 96 bytes"
        );
        bytes.push(self.name.len() as u8);
        bytes.extend_from_slice(self.name.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what [`Cursor::encode`] wrote; anything else is [`StoreError::InvalidCursor`].
    pub fn decode(text: &str) -> Result<Self, StoreError> {
        Self::read(text).ok_or(StoreError::InvalidCursor)
    }

    fn read(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (fixed, name) = bytes.split_at_checked(FIXED)?;
        let [version, direction, rest @ ..] = fixed else {
            return None;
        };
        if *version != VERSION {
            return None;
        }
        let direction = match direction {
            0 => Direction::Next,
            1 => Direction::Prev,
            _ => return None,
        };
        let (fingerprint, rest) = rest.split_first_chunk::<8>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        if rest != [u8::try_from(name.len()).ok()?] {
            return None;
        }
        Some(Self {
            direction,
            fingerprint: *fingerprint,
            number: i64::from_be_bytes(*number),
            name: std::str::from_utf8(name).ok()?.to_owned(),
        })
    }

    /// Reads a cursor and checks that it belongs to the list of that fingerprint.
    pub(crate) fn of_list(text: &str, fingerprint: [u8; 8]) -> Result<Self, StoreError> {
        let cursor = Self::decode(text)?;
        if cursor.fingerprint == fingerprint {
            Ok(cursor)
        } else {
            Err(StoreError::InvalidCursor)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes(next: bool, fingerprint: [u8; 8], number: i64, name in "[a-zA-Z0-9_]{0,96}") {
            let direction = if next { Direction::Next } else { Direction::Prev };
            let cursor = Cursor { direction, fingerprint, number, name };
            prop_assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
        }

        #[test]
        fn garbage_is_refused_or_is_the_only_encoding(text in "[A-Za-z0-9_=-]{0,200}") {
            if let Ok(cursor) = Cursor::decode(&text) {
                prop_assert_eq!(cursor.encode(), text);
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let text = URL_SAFE_NO_PAD.encode(&bytes);
            if let Ok(cursor) = Cursor::decode(&text) {
                prop_assert_eq!(cursor.encode(), text);
            }
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let _ = Cursor::decode(text);
            }
        }
    }
}
