//! What makes a sequence of lines a sound chain. Pure: lines in, faults out; used by opening, verifying, exporting.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::FORMAT;
use crate::entry::{Checkpoint, Entry, KeyEntry, Pruned, Receipt, Redacted};
use crate::expect::Expect;
use crate::hash::Hash;
use crate::line::{Body, EntryType, Line};
use crate::stub::{STUB, Stub};
use crate::verify::{Fault, FaultKind};

/// Where a line stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Arc<str>,
    /// Counted from 1.
    pub(crate) line: u64,
}

impl Place {
    pub(crate) fn fault(&self, sequence: Option<u64>, kind: FaultKind) -> Fault {
        Fault {
            file: self.file.to_string(),
            line: self.line,
            sequence,
            kind,
        }
    }
}

/// Where the stub stands.
pub(crate) fn stub_place() -> Place {
    Place {
        file: Arc::from(STUB),
        line: 1,
    }
}

/// The keys of a ledger and which of them are trusted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    known: Vec<(u64, KeyEntry, bool)>,
}

impl Keys {
    /// Takes the key that the line `sequence` names.
    pub(crate) fn add(&mut self, sequence: u64, entry: KeyEntry, expect: &Expect) -> Result<(), FaultKind> {
        let vouched = match self.known.last() {
            None if entry.is_first() => false,
            None => return Err(FaultKind::Key("the first key does not sign itself".into())),
            Some((at, previous, trusted)) if *at < sequence && entry.follows(previous) => *trusted,
            Some(_) => return Err(FaultKind::Key("it is not signed by the key before it".into())),
        };
        if self.known.iter().any(|(_, known, _)| known.key == entry.key) {
            return Err(FaultKind::Key("it was used before".into()));
        }
        let trusted = vouched || expect.trusts(&entry.public_key);
        self.known.push((sequence, entry, trusted));
        Ok(())
    }

    /// The key that signs at `sequence`, and whether it is trusted.
    pub(crate) fn at(&self, sequence: u64) -> Option<(&KeyEntry, bool)> {
        self.known
            .iter()
            .rev()
            .find(|(at, ..)| *at < sequence)
            .map(|(_, entry, trusted)| (entry, *trusted))
    }

    /// The newest key, and whether it is trusted.
    pub(crate) fn newest(&self) -> Option<(&KeyEntry, bool)> {
        self.known.last().map(|(_, entry, trusted)| (entry, *trusted))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &KeyEntry)> {
        self.known.iter().map(|(at, entry, _)| (*at, entry))
    }

    /// Checks the checkpoint that stands at `sequence`, and says whether its key is trusted.
    pub(crate) fn check(&self, sequence: u64, previous: Hash, checkpoint: &Checkpoint) -> Result<bool, FaultKind> {
        if checkpoint.sequence + 1 != sequence || checkpoint.hash != previous {
            return Err(FaultKind::Checkpoint("it does not name the line before it".into()));
        }
        let Some((key, trusted)) = self.at(sequence) else {
            return Err(FaultKind::Checkpoint("no key comes before it".into()));
        };
        if key.key != checkpoint.key {
            return Err(FaultKind::Checkpoint(format!(
                "it names the key {}, not {}",
                checkpoint.key, key.key
            )));
        }
        if !checkpoint.verify(&key.public_key) {
            return Err(FaultKind::Signature);
        }
        Ok(trusted)
    }
}

/// Runs of sequences, in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs(pub(crate) Vec<(u64, u64)>);

impl Runs {
    /// Adds a sequence that comes after those that are there.
    pub(crate) fn push(&mut self, sequence: u64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == sequence => *last = sequence,
            _ => self.0.push((sequence, sequence)),
        }
    }

    /// Sorted, and joined where they touch.
    pub(crate) fn normal(mut self) -> Self {
        self.0.sort_unstable();
        let mut out: Vec<(u64, u64)> = Vec::with_capacity(self.0.len());
        for (first, last) in self.0 {
            match out.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
                _ => out.push((first, last)),
            }
        }
        Self(out)
    }

    /// What is in these and not in `other`; both are normal.
    pub(crate) fn minus(&self, other: &Runs) -> Runs {
        let mut out = Vec::new();
        let mut others = other.0.iter().peekable();
        for &(first, last) in &self.0 {
            let mut at = first;
            while let Some(&&(from, to)) = others.peek() {
                if to < at {
                    others.next();
                    continue;
                }
                if from > last {
                    break;
                }
                if from > at {
                    out.push((at, from - 1));
                }
                at = to.saturating_add(1);
                if to >= last {
                    break;
                }
                others.next();
            }
            if at <= last {
                out.push((at, last));
            }
        }
        Runs(out)
    }

    /// Whether `sequence` is in one of them; they are normal.
    pub(crate) fn contains(&self, sequence: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= sequence);
        after > 0 && self.0[after - 1].1 >= sequence
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }
}

/// How many lines of each type were seen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) records: u64,
    pub(crate) dropped: u64,
    pub(crate) checkpoints: u64,
    pub(crate) recovered: u64,
    pub(crate) interrupted: u64,
}

/// How closely lines are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The hashes of all, and the content of what the ledger says of itself.
    Hashes,
    /// The content of records as well.
    Records,
}

/// A chain of lines.
pub(crate) struct Chain<'e> {
    expect: &'e Expect,
    depth: Depth,
    last: Receipt,
    /// The last line that a checkpoint of any key covers, the checkpoint included.
    covered: u64,
    /// The same for a trusted key.
    vouched: u64,
    pub(crate) keys: Keys,
    pub(crate) counts: Counts,
    witnesses: BTreeMap<u64, Hash>,
    /// Lines without their body, a run for each stretch of a file.
    bare: Runs,
    /// Where each of those runs begins.
    bare_at: Vec<Place>,
    redacted: Runs,
    /// The version of the records.
    format: u32,
    /// What stands for the lines that were pruned.
    stub: Option<Stub>,
    /// The ends of the prunings that the lines tell of.
    pruned: Vec<Receipt>,
    /// Receipts of the caller's that are about pruned lines.
    unconfirmed: u64,
}

impl<'e> Chain<'e> {
    /// A chain from the line after the stub on, or from the first line on. The stub was verified.
    pub(crate) fn new(
        expect: &'e Expect,
        depth: Depth,
        head: Option<Receipt>,
        stub: Option<Stub>,
    ) -> Result<Self, FaultKind> {
        let start = stub.as_ref().map_or(Receipt::NONE, |stub| stub.through);
        let mut unconfirmed = 0;
        let mut witnesses = BTreeMap::new();
        for (&sequence, &hash) in expect.witnesses() {
            if sequence > start.sequence {
                witnesses.insert(sequence, hash);
            } else if sequence < start.sequence {
                unconfirmed += 1;
            } else if hash != start.hash {
                return Err(FaultKind::Witness);
            }
        }
        if let Some(head) = head {
            let other = match head.sequence {
                sequence if sequence > start.sequence => witnesses.insert(sequence, head.hash),
                sequence if sequence == start.sequence => Some(start.hash),
                _ => None,
            };
            if other.is_some_and(|other| other != head.hash) {
                return Err(FaultKind::Witness);
            }
        }
        let mut keys = Keys::default();
        for (sequence, key) in stub.iter().flat_map(|stub| stub.keys_through()) {
            keys.add(sequence, key.clone(), expect)?;
        }
        let is_trusted = keys.newest().is_some_and(|(_, trusted)| trusted);
        Ok(Self {
            expect,
            depth,
            last: start,
            covered: start.sequence,
            vouched: if is_trusted { start.sequence } else { 0 },
            keys,
            counts: Counts::default(),
            witnesses,
            bare: Runs::default(),
            bare_at: Vec::new(),
            redacted: Runs::default(),
            format: stub.as_ref().map_or(1, |stub| stub.format),
            stub,
            pruned: Vec::new(),
            unconfirmed,
        })
    }

    /// The version of the records that may come next.
    pub(crate) fn format(&self) -> u32 {
        self.format
    }

    /// What stands for the lines that were pruned.
    pub(crate) fn stub(&self) -> Option<&Stub> {
        self.stub.as_ref()
    }

    /// How many receipts of the caller's are about lines that were pruned.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.unconfirmed
    }

    /// The end of the newest pruning, if the stub does not tell of it yet: a crash came between.
    pub(crate) fn unfinished_pruning(&self) -> Option<Receipt> {
        let done = self.stub.as_ref().map_or(0, |stub| stub.through.sequence);
        self.pruned.last().copied().filter(|end| end.sequence > done)
    }

    /// The sequence that the next line must have.
    pub(crate) fn next(&self) -> u64 {
        self.last.sequence + 1
    }

    pub(crate) fn last(&self) -> Receipt {
        self.last
    }

    pub(crate) fn covered(&self) -> u64 {
        self.covered
    }

    pub(crate) fn vouched(&self) -> u64 {
        self.vouched
    }

    /// Takes the next line and gives what it holds, if it still does and was looked at.
    pub(crate) fn accept(&mut self, place: &Place, line: &Line<'_>) -> Result<Option<Entry>, FaultKind> {
        if line.sequence != self.next() {
            return Err(FaultKind::Sequence { found: line.sequence });
        }
        if line.previous != self.last.hash {
            return Err(FaultKind::Previous);
        }
        if !line.is_intact() {
            return Err(FaultKind::Hash);
        }
        if self
            .witnesses
            .remove(&line.sequence)
            .is_some_and(|hash| hash != line.hash)
        {
            return Err(FaultKind::Witness);
        }
        let is_kept = matches!(line.body, Body::Kept { .. });
        let is_record = line.entry_type == EntryType::Record;
        if self.format > FORMAT {
            return Err(FaultKind::Format {
                found: self.format,
                known: FORMAT,
            });
        }
        let entry = match self.depth {
            Depth::Hashes if is_record => None,
            Depth::Hashes | Depth::Records => line.entry().map_err(FaultKind::Entry)?,
        };
        if self.keys.newest().is_none() && line.entry_type != EntryType::Key {
            return Err(FaultKind::Key("a ledger begins with its key".into()));
        }
        match &entry {
            Some(Entry::Record(_)) => self.counts.records += 1,
            Some(Entry::Checkpoint(checkpoint)) => {
                let trusted = self.keys.check(line.sequence, line.previous, checkpoint)?;
                self.counts.checkpoints += 1;
                self.covered = line.sequence;
                if trusted {
                    self.vouched = line.sequence;
                }
            }
            Some(Entry::Key(key)) => self.keys.add(line.sequence, key.clone(), self.expect)?,
            Some(Entry::Recovered(_)) => self.counts.recovered += 1,
            Some(Entry::Interrupted(_)) => self.counts.interrupted += 1,
            Some(Entry::Redacted(redacted)) => self.redact(line.sequence, redacted)?,
            Some(Entry::Pruned(pruned)) => self.prune(line.sequence, pruned)?,
            Some(Entry::Format(format)) => {
                if format.format <= self.format {
                    return Err(FaultKind::Entry("it names a version that is not newer".into()));
                }
                self.format = format.format;
            }
            None if is_record && is_kept => self.counts.records += 1,
            None if is_record => {
                self.counts.dropped += 1;
                match (self.bare.0.last_mut(), self.bare_at.last()) {
                    (Some((_, last)), Some(at)) if *last + 1 == line.sequence && at.file == place.file => {
                        *last = line.sequence;
                    }
                    _ => {
                        self.bare.0.push((line.sequence, line.sequence));
                        self.bare_at.push(place.clone());
                    }
                }
            }
            None => {
                return Err(FaultKind::Entry(format!(
                    "a {} always has its body",
                    line.entry_type.name()
                )));
            }
        }
        self.last = line.receipt();
        Ok(entry)
    }

    fn redact(&mut self, sequence: u64, redacted: &Redacted) -> Result<(), FaultKind> {
        for &(first, last) in &redacted.runs {
            if first == 0 || first > last || last >= sequence {
                return Err(FaultKind::Entry("it names records that do not come before it".into()));
            }
            self.redacted.0.push((first, last));
        }
        Ok(())
    }

    fn prune(&mut self, sequence: u64, pruned: &Pruned) -> Result<(), FaultKind> {
        let after = self.pruned.last().map_or(0, |end| end.sequence);
        if pruned.through.sequence <= after || pruned.through.sequence >= sequence {
            return Err(FaultKind::Entry("it names lines that do not come before it".into()));
        }
        self.pruned.push(pruned.through);
        Ok(())
    }

    /// Bodies that an entry says were dropped and that are still there: a crash came between.
    pub(crate) fn unfinished(&self) -> Runs {
        let left = self.redacted.clone().normal().minus(&self.bare.clone().normal());
        match &self.stub {
            Some(stub) => left.minus(&Runs(vec![(1, stub.through.sequence)])),
            None => left,
        }
    }

    /// What can be said only once all lines were seen. `end` is where the next line would stand.
    pub(crate) fn finish(&self, end: &Place) -> Option<Fault> {
        if let Some(stub) = &self.stub
            && !self.pruned.contains(&stub.through)
        {
            let reason = "no entry of the ledger tells of this pruning".into();
            return Some(stub_place().fault(Some(stub.through.sequence), FaultKind::Pruned(reason)));
        }
        let missing = self.bare.minus(&self.redacted.clone().normal());
        if let Some(&(first, _)) = missing.0.first() {
            let run = self.bare.0.partition_point(|(from, _)| *from <= first) - 1;
            let place = &self.bare_at[run];
            let place = Place {
                file: place.file.clone(),
                line: place.line + (first - self.bare.0[run].0),
            };
            return Some(place.fault(Some(first), FaultKind::BodyMissing));
        }
        if let Some((&sequence, _)) = self.witnesses.first_key_value() {
            return Some(end.fault(Some(self.next()), FaultKind::Truncated { expected: sequence }));
        }
        if self.last.sequence > 0 && self.vouched == 0 && self.expect.names_keys() {
            return Some(end.fault(None, FaultKind::Untrusted));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_subtracted() {
        let runs = |list: &[(u64, u64)]| Runs(list.to_vec()).normal();
        let all = runs(&[(1, 10), (20, 30)]);
        assert_eq!(
            all.minus(&runs(&[(3, 4), (9, 21), (25, 25), (30, 40)])).0,
            [(1, 2), (5, 8), (22, 24), (26, 29)]
        );
        assert_eq!(all.minus(&runs(&[(1, 40)])).0, []);
        assert_eq!(all.minus(&Runs::default()).0, all.0);
        assert_eq!(runs(&[(5, 6), (1, 4), (8, 9)]).0, [(1, 6), (8, 9)]);
        assert!(all.contains(20) && all.contains(10) && !all.contains(11) && !all.contains(0));
    }
}
