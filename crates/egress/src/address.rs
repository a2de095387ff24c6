//! Which addresses a sandbox may ever reach.
//!
//! One table for DNS answers and for dialling. An address of a class that is [`Reach::Never`] is never answered and
//! never dialled, whatever a policy says: this machine, link-local, metadata services, forms of IPv6 that carry another
//! address. A class that is [`Reach::Named`] opens only where a rule names a range inside it: `0.0.0.0/0` opens no
//! private network, `10.0.0.0/8` does. An IPv4 address mapped into IPv6 is judged as IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Whether a class can be reached at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// By no rule.
    Never,
    /// By a rule that names a range inside the class.
    Named,
}

/// A class of addresses that is not the public internet.
#[derive(Debug)]
pub struct Class {
    /// The range.
    pub net: IpNet,
    /// What it is called in a refusal.
    pub name: &'static str,
    /// Whether a rule can open it.
    pub reach: Reach,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, reach: Reach, name: &'static str) -> Class {
    Class {
        net: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)),
        name,
        reach,
    }
}

const fn v6(s: [u16; 8], prefix: u8, reach: Reach, name: &'static str) -> Class {
    let address = Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]);
    Class {
        net: IpNet::V6(Ipv6Net::new_assert(address, prefix)),
        name,
        reach,
    }
}

use Reach::{Named, Never};

/// Every class, the narrow before the wide ones that contain them.
/// Sources: the IANA special-purpose address registries; metadata addresses from the clouds' manuals.
pub const CLASSES: &[Class] = &[
    v4(169, 254, 169, 254, 32, Never, "cloud metadata"),
    v4(169, 254, 170, 2, 32, Never, "cloud metadata"),
    v4(169, 254, 170, 23, 32, Never, "cloud metadata"),
    v4(100, 100, 100, 200, 32, Never, "cloud metadata"),
    v4(168, 63, 129, 16, 32, Never, "cloud metadata"),
    v4(192, 0, 0, 192, 32, Never, "cloud metadata"),
    v4(0, 0, 0, 0, 8, Never, "this network"),
    v4(127, 0, 0, 0, 8, Never, "loopback"),
    v4(169, 254, 0, 0, 16, Never, "link-local"),
    v4(192, 0, 0, 0, 24, Never, "protocol assignments"),
    v4(192, 88, 99, 0, 24, Never, "6to4 relay"),
    v4(224, 0, 0, 0, 4, Never, "multicast"),
    v4(240, 0, 0, 0, 4, Never, "reserved"),
    v4(10, 0, 0, 0, 8, Named, "private"),
    v4(172, 16, 0, 0, 12, Named, "private"),
    v4(192, 168, 0, 0, 16, Named, "private"),
    v4(100, 64, 0, 0, 10, Named, "shared (carrier-grade NAT)"),
    v4(192, 0, 2, 0, 24, Named, "documentation"),
    v4(198, 18, 0, 0, 15, Named, "benchmarking"),
    v4(198, 51, 100, 0, 24, Named, "documentation"),
    v4(203, 0, 113, 0, 24, Named, "documentation"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, Never, "unspecified"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, Never, "loopback"),
    v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254], 128, Never, "cloud metadata"),
    v6([0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254], 128, Never, "cloud metadata"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, Never, "IPv4-compatible"),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, Never, "IPv4-translated"),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, Never, "NAT64"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Never, "NAT64"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, Never, "discard"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Never, "Teredo"),
    v6([0x2001, 0x0db8, 0, 0, 0, 0, 0, 0], 32, Named, "documentation"),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, Never, "6to4"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Never, "link-local"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Never, "site-local"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Never, "multicast"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Named, "private"),
];

/// The class of an address; `None` if it is public.
pub fn class(address: IpAddr) -> Option<&'static Class> {
    let address = address.to_canonical();
    CLASSES.iter().find(|class| class.net.contains(&address))
}

/// Whether a range that a rule names opens `address`: it contains it, and lies inside the address's class.
pub fn opens(range: &IpNet, address: IpAddr) -> bool {
    let address = address.to_canonical();
    range.contains(&address)
        && class(address).is_none_or(|class| class.reach == Reach::Named && class.net.contains(range))
}

/// The class that keeps a whole range from ever being reached.
pub fn never(range: &IpNet) -> Option<&'static Class> {
    CLASSES
        .iter()
        .find(|class| class.reach == Reach::Never && class.net.contains(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        for (address, name) in [
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("169.254.169.254", "cloud metadata"),
            ("::ffff:169.254.169.254", "cloud metadata"),
            ("100.100.100.200", "cloud metadata"),
            ("168.63.129.16", "cloud metadata"),
            ("fd00:ec2::254", "cloud metadata"),
            ("64:ff9b::a9fe:a9fe", "NAT64"),
            ("2002:a9fe:a9fe::1", "6to4"),
            ("2001:0:1::1", "Teredo"),
            ("::169.254.169.254", "IPv4-compatible"),
            ("0.0.0.0", "this network"),
            ("255.255.255.255", "reserved"),
            ("fe80::1", "link-local"),
            ("ff02::1", "multicast"),
            ("10.1.2.3", "private"),
            ("fd12::1", "private"),
        ] {
            assert_eq!(class(address.parse().unwrap()).unwrap().name, name, "{address}");
        }
        for public in ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(class(public.parse().unwrap()).is_none(), "{public}");
        }
    }

    #[test]
    fn a_wide_range_opens_no_special_class() {
        let all: IpNet = "0.0.0.0/0".parse().unwrap();
        assert!(opens(&all, "1.1.1.1".parse().unwrap()));
        assert!(!opens(&all, "10.0.0.1".parse().unwrap()));
        assert!(opens(&"10.0.0.0/8".parse().unwrap(), "10.0.0.1".parse().unwrap()));
        assert!(!opens(&"127.0.0.0/8".parse().unwrap(), "127.0.0.1".parse().unwrap()));
        assert!(never(&"169.254.0.0/17".parse().unwrap()).is_some());
    }
}
