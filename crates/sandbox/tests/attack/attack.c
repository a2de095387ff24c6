// Attacks on a sandbox by system call: `attack NAME [ARGUMENT]`.
// Prints `BREACH` when the attempt succeeded and `HELD <errno>` when it did not.
// Compiled by the test, statically, outside of the sandbox that it then attacks.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

static int verdict(long result) {
    if (result < 0)
        printf("HELD %s\n", strerrorname_np(errno));
    else
        printf("BREACH result %ld\n", result);
    return 0;
}

static int is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static long in_child(long (*attempt)(void)) {
    // For attempts whose success would change this process.
    int report[2];
    if (pipe(report)) exit(90);
    pid_t child = fork();
    if (child == 0) {
        long result = attempt();
        int code = result < 0 ? errno : 0;
        if (write(report[1], &code, sizeof code) != sizeof code) _exit(91);
        _exit(0);
    }
    int code = -1;
    close(report[1]);
    if (read(report[0], &code, sizeof code) != sizeof code) code = EINTR;
    waitpid(child, NULL, 0);
    errno = code;
    return code == 0 ? 0 : -1;
}

static long traceme(void) { return ptrace(PTRACE_TRACEME, 0, 0, 0); }
static long unshare_user(void) { return unshare(CLONE_NEWUSER); }
static long unshare_mount(void) { return unshare(CLONE_NEWNS); }
static long unshare_net(void) { return unshare(CLONE_NEWNET); }
static long unshare_pid(void) { return unshare(CLONE_NEWPID); }
static long root_uid(void) { return setresuid(0, 0, 0); }
static long root_gid(void) { return setresgid(0, 0, 0); }
static long no_groups(void) { gid_t none = 0; return syscall(SYS_setgroups, 1, &none); }
static long norandom(void) { return syscall(SYS_personality, ADDR_NO_RANDOMIZE); }

static long clone_user(void) {
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    if (child > 0) waitpid(child, NULL, 0);
    return child;
}

static long clone3_user(void) {
    uint64_t arguments[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    long child = syscall(SYS_clone3, arguments, sizeof arguments);
    if (child == 0) _exit(0);
    if (child > 0) waitpid(child, NULL, 0);
    return child;
}

static long set_all_capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{~0u, ~0u, ~0u}, {~0u, ~0u, ~0u}};
    return syscall(SYS_capset, &header, data);
}

static long connect_to(const char *address, int port, int kind) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &to.sin_addr);
    int fd = socket(AF_INET, kind, 0);
    if (fd < 0) return -1;
    return connect(fd, (struct sockaddr *)&to, sizeof to);
}

static long abstract_connect(const char *name) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    memcpy(to.sun_path + 1, name, length);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0) return -1;
    return connect(fd, (struct sockaddr *)&to, offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

static int open_descriptors(void) {
    int found = 0;
    for (int fd = 3; fd < 70000; fd++)
        if (fcntl(fd, F_GETFD) >= 0) { printf("BREACH descriptor %d\n", fd); found = 1; }
    if (!found) printf("HELD NONE\n");
    return 0;
}

int main(int count, char **arguments) {
    if (count < 2) return 90;
    const char *name = arguments[1];
    const char *argument = count > 2 ? arguments[2] : "";
    long number = atol(argument);
    char buffer[4096];
    struct iovec here = {buffer, sizeof buffer};
    struct iovec there = {(void *)&main, 16};
    struct timespec clock_time = {1, 0};
    struct timeval wall_time = {1, 0};
    struct open_how_like { uint64_t flags, mode, resolve; } how = {O_CREAT | O_WRONLY, 04755, 0};

    // Other processes.
    if (is(name, "ptrace-attach")) return verdict(ptrace(PTRACE_ATTACH, number, 0, 0));
    if (is(name, "ptrace-traceme")) return verdict(in_child(traceme));
    if (is(name, "vm-read")) return verdict(syscall(SYS_process_vm_readv, number ? number : getpid(), &here, 1, &there, 1, 0));
    if (is(name, "vm-write")) return verdict(syscall(SYS_process_vm_writev, number ? number : getpid(), &here, 1, &here, 1, 0));
    if (is(name, "pidfd-getfd")) {
        int pidfd = syscall(SYS_pidfd_open, number ? number : getpid(), 0);
        if (pidfd < 0) return 92;
        return verdict(syscall(SYS_pidfd_getfd, pidfd, number ? 3 : 1, 0));
    }
    if (is(name, "kcmp")) return verdict(syscall(SYS_kcmp, getpid(), getppid(), 0, 1, 1));
    if (is(name, "move-pages")) return verdict(syscall(SYS_move_pages, 0, 0, 0, 0, 0, 0));
    if (is(name, "signal")) return verdict(kill(number, 0));
    if (is(name, "prlimit")) { struct rlimit limit = {8, 8}; return verdict(syscall(SYS_prlimit64, number, RLIMIT_NOFILE, &limit, 0)); }
    // Namespaces and roots.
    if (is(name, "unshare-user")) return verdict(in_child(unshare_user));
    if (is(name, "unshare-mount")) return verdict(in_child(unshare_mount));
    if (is(name, "unshare-net")) return verdict(in_child(unshare_net));
    if (is(name, "unshare-pid")) return verdict(in_child(unshare_pid));
    if (is(name, "clone-user")) return verdict(clone_user());
    if (is(name, "clone3-user")) return verdict(clone3_user());
    if (is(name, "setns")) { int fd = open("/proc/self/ns/net", O_RDONLY); if (fd < 0) return 92; return verdict(setns(fd, 0)); }
    if (is(name, "chroot")) return verdict(chroot("/"));
    if (is(name, "pivot-root")) return verdict(syscall(SYS_pivot_root, ".", "."));
    // Mounts.
    if (is(name, "mount-tmpfs")) return verdict(mount("t", "/tmp", "tmpfs", 0, 0));
    if (is(name, "mount-bind")) return verdict(mount("/", "/tmp", 0, MS_BIND, 0));
    if (is(name, "remount-root")) return verdict(mount(0, "/", 0, MS_REMOUNT | MS_BIND, 0));
    if (is(name, "umount-proc")) return verdict(umount2("/proc", MNT_DETACH));
    if (is(name, "fsopen")) return verdict(syscall(SYS_fsopen, "tmpfs", 0));
    if (is(name, "open-tree")) return verdict(syscall(SYS_open_tree, AT_FDCWD, "/", 1));
    if (is(name, "move-mount")) return verdict(syscall(SYS_move_mount, AT_FDCWD, "/proc", AT_FDCWD, "/tmp", 0));
    if (is(name, "mount-setattr")) { uint64_t attr[4] = {0, 1}; return verdict(syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, attr, sizeof attr)); }
    if (is(name, "handle-to-name")) { struct { unsigned bytes; int type; char data[128]; } handle = {128}; int mount_id; return verdict(syscall(SYS_name_to_handle_at, AT_FDCWD, "/etc", &handle, &mount_id, 0)); }
    if (is(name, "open-by-handle")) { struct { unsigned bytes; int type; uint64_t data[2]; } handle = {8, 1, {2}}; return verdict(syscall(SYS_open_by_handle_at, AT_FDCWD, &handle, O_RDONLY)); }
    if (is(name, "quotactl")) return verdict(syscall(SYS_quotactl, 0x80000100, 0, 0, 0));
    if (is(name, "fanotify")) return verdict(syscall(SYS_fanotify_init, 0, 0));
    // The kernel.
    if (is(name, "bpf")) { uint64_t attr[16] = {1 | (4ull << 32), 4 | (1ull << 32)}; return verdict(syscall(SYS_bpf, 0, attr, sizeof attr)); }
    if (is(name, "io-uring")) { uint32_t parameters[30] = {0}; return verdict(syscall(SYS_io_uring_setup, 1, parameters)); }
    if (is(name, "perf-event")) { uint32_t attr[32] = {1, 128}; return verdict(syscall(SYS_perf_event_open, attr, 0, -1, -1, 0)); }
    if (is(name, "userfaultfd")) return verdict(syscall(SYS_userfaultfd, 0));
    if (is(name, "init-module")) return verdict(syscall(SYS_init_module, buffer, sizeof buffer, ""));
    if (is(name, "delete-module")) return verdict(syscall(SYS_delete_module, "none", O_NONBLOCK));
    if (is(name, "kexec")) return verdict(syscall(SYS_kexec_load, 0, 0, 0, 0));
    if (is(name, "reboot")) return verdict(syscall(SYS_reboot, 0xfee1dead, 672274793, 0x89abcdef, 0));
    if (is(name, "swapon")) return verdict(syscall(SYS_swapon, "attack", 0));
    if (is(name, "acct")) return verdict(syscall(SYS_acct, "attack"));
    if (is(name, "syslog")) return verdict(syscall(SYS_syslog, 3, buffer, sizeof buffer));
    if (is(name, "keyctl")) return verdict(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_SESSION_KEYRING, 1));
    if (is(name, "add-key")) return verdict(syscall(SYS_add_key, "user", "outwork-attack", "x", 1, KEY_SPEC_PROCESS_KEYRING));
    if (is(name, "request-key")) return verdict(syscall(SYS_request_key, "user", "outwork-attack", 0, 0));
    if (is(name, "settimeofday")) return verdict(settimeofday(&wall_time, 0));
    if (is(name, "clock-settime")) return verdict(clock_settime(CLOCK_REALTIME, &clock_time));
    if (is(name, "adjtimex")) { struct timex change = {.modes = ADJ_TICK, .tick = 10000}; return verdict(adjtimex(&change)); }
    if (is(name, "sethostname")) return verdict(sethostname("attacked", 8));
    if (is(name, "setdomainname")) return verdict(setdomainname("attacked", 8));
    if (is(name, "personality")) return verdict(in_child(norandom));
#ifdef __x86_64__
    if (is(name, "iopl")) return verdict(syscall(SYS_iopl, 3));
    if (is(name, "ioperm")) return verdict(syscall(SYS_ioperm, 0x80, 1, 1));
    if (is(name, "modify-ldt")) return verdict(syscall(SYS_modify_ldt, 0, buffer, sizeof buffer));
    if (is(name, "x32")) return verdict(syscall(0x40000000 + SYS_ptrace, PTRACE_TRACEME, 0, 0, 0));
    if (is(name, "int80")) {
        // Number 20 there is getpid. The filter kills for the architecture, so the parent looks.
        pid_t child = fork();
        if (child == 0) { long result; __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11"); _exit(result > 0 ? 0 : 1); }
        int status;
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status)) printf("HELD %s\n", WTERMSIG(status) == SIGSYS ? "SIGSYS" : "SIGNAL");
        else printf("BREACH result %d\n", status);
        return 0;
    }
#endif
    // Sockets.
    if (is(name, "socket")) return verdict(socket(number, atol(count > 3 ? arguments[3] : "3"), atol(count > 4 ? arguments[4] : "0")));
    if (is(name, "connect")) return verdict(connect_to(argument, atoi(arguments[3]), SOCK_STREAM));
    if (is(name, "connect-udp")) return verdict(connect_to(argument, atoi(arguments[3]), SOCK_DGRAM));
    if (is(name, "abstract")) return verdict(abstract_connect(argument));
    if (is(name, "descriptors")) return open_descriptors();
    // Identity.
    if (is(name, "root-uid")) return verdict(in_child(root_uid));
    if (is(name, "root-gid")) return verdict(in_child(root_gid));
    if (is(name, "setgroups")) return verdict(in_child(no_groups));
    if (is(name, "capabilities")) return verdict(in_child(set_all_capabilities));
    if (is(name, "file-capability")) {
        uint32_t value[5] = {0x02000000 | 1, ~0u, ~0u, ~0u, ~0u};
        return verdict(setxattr("attack", "security.capability", value, sizeof value, 0));
    }
    // Files.
    if (is(name, "mknod-mem")) return verdict(mknod("mem", S_IFCHR | 0666, 0x101));
    if (is(name, "mknod-disk")) return verdict(mknod("/tmp/disk", S_IFBLK | 0666, 0x800));
    if (is(name, "chmod-suid")) return verdict(chmod("attack", 04755));
    if (is(name, "chmod-sgid")) return verdict(chmod("attack", 02755));
    if (is(name, "fchmodat2-suid")) return verdict(syscall(SYS_fchmodat2, AT_FDCWD, "attack", 04755, 0));
    if (is(name, "create-suid")) return verdict(open("suid", O_CREAT | O_WRONLY, 04755));
    if (is(name, "openat2-suid")) return verdict(syscall(SYS_openat2, AT_FDCWD, "suid", &how, sizeof how));
    if (is(name, "hard-link")) return verdict(link(argument, "linked"));
    if (is(name, "tiocsti")) return verdict(ioctl(0, TIOCSTI, "x"));
    if (is(name, "tioclinux")) { char subcode = 2; return verdict(ioctl(0, TIOCLINUX, &subcode)); }
    // Shared objects of the host.
    if (is(name, "shm")) return verdict(shmget(number, 1, 0));
    if (is(name, "mqueue")) return verdict(mq_open(argument, O_RDONLY));
    // Scheduling.
    if (is(name, "realtime")) { struct sched_param parameter = {10}; return verdict(sched_setscheduler(0, SCHED_FIFO, &parameter)); }
    if (is(name, "nice")) return verdict(setpriority(PRIO_PROCESS, 0, -10));
    if (is(name, "ioprio")) return verdict(syscall(SYS_ioprio_set, 1, 0, (1 << 13) | 0));
    if (is(name, "core-limit")) { struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY}; return verdict(setrlimit(RLIMIT_CORE, &limit)); }
    return 93;
}
