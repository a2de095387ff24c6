//! Attacks by system call: name, arguments of the attack program, and the answer that a closed sandbox gives.

/// One call that must fail.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static str,
    /// The errno, or several with `|`, that the attempt must end in.
    pub(crate) held: &'static str,
    /// Whether the same attempt succeeds for root outside of a sandbox, which shows that the test can fail.
    pub(crate) control: bool,
}

const fn call(name: &'static str, arguments: &'static str, held: &'static str) -> Call {
    Call {
        name,
        arguments,
        held,
        control: false,
    }
}

const fn control(name: &'static str, arguments: &'static str, held: &'static str) -> Call {
    Call {
        name,
        arguments,
        held,
        control: true,
    }
}

pub(crate) const CALLS: &[Call] = &[
    // Other processes.
    call("ptrace: attach to the hand", "ptrace-attach 1", "EPERM"),
    control("ptrace: be traced by the parent", "ptrace-traceme", "EPERM"),
    call("process_vm_readv: the hand's memory", "vm-read 1", "EPERM"),
    control("process_vm_readv: a process of one's own", "vm-read", "EPERM"),
    call("process_vm_writev: the hand's memory", "vm-write 1", "EPERM"),
    call("pidfd_getfd: take the hand's socket", "pidfd-getfd 1", "EPERM"),
    control("pidfd_getfd: at all", "pidfd-getfd", "EPERM"),
    control("kcmp: learn about another process", "kcmp", "EPERM"),
    call("move_pages: another process's memory", "move-pages", "EPERM"),
    call("prlimit: starve the hand of descriptors", "prlimit 1", "EPERM"),
    // Namespaces and roots.
    control("unshare: a user namespace", "unshare-user", "EPERM"),
    control("unshare: a mount namespace", "unshare-mount", "EPERM"),
    control("unshare: a net namespace", "unshare-net", "EPERM"),
    control("unshare: a pid namespace", "unshare-pid", "EPERM"),
    control("clone: a user namespace", "clone-user", "EPERM"),
    control("clone3: a user namespace", "clone3-user", "ENOSYS"),
    control("setns: join a namespace", "setns", "EPERM"),
    call("chroot", "chroot", "EPERM"),
    call("pivot_root", "pivot-root", "EPERM"),
    // Mounts.
    call("mount: a tmpfs", "mount-tmpfs", "EPERM"),
    call("mount: bind the root", "mount-bind", "EPERM"),
    call("mount: make the root writable", "remount-root", "EPERM"),
    call("umount2: uncover what lies under /proc", "umount-proc", "EPERM"),
    control("fsopen: a filesystem context", "fsopen", "EPERM"),
    control("open_tree: copy the root mount", "open-tree", "EPERM"),
    call("move_mount: move /proc away", "move-mount", "EPERM"),
    call("mount_setattr: clear read-only", "mount-setattr", "EPERM"),
    control("name_to_handle_at: a handle of a file", "handle-to-name", "EPERM"),
    call("open_by_handle_at: a file by its number", "open-by-handle", "EPERM"),
    call("quotactl", "quotactl", "EPERM"),
    control("fanotify: watch a filesystem", "fanotify", "EPERM"),
    // The kernel.
    control("bpf: make a map", "bpf", "EPERM"),
    control("io_uring: set up a ring", "io-uring", "EPERM"),
    control("perf_event_open", "perf-event", "EPERM"),
    control("userfaultfd", "userfaultfd", "EPERM"),
    call("init_module", "init-module", "EPERM"),
    call("delete_module", "delete-module", "EPERM"),
    call("kexec_load", "kexec", "EPERM"),
    call("reboot", "reboot", "EPERM"),
    call("swapon", "swapon", "EPERM"),
    call("acct: a file for process accounting", "acct", "EPERM"),
    control("syslog: read the kernel's log", "syslog", "EPERM"),
    control("keyctl: the user's session keyring", "keyctl", "EPERM"),
    control("add_key", "add-key", "EPERM"),
    call("request_key", "request-key", "EPERM"),
    call("settimeofday", "settimeofday", "EPERM"),
    call("clock_settime", "clock-settime", "EPERM"),
    call("adjtimex", "adjtimex", "EPERM"),
    call("sethostname", "sethostname", "EPERM"),
    call("setdomainname", "setdomainname", "EPERM"),
    control("personality: no address randomization", "personality", "EPERM"),
    #[cfg(target_arch = "x86_64")]
    call("iopl: ports of the machine", "iopl", "EPERM"),
    #[cfg(target_arch = "x86_64")]
    call("ioperm: one port", "ioperm", "EPERM"),
    #[cfg(target_arch = "x86_64")]
    control("modify_ldt", "modify-ldt", "EPERM"),
    #[cfg(target_arch = "x86_64")]
    call("filter bypass: the x32 numbers", "x32", "ENOSYS"),
    #[cfg(target_arch = "x86_64")]
    control("filter bypass: 32-bit calls by int 0x80", "int80", "SIGSYS"),
    // Sockets.
    control("socket: raw IPv4", "socket 2 3 1", "EPERM"),
    control("socket: raw IPv6", "socket 10 3 58", "EPERM"),
    control("socket: packets of the wire", "socket 17 3 768", "EAFNOSUPPORT"),
    control("socket: netlink to routing", "socket 16 3 0", "EAFNOSUPPORT"),
    control("socket: netlink to netfilter", "socket 16 3 12", "EAFNOSUPPORT"),
    call("socket: vsock to the hypervisor", "socket 40 1 0", "EAFNOSUPPORT"),
    call("socket: the kernel's ciphers", "socket 38 5 0", "EAFNOSUPPORT"),
    call("socket: XDP", "socket 44 3 0", "EAFNOSUPPORT"),
    call("socket: bluetooth", "socket 31 3 1", "EAFNOSUPPORT"),
    call("socket: IPsec keys", "socket 15 3 2", "EAFNOSUPPORT"),
    call(
        "network: TCP to an address of the internet",
        "connect 192.0.2.1 443",
        "ENETUNREACH",
    ),
    call(
        "network: UDP to a name server",
        "connect-udp 192.0.2.53 53",
        "ENETUNREACH",
    ),
    call(
        "network: the cloud's metadata service",
        "connect 169.254.169.254 80",
        "ENETUNREACH",
    ),
    call("network: a private network", "connect 10.0.0.1 22", "ENETUNREACH"),
    // Identity.
    call("setresuid: become root", "root-uid", "EINVAL|EPERM"),
    call("setresgid: root's group", "root-gid", "EINVAL|EPERM"),
    call("setgroups", "setgroups", "EPERM|EINVAL"),
    call("capset: all capabilities", "capabilities", "EPERM"),
    control("setxattr: a file capability", "file-capability", "EPERM"),
    // Files.
    control("mknod: /dev/mem in the workspace", "mknod-mem", "EPERM|EACCES"),
    call("mknod: a disk in /tmp", "mknod-disk", "EPERM|EACCES"),
    control("chmod: set-uid in the workspace", "chmod-suid", "EPERM"),
    control("chmod: set-gid in the workspace", "chmod-sgid", "EPERM"),
    control("fchmodat2: set-uid", "fchmodat2-suid", "EPERM"),
    control("open: make a set-uid file", "create-suid", "EPERM"),
    control(
        "openat2: make a set-uid file with a hidden mode",
        "openat2-suid",
        "ENOSYS",
    ),
    call(
        "link: a system file into the workspace",
        "hard-link /etc/passwd",
        "EXDEV|EPERM|EACCES",
    ),
    call(
        "link: /proc/1/exe into the workspace",
        "hard-link /proc/1/exe",
        "EXDEV|EPERM|EACCES",
    ),
    call("ioctl: push input into a terminal", "tiocsti", "EPERM"),
    call("ioctl: a console's selection", "tioclinux", "EPERM"),
    // Scheduling.
    control("sched_setscheduler: real time", "realtime", "EPERM"),
    control("setpriority: before the host's processes", "nice", "EPERM|EACCES"),
    control("ioprio_set: real-time disk", "ioprio", "EPERM"),
    call("setrlimit: core dumps", "core-limit", "EPERM"),
];
