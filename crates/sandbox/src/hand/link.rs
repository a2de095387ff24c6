//! The hand's end of the socket: what came in, what waits, what was cancelled.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use rustix::process::{WaitOptions, wait};

use super::frame::{AnswerBody, CallBody, FromHand, ToHand};
use super::processes;
use crate::output::ContentBlock;

/// Calls that may wait behind the one that runs.
const MOST_WAITING: usize = 64;

/// Why the hand ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    Worker,
    BadFrame,
    Io,
}

pub(super) struct Link {
    socket: OwnedFd,
    children: OwnedFd,
    bytes: Vec<u8>,
    waiting: VecDeque<(u64, CallBody)>,
    /// Cancels that have come for the call that runs.
    cancelled: Vec<u64>,
    /// The same for wishes that it ends by itself.
    ending: Vec<u64>,
}

impl Link {
    pub(super) fn new(socket: OwnedFd, children: OwnedFd) -> Self {
        Self {
            socket,
            children,
            bytes: Vec::new(),
            waiting: VecDeque::new(),
            cancelled: Vec::new(),
            ending: Vec::new(),
        }
    }

    pub(super) fn ready(&self) -> io::Result<()> {
        self.send(&FromHand::Ready)
    }

    pub(super) fn answer(&self, id: u64, answer: &AnswerBody) -> io::Result<()> {
        self.send(&FromHand::Answer(id, answer.clone()))
    }

    fn send(&self, frame: &FromHand) -> io::Result<()> {
        std::fs::File::from(self.socket.try_clone()?).write_all(&frame.encode())
    }

    /// The next call, oldest first.
    pub(super) fn next_call(&mut self) -> Option<(u64, CallBody)> {
        self.cancelled.clear();
        self.ending.clear();
        self.waiting.pop_front()
    }

    /// Waits until something has come in.
    pub(super) fn wait(&mut self) -> Result<(), Gone> {
        self.wait_with(&[], None).map(drop)
    }

    /// Waits for frames, ended children, or one of `others`; says which of `others` can be read.
    pub(super) fn wait_with(
        &mut self,
        others: &[BorrowedFd<'_>],
        timeout: Option<&Timespec>,
    ) -> Result<Vec<bool>, Gone> {
        let mut fds = vec![
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(&self.children, PollFlags::IN),
        ];
        fds.extend(others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(vec![false; others.len()]),
            Err(_) => return Err(Gone::Io),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let [socket, children, others @ ..] = ready.as_slice() else {
            return Err(Gone::Io);
        };
        if *children {
            self.reap();
        }
        if *socket {
            self.pump()?;
        }
        Ok(others.to_vec())
    }

    /// Takes in what has come, without waiting; says whether call `id` was cancelled.
    pub(super) fn poll_cancelled(&mut self, id: u64) -> Result<bool, Gone> {
        self.pump()?;
        // A file tool has nothing that could end by itself.
        Ok(self.cancelled(id) || self.ending(id))
    }

    /// Whether call `id` was newly asked to end by itself.
    pub(super) fn ending(&mut self, id: u64) -> bool {
        let asked = self.ending.contains(&id);
        self.ending.retain(|one| *one != id);
        asked
    }

    pub(super) fn cancelled(&self, id: u64) -> bool {
        self.cancelled.contains(&id)
    }

    /// Reaps every child that has ended.
    pub(super) fn reap(&self) {
        let _ = rustix::io::read(&self.children, &mut [0_u8; 128]);
        reap_all();
    }

    fn pump(&mut self) -> Result<(), Gone> {
        let mut chunk = [0_u8; 64 << 10];
        loop {
            match rustix::net::recv(self.socket.as_fd(), &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Gone::Worker),
                Ok((read, _)) => self.bytes.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(Gone::Worker),
            }
        }
        let mut taken = 0;
        while let Some((frame, length)) =
            ToHand::decode(self.bytes.get(taken..).unwrap_or_default()).map_err(|_| Gone::BadFrame)?
        {
            taken += length;
            self.take(frame)?;
        }
        self.bytes.drain(..taken);
        Ok(())
    }

    fn take(&mut self, frame: ToHand) -> Result<(), Gone> {
        let refusal = match frame {
            ToHand::Call(id, call) if self.waiting.len() < MOST_WAITING => {
                self.waiting.push_back((id, call));
                return Ok(());
            }
            ToHand::Call(id, _) => (id, "too many calls are waiting in this sandbox"),
            ToHand::Cancel(id) => {
                if !self.forget(id) {
                    self.cancelled.push(id);
                    return Ok(());
                }
                (id, "interrupted before it was run")
            }
            ToHand::End(id) => {
                if !self.forget(id) {
                    self.ending.push(id);
                    return Ok(());
                }
                (id, "interrupted before it was run")
            }
            ToHand::Pause(id) => return self.say(id, "paused", !processes::pause()),
            ToHand::Resume(id) => {
                processes::resume();
                return self.say(id, "resumed", false);
            }
        };
        let (id, text) = refusal;
        self.say(id, text, true)
    }

    /// Takes a call out that has not been run yet.
    fn forget(&mut self, id: u64) -> bool {
        let waiting = self.waiting.len();
        self.waiting.retain(|(waiting, _)| *waiting != id);
        self.waiting.len() < waiting
    }

    fn say(&self, id: u64, text: &str, is_error: bool) -> Result<(), Gone> {
        let content = vec![ContentBlock::Text { text: text.to_owned() }];
        let answer = AnswerBody {
            content,
            is_error,
            exit_code: None,
        };
        self.answer(id, &answer).map_err(|_| Gone::Io)
    }
}

/// Reaps every child that has ended, the shell included.
pub(super) fn reap_all() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}
