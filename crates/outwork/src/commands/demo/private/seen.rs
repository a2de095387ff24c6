//! What the edge saw of the calls: the bytes that it relayed, kept and searched.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use outwork_tunnel::edge::{Direction, Tap};

/// The most that is kept of one direction.
const MOST: usize = 4 << 20;
/// A record of TLS that carries data: its type and version.
const RECORD: [u8; 3] = [0x17, 0x03, 0x03];

/// The bytes that an edge relayed.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<BTreeMap<bool, Vec<Vec<u8>>>>>);

/// What was found in them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sight {
    pub(super) to_gateway: usize,
    pub(super) from_gateway: usize,
    /// The beginning of a record on the way to the gateway, and of one on the way back.
    pub(super) excerpts: Vec<Vec<u8>>,
    /// The words that were looked for and are there.
    pub(super) found: Vec<String>,
}

impl Seen {
    /// A tap that keeps what passes.
    pub(super) fn tap(&self) -> Tap {
        let seen = self.clone();
        Tap::new(move |direction, _, bytes| seen.keep(direction, bytes))
    }

    fn keep(&self, direction: Direction, bytes: &[u8]) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pieces = seen.entry(direction == Direction::ToGateway).or_default();
        if pieces.iter().map(Vec::len).sum::<usize>() + bytes.len() <= MOST {
            pieces.push(bytes.to_vec());
        }
    }

    /// Looks for words in everything that passed, in any case.
    pub(super) fn look(&self, words: &[String]) -> Sight {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = |to_gateway: bool| seen.get(&to_gateway).map(Vec::as_slice).unwrap_or_default();
        let whole = |to_gateway: bool| all(to_gateway).concat();
        let (to, from) = (whole(true), whole(false));
        let found = words.iter().filter(|word| {
            let word = word.to_lowercase().into_bytes();
            let holds = |bytes: &[u8]| {
                let lower = bytes.to_ascii_lowercase();
                lower.windows(word.len().max(1)).any(|window| window == word)
            };
            holds(&to) || holds(&from)
        });
        let excerpt = |to_gateway: bool| {
            let records = all(to_gateway).iter().filter(|piece| piece.starts_with(&RECORD));
            let record = records.max_by_key(|piece| piece.len());
            record.map(|piece| piece[..piece.len().min(40)].to_vec())
        };
        Sight {
            to_gateway: to.len(),
            from_gateway: from.len(),
            excerpts: [true, false].into_iter().filter_map(excerpt).collect(),
            found: found.cloned().collect(),
        }
    }
}

/// Bytes as people compare them.
pub(super) fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_clear_text_are_found_even_in_pieces() {
        let seen = Seen::default();
        seen.keep(Direction::ToGateway, &[0x17, 0x03, 0x03, 0x00, 0x01, 0x99]);
        seen.keep(Direction::FromGateway, b"{\"text\":\"Parcel PZ");
        seen.keep(Direction::FromGateway, b"-123456\"}");
        let words = ["pz-123456", "Bremerhaven"].map(str::to_owned);
        let sight = seen.look(&words);
        assert_eq!(sight.found, ["pz-123456"]);
        assert_eq!((sight.to_gateway, sight.from_gateway), (6, 27));
        assert_eq!(sight.excerpts, [vec![0x17, 0x03, 0x03, 0x00, 0x01, 0x99]]);
        assert_eq!(hex(&sight.excerpts[0]), "17 03 03 00 01 99");
    }
}
