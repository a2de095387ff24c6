//! Small texts of a policy: ports, rates, sizes, one or several of something.
//!
//! Each is read exactly; what does not parse is refused with what would.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// Ports from `first` to `last`, written like `443`, `"8000-8100"` or `"*"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// The first one; never 0.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

impl Ports {
    /// One port.
    pub const fn one(port: u16) -> Ports {
        Ports {
            first: port,
            last: port,
        }
    }

    /// Every port.
    pub const ALL: Ports = Ports {
        first: 1,
        last: u16::MAX,
    };

    /// Whether it is among them.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Ports, String> {
        let refuse = || format!("`{text}` is not a port; write it like 443, \"8000-8100\" or \"*\"");
        if text == "*" {
            return Ok(Ports::ALL);
        }
        let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>()) {
            Some(Ok(port)) if port != 0 => Ok(port),
            _ => Err(refuse()),
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = Ports {
            first: number(first)?,
            last: number(last)?,
        };
        if ports.first > ports.last {
            Err(refuse())
        } else {
            Ok(ports)
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Ports::ALL => out.write_str("*"),
            Ports { first, last } if first == last => write!(out, "{first}"),
            Ports { first, last } => write!(out, "{first}-{last}"),
        }
    }
}

/// How often something may happen, written like `10/s`, `100/m`, `1000/h`, `10/s burst 20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many in `per`.
    pub count: NonZeroU32,
    /// The period.
    pub per: Duration,
    /// How many may come at once.
    pub burst: NonZeroU32,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let refuse = || format!("`{text}` is not a rate; write it like 10/s, 100/m, 1000/h or 10/s burst 20");
        let (rate, burst) = match text.split_once(" burst ") {
            Some((rate, burst)) => (rate, Some(burst.trim().parse().map_err(|_| refuse())?)),
            None => (text, None),
        };
        let (count, per) = rate.trim().split_once('/').ok_or_else(refuse)?;
        let count: NonZeroU32 = count.trim().parse().map_err(|_| refuse())?;
        let per = Duration::from_secs(match per.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(refuse()),
        });
        Ok(Rate {
            count,
            per,
            burst: burst.unwrap_or(count),
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(out, "{}/{per}", self.count)?;
        if self.burst == self.count {
            Ok(())
        } else {
            write!(out, " burst {}", self.burst)
        }
    }
}

/// A number of bytes, written like `4MiB`, `64KB` or `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let size: Result<bytesize::ByteSize, _> = text.parse();
        size.map(|size| Size(size.as_u64()))
            .map_err(|_| format!("`{text}` is not a size; write it like 4MiB, 64KB or 1048576"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// A text or a number.
struct TextVisitor<T>(PhantomData<T>, &'static str);

impl<T: FromStr<Err = String>> Visitor<'_> for TextVisitor<T> {
    type Value = T;
    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.1)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

macro_rules! as_text {
    ($($kind:ty: $what:literal),*) => {$(
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$kind, D::Error> {
                from.deserialize_any(TextVisitor(PhantomData::<$kind>, $what))
            }
        }
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    )*};
}

as_text!(
    Ports: "a port like 443, or ports like \"8000-8100\"",
    Rate: "a rate like \"10/s\"",
    Size: "a size like \"4MiB\"",
    super::host::HostPattern: "a host like api.example.com or *.example.com"
);

/// A range of addresses, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range(pub ipnet::IpNet);

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let net: ipnet::IpNet = text
            .parse()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from))
            .map_err(|_| format!("`{text}` is not a range of addresses; write it like 10.0.0.0/8 or 2001:db8::1"))?;
        if net.trunc() != net {
            return Err(format!("`{text}` has bits behind its prefix; write {}", net.trunc()));
        }
        match crate::address::never(&net) {
            Some(class) => Err(format!("`{text}` is {}: no rule can open it", class.name)),
            None => Ok(Range(net)),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

as_text!(Range: "a range of addresses like 10.0.0.0/8");

/// Reads one, or a list.
pub(super) fn one_or_many<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct Many<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Many<T> {
        type Value = Vec<T>;
        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("one or a list")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(de::value::StrDeserializer::new(text)).map(|one| vec![one])
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vec<T>, E> {
            T::deserialize(de::value::I64Deserializer::new(number)).map(|one| vec![one])
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Vec<T>, E> {
            T::deserialize(de::value::U64Deserializer::new(number)).map(|one| vec![one])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                all.push(one);
            }
            Ok(all)
        }
    }
    from.deserialize_any(Many(PhantomData))
}
