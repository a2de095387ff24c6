//! Netlink requests, written by hand: the few that a network fence is made of.
//!
//! Requests of one transaction travel in one packet, each asks for an acknowledgement, and the first refusal is the
//! error, with the name of the request that was refused. Answers come from the kernel only; they are parsed with care
//! all the same.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const ERROR: u16 = 2;
const HEADER: usize = 16;
/// The kernel answers at once; this only keeps a broken one from holding the launcher.
const PATIENCE: Duration = Duration::from_secs(5);

/// Attributes of a request.
#[derive(Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (4 + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number in the machine's order, as routing wants it.
    pub(super) fn native(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in the network's order, as netfilter wants it.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, format!("{value}\0").as_bytes())
    }

    pub(super) fn nested(self, kind: u16, value: Self) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }
}

/// Requests of one transaction.
pub(super) struct Requests {
    bytes: Vec<u8>,
    /// Name of each request, by its number less one; `None` where no answer is asked for.
    names: Vec<Option<&'static str>>,
}

/// What a request does if the thing is there already.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    /// Changes it.
    Set,
    /// Is refused.
    Make,
    /// Adds one more.
    Append,
    /// Opens or closes a transaction; has no answer.
    Mark,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(4096),
            names: Vec::new(),
        }
    }

    /// Adds a request: its kind, the fixed part after the header, and attributes.
    pub(super) fn add(&mut self, name: &'static str, mode: Mode, kind: u16, fixed: &[u8], attributes: Attributes) {
        let flags = REQUEST
            | match mode {
                Mode::Set => ACK,
                Mode::Make => ACK | CREATE | EXCL,
                Mode::Append => ACK | CREATE | APPEND,
                Mode::Mark => 0,
            };
        self.names.push((!matches!(mode, Mode::Mark)).then_some(name));
        let length = HEADER + fixed.len().next_multiple_of(4) + attributes.0.len();
        self.bytes.extend_from_slice(&(length as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&(self.names.len() as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.bytes.extend_from_slice(&attributes.0);
    }

    /// Sends all to the kernel's `protocol` in this network namespace, and waits until each was done.
    pub(super) fn send(self, protocol: Option<Protocol>) -> io::Result<()> {
        let socket = open(protocol)?;
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&socket, &self.bytes, SendFlags::empty(), &kernel)?;
        let mut open: Vec<u32> = (1..)
            .zip(&self.names)
            .filter(|(_, name)| name.is_some())
            .map(|(number, _)| number)
            .collect();
        let mut buffer = [0_u8; 8192];
        while !open.is_empty() {
            let (length, _) = match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for (number, code) in answers(buffer.get(..length).unwrap_or_default()) {
                if code != 0 {
                    let name = number
                        .checked_sub(1)
                        .and_then(|at| *self.names.get(at as usize)?)
                        .unwrap_or("the transaction");
                    let error = io::Error::from_raw_os_error(code);
                    return Err(io::Error::new(error.kind(), format!("{name}: {error}")));
                }
                open.retain(|one| *one != number);
            }
        }
        Ok(())
    }
}

fn open(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// Number and error of each answer in a packet; 0 is done.
fn answers(mut bytes: &[u8]) -> Vec<(u32, i32)> {
    let mut found = Vec::new();
    while let Some(length) = native(bytes, 0) {
        let length = length as usize;
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else {
            break;
        };
        let kind = message
            .get(4..6)
            .and_then(|kind| kind.try_into().ok())
            .map(u16::from_ne_bytes);
        // The code is a negative errno. The header of the request follows: length, kind and flags, number.
        if kind == Some(ERROR)
            && let (Some(code), Some(number)) = (native(message, HEADER), native(message, HEADER + 12))
        {
            found.push((number, (code as i32).saturating_neg()));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn native(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)
        .and_then(|part| part.try_into().ok())
        .map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nest() {
        let inner = Attributes::default().text(1, "ab");
        let outer = Attributes::default().nested(2, inner).number(3, 1);
        let expected: Vec<u8> = [
            &[12_u16.to_ne_bytes(), (2 | NESTED).to_ne_bytes()].concat()[..],
            &[7_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat()[..],
            b"ab\0\0",
            &[8_u16.to_ne_bytes(), 3_u16.to_ne_bytes()].concat()[..],
            &[0, 0, 0, 1],
        ]
        .concat();
        assert_eq!(outer.0, expected);
    }

    #[test]
    fn answers_are_read_and_nonsense_is_not() {
        let mut packet = Vec::new();
        for (number, code) in [(1_u32, 0_i32), (2, -17)] {
            packet.extend_from_slice(&36_u32.to_ne_bytes());
            packet.extend_from_slice(&ERROR.to_ne_bytes());
            packet.extend_from_slice(&[0; 10]);
            packet.extend_from_slice(&code.to_ne_bytes());
            packet.extend_from_slice(&[0; 8]);
            packet.extend_from_slice(&number.to_ne_bytes());
            packet.extend_from_slice(&[0; 4]);
        }
        assert_eq!(answers(&packet), [(1, 0), (2, 17)]);
        assert_eq!(answers(&packet[..40]), [(1, 0)]);
        assert_eq!(answers(&[0; 64]), []);
        assert_eq!(answers(&[255; 64]), []);
    }
}
