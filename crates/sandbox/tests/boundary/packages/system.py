import os, shutil

# Whoever is no root outside has one user inside.
single = open("/proc/self/setgroups").read().strip() == "deny"
service = 0 if single else 77
open("/etc/passwd", "a").write("service:x:77:77:service:/var/service:/bin/false\n")
os.remove("/etc/of-the-image")
os.makedirs("/var/service")
os.chown("/var/service", service, service)
open("/usr/bin/tool", "w").write("#!/bin/bash\necho a tool\n")
os.chmod("/usr/bin/tool", 0o6755)
shutil.copy("/usr/bin/id", "/usr/bin/id.new")
os.rename("/usr/bin/id.new", "/usr/bin/id")
child = os.fork()
if child == 0:
    if not single:
        os.setgroups([])
        os.setresgid(77, 77, 77)
        os.setresuid(77, 77, 77)
    open("/var/service/own", "w").close()
    status = open("/proc/self/status").read()
    os._exit(0 if single or "CapEff:\t0000000000000000" in status else 1)
said["service"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
said["owner"] = os.stat("/var/service/own").st_uid
said["uid"] = os.getuid()
said["run"] = sorted(os.listdir("/run"))
try:
    os.mknod("/dev-block", 0o60666, 0xfe00)
    said["device"] = "made"
except OSError as error:
    said["device"] = error.errno
