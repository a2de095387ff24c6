//! Which addresses were answered to a sandbox, and for which names.
//!
//! A connection belongs to a name only if its address was answered for that name. Addresses stay pinned for a while
//! after their time to live, because clients keep connections and answers longer than they should. Bounded: the
//! oldest names go first.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many names are kept.
const NAMES: usize = 2048;
/// How many addresses a name keeps.
const ADDRESSES: usize = 64;
/// How long an address stays pinned after its answer has ended.
const GRACE: Duration = Duration::from_secs(600);
/// Bounds of the time for which an answer is given again without asking.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3600);

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Whether an address is of it.
    pub fn holds(self, address: IpAddr) -> bool {
        matches!(
            (self, address),
            (Family::V4, IpAddr::V4(_)) | (Family::V6, IpAddr::V6(_))
        )
    }
}

#[derive(Debug, Default)]
struct Pinned {
    v4: Option<Fresh>,
    v6: Option<Fresh>,
    valid: HashMap<IpAddr, Instant>,
    used: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Fresh {
    addresses: Arc<[IpAddr]>,
    until: Instant,
}

#[derive(Debug, Default)]
struct Tables {
    names: HashMap<Arc<str>, Pinned>,
    addresses: HashMap<IpAddr, HashSet<Arc<str>>>,
}

/// The pinned addresses of a sandbox.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<Tables>);

impl Pins {
    /// Pins the vetted addresses of an answer.
    pub(crate) fn pin(&self, name: &str, family: Family, addresses: &[IpAddr], ttl: Duration, now: Instant) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = &mut *guard;
        if !tables.names.contains_key(name) && tables.names.len() >= NAMES {
            tables.drop_oldest();
        }
        let key: Arc<str> = match tables.names.get_key_value(name) {
            Some((key, _)) => key.clone(),
            None => name.into(),
        };
        let until = now + ttl.clamp(SHORTEST, LONGEST);
        let pinned = tables.names.entry(key.clone()).or_default();
        pinned.used = Some(now);
        let ended: Vec<IpAddr> = pinned
            .valid
            .iter()
            .filter(|(_, end)| **end < now)
            .map(|(a, _)| *a)
            .collect();
        for address in &ended {
            pinned.valid.remove(address);
        }
        for address in addresses {
            if pinned.valid.len() < ADDRESSES || pinned.valid.contains_key(address) {
                pinned.valid.insert(*address, until + GRACE);
            }
        }
        let fresh = Fresh {
            addresses: addresses
                .iter()
                .copied()
                .filter(|a| pinned.valid.contains_key(a))
                .collect(),
            until,
        };
        let added = fresh.addresses.clone();
        match family {
            Family::V4 => pinned.v4 = Some(fresh),
            Family::V6 => pinned.v6 = Some(fresh),
        }
        for address in &ended {
            tables.unlink(&key, address);
        }
        for address in added.iter() {
            tables.addresses.entry(*address).or_default().insert(key.clone());
        }
    }

    /// The answer that is still fresh, and for how long.
    pub(crate) fn fresh(&self, name: &str, family: Family, now: Instant) -> Option<(Arc<[IpAddr]>, Duration)> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = tables.names.get_mut(name)?;
        let fresh = match family {
            Family::V4 => pinned.v4.clone(),
            Family::V6 => pinned.v6.clone(),
        }?;
        if fresh.until <= now {
            return None;
        }
        pinned.used = Some(now);
        Some((fresh.addresses, fresh.until - now))
    }

    /// Whether an address was answered for a name.
    pub(crate) fn holds(&self, name: &str, address: IpAddr, now: Instant) -> bool {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pinned) = tables.names.get_mut(name) else {
            return false;
        };
        pinned.used = Some(now);
        match pinned.valid.get_mut(&address.to_canonical()) {
            Some(end) if *end > now => {
                // In use: it stays.
                *end = (*end).max(now + GRACE);
                true
            }
            _ => false,
        }
    }

    /// The names for which an address was answered.
    pub(crate) fn names_of(&self, address: IpAddr, now: Instant) -> Vec<Arc<str>> {
        let address = address.to_canonical();
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(names) = tables.addresses.get(&address) else {
            return Vec::new();
        };
        let live = |name: &&Arc<str>| {
            let end = tables.names.get(*name).and_then(|pinned| pinned.valid.get(&address));
            end.is_some_and(|end| *end > now)
        };
        let mut names: Vec<_> = names.iter().filter(live).cloned().collect();
        names.sort();
        names
    }
}

impl Tables {
    fn drop_oldest(&mut self) {
        let oldest = self
            .names
            .iter()
            .min_by_key(|(_, pinned)| pinned.used)
            .map(|(name, _)| name.clone());
        let Some(oldest) = oldest else { return };
        let Some(pinned) = self.names.remove(&oldest) else {
            return;
        };
        for address in pinned.valid.keys() {
            self.unlink(&oldest, address);
        }
    }

    fn unlink(&mut self, name: &Arc<str>, address: &IpAddr) {
        if let Some(names) = self.addresses.get_mut(address) {
            names.remove(name);
            if names.is_empty() {
                self.addresses.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn pinned_until_some_time_after_the_answer_ends() {
        let pins = Pins::default();
        let now = Instant::now();
        pins.pin("a.b", Family::V4, &[ip("1.1.1.1")], Duration::from_secs(60), now);
        assert!(pins.fresh("a.b", Family::V4, now).is_some() && pins.fresh("a.b", Family::V6, now).is_none());
        assert!(pins.holds("a.b", ip("::ffff:1.1.1.1"), now));
        assert!(!pins.holds("a.c", ip("1.1.1.1"), now) && !pins.holds("a.b", ip("1.1.1.2"), now));
        let later = now + Duration::from_secs(61);
        assert!(pins.fresh("a.b", Family::V4, later).is_none() && pins.holds("a.b", ip("1.1.1.1"), later));
        let end = later + GRACE + GRACE;
        assert!(!pins.holds("a.b", ip("1.1.1.1"), end) && pins.names_of(ip("1.1.1.1"), end).is_empty());
    }

    #[test]
    fn names_are_bounded() {
        let pins = Pins::default();
        let now = Instant::now();
        for n in 0..NAMES + 10 {
            let at = now + Duration::from_millis(n as u64);
            pins.pin(
                &format!("n{n}.b"),
                Family::V4,
                &[ip("1.1.1.1")],
                Duration::from_secs(60),
                at,
            );
        }
        let tables = pins.0.lock().unwrap();
        assert_eq!(tables.names.len(), NAMES);
        assert_eq!(tables.addresses[&ip("1.1.1.1")].len(), NAMES);
        assert!(!tables.names.contains_key("n0.b"));
    }
}
