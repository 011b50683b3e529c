#!/bin/sh
# Turns a fresh Debian tree ($1) into the guest environment. Runs on the host, as root, at the end of mmdebstrap.
set -eu
root=$1

# The user whose computer this is.
chroot "$root" useradd --uid 1000 --user-group --create-home --shell /bin/bash sandbox
echo 'sandbox ALL=(ALL:ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/sandbox"
chmod 0440 "$root/etc/sudoers.d/sandbox"
mkdir -p "$root/workspace"
chroot "$root" chown sandbox:sandbox /workspace

# Names and addresses: the same in every guest, so that a clone needs no renumbering.
echo sandbox > "$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 sandbox\n::1 localhost ip6-localhost ip6-loopback\n' > "$root/etc/hosts"
rm -f "$root/etc/resolv.conf"
echo 'nameserver 10.0.2.2' > "$root/etc/resolv.conf"
printf 'LANG=C.UTF-8\nLC_ALL=C.UTF-8\n' > "$root/etc/default/locale"
cat "$root/etc/default/locale" >> "$root/etc/environment"

# `pip install` works as on any computer of one's own.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED

# Each guest makes its own identity; an image holds none.
rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id" "$root"/etc/ssh/ssh_host_*
: > "$root/etc/machine-id"

# The kernel is loaded from outside and must stay the one that the modules on this disk belong to.
chroot "$root" apt-mark hold linux-image-cloud-amd64 > /dev/null
rm -f "$root"/vmlinuz* "$root"/initrd.img*

# Packages that users install are kept on the data disk by a bind mount over this directory.
rm -f "$root"/etc/apt/apt.conf.d/docker-clean
mkdir -p "$root/var/cache/apt/archives/partial"

# What would tell two builds of the same packages apart: backups, logs, the day of the build.
rm -f "$root"/etc/passwd- "$root"/etc/shadow- "$root"/etc/group- "$root"/etc/gshadow- "$root"/etc/subuid- "$root"/etc/subgid-
sed -i -E 's/^(([^:]*:){2})[0-9]+:/\120309:/' "$root/etc/shadow"
rm -rf "$root"/var/log/*.log "$root"/var/log/apt/* "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old

# What the agent starts to enter an exec's cgroup and user; compiled by the guest's own compiler.
mkdir -p "$root/usr/lib/sandfleet"
cp "$(dirname "$0")/osb-enter.c" "$root/usr/lib/sandfleet/osb-enter.c"
chroot "$root" gcc -O2 -Wall -Wextra -Werror -static -s -o /usr/lib/sandfleet/osb-enter /usr/lib/sandfleet/osb-enter.c
rm "$root/usr/lib/sandfleet/osb-enter.c"
