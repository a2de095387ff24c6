//! Which addresses of upstreams may be dialled.
//!
//! Decided on the address, after resolving, and the address that was decided on is the one that is dialled: a name that
//! changes between check and use changes nothing. An IPv4 address inside an IPv6 one is judged as IPv4.
//!
//! Ranges of a special kind (this machine, link-local, metadata services, ranges that embed other addresses) open only
//! when a range of the owner lies inside them: `0.0.0.0/0` opens no loopback address, `127.0.0.0/8` does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A kind of address that a wide range does not open.
pub struct Class {
    /// The range, as address and prefix length.
    pub net: IpNet,
    /// What it is called in an error.
    pub name: &'static str,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, name: &'static str) -> Class {
    Class { net: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)), name }
}

const fn v6(s: [u16; 8], prefix: u8, name: &'static str) -> Class {
    let address = Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]);
    Class { net: IpNet::V6(Ipv6Net::new_assert(address, prefix)), name }
}

/// Every special kind, the narrow before the wide ones that contain them.
/// Sources: the IANA special-purpose address registries; metadata addresses from the clouds' manuals.
pub const CLASSES: &[Class] = &[
    v4(169, 254, 169, 254, 32, "cloud metadata"),
    v4(169, 254, 170, 2, 32, "cloud metadata"),
    v4(169, 254, 170, 23, 32, "cloud metadata"),
    v4(100, 100, 100, 200, 32, "cloud metadata"),
    v4(168, 63, 129, 16, 32, "cloud metadata"),
    v4(192, 0, 0, 192, 32, "cloud metadata"),
    v4(0, 0, 0, 0, 8, "this network"),
    v4(127, 0, 0, 0, 8, "loopback"),
    v4(169, 254, 0, 0, 16, "link-local"),
    v4(100, 64, 0, 0, 10, "shared (carrier-grade NAT)"),
    v4(192, 0, 0, 0, 24, "protocol assignments"),
    v4(192, 0, 2, 0, 24, "documentation"),
    v4(192, 88, 99, 0, 24, "6to4 relay"),
    v4(198, 18, 0, 0, 15, "benchmarking"),
    v4(198, 51, 100, 0, 24, "documentation"),
    v4(203, 0, 113, 0, 24, "documentation"),
    v4(224, 0, 0, 0, 4, "multicast"),
    v4(240, 0, 0, 0, 4, "reserved"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254], 128, "cloud metadata"),
    v6([0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254], 128, "cloud metadata"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible"),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "NAT64"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "NAT64"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo"),
    v6([0x2001, 0x0db8, 0, 0, 0, 0, 0, 0], 32, "documentation"),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

/// Which addresses may be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPolicy {
    /// `None` when nothing is checked.
    ranges: Option<Vec<IpNet>>,
}

impl AddressPolicy {
    /// Any address at all: the owner turned the check off.
    pub fn any() -> AddressPolicy {
        AddressPolicy { ranges: None }
    }

    /// The private ranges of RFC 1918: the default.
    pub fn private() -> AddressPolicy {
        AddressPolicy::ranges(vec![
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)),
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12)),
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16)),
        ])
    }

    /// These ranges and nothing else; none at all allows nothing.
    pub fn ranges(ranges: Vec<IpNet>) -> AddressPolicy {
        AddressPolicy { ranges: Some(ranges.iter().map(IpNet::trunc).collect()) }
    }

    /// The address to dial, or the kind of address that was refused.
    pub fn check(&self, address: IpAddr) -> Result<IpAddr, &'static str> {
        let address = address.to_canonical();
        let Some(ranges) = &self.ranges else {
            return Ok(address);
        };
        let class = CLASSES.iter().find(|class| class.net.contains(&address));
        let open = |range: &IpNet| {
            range.contains(&address) && class.is_none_or(|class| class.net == *range || class.net.contains(range))
        };
        if ranges.iter().any(open) { Ok(address) } else { Err(class.map_or("outside upstream.allowed_ips", |class| class.name)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(ranges: &[&str]) -> AddressPolicy {
        AddressPolicy::ranges(ranges.iter().map(|range| range.parse().unwrap()).collect())
    }

    #[test]
    fn the_default_is_private_addresses() {
        let policy = AddressPolicy::private();
        for allowed in ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1", "::ffff:10.0.0.1"] {
            assert!(policy.check(allowed.parse().unwrap()).is_ok(), "{allowed}");
        }
        for (refused, class) in [
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("169.254.169.254", "cloud metadata"),
            ("::ffff:169.254.169.254", "cloud metadata"),
            ("169.254.1.1", "link-local"),
            ("0.0.0.0", "this network"),
            ("::", "unspecified"),
            ("64:ff9b::a00:1", "NAT64"),
            ("2002:a00:1::", "6to4"),
            ("::10.0.0.1", "IPv4-compatible"),
            ("2001:0:1::", "Teredo"),
            ("fe80::1", "link-local"),
            ("fd00:ec2::254", "cloud metadata"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("172.32.0.1", "outside upstream.allowed_ips"),
            ("8.8.8.8", "outside upstream.allowed_ips"),
            ("fd00::1", "outside upstream.allowed_ips"),
        ] {
            assert_eq!(policy.check(refused.parse().unwrap()), Err(class), "{refused}");
        }
    }

    #[test]
    fn a_wide_range_opens_no_special_one() {
        let all = policy(&["0.0.0.0/0", "::/0"]);
        assert!(all.check("8.8.8.8".parse().unwrap()).is_ok());
        assert!(all.check("fd00::1".parse().unwrap()).is_ok());
        for refused in ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fe80::1"] {
            assert!(all.check(refused.parse().unwrap()).is_err(), "{refused}");
        }
        assert!(policy(&["169.254.0.0/16"]).check("169.254.169.254".parse().unwrap()).is_err());
    }

    #[test]
    fn a_range_inside_a_special_one_opens_it() {
        assert!(policy(&["127.0.0.0/8"]).check("127.0.0.1".parse().unwrap()).is_ok());
        assert!(policy(&["127.0.0.1/32"]).check("::ffff:127.0.0.1".parse().unwrap()).is_ok());
        assert!(policy(&["::1/128"]).check("::1".parse().unwrap()).is_ok());
        assert!(policy(&["169.254.169.254/32"]).check("169.254.169.254".parse().unwrap()).is_ok());
    }

    #[test]
    fn the_mapped_form_is_dialled_as_what_it_is() {
        assert_eq!(AddressPolicy::private().check("::ffff:10.0.0.1".parse().unwrap()), Ok("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn no_range_allows_nothing_and_no_check_allows_all() {
        assert!(policy(&[]).check("10.0.0.1".parse().unwrap()).is_err());
        assert!(AddressPolicy::any().check("127.0.0.1".parse().unwrap()).is_ok());
    }
}
