//! Attacks by shell script. Each prints `BREACH` when it got somewhere, and `HELD` once it has tried everything.

/// A script that must print `HELD` and not `BREACH`.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

const fn script(name: &'static str, text: &'static str) -> Script {
    Script { name, text }
}

pub(crate) const SCRIPTS: &[Script] = &[
    // Files of the host.
    script(
        "files: password hashes",
        "for f in /etc/shadow /etc/gshadow /etc/shadow- /etc/sudoers /etc/security/opasswd; do test -e $f && echo BREACH $f; done; echo HELD",
    ),
    script(
        "files: homes and data of the host",
        "for d in /root /home /var /srv /opt /mnt /run /media /boot; do for e in $(ls -A $d 2>/dev/null); do case $d/$e in /home/agent|/var/tmp) ;; *) echo BREACH $d/$e;; esac; done; done; echo HELD",
    ),
    script(
        "files: host keys and tokens in /etc",
        "for f in ssh npmrc pip.conf machine-id docker kubernetes wireguard NetworkManager letsencrypt ssl/private pki/tls/private; do test -e /etc/$f && echo BREACH $f; done; echo HELD",
    ),
    script(
        "files: nothing else is in the root",
        "for e in $(ls -A /); do case $e in bin|dev|etc|home|lib|lib32|lib64|libx32|mnt|opt|proc|root|run|sbin|srv|sys|tmp|usr|var|workspace) ;; *) echo BREACH $e;; esac; done; echo HELD",
    ),
    script(
        "files: write to system folders",
        "for p in / /usr /usr/bin /usr/local/bin /etc /dev /run /var /sys /home /opt /mnt; do (: > $p/attack) 2>/dev/null && echo BREACH $p; mkdir $p/attackdir 2>/dev/null && echo BREACH $p; done; rm -f /bin/bash /etc/passwd 2>/dev/null; test -e /bin/bash && test -e /etc/passwd || echo BREACH removed; (echo x >> /etc/passwd) 2>/dev/null && echo BREACH; echo HELD",
    ),
    script(
        "files: climb out of the workspace",
        "test \"$(ls -id /workspace/../ | cut -d' ' -f1)\" = \"$(ls -id / | cut -d' ' -f1)\" || echo BREACH; ls /workspace/../../../../root/* >/dev/null 2>&1 && echo BREACH; echo HELD",
    ),
    script(
        "files: another root by magic links",
        "for l in root cwd exe; do ls /proc/1/$l/ >/dev/null 2>&1 && echo BREACH $l; cat /proc/1/$l >/dev/null 2>&1 && echo BREACH $l; done; test \"$(stat -c %i /proc/self/root/)\" = \"$(stat -c %i /)\" || echo BREACH; echo HELD",
    ),
    script(
        "files: the host's mounts in view",
        "grep -vE ' (/|/usr|/bin|/sbin|/lib|/lib32|/lib64|/dev/(null|zero|full|random|urandom)|/workspace|/tmp|/proc|/proc/[a-z._-]+) ' /proc/self/mountinfo | sed 's/^/BREACH /'; echo HELD",
    ),
    // Processes.
    script(
        "processes: only this sandbox's are there",
        "test $(ls -d /proc/[0-9]* | wc -l) -lt 12 || echo BREACH; grep -l . /proc/[0-9]*/comm 2>/dev/null | while read f; do case $(cat $f 2>/dev/null) in outwork-hand|bash|ls|wc|grep|cat|'') ;; *) echo BREACH $f $(cat $f);; esac; done; echo HELD",
    ),
    script(
        "processes: the hand's secrets",
        "for f in environ mem maps auxv stack syscall io pagemap; do dd if=/proc/1/$f of=/dev/null bs=16 count=1 2>/dev/null && echo BREACH $f; done; ls /proc/1/fd /proc/1/map_files 2>/dev/null | grep . && echo BREACH; echo HELD",
    ),
    script(
        "processes: forge a frame on the hand's socket",
        "for n in 3 4 5; do (printf '\\0\\0\\0\\11\\101\\0\\0\\0\\0\\0\\0\\0\\0' > /proc/1/fd/$n) 2>/dev/null && echo BREACH $n; done; echo HELD",
    ),
    script(
        "processes: replace the hand's program",
        "(echo x > /proc/1/exe) 2>/dev/null && echo BREACH; cp /proc/1/exe /tmp/hand 2>/dev/null && echo BREACH; echo HELD",
    ),
    script(
        "processes: signals to the hand",
        "for s in KILL TERM STOP SEGV INT HUP; do kill -$s 1; done; kill -0 1 && echo HELD",
    ),
    script(
        "processes: signals to pids of the host",
        "for p in 2 3 $(seq 300 400) 4000 100000; do test -d /proc/$p || kill -0 $p 2>/dev/null && test ! -d /proc/$p && echo BREACH $p; done; echo HELD",
    ),
    script(
        "processes: no descriptor is inherited",
        "ls -l /proc/self/fd | tail -n +2 | awk '{print $9}' | grep -vE '^[0-3]$' | sed 's/^/BREACH /'; ./attack descriptors",
    ),
    script(
        "processes: forge the end of a command",
        "(echo '1 0' >&199) 2>/dev/null && echo BREACH; for n in $(seq 1 300); do echo \"$n 0\"; done; echo HELD",
    ),
    // /proc and /sys.
    script(
        "proc: kernel settings",
        "for f in kernel/core_pattern kernel/modprobe kernel/hotplug kernel/panic kernel/sysrq vm/drop_caches vm/overcommit_memory fs/suid_dumpable net/ipv4/ip_forward kernel/hostname kernel/ns_last_pid; do test -e /proc/sys/$f || continue; (echo 1 > /proc/sys/$f) 2>/dev/null && echo BREACH $f; done; echo HELD",
    ),
    script(
        "proc: sysrq",
        "(echo h > /proc/sysrq-trigger) 2>/dev/null && echo BREACH; echo HELD",
    ),
    script(
        "proc: what tells of the host",
        "for f in kcore keys key-users kmsg timer_list cmdline interrupts modules kallsyms partitions diskstats slabinfo vmallocinfo pagetypeinfo kpageflags; do test -e /proc/$f || continue; test \"$(head -c 1 /proc/$f 2>/dev/null | wc -c)\" = 0 || echo BREACH $f; done; for d in acpi bus driver fs irq scsi; do test -d /proc/$d && ls -A /proc/$d | sed 's/^/BREACH /'; done; echo HELD",
    ),
    script(
        "proc: the covers stay",
        "umount /proc/kcore 2>/dev/null && echo BREACH; umount -l /proc 2>/dev/null && echo BREACH; rm /proc/kcore 2>/dev/null && echo BREACH; echo HELD",
    ),
    script(
        "proc: protection from the OOM killer",
        "(echo -1000 > /proc/self/oom_score_adj) 2>/dev/null && echo BREACH; echo HELD",
    ),
    script(
        "proc: id maps",
        "for f in uid_map gid_map setgroups timens_offsets loginuid; do (echo '0 0 1' > /proc/self/$f) 2>/dev/null && echo BREACH $f; done; echo HELD",
    ),
    script("sys: there is none", "ls -A /sys | sed 's/^/BREACH /'; echo HELD"),
    script(
        "cgroups: none can be reached or written",
        "find / -xdev \\( -name release_agent -o -name cgroup.procs -o -name notify_on_release \\) 2>/dev/null | sed 's/^/BREACH /'; grep -q -- '- cgroup' /proc/self/mountinfo && echo BREACH; cut -d: -f3 /proc/self/cgroup | grep -v '^/$' | sed 's/^/BREACH /'; echo HELD",
    ),
    // Devices.
    script(
        "devices: only five",
        "for e in $(ls -A /dev); do case $e in null|zero|full|random|urandom|fd|stdin|stdout|stderr|shm) ;; *) echo BREACH $e;; esac; done; echo HELD",
    ),
    script(
        "devices: make one with mknod",
        "for spec in 'mem c 1 1' 'kmsg c 1 11' 'sda b 8 0' 'loop0 b 7 0' 'fuse c 10 229' 'kvm c 10 232' 'tun c 10 200'; do mknod /tmp/$spec 2>/dev/null && echo BREACH $spec; done; echo HELD",
    ),
    script(
        "devices: a terminal to take over",
        "(: < /dev/tty) 2>/dev/null && echo BREACH; (: < /dev/ptmx) 2>/dev/null && echo BREACH; tty >/dev/null 2>&1 && echo BREACH; echo HELD",
    ),
    // Rights.
    script(
        "rights: no capability, none to gain",
        "for c in CapInh CapPrm CapEff CapBnd CapAmb; do grep -q \"^$c:.*0000000000000000\" /proc/self/status || echo BREACH $c; done; grep -q '^NoNewPrivs:.1' /proc/self/status || echo BREACH nnp; grep -q '^Seccomp:.2' /proc/self/status || echo BREACH seccomp; echo HELD",
    ),
    script(
        "rights: set-uid programs of the system",
        "n=0; for p in su mount passwd chsh newgrp sudo; do f=$(command -v $p) || continue; n=$((n+1)); timeout 5 $p -c id </dev/null 2>/dev/null | grep uid=0 && echo BREACH $p; done; grep -E ' (/usr|/workspace|/tmp|/) ' /proc/self/mountinfo | grep -v nosuid | sed 's/^/BREACH /'; test $(id -u) = 1000 && echo HELD",
    ),
    script(
        "rights: nested sandboxes with more rights",
        "unshare -Urmpf true 2>/dev/null && echo BREACH; unshare -n true 2>/dev/null && echo BREACH; nsenter -t 1 -m true 2>/dev/null && echo BREACH; echo HELD",
    ),
    script(
        "rights: raise limits",
        "for l in n u f c l; do ulimit -H -$l unlimited 2>/dev/null && test \"$(ulimit -H -$l)\" = unlimited && echo BREACH $l; done; test $(ulimit -c) = 0 && echo HELD",
    ),
    script(
        "rights: real-time and negative nice",
        "nice -n -10 true 2>&1 | grep -q . || echo BREACH nice; chrt -f 10 true 2>/dev/null && echo BREACH chrt; ionice -c1 true 2>/dev/null && echo BREACH ionice; echo HELD",
    ),
    // The host's names and clock.
    script(
        "host: set the clock",
        "date -s 2001-01-01 >/dev/null 2>&1 && echo BREACH; echo HELD",
    ),
    script(
        "host: its name",
        "test \"$(hostname)\" = sandbox || echo BREACH; hostname attacked 2>/dev/null && echo BREACH; echo HELD",
    ),
    // Network.
    script(
        "network: only lo",
        "tail -n +3 /proc/net/dev | grep -v ' lo:' | sed 's/^/BREACH /'; tail -n +2 /proc/net/route | sed 's/^/BREACH /'; echo HELD",
    ),
    script(
        "network: names",
        "getent hosts example.com >/dev/null && echo BREACH; (echo > /dev/udp/192.0.2.53/53) 2>/dev/null && echo BREACH; (echo > /dev/tcp/192.0.2.1/80) 2>/dev/null && echo BREACH; echo HELD",
    ),
    // Core dumps.
    script(
        "core dumps: none is written",
        "cd /tmp; (sleep 60 & p=$!; kill -SEGV $p; wait $p) 2>/dev/null; ls core* 2>/dev/null | sed 's/^/BREACH /'; cd /workspace; ls core* 2>/dev/null | sed 's/^/BREACH /'; echo HELD",
    ),
    // Ends: zombies and signals to everyone.
    script(
        "zombies: the hand reaps a flood",
        "for i in $(seq 300); do (sleep 0 &) ; done; sleep 0.3; n=$(cat /proc/[0-9]*/stat 2>/dev/null | awk '$3==\"Z\" && $4==1' | wc -l); test $n -lt 20 || echo BREACH $n; echo HELD",
    ),
];

/// Scripts of [`SCRIPTS`] that a furnished sandbox answers otherwise, for each of which [`FURNISHED`] has another.
pub(crate) const OTHERWISE: &[&str] = &[
    "files: homes and data of the host",
    "files: nothing else is in the root",
    "files: the host's mounts in view",
    "network: only lo",
    "network: names",
];

/// What holds in a sandbox with a fence, an authority, mounts and a folder for results. Only the shell and a few
/// programs are needed, so that an image has them too.
pub(crate) const FURNISHED: &[Script] = &[
    script(
        "files: only what was given",
        "for d in /root /srv /opt /media /boot /mnt /run /data /mnt/session /mnt/session/uploads /mnt/session/outputs /run/outwork; do for e in $(ls -A $d 2>/dev/null); do case $d/$e in /mnt/session|/mnt/session/uploads|/mnt/session/uploads/given|/mnt/session/outputs|/mnt/session/outputs/r|/run/outwork|/run/outwork/ca.pem|/run/outwork/ca-bundle.pem|/run/outwork/cacerts|/data/given) ;; *) echo BREACH $d/$e;; esac; done; done; echo HELD",
    ),
    script(
        "files: what was given stays as it is",
        "for f in /mnt/session/uploads/given /data/given /run/outwork/ca.pem /run/outwork/ca-bundle.pem /etc/ssl/certs/ca-certificates.crt /etc/resolv.conf /etc/passwd; do test -e $f || echo BREACH no $f; (echo x >> $f) 2>/dev/null && echo BREACH $f; (: > $f) 2>/dev/null && echo BREACH $f; (: > $f.new) 2>/dev/null && echo BREACH $f.new; ./attack hard-link $f | grep BREACH; done; test \"$(cat /data/given)\" = given && echo HELD",
    ),
    script(
        "files: the mounts in view",
        "while read -r _ _ _ _ point options _; do case $point in /|/usr|/bin|/sbin|/lib|/lib32|/lib64|/dev|/dev/null|/dev/zero|/dev/full|/dev/random|/dev/urandom|/workspace|/tmp|/proc|/proc/*|/sys|/home|/etc|/mnt|/opt|/root|/run|/srv|/var|/data|/data/given|/mnt/session/uploads/given|/mnt/session/outputs|/etc/resolv.conf|/etc/ssl/*|/etc/pki/*|/usr/lib/jvm/*|/run/outwork/*) ;; *) echo BREACH $point;; esac; case $options in *nosuid*) ;; *) echo BREACH $point $options;; esac; case $point,$options in /workspace,*|/tmp,*|/mnt/session/outputs,*|/dev/*,*|*,ro*) ;; *) echo BREACH $point $options;; esac; done < /proc/self/mountinfo; echo HELD",
    ),
    script(
        "files: results only where they belong",
        "echo r > /mnt/session/outputs/r || echo BREACH cannot; for d in / /mnt /mnt/session /mnt/session/uploads /data /run /run/outwork /etc /etc/ssl/certs /usr /bin /dev /home /var; do (: > $d/attack) 2>/dev/null && echo BREACH $d; done; ./attack mknod-mem | grep BREACH; echo HELD",
    ),
    script(
        "fence: only lo",
        "while read -r name _; do case $name in lo:*|Inter-*|face) ;; *) echo BREACH $name;; esac; done < /proc/net/dev; while read -r name _; do case $name in lo|Iface) ;; *) echo BREACH $name;; esac; done < /proc/net/route; ls -A /sys | while read -r e; do echo BREACH $e; done; echo HELD",
    ),
    script(
        "fence: datagrams and the listeners' own ports",
        "for to in 203.0.113.9/4430 8.8.8.8/853 192.0.0.8/53 127.0.0.1/53 169.254.169.254/80 224.0.0.251/5353; do (echo x > /dev/udp/$to) 2>/dev/null && echo BREACH udp $to; done; for to in 127.0.0.1/1 192.0.0.8/1 localhost/1; do (echo x > /dev/tcp/$to) 2>/dev/null && echo BREACH tcp $to; done; echo HELD",
    ),
];

/// An authority that nobody has the key of.
pub(crate) const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBlTCCATugAwIBAgIUOcSz/RMSXr07zveWPpNJ9JsF7scwCgYIKoZIzj0EAwIw\n\
HzEdMBsGA1UEAwwUT3V0d29yayBhdHRhY2sgc3VpdGUwIBcNMjYxMTIxMDczODAy\n\
WhgPMjEyNjEwMjgwNzM4MDJaMB8xHTAbBgNVBAMMFE91dHdvcmsgYXR0YWNrIHN1\n\
aXRlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEIxEysuGFjCjEd5yP4N4HH+s7\n\
xuCY15Gvab6YfKuX9fGO71MNOS/2nmAgg8J5JbU8PdmcpGhpuxV5siQZfbm/4KNT\n\
MFEwHQYDVR0OBBYEFLl9KryHgIGlogkapPFS28QvkariMB8GA1UdIwQYMBaAFLl9\n\
KryHgIGlogkapPFS28QvkariMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwID\n\
SAAwRQIgN2LijzdU2g1o2VV5XqLvhSZa0vAisKMldhEMmby6uQwCIQDEkeuKZPql\n\
1LwHpC4+rMaRyyF4wQHAF7+bZEwt9byfBA==\n\
-----END CERTIFICATE-----\n";

/// An image with a shell and the programs that [`FURNISHED`] needs.
pub(crate) fn image(layer: &std::path::Path) {
    for program in ["/bin/bash", "/bin/cat", "/bin/ls", "/bin/grep"] {
        let needed = std::process::Command::new("ldd").arg(program).output().expect("ldd");
        let needed = String::from_utf8_lossy(&needed.stdout).into_owned();
        for file in needed
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
            .chain([program])
        {
            let to = layer.join(file.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().expect("a parent")).expect("its folder");
            std::fs::copy(file, &to).expect("a copy");
        }
    }
    std::fs::create_dir_all(layer.join("etc")).expect("a folder");
    std::fs::write(layer.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n").expect("a file");
}
