//! The network fence: a network namespace whose every way out ends in two sockets of the worker.
//!
//! The namespace has `lo` and no other interface. `lo` has one address of each family besides the loopback ones, and
//! the default routes, so that programs see an ordinary network. A table of the kernel sends each TCP connection that
//! does not stay inside to one listener, and each question to UDP port 53 to another; all else that would leave is
//! dropped, which the sender hears of at once (`EPERM`). Both sockets are made here, inside the namespace, and are
//! handed to the worker; nothing else joins the namespace to anything. So when the worker closes them there is no
//! network, and there is no state of the fence in which there is another way out: without the table the default route
//! leads nowhere either.
//!
//! The listeners stand on ports that the workload cannot take. It cannot reach them but through the table: a direct
//! connection is reset, so the original destination of an accepted connection is always one that the workload asked
//! for. The namespace belongs to the launcher's user namespace, of which the sandbox's is a child: no right inside
//! reaches over the table, the addresses or the routes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;

use rustix::net::netlink::NETFILTER;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::thread::UnshareFlags;

use super::netlink::{Attributes, Mode, Requests};
use super::sys;
use super::wire::{InStep, StepError};

/// The step's name, in errors and in the probe.
pub(super) const STEP: &str = "network fence";

/// The sandbox's own addresses: the IPv4 dummy address (RFC 7600), and one of a private network (RFC 4193).
const OWN4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd6f, 0x7574, 0x776f, 0x726b, 0, 0, 0, 8);
/// What `/etc/resolv.conf` says. Any other address is answered by the same listener.
pub(super) const RESOLV_CONF: &str = "nameserver 192.0.0.10\noptions timeout:5 attempts:2\n";

/// Ports of the two listeners. Below 1024, where the workload cannot listen.
const TCP_PORT: u16 = 1;
const DNS_PORT: u16 = 53;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// The worker's ends of a fence.
pub(super) struct FenceSockets {
    pub(super) tcp: OwnedFd,
    pub(super) dns: OwnedFd,
}

/// What a cradle prepared.
pub(super) enum Network {
    /// Only `lo`.
    Closed,
    Fenced(FenceSockets),
}

/// Moves this process to a new network namespace with only `lo`.
pub(super) fn closed() -> Result<Network, StepError> {
    sys::unshare(UnshareFlags::NEWNET).step("net namespace")?;
    sys::interface_up(b"lo").step("loopback")?;
    Ok(Network::Closed)
}

/// Moves this process to a new network namespace with a fence.
pub(super) fn fenced() -> Result<Network, StepError> {
    sys::unshare(UnshareFlags::NEWNET).step("net namespace")?;
    raise().map(Network::Fenced)
}

/// Builds the fence in this process's network namespace, which must be new.
pub(super) fn raise() -> Result<FenceSockets, StepError> {
    // The table first: there is no moment in which something could leave past it.
    table().send(Some(NETFILTER)).map_err(|error| StepError {
        step: STEP.to_owned(),
        reason: format!(
            "nf_tables: {error}; the kernel needs nf_tables for `inet` with nat, conntrack and reject (modules nf_tables, nft_chain_nat, nft_nat, nft_ct, nft_reject_inet; a container may have to load them outside)"
        ),
    })?;
    let sockets = sockets().map_err(|error| failed("listeners", &error))?;
    addresses()
        .send(ROUTE)
        .map_err(|error| failed("addresses and routes", &error))?;
    Ok(sockets)
}

fn failed(what: &str, error: &std::io::Error) -> StepError {
    StepError {
        step: STEP.to_owned(),
        reason: format!("{what}: {error}"),
    }
}

/// Both sockets take both families.
fn sockets() -> std::io::Result<FenceSockets> {
    let make = |kind, port| -> std::io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(AddressFamily::INET6, kind, SocketFlags::CLOEXEC, None)?;
        sockopt::set_ipv6_v6only(&socket, false)?;
        rustix::net::bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0))?;
        Ok(socket)
    };
    let tcp = make(SocketType::STREAM, TCP_PORT)?;
    rustix::net::listen(&tcp, BACKLOG)?;
    let dns = make(SocketType::DGRAM, DNS_PORT)?;
    Ok(FenceSockets { tcp, dns })
}

const LO: u32 = 1;
/// Routing is protocol number 0, which the library writes so.
const ROUTE: Option<rustix::net::Protocol> = None;

fn addresses() -> Requests {
    const NEWLINK: u16 = 16;
    const NEWADDR: u16 = 20;
    const NEWROUTE: u16 = 24;
    const NO_DAD: u32 = 0x02;
    const UP: u32 = 0x1;
    let (four, six) = (libc::AF_INET as u8, libc::AF_INET6 as u8);
    let mut requests = Requests::new();
    let mut link = vec![0, 0, 0, 0];
    for number in [LO, UP, UP] {
        link.extend_from_slice(&number.to_ne_bytes());
    }
    requests.add("lo up", Mode::Set, NEWLINK, &link, Attributes::default());
    let mut address = |name, family, bits: u8, bytes: &[u8]| {
        let mut fixed = vec![family, bits, 0, 0];
        fixed.extend_from_slice(&LO.to_ne_bytes());
        let attributes = Attributes::default().bytes(1, bytes).bytes(2, bytes).native(8, NO_DAD);
        requests.add(name, Mode::Make, NEWADDR, &fixed, attributes);
    };
    address("IPv4 address", four, 32, &OWN4.octets());
    address("IPv6 address", six, 128, &OWN6.octets());
    let mut route = |name, family, scope, kind, source: &[u8]| {
        const MAIN: u8 = 254;
        const STATIC: u8 = 4;
        let fixed = [family, 0, 0, 0, MAIN, STATIC, scope, kind, 0, 0, 0, 0];
        let attributes = Attributes::default().native(4, LO).bytes(7, source);
        requests.add(name, Mode::Make, NEWROUTE, &fixed, attributes);
    };
    const LINK_SCOPE: u8 = 253;
    const UNICAST: u8 = 1;
    const LOCAL: u8 = 2;
    route("IPv4 route", four, LINK_SCOPE, UNICAST, &OWN4.octets());
    // The kernel makes any other IPv6 route over `lo` one that refuses. What the table does not redirect it drops.
    route("IPv6 route", six, 0, LOCAL, &OWN6.octets());
    requests
}

const TABLE: &str = "outwork";
const NAT: &str = "redirect";
const FILTER: &str = "confine";
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// The table: which packets go to the listeners, and which may stay inside.
fn table() -> Requests {
    const BEGIN: u16 = 16;
    const END: u16 = 17;
    const NEWTABLE: u16 = 0x0a00;
    let mark = [0, 0, 0, 10];
    let mut requests = Requests::new();
    requests.add("begin", Mode::Mark, BEGIN, &mark, Attributes::default());
    let name = Attributes::default().text(1, TABLE);
    requests.add("table", Mode::Make, NEWTABLE, &[INET, 0, 0, 0], name);
    chain(&mut requests, NAT, "nat", -100, ACCEPT);
    chain(&mut requests, FILTER, "filter", 0, DROP);
    for rule in [
        Match::default().to4(LOOPBACK4).then(accept()),
        Match::default().to4((OWN4, 32)).then(accept()),
        Match::default().family(IPV4).protocol(UDP).port(53).then(to4(DNS_PORT)),
        Match::default().family(IPV4).protocol(TCP).then(to4(TCP_PORT)),
        Match::default().to6(Ipv6Addr::LOCALHOST).then(accept()),
        Match::default().to6(OWN6).then(accept()),
        Match::default().family(IPV6).protocol(UDP).port(53).then(to6(DNS_PORT)),
        Match::default().family(IPV6).protocol(TCP).then(to6(TCP_PORT)),
    ] {
        rule_in(&mut requests, NAT, rule);
    }
    for rule in [
        Match::default().redirected().then(accept()),
        Match::default().protocol(TCP).port(TCP_PORT).then(reset()),
        Match::default().protocol(UDP).port(DNS_PORT).then(verdict(DROP)),
        Match::default().to4(LOOPBACK4).then(accept()),
        Match::default().to4((OWN4, 32)).then(accept()),
        Match::default().to6(Ipv6Addr::LOCALHOST).then(accept()),
        Match::default().to6(OWN6).then(accept()),
    ] {
        rule_in(&mut requests, FILTER, rule);
    }
    requests.add("end", Mode::Mark, END, &mark, Attributes::default());
    requests
}

const LOOPBACK4: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);

/// A chain on what leaves programs, with what becomes of packets that no rule decides.
fn chain(requests: &mut Requests, name: &'static str, kind: &str, priority: i32, policy: u32) {
    const NEWCHAIN: u16 = 0x0a03;
    const LOCAL_OUT: u32 = 3;
    let hook = Attributes::default().number(1, LOCAL_OUT).number(2, priority as u32);
    let attributes = Attributes::default()
        .text(1, TABLE)
        .text(3, name)
        .nested(4, hook)
        .number(5, policy)
        .text(7, kind);
    requests.add(name, Mode::Make, NEWCHAIN, &[INET, 0, 0, 0], attributes);
}

fn rule_in(requests: &mut Requests, chain: &'static str, expressions: Vec<Attributes>) {
    const NEWRULE: u16 = 0x0a06;
    let list = expressions
        .into_iter()
        .fold(Attributes::default(), |list, expression| list.nested(1, expression));
    let attributes = Attributes::default().text(1, TABLE).text(2, chain).nested(4, list);
    requests.add(chain, Mode::Append, NEWRULE, &[INET, 0, 0, 0], attributes);
}

/// What a rule looks at.
#[derive(Default)]
struct Match(Vec<Attributes>);

/// The register that expressions hand values on in.
const REGISTER: u32 = 1;
const SECOND: u32 = 2;

impl Match {
    fn then(mut self, action: Vec<Attributes>) -> Vec<Attributes> {
        self.0.extend(action);
        self.0
    }

    fn meta(mut self, key: u32, value: u8) -> Self {
        let data = Attributes::default().number(1, REGISTER).number(2, key);
        self.0.push(expression("meta", data));
        self.0.push(compare(0, &[value]));
        self
    }

    fn family(self, family: u8) -> Self {
        self.meta(15, family)
    }

    fn protocol(self, protocol: u8) -> Self {
        self.meta(16, protocol)
    }

    fn payload(mut self, base: u32, offset: u32, length: u32) -> Self {
        let data = Attributes::default()
            .number(1, REGISTER)
            .number(2, base)
            .number(3, offset)
            .number(4, length);
        self.0.push(expression("payload", data));
        self
    }

    fn to4(self, (address, bits): (Ipv4Addr, u8)) -> Self {
        // Prefixes here end at a whole byte, so comparing the bytes before it is comparing the prefix.
        let bytes = usize::from(bits / 8);
        let mut found = self.family(IPV4).payload(1, 16, bytes as u32);
        found
            .0
            .push(compare(0, address.octets().get(..bytes).unwrap_or_default()));
        found
    }

    fn to6(self, address: Ipv6Addr) -> Self {
        let mut found = self.family(IPV6).payload(1, 24, 16);
        found.0.push(compare(0, &address.octets()));
        found
    }

    fn port(self, port: u16) -> Self {
        let mut found = self.payload(2, 2, 2);
        found.0.push(compare(0, &port.to_be_bytes()));
        found
    }

    /// Of a connection that the table sent to a listener, in either direction.
    fn redirected(mut self) -> Self {
        const STATUS: u32 = 2;
        const DESTINATION_CHANGED: u32 = 1 << 5;
        let data = Attributes::default().number(1, REGISTER).number(2, STATUS);
        self.0.push(expression("ct", data));
        let bits = Attributes::default()
            .number(1, REGISTER)
            .number(2, REGISTER)
            .number(3, 4)
            .nested(4, value(&DESTINATION_CHANGED.to_ne_bytes()))
            .nested(5, value(&[0; 4]));
        self.0.push(expression("bitwise", bits));
        self.0.push(compare(1, &[0; 4]));
        self
    }
}

fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, data)
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

/// Goes on with the rule if the register equals (0) or does not equal (1) these bytes.
fn compare(operation: u32, bytes: &[u8]) -> Attributes {
    let data = Attributes::default()
        .number(1, REGISTER)
        .number(2, operation)
        .nested(3, value(bytes));
    expression("cmp", data)
}

fn immediate(register: u32, bytes: &[u8]) -> Attributes {
    let data = Attributes::default().number(1, register).nested(2, value(bytes));
    expression("immediate", data)
}

fn accept() -> Vec<Attributes> {
    verdict(ACCEPT)
}

fn verdict(code: u32) -> Vec<Attributes> {
    let verdict = Attributes::default().nested(2, Attributes::default().number(1, code));
    let data = Attributes::default().number(1, 0).nested(2, verdict);
    vec![expression("immediate", data)]
}

fn to4(port: u16) -> Vec<Attributes> {
    to(IPV4, &OWN4.octets(), port)
}

fn to6(port: u16) -> Vec<Attributes> {
    to(IPV6, &OWN6.octets(), port)
}

/// Changes the destination.
fn to(family: u8, address: &[u8], port: u16) -> Vec<Attributes> {
    const DESTINATION: u32 = 1;
    let data = Attributes::default()
        .number(1, DESTINATION)
        .number(2, u32::from(family))
        .number(3, REGISTER)
        .number(5, SECOND);
    vec![
        immediate(REGISTER, address),
        immediate(SECOND, &port.to_be_bytes()),
        expression("nat", data),
    ]
}

fn reset() -> Vec<Attributes> {
    const RESET: u32 = 1;
    let data = Attributes::default().number(1, RESET).bytes(2, &[0]);
    vec![expression("reject", data)]
}
