//! The few system calls that no safe library offers, each behind a function that is safe to call.
//!
//! Only the launcher's process tree calls these, and each process in it has one thread.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// All namespaces that a sandbox has of its own.
pub(crate) const ALL_NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Those that it is cloned into. Its network namespace is its cradle's, who made it with other rights.
pub(crate) const CLONED_NAMESPACES: i32 = ALL_NAMESPACES & !libc::CLONE_NEWNET;

/// Which side of a clone this is.
pub(crate) enum Side {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// `clone(2)` as `fork` with extra flags. The child runs on a copy of this process.
pub(crate) fn clone_process(namespaces: i32) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    let flags = libc::c_ulong::from((namespaces | libc::CLONE_PIDFD | libc::SIGCHLD) as u32);
    let none: libc::c_ulong = 0;
    // SAFETY: without CLONE_VM the child has its own copy of memory and goes on with a null (inherited) stack, as
    // `fork` does. This process has one thread, so no lock is held by another thread at that moment. The third
    // argument points to a live i32 that the kernel writes the pidfd to.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, none, &raw mut pidfd, none, none) };
    match pid {
        0 => Ok(Side::Child),
        pid if pid > 0 => {
            // SAFETY: the kernel just made this descriptor for us; nothing else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent { pid: pid as i32, pidfd })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// `unshare(2)` of namespaces.
pub(crate) fn unshare(namespaces: rustix::thread::UnshareFlags) -> rustix::io::Result<()> {
    let namespaces = namespaces & !rustix::thread::UnshareFlags::FILES;
    // SAFETY: FILES is the only flag that could break the ownership of descriptors, and it is taken away.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Ends this process at once, without unwinding or exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

pub(crate) const ATTR_RDONLY: u64 = 0x1;
pub(crate) const ATTR_NOSUID: u64 = 0x2;
pub(crate) const ATTR_NODEV: u64 = 0x4;
const ATTR_IDMAP: u64 = 0x0010_0000;

/// `mount_setattr(2)` on the mount that `tree` refers to and all mounts below it.
pub(crate) fn set_mount_attributes(tree: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    mount_setattr(
        tree,
        &MountAttr {
            set,
            ..MountAttr::default()
        },
    )
}

/// `mount_setattr(2)` on the mount that `tree` refers to, and not on those below it.
pub(crate) fn set_one_mount_attributes(tree: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    let attr = MountAttr {
        set,
        ..MountAttr::default()
    };
    mount_setattr_with(tree, &attr, libc::AT_EMPTY_PATH)
}

/// Maps the ids of a detached mount by the user namespace `userns`.
pub(crate) fn set_mount_idmap(tree: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    let userns = userns.as_raw_fd() as u64;
    mount_setattr(
        tree,
        &MountAttr {
            set: ATTR_IDMAP,
            userns,
            ..MountAttr::default()
        },
    )
}

fn mount_setattr(tree: BorrowedFd<'_>, attr: &MountAttr) -> io::Result<()> {
    mount_setattr_with(tree, attr, libc::AT_EMPTY_PATH | libc::AT_RECURSIVE)
}

fn mount_setattr_with(tree: BorrowedFd<'_>, attr: &MountAttr, flags: libc::c_int) -> io::Result<()> {
    let flags = flags as libc::c_uint;
    // SAFETY: the path is a static C string, the struct is live, has the kernel's layout and its size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const *attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One instruction of a seccomp program, in the kernel's layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// Installs a seccomp filter on this process. Needs `no_new_privs`.
pub(crate) fn install_filter(filter: &[Instruction]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = Program {
        len,
        filter: filter.as_ptr(),
    };
    // SAFETY: `program` points to `len` live instructions for the length of the call; the kernel copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether the kernel knows a seccomp action.
pub(crate) fn seccomp_action_available(action: u32) -> io::Result<()> {
    // SAFETY: the third argument points to a live u32, as SECCOMP_GET_ACTION_AVAIL wants.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Landlock's ABI version on this kernel.
pub(crate) fn landlock_abi() -> io::Result<u32> {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    let null = std::ptr::null::<libc::c_void>();
    // SAFETY: asking for the version takes a null attribute of size 0.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, null, 0_usize, CREATE_RULESET_VERSION) };
    if abi >= 0 {
        Ok(abi as u32)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Drops every capability from the bounding set that the kernel knows, but those whose bits are set in `kept`.
pub(crate) fn drop_bounding_set(kept: u64) -> io::Result<()> {
    for capability in (0..64).filter(|capability| kept >> capability & 1 == 0) {
        // SAFETY: PR_CAPBSET_DROP takes integers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            // Past the last capability that this kernel has.
            if capability > 0 && error.raw_os_error() == Some(libc::EINVAL) {
                return Ok(());
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: takes integers only. Callers own no descriptor at or above `first` that they use afterwards; the
    // processes that call this go on to `exec`, or keep descriptors only below `first`.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes `target` a copy of `source` (without close-on-exec), closing what it was.
pub(crate) fn place(source: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: takes integers only. `target` is 0 to 3 (or the shell's status descriptor) in a fresh child, which
    // holds no owned handle to them.
    if unsafe { libc::dup2(source.as_raw_fd(), target) } >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets or clears close-on-exec of a descriptor number.
pub(crate) fn set_close_on_exec(fd: RawFd, on: bool) -> io::Result<()> {
    let flags = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: F_SETFD takes integers only.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes ownership of a descriptor number that this process was started with.
pub(crate) fn adopt(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD takes integers only.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and the caller is the only one that takes it (start of a fresh process, or
    // of a fresh child that placed it there itself).
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives every signal its default action and blocks none: what a fresh program expects.
pub(crate) fn reset_signals() {
    // SAFETY: `sigemptyset` initialises the set before it is used; `signal` with SIG_DFL installs no handler.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// Blocks SIGCHLD and returns a descriptor that becomes readable when a child changes state.
pub(crate) fn child_signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by `sigemptyset` before use and lives through both calls; the descriptor is
    // fresh and owned by nobody else.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}

/// Sets an interface of this network namespace up.
pub(crate) fn interface_up(name: &[u8]) -> io::Result<()> {
    // SAFETY: `socket` takes integers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `ifreq` is plain data; all zeroes is a valid value.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.iter().take(libc::IFNAMSIZ - 1)) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads a live `ifreq`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// SIGKILL to every process that this one may signal, except itself. Inside a pid namespace that is the sandbox.
pub(crate) fn kill_everything() {
    if std::process::id() == 1 {
        // SAFETY: takes integers only. The check keeps it from ever reaching processes of the host.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// `execve(2)`: becomes a program, which is the first argument. Returns only when it fails.
pub(crate) fn execute(arguments: &[CString], variables: &[CString]) -> io::Error {
    let pointers = |words: &[CString]| {
        words
            .iter()
            .map(|word| word.as_ptr())
            .chain([std::ptr::null()])
            .collect::<Vec<_>>()
    };
    let Some(program) = arguments.first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    let (arguments, variables) = (pointers(arguments), pointers(variables));
    // SAFETY: both arrays end in a null pointer and point to C strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), variables.as_ptr()) };
    io::Error::last_os_error()
}
