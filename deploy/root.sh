#!/bin/sh
# Makes the root of an image around ROOT/usr/bin/outwork: the libraries that it links to, authorities, a user, and the
# wget applet for health checks. Runs where the binary was built; takes nothing from the network.
set -eu
root=${1:?usage: root.sh ROOT}
binary=$root/usr/bin/outwork
test -x "$binary" || { echo "root.sh: $binary is not there" >&2; exit 1; }

# Name resolution is part of the C library since 2.34, so what ldd names is all.
ldd "$binary" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
    install -D -m 0755 "$(readlink -f "$library")" "$root$library"
done

install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
install -D -m 0755 "${BUSYBOX:-/bin/busybox}" "$root/usr/bin/wget"
printf 'outwork:x:65532:65532::/var/lib/outwork:/usr/bin/outwork\n' > "$root/etc/passwd"
printf 'outwork:x:65532:\n' > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
install -d -m 0700 -o 65532 -g 65532 "$root/var/lib/outwork"
install -d -m 1777 "$root/tmp"
