//! Which addresses are no business of a caller that other people send to servers.
//!
//! Everything that is not plainly the public internet is refused: the special-purpose registries of IANA (RFC 6890 and
//! its successors), the metadata services of clouds, and every IPv6 form that carries such an IPv4 address. Refused is
//! the default; an allow list opens single networks, and a metadata service only if it names that very address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const METADATA: &str = "a cloud's metadata service";
const PRIVATE: &str = "private";
const LINK_LOCAL: &str = "link-local";
const LOOPBACK: &str = "loopback";
const MULTICAST: &str = "multicast";
const RESERVED: &str = "reserved";
const DOCUMENTATION: &str = "reserved for documentation";
const SHARED: &str = "shared address space of a provider";

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6(high: u64, low: u64, prefix: u8) -> IpNet {
    let bits = ((high as u128) << 64) | low as u128;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), prefix))
}

/// Addresses that hand out credentials to whoever asks from inside. An allow list has to name them one by one.
const METADATA_TABLE: &[IpNet] = &[
    v4(169, 254, 169, 254, 32), // AWS, GCP, Azure, OpenStack, DigitalOcean, ...
    v4(169, 254, 169, 253, 32), // AWS: resolver
    v4(169, 254, 170, 2, 32),   // AWS: credentials of containers
    v4(169, 254, 170, 23, 32),  // AWS: credentials of pods
    v4(100, 100, 100, 200, 32), // Alibaba Cloud
    v4(168, 63, 129, 16, 32),   // Azure: the host's wire server
    v4(192, 0, 0, 192, 32),     // Oracle Cloud
    v6(0xfd00_0ec2_0000_0000, 0x0254, 128),
    v6(0xfd00_0ec2_0000_0000, 0x0023, 128),
    v6(0xfd20_00ce_0000_0000, 0x0254, 128),
    v6(0xfd00_00c1_0000_0000, 0xa9fe_a9fe, 128),
    v6(0xfe80_0000_0000_0000, 0xa9fe_a9fe, 128),
];

/// What is refused, most telling reason first.
const TABLE: &[(IpNet, &str)] = &[
    (v4(0, 0, 0, 0, 8), RESERVED),
    (v4(10, 0, 0, 0, 8), PRIVATE),
    (v4(100, 64, 0, 0, 10), SHARED),
    (v4(127, 0, 0, 0, 8), LOOPBACK),
    (v4(169, 254, 0, 0, 16), LINK_LOCAL),
    (v4(172, 16, 0, 0, 12), PRIVATE),
    (v4(192, 0, 0, 0, 24), RESERVED),
    (v4(192, 0, 2, 0, 24), DOCUMENTATION),
    (v4(192, 31, 196, 0, 24), RESERVED),
    (v4(192, 52, 193, 0, 24), RESERVED),
    (v4(192, 88, 99, 0, 24), RESERVED),
    (v4(192, 168, 0, 0, 16), PRIVATE),
    (v4(192, 175, 48, 0, 24), RESERVED),
    (v4(198, 18, 0, 0, 15), RESERVED),
    (v4(198, 51, 100, 0, 24), DOCUMENTATION),
    (v4(203, 0, 113, 0, 24), DOCUMENTATION),
    (v4(224, 0, 0, 0, 4), MULTICAST),
    (v4(240, 0, 0, 0, 4), RESERVED),
    (v6(0, 1, 128), LOOPBACK),
    (v6(0, 0, 8), RESERVED),
    (v6(0x0100_0000_0000_0000, 0, 8), RESERVED),
    (v6(0x0200_0000_0000_0000, 0, 7), RESERVED),
    (v6(0x0400_0000_0000_0000, 0, 6), RESERVED),
    (v6(0x0800_0000_0000_0000, 0, 5), RESERVED),
    (v6(0x1000_0000_0000_0000, 0, 4), RESERVED),
    (v6(0x2001_0002_0000_0000, 0, 48), RESERVED),
    (v6(0x2001_0010_0000_0000, 0, 28), RESERVED),
    (v6(0x2001_0020_0000_0000, 0, 28), RESERVED),
    (v6(0x2001_0db8_0000_0000, 0, 32), DOCUMENTATION),
    (v6(0x3fff_0000_0000_0000, 0, 20), DOCUMENTATION),
    (v6(0x4000_0000_0000_0000, 0, 2), RESERVED),
    (v6(0x8000_0000_0000_0000, 0, 2), RESERVED),
    (v6(0xc000_0000_0000_0000, 0, 3), RESERVED),
    (v6(0xe000_0000_0000_0000, 0, 4), RESERVED),
    (v6(0xf000_0000_0000_0000, 0, 5), RESERVED),
    (v6(0xf800_0000_0000_0000, 0, 6), RESERVED),
    (v6(0xfc00_0000_0000_0000, 0, 7), PRIVATE),
    (v6(0xfe80_0000_0000_0000, 0, 10), LINK_LOCAL),
    (v6(0xfec0_0000_0000_0000, 0, 10), PRIVATE),
    (v6(0xfe00_0000_0000_0000, 0, 9), RESERVED),
    (v6(0xff00_0000_0000_0000, 0, 8), MULTICAST),
];

/// Why `ip` is not to be dialled, or `None` if it may be.
///
/// `allow` names networks that may be dialled nevertheless. An IPv6 address that carries an IPv4 address is judged by
/// both, and an allow list that permits the inner one permits the form that leads to it.
pub fn refusal(ip: IpAddr, allow: &[IpNet]) -> Option<&'static str> {
    let carried = match ip {
        IpAddr::V4(_) => Carried::default(),
        IpAddr::V6(ip) => carried(ip),
    };
    for inner in carried.addresses.into_iter().flatten() {
        if let Some(reason) = judge(IpAddr::V4(inner), allow) {
            return Some(reason);
        }
    }
    // Forms whose outer bits are special but which lead to the inner address alone have been judged by it.
    if carried.transparent { None } else { judge(ip, allow) }
}

fn judge(ip: IpAddr, allow: &[IpNet]) -> Option<&'static str> {
    if METADATA_TABLE.iter().any(|net| net.contains(&ip)) {
        let named = allow
            .iter()
            .any(|net| net.prefix_len() == net.max_prefix_len() && net.contains(&ip));
        return (!named).then_some(METADATA);
    }
    let (_, reason) = TABLE.iter().find(|(net, _)| net.contains(&ip))?;
    (!permitted(ip, allow)).then_some(reason)
}

fn permitted(ip: IpAddr, allow: &[IpNet]) -> bool {
    allow.iter().any(|net| net.contains(&ip))
}

/// The IPv4 addresses that an IPv6 address carries.
#[derive(Default)]
struct Carried {
    addresses: [Option<Ipv4Addr>; 2],
    transparent: bool,
}

fn carried(ip: Ipv6Addr) -> Carried {
    let bits = ip.to_bits();
    let high = (bits >> 64) as u64;
    let last = Ipv4Addr::from_bits(bits as u32);
    let one = |inner, transparent| Carried {
        addresses: [Some(inner), None],
        transparent,
    };
    // ::ffff:0:0/96 mapped, and 64:ff9b::/96 translated (RFC 6052): the connection goes to the inner address.
    if bits >> 32 == 0xffff || bits >> 32 == 0x0064_ff9b_u128 << 64 {
        return one(last, true);
    }
    // 64:ff9b:1::/48, a translator of the network's own (RFC 8215), stays refused by the table whatever it carries,
    // as do ::/96 (compatible) and ::ffff:0:0:0/96 (SIIT).
    if high >> 16 == 0x0064_ff9b_0001 || bits >> 32 == 0 || bits >> 32 == 0xffff_0000 {
        return if bits <= 1 {
            Carried::default()
        } else {
            one(last, false)
        };
    }
    // 2002::/16, 6to4.
    if high >> 48 == 0x2002 {
        return one(Ipv4Addr::from_bits((high >> 16) as u32), false);
    }
    // 2001::/32, Teredo: the server's address and, inverted, the client's.
    if high >> 32 == 0x2001_0000 {
        return Carried {
            addresses: [
                Some(Ipv4Addr::from_bits(high as u32)),
                Some(Ipv4Addr::from_bits(!(bits as u32))),
            ],
            transparent: false,
        };
    }
    // ISATAP: an interface identifier of 0000:5efe or 0200:5efe and the address (RFC 5214).
    if matches!((bits >> 32) as u32, 0x0000_5efe | 0x0200_5efe) {
        return one(last, false);
    }
    Carried::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ip: &str, allow: &[&str]) -> Option<&'static str> {
        let allow: Vec<IpNet> = allow.iter().map(|net| net.parse().unwrap()).collect();
        refusal(ip.parse().unwrap(), &allow)
    }

    #[test]
    fn public_addresses_may_be_dialled() {
        for ip in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "168.63.129.15",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
            "2001:db7::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert_eq!(check(ip, &[]), None, "{ip}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (ip, reason) in [
            ("0.0.0.0", RESERVED),
            ("0.1.2.3", RESERVED),
            ("10.0.0.0", PRIVATE),
            ("10.255.255.255", PRIVATE),
            ("100.64.0.0", SHARED),
            ("100.127.255.255", SHARED),
            ("127.0.0.1", LOOPBACK),
            ("127.255.255.254", LOOPBACK),
            ("169.254.0.1", LINK_LOCAL),
            ("172.16.0.0", PRIVATE),
            ("172.31.255.255", PRIVATE),
            ("192.0.0.8", RESERVED),
            ("192.0.2.1", DOCUMENTATION),
            ("192.88.99.1", RESERVED),
            ("192.168.0.1", PRIVATE),
            ("198.18.0.1", RESERVED),
            ("198.19.255.255", RESERVED),
            ("198.51.100.1", DOCUMENTATION),
            ("203.0.113.1", DOCUMENTATION),
            ("224.0.0.1", MULTICAST),
            ("239.255.255.255", MULTICAST),
            ("240.0.0.1", RESERVED),
            ("255.255.255.255", RESERVED),
            ("169.254.169.254", METADATA),
            ("169.254.170.2", METADATA),
            ("100.100.100.200", METADATA),
            ("168.63.129.16", METADATA),
            ("192.0.0.192", METADATA),
            ("fd00:ec2::254", METADATA),
            ("fd20:ce::254", METADATA),
            ("fe80::a9fe:a9fe", METADATA),
            ("::", RESERVED),
            ("::1", LOOPBACK),
            ("100::1", RESERVED),
            ("200::1", RESERVED),
            ("400::1", RESERVED),
            ("1000::1", RESERVED),
            ("2001:2::1", RESERVED),
            ("2001:10::1", RESERVED),
            ("2001:20::1", RESERVED),
            ("2001:db8::1", DOCUMENTATION),
            ("3fff::1", DOCUMENTATION),
            ("4000::1", RESERVED),
            ("5f00::1", RESERVED),
            ("8000::1", RESERVED),
            ("c000::1", RESERVED),
            ("e000::1", RESERVED),
            ("fc00::1", PRIVATE),
            ("fd12:3456::1", PRIVATE),
            ("fe80::1", LINK_LOCAL),
            ("febf:ffff::1", LINK_LOCAL),
            ("fec0::1", PRIVATE),
            ("ff02::1", MULTICAST),
        ] {
            assert_eq!(check(ip, &[]), Some(reason), "{ip}");
        }
    }

    #[test]
    fn a_carried_address_counts() {
        for (ip, reason) in [
            ("::ffff:127.0.0.1", LOOPBACK),
            ("::ffff:10.0.0.1", PRIVATE),
            ("::ffff:169.254.169.254", METADATA),
            ("::127.0.0.1", LOOPBACK),
            ("::8.8.8.8", RESERVED),
            ("::ffff:0:127.0.0.1", LOOPBACK),
            ("64:ff9b::10.0.0.1", PRIVATE),
            ("64:ff9b::169.254.169.254", METADATA),
            ("64:ff9b:1::1.1.1.1", RESERVED),
            ("2002:7f00:1::", LOOPBACK),
            ("2002:a00:1::1", PRIVATE),
            ("2002:a9fe:a9fe::1", METADATA),
            // Teredo: the server's address stands plain, the client's inverted.
            ("2001:0:a00:1::1", PRIVATE),
            ("2001:0:808:808::80ff:fffe", LOOPBACK),
            ("2606:4700::5efe:10.0.0.1", PRIVATE),
            ("2606:4700::200:5efe:127.0.0.1", LOOPBACK),
        ] {
            assert_eq!(check(ip, &[]), Some(reason), "{ip}");
        }
    }

    #[test]
    fn an_allow_list_permits_what_it_names() {
        assert_eq!(check("10.1.2.3", &["10.1.0.0/16"]), None);
        assert_eq!(check("10.2.2.3", &["10.1.0.0/16"]), Some(PRIVATE));
        assert_eq!(check("127.0.0.1", &["127.0.0.0/8"]), None);
        assert_eq!(check("::1", &["127.0.0.0/8"]), Some(LOOPBACK));
        assert_eq!(check("::1", &["::1/128"]), None);
        assert_eq!(check("fd12::1", &["fd12::/16"]), None);
        assert_eq!(check("::ffff:10.1.2.3", &["10.1.0.0/16"]), None);
        assert_eq!(check("64:ff9b::10.1.2.3", &["10.1.0.0/16"]), None);
        assert_eq!(check("2002:a01:203::1", &["10.1.0.0/16"]), None);
        assert_eq!(check("::ffff:10.1.2.3", &["192.168.0.0/16"]), Some(PRIVATE));
    }

    #[test]
    fn a_metadata_service_has_to_be_named() {
        assert_eq!(check("169.254.169.254", &["0.0.0.0/0"]), Some(METADATA));
        assert_eq!(check("100.100.100.200", &["100.64.0.0/10"]), Some(METADATA));
        assert_eq!(check("fd00:ec2::254", &["fc00::/7"]), Some(METADATA));
        assert_eq!(check("::ffff:169.254.169.254", &["169.254.0.0/16"]), Some(METADATA));
        assert_eq!(check("::ffff:169.254.169.254", &["::/0"]), Some(METADATA));
        assert_eq!(check("169.254.169.254", &["169.254.169.254/32"]), None);
    }
}
