//! What a worker and its launcher process say to each other: one JSON message per packet of a sequenced socket,
//! with descriptors beside it. Both ends are the same program, so this is not a stable format.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cgroup::Freezer;
use crate::options::{DeviceName, Isolation, Limits, ReadOnlyMount, RootImage};

/// Longest message. Environment variables of a sandbox travel in it.
pub(crate) const MAX_MESSAGE: usize = 128 << 10;
const MAX_FDS: usize = 4;

/// First message to the launcher.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Boot {
    pub isolation: Isolation,
    pub read_only_paths: Vec<PathBuf>,
    /// Whether the first sandboxes are likely to ask for a fence.
    pub fenced: bool,
}

/// A sandbox to make. Beside it travel the hand's end of the socket and, optionally, a descriptor for output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub id: u64,
    pub workspace: PathBuf,
    pub hostname: String,
    pub env: Vec<(String, String)>,
    pub limits: Limits,
    pub image: RootImage,
    pub mounts: Vec<ReadOnlyMount>,
    /// Folder of the host for results.
    pub outputs: Option<PathBuf>,
    /// Certificates of an authority that programs inside trust besides the usual ones.
    pub ca_pem: Option<String>,
    pub devices: Vec<DeviceName>,
    /// Folder of the host that takes what is written to the root filesystem.
    pub build: Option<PathBuf>,
    /// Whether its network namespace has a fence, whose sockets travel back; else it has only `lo`.
    pub fenced: bool,
    /// Instead of the hand, run this program to its end.
    pub run: Option<Vec<String>>,
}

/// What the launcher says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// The launcher can make sandboxes.
    Up { memory: String },
    /// It cannot, and ends.
    Down(StepError),
    /// A sandbox's first process exists; its pidfd travels beside, and behind it the fence's TCP and DNS sockets if
    /// one was asked for. `host_pid` and `cradle`, its
    /// parent, are numbers of the host.
    Started {
        id: u64,
        host_pid: i32,
        cradle: i32,
        freezer: Option<Freezer>,
    },
    /// A sandbox could not be made; nothing ran.
    Refused { id: u64, error: StepError },
    /// A sandbox's first process has ended, and with it all others.
    Exited {
        id: u64,
        code: Option<i32>,
        signal: Option<i32>,
    },
}

/// A step of the isolation that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StepError {
    pub step: String,
    pub reason: String,
}

/// Gives an error the name of the step that it belongs to.
pub(crate) trait InStep<T> {
    fn step(self, step: &str) -> Result<T, StepError>;
}

impl<T, E: std::fmt::Display> InStep<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, StepError> {
        self.map_err(|error| StepError {
            step: step.to_owned(),
            reason: error.to_string(),
        })
    }
}

/// Sends one message with descriptors.
pub(crate) fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the launch request is too large (environment variables?)",
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(drop).map_err(Into::into),
        }
    }
}

/// Receives one message; `None` when the other side is gone. Fails with `WouldBlock` on a non-blocking socket.
pub(crate) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0_u8; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a launcher message was cut"));
    }
    let message = serde_json::from_slice(bytes.get(..received.bytes).unwrap_or_default())?;
    Ok(Some((message, fds)))
}
