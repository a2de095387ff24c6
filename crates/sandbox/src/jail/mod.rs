//! The boundary: namespaces, mounts, Landlock, seccomp, capabilities, limits; and the launcher that builds it.
//!
//! Who is who: the *launcher* (`zygote`) is one process per worker, executed afresh; its *cradles* are forks of it that
//! wait for requests in control groups of their own; the first process of a sandbox (`init`) is cloned by a cradle
//! into new namespaces, closes itself in, and becomes the hand. There is no second program: all of it is this one.
//!
//! **Users.** Everything inside runs as uid 1000. For an ordinary user that is their own uid outside. For root it is
//! a host uid that belongs to nobody, and the workspace is an id-mapped mount on which that uid owns what the
//! workspace's owner owns: files made inside belong to the owner outside, and a process that got out would be nobody.
//! Where a filesystem cannot map ids, a workspace of an ordinary user is used with that user's uid; one of root is
//! refused. So no process inside is ever the host's root.
//!
//! A sandbox that installs packages (`build`) is the exception inside: its user is root of its own user namespace, whose
//! 65536 ids are ids of nobody outside.
//!
//! **Set-uid files.** A workspace of root would otherwise be a place to leave a set-uid root program for others on
//! the host. The filter refuses every way to make a file with those bits, except where packages are installed, which is in a
//! folder that nobody of the host gets into.
//!
//! This module is the only one with unsafe code.

mod build;
pub(crate) mod cgroup;
mod cradle;
mod etc;
mod fence;
pub(crate) mod furnish;
mod ids;
mod init;
mod layers;
mod netlink;
mod network;
mod place;
mod probe;
mod seccomp;
pub(crate) mod spawn;
pub(crate) mod sys;
mod syscalls;
mod template;
pub(crate) mod wire;
mod zygote;

pub use probe::{Need, Report, Step, StepState, probe};

/// First argument of the launcher process.
pub(crate) const HIDDEN: &str = "__outwork-jail";

/// Becomes the sandbox launcher when this process was started as one, and does not return then.
///
/// Every program that uses this crate calls it as the first thing in `main`, before any thread is started.
pub fn entry() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == HIDDEN) {
        if arguments.next().is_some_and(|word| word == probe::PROBE) {
            probe::run();
        }
        zygote::live();
    }
}
