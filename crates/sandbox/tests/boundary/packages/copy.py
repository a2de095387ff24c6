import os, shutil, sys, sysconfig
to = sys.argv[1]
libraries = sysconfig.get_path("stdlib")
skip = shutil.ignore_patterns("__pycache__", "test", "tests", "idlelib", "lib2to3", "tkinter", "config-*", "dist-packages", "site-packages")
shutil.copytree(libraries, to + libraries, ignore=skip, symlinks=True, dirs_exist_ok=True)
import pip
home = os.path.dirname(pip.__file__)
shutil.copytree(home, to + home, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
if not os.path.exists(to + "/usr/bin/python3"):
    os.symlink(os.path.basename(os.path.realpath(sys.executable)), to + "/usr/bin/python3")
