//! The private network of `outwork demo --private`: a network namespace with one way out and none in.
//!
//! ```text
//! this machine                  |  the namespace
//! owd… 10.x.y.1/29  == pair ==  |  owe… 10.x.y.2/29     lo 10.x.y.3/32: the private server
//! ```
//!
//! The gateway dials from .2 to the edge on .1. Nobody answers on the pair for .3, so the machine has no way to the
//! private server. The namespace belongs to the process of the private server: when that ends, however it ends, the
//! namespace and both interfaces are gone. Nothing else on the machine is changed. Where this cannot be done, the private
//! server stands on a loopback address, which the plane refuses to dial.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rand::Rng;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::cli::task::DemoHostCommand;

/// The port of the private server in its own network.
const PORT: u16 = 8080;

/// Where the parts of the demonstration stand.
pub(super) struct Network {
    /// The private server.
    pub(super) server: SocketAddr,
    /// What the edge listens on.
    pub(super) edge: IpAddr,
    /// The namespace, if there is one.
    pub(super) pair: Option<Pair>,
}

/// A pair of interfaces, one of them in the namespace.
pub(super) struct Pair {
    outside: String,
    pub(super) inside: String,
    pub(super) address_inside: String,
    address_outside: String,
}

impl Network {
    /// On loopback. An address that is nobody else's by accident.
    pub(super) fn loopback() -> Self {
        Self {
            server: SocketAddr::from(([127, 77, 0, 1], 0)),
            edge: Ipv4Addr::LOCALHOST.into(),
            pair: None,
        }
    }

    /// A network that no route of this machine touches, and names that no interface has.
    pub(super) fn apart(rng: &mut impl Rng) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("it takes root to make a network namespace");
        }
        let taken =
            routes(&fs::read_to_string("/proc/net/route").context("could not read the routes of this machine")?);
        let base = (0..64)
            .map(|_| {
                u32::from(Ipv4Addr::new(10, rng.random_range(128..=254), rng.random(), 0)) | rng.random::<u32>() & 0xf8
            })
            .find(|base| taken.iter().all(|(net, mask)| base & mask != *net && net & !7 != *base))
            .context("every network that was tried is in use on this machine")?;
        let at = |last: u32| Ipv4Addr::from(base | last);
        let tag: u32 = rng.random_range(0x1000_0000..=0xffff_ffff);
        Ok(Self {
            server: SocketAddr::from((at(3), PORT)),
            edge: at(1).into(),
            pair: Some(Pair {
                outside: format!("owd{tag:x}"),
                inside: format!("owe{tag:x}"),
                address_inside: format!("{}/29", at(2)),
                address_outside: format!("{}/29", at(1)),
            }),
        })
    }
}

/// The networks of `/proc/net/route`, but for the one that is everything.
fn routes(table: &str) -> Vec<(u32, u32)> {
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be);
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (net, mask) = (number(fields.get(1)?)?, number(fields.get(7)?)?);
            (mask != 0).then_some((net, mask))
        })
        .collect()
}

impl Pair {
    /// Makes the pair, one end in the namespace of a process. It goes with the namespace.
    pub(super) fn make(&self, pid: u32) -> Result<()> {
        let pid = pid.to_string();
        ip(&[
            "link",
            "add",
            &self.outside,
            "type",
            "veth",
            "peer",
            "name",
            &self.inside,
            "netns",
            &pid,
        ])?;
        ip(&["address", "add", &self.address_outside, "dev", &self.outside])?;
        ip(&["link", "set", &self.outside, "up"])
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // It is usually gone with the namespace already, or was never made.
        let _ = ip(&["link", "delete", &self.outside]);
    }
}

/// Before there are threads: into a network namespace of its own, or into that of another process and on as another
/// command.
pub(crate) fn enter_network(command: &DemoHostCommand) -> Result<()> {
    match command {
        DemoHostCommand::Server(args) if args.network.is_some() =>
        {
            #[allow(
                deprecated,
                reason = "what is unsafe about it are descriptor tables, and those are not touched"
            )]
            rustix::thread::unshare(UnshareFlags::NEWNET).context("could not make a network namespace")
        }
        DemoHostCommand::Server(_) => Ok(()),
        DemoHostCommand::Enter { pid, line } => {
            // Whoever started this takes it along when it dies.
            set_parent_process_death_signal(Some(Signal::KILL)).context("could not tie this process to its parent")?;
            if let Some(pid) = pid {
                let path = format!("/proc/{pid}/ns/net");
                let namespace = fs::File::open(&path).with_context(|| format!("could not open {path}"))?;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("could not enter the network of process {pid}"))?;
            }
            let program = std::env::current_exe().context("could not find this program")?;
            Err(Command::new(program).args(line).exec()).context("could not become the other command")
        }
    }
}

/// Inside the namespace, once its end of the pair is there: addresses, and no answer for the server's.
pub(super) fn furnish(interface: &str, address: &str, server: IpAddr) -> Result<()> {
    // Only what is on an interface itself is answered for there.
    for name in ["all", interface] {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/arp_ignore");
        fs::write(&path, "1").with_context(|| format!("could not write {path}"))?;
    }
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", &format!("{server}/32"), "dev", "lo"])?;
    ip(&["address", "add", address, "dev", interface])?;
    ip(&["link", "set", interface, "up"])
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("could not run `ip` (package iproute2)")?;
    if !output.status.success() {
        bail!(
            "`ip {}` failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routes_of_a_machine_are_read() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let net = u32::from(Ipv4Addr::new(192, 0, 2, 0));
        assert_eq!(routes(table), [(net, 0xffff_ff00)]);
    }
}
