//! What a workload tries on its own fence: rules, addresses, routes, raw packets, socket options.

use crate::traffic::nothing_came;
use crate::{Setting, bash, python};

/// Name, attempt, the errors that it must end in, and whether the same succeeds for root in an ordinary network
/// namespace, which shows that the case can fail.
const ATTEMPTS: &[(&str, &str, &str, bool)] = &[
    (
        "netlink to routing",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
        "EAFNOSUPPORT",
        true,
    ),
    (
        "netlink to netfilter",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)",
        "EAFNOSUPPORT",
        true,
    ),
    (
        "netlink to socket lists",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)",
        "EAFNOSUPPORT",
        true,
    ),
    (
        "netlink to IPsec",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)",
        "EAFNOSUPPORT",
        false,
    ),
    (
        "packets of the wire",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 768)",
        "EAFNOSUPPORT",
        true,
    ),
    (
        "packets of the wire, cooked",
        "socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 768)",
        "EAFNOSUPPORT",
        true,
    ),
    (
        "raw IPv4",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)",
        "EPERM",
        true,
    ),
    (
        "raw IPv6",
        "socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)",
        "EPERM",
        true,
    ),
    (
        "ping socket",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1)",
        "EACCES",
        false,
    ),
    (
        "ping socket, IPv6",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, 58)",
        "EACCES",
        false,
    ),
    (
        "an address",
        "fcntl.ioctl(u, 0x8916, struct.pack('16sHH4s16x', b'lo:1', 2, 0, bytes([203, 0, 113, 9])))",
        "EPERM",
        true,
    ),
    (
        "lo down",
        "fcntl.ioctl(u, 0x8914, struct.pack('16sh22x', b'lo', 0))",
        "EPERM",
        true,
    ),
    ("a route", "fcntl.ioctl(u, 0x890b, bytes(120))", "EPERM", false),
    ("remove a route", "fcntl.ioctl(u, 0x890c, bytes(120))", "EPERM", false),
    (
        "the interface's name",
        "fcntl.ioctl(u, 0x8923, struct.pack('16s16s8x', b'lo', b'eth0'))",
        "EPERM",
        true,
    ),
    (
        "iptables: replace the table",
        "u.setsockopt(0, 64, bytes(96))",
        "EPERM|ENOPROTOOPT",
        false,
    ),
    (
        "ip6tables: replace the table",
        "v.setsockopt(41, 64, bytes(96))",
        "EPERM|ENOPROTOOPT",
        false,
    ),
    ("foreign source addresses", "t.setsockopt(0, 19, 1)", "EPERM", true),
    (
        "foreign source addresses, IPv6",
        "v.setsockopt(41, 75, 1)",
        "EPERM",
        true,
    ),
    ("a mark that rules could trust", "t.setsockopt(1, 36, 1)", "EPERM", true),
    (
        "repair mode: a connection from nothing",
        "t.setsockopt(6, 19, 1)",
        "EPERM",
        true,
    ),
    (
        "a port of the listeners",
        "u.bind(('127.0.0.1', 53))",
        "EADDRINUSE|EACCES",
        false,
    ),
    (
        "forwarding",
        "open('/proc/sys/net/ipv4/ip_forward', 'w')",
        "EROFS|ENOENT|EACCES",
        true,
    ),
    (
        "unprivileged ports",
        "open('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'w')",
        "EROFS|ENOENT|EACCES",
        true,
    ),
    (
        "loopback addresses from outside",
        "open('/proc/sys/net/ipv4/conf/all/route_localnet', 'w')",
        "EROFS|ENOENT|EACCES",
        true,
    ),
    (
        "who may use ping sockets",
        "open('/proc/sys/net/ipv4/ping_group_range', 'w')",
        "EROFS|ENOENT|EACCES",
        true,
    ),
    ("a tunnel device", "open('/dev/net/tun')", "ENOENT", false),
    (
        "the hand's namespace",
        "os.open('/proc/1/ns/net', 0)",
        "EACCES|EPERM",
        false,
    ),
];

/// A program that makes each attempt and says how it ended.
fn program() -> String {
    let mut program = String::from(
        "import socket, errno, os, struct, fcntl\nu = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); t = socket.socket(); v = socket.socket(socket.AF_INET6)\n",
    );
    for (_, attempt, _, _) in ATTEMPTS {
        program.push_str(&format!(
            "try: {attempt}; print('BREACH')\nexcept OSError as e: print(errno.errorcode[e.errno])\n"
        ));
    }
    program
}

pub(crate) async fn attempts_succeed_without_a_fence(_: &Setting) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let made = std::process::Command::new("unshare")
        .args(["-n", "python3", "-c", &program()])
        .output()
        .expect("unshare and python3");
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    for ((name, _, _, control), verdict) in ATTEMPTS.iter().zip(said.lines()) {
        assert!(
            !control || verdict == "BREACH",
            "{name} proves nothing: outside it ends in {verdict}"
        );
    }
    assert_eq!(said.lines().count(), ATTEMPTS.len(), "{said}");
    // A route like the fence's own, without its table: then a datagram does go out of the socket.
    let route = "ip link set lo up && ip address add 192.0.0.8/32 dev lo && ip route add default dev lo && exec python3 -c \"import socket; print(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'out', ('203.0.113.9', 4430)))\"";
    let sent = std::process::Command::new("unshare")
        .args(["-n", "sh", "-c", route])
        .output()
        .expect("ip");
    assert_eq!(String::from_utf8_lossy(&sent.stdout), "3\n", "{sent:?}");
}

pub(crate) async fn calls_are_refused(setting: &Setting) {
    let (sandbox, fence) = setting.fenced().await;
    let said = python(&sandbox, &program()).await;
    let verdicts: Vec<&str> = said.lines().collect();
    assert_eq!(verdicts.len(), ATTEMPTS.len(), "{said}");
    for ((name, _, expected, _), verdict) in ATTEMPTS.iter().zip(verdicts) {
        assert!(expected.split('|').any(|one| one == verdict), "{name}: {verdict}");
    }
    // After all that the fence is as it was.
    let said = bash(
        &sandbox,
        "(echo x > /dev/udp/203.0.113.9/4430) 2>/dev/null || echo refused",
    )
    .await;
    assert_eq!(said, "refused");
    nothing_came(&fence);
}

pub(crate) async fn nothing_tells_of_the_host(setting: &Setting) {
    let (sandbox, _fence) = setting.fenced().await;
    let said = bash(
        &sandbox,
        "ls -A /sys; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; ls /sys/class/net 2>/dev/null; cat /proc/net/arp | tail -n +2; tail -n +2 /proc/net/unix | grep -c /run",
    )
    .await;
    assert_eq!(said, "lo\n0");
}
