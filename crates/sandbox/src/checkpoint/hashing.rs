//! Hashing on a thread of its own, beside the reading and writing of the same bytes.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use sha2::{Digest, Sha256};

use super::{PIECE, hex};

/// Pieces on their way to the hashing thread.
const UNDER_WAY: usize = 32;

/// One thread that hashes what is read and written meanwhile.
pub(super) struct Hasher<'scope> {
    pieces: SyncSender<Piece>,
    thread: std::thread::ScopedJoinHandle<'scope, Vec<(usize, String)>>,
}

pub(super) enum Piece {
    /// The entry of this number begins.
    Begin(usize),
    Bytes(Arc<Vec<u8>>),
}

impl<'scope> Hasher<'scope> {
    pub(super) fn start(scope: &'scope std::thread::Scope<'scope, '_>) -> Self {
        let (pieces, receiver) = sync_channel(UNDER_WAY);
        let thread = scope.spawn(move || {
            let mut done = Vec::new();
            let mut current: Option<(usize, Sha256)> = None;
            for piece in receiver {
                match piece {
                    Piece::Begin(number) => {
                        done.extend(current.replace((number, Sha256::new())));
                    }
                    Piece::Bytes(bytes) => {
                        if let Some((_, hash)) = &mut current {
                            hash.update(&bytes[..]);
                        }
                    }
                }
            }
            done.extend(current);
            done.into_iter()
                .map(|(number, hash)| (number, hex(&hash.finalize())))
                .collect()
        });
        Self { pieces, thread }
    }

    pub(super) fn tell(&self, piece: Piece) {
        // The thread ends only after this sender.
        let _ = self.pieces.send(piece);
    }

    /// Number and digest of each file, in order.
    pub(super) fn finish(self) -> Vec<(usize, String)> {
        drop(self.pieces);
        self.thread.join().unwrap_or_default()
    }
}

/// A file that is read in pieces, each of which the hashing thread sees too.
pub(super) struct Hashed<'a, 'scope> {
    file: File,
    /// What has not been read yet.
    pub(super) left: u64,
    piece: Arc<Vec<u8>>,
    at: usize,
    hasher: &'a Hasher<'scope>,
}

impl<'a, 'scope> Hashed<'a, 'scope> {
    /// Reads so many bytes of a file.
    pub(super) fn new(file: File, size: u64, hasher: &'a Hasher<'scope>) -> Self {
        Self {
            file,
            left: size,
            piece: Arc::default(),
            at: 0,
            hasher,
        }
    }
}

impl Read for Hashed<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && self.left > 0 {
            let length = self.left.min(PIECE as u64);
            let mut piece = Vec::with_capacity(length as usize);
            (&self.file).take(length).read_to_end(&mut piece)?;
            if piece.len() as u64 != length {
                return Err(io::Error::other(
                    "it was made shorter while it was saved; pause the sandbox first",
                ));
            }
            self.left -= length;
            self.piece = Arc::new(piece);
            self.at = 0;
            self.hasher.tell(Piece::Bytes(Arc::clone(&self.piece)));
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        self.at += length;
        Ok(length)
    }
}
