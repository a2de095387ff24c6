//! What the writer writes: batches of lines, and the segment to which they are appended.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use outwork_wire::Time;

use crate::Error;
use crate::entry::{Checkpoint, Receipt};
use crate::folder::Segment;
use crate::key::Signer;
use crate::ledger::prepare;
use crate::line::{Body, EntryType, Line};
use crate::queue::{Prepared, Reply};

/// The segment that is written.
pub(crate) struct Active {
    pub(crate) file: File,
    pub(crate) segment: Segment,
    /// The length of what is durable.
    pub(crate) len: u64,
    /// Something else may lie behind it.
    pub(crate) dirty: bool,
    #[cfg(test)]
    pub(crate) faults: Faults,
}

impl Active {
    /// Appends and waits until it is durable. On failure, removes what was half written: it must not be found should
    /// the process end now.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.write(bytes);
        if written.is_err()
            && let Err(error) = self.cut()
        {
            tracing::warn!(%error, "what was half written to the ledger could not be removed yet");
        }
        written
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.cut()?;
        self.dirty = true;
        #[cfg(test)]
        self.faults.before_write(&self.file, bytes, self.len)?;
        self.file.write_all_at(bytes, self.len)?;
        #[cfg(test)]
        self.faults.before_sync()?;
        self.file.sync_data()?;
        self.len += bytes.len() as u64;
        self.dirty = false;
        Ok(())
    }

    /// Removes what a failed write left.
    fn cut(&mut self) -> io::Result<()> {
        if self.dirty {
            self.file.set_len(self.len)?;
            self.dirty = false;
        }
        Ok(())
    }
}

/// Lines that are going to be written together.
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) tail: Receipt,
    pub(crate) unsigned: u64,
    /// The last checkpoint in it.
    pub(crate) signed: Option<Receipt>,
    pub(crate) waiting: Vec<(Reply<Receipt>, Receipt)>,
    /// Bodies that nobody waits for: they are tried again if this batch fails.
    pub(crate) later: Vec<Prepared>,
}

impl Batch {
    /// An empty one, to follow `tail`, after so many lines that no checkpoint covers.
    pub(crate) fn after(tail: Receipt, unsigned: u64) -> Self {
        Self {
            bytes: Vec::new(),
            tail,
            unsigned,
            signed: None,
            waiting: Vec::new(),
            later: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, entry_type: EntryType, body: &Prepared) -> Receipt {
        let kept = Body::Kept {
            salt: body.salt,
            bytes: &body.bytes,
        };
        let line = Line::following(self.tail, entry_type, kept, body.hash);
        line.write_to(&mut self.bytes);
        self.tail = line.receipt();
        self.unsigned += 1;
        self.tail
    }

    pub(crate) fn sign(&mut self, signer: &Signer, now: Time) -> Result<Receipt, Error> {
        let body = prepare(&Checkpoint::sign(signer, self.tail, now))?;
        let receipt = self.add(EntryType::Checkpoint, &body);
        self.unsigned = 0;
        self.signed = Some(receipt);
        Ok(receipt)
    }
}

/// Failures that a test orders.
#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(std::sync::Arc<std::sync::atomic::AtomicU8>);

#[cfg(test)]
impl Faults {
    pub(crate) const NONE: u8 = 0;
    /// Half of the bytes are written.
    pub(crate) const HALF: u8 = 1;
    /// All are, and the flush fails.
    pub(crate) const FLUSH: u8 = 2;

    pub(crate) fn set(&self, fault: u8) {
        self.0.store(fault, std::sync::atomic::Ordering::SeqCst);
    }

    fn is(&self, fault: u8) -> bool {
        self.0.load(std::sync::atomic::Ordering::SeqCst) == fault
    }

    fn before_write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.is(Self::HALF) {
            file.write_all_at(&bytes[..bytes.len() / 2], at)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn before_sync(&self) -> io::Result<()> {
        if self.is(Self::FLUSH) {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }
}
