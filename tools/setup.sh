#!/bin/bash
# Makes this machine ready for sandfleet: packages, virtual environment, guest image. Starts nothing.
#
#   tools/setup.sh [--check-only] [--with-node]
#
# --check-only  the virtual environment and no more: enough for `make check`
# --with-node   also Node.js for the acceptance test in TypeScript, unless the machine has one
#
# What is already there is left alone and not mentioned; a second run takes about a second.
# Downloads come from the machine's own Debian mirror, PyPI and the npm registry only.
set -euo pipefail
shopt -s lastpipe
cd "$(dirname "$0")/.."

PACKAGES=(mmdebstrap debian-archive-keyring qemu-utils nftables iproute2 ca-certificates haproxy)
PYTHON_PACKAGES=(python3 python3-venv)
QEMU_VERSION_MIN=1:10.0
UV_VERSION=0.13.9
LOG=.cache/setup.log
BACKPORTS_FILE=/etc/apt/sources.list.d/sandfleet-backports.list
began_s=$(date +%s)
did_something=false

say() {
    did_something=true
    printf '[%4d s] %s\n' "$(($(date +%s) - began_s))" "$*"
}

die() {
    printf 'set-up: %s\n' "$*" >&2
    exit 1
}

# logged WHAT COMMAND...: runs a command into the log and shows the log's end if it fails.
logged() {
    local what=$1
    shift
    printf '\n== %s: %s\n' "$what" "$*" >> "$LOG"
    "$@" >> "$LOG" 2>&1 || {
        tail -n 25 "$LOG" >&2
        die "$what failed (all of it: $LOG)"
    }
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ]
}

is_qemu_new_enough() {
    is_installed qemu-system-x86 &&
        dpkg --compare-versions "$(dpkg-query -W -f '${Version}' qemu-system-x86)" ge "$QEMU_VERSION_MIN"
}

check_system() {
    command -v dpkg-query > /dev/null && command -v apt-get > /dev/null ||
        die "needs Debian 12 or newer, or Ubuntu 25.10 or newer: this system has no apt"
    [ "$(dpkg --print-architecture)" = amd64 ] ||
        die "needs a 64-bit PC (amd64): this system is $(dpkg --print-architecture)"
}

missing_packages() {
    local package
    for package in "$@"; do
        is_installed "$package" || printf '%s ' "$package"
    done
}

# require_root WHAT: says what root is needed for, instead of failing half-way.
require_root() {
    [ "$(id -u)" = 0 ] || die "must be root to install $1 (run it with sudo, or have them installed)"
}

apt_get() {
    local what=$1
    shift
    logged "$what" env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l LC_ALL=C.UTF-8 \
        apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

apt_install() {
    apt_get "installing $*" install -y --no-install-recommends "$@"
}

install_packages() {
    local missing=()
    read -ra missing <<< "$(missing_packages "$@")"
    [ "${#missing[@]}" -gt 0 ] || return 0
    require_root "the packages ${missing[*]}"
    refresh_package_lists
    say "installing ${missing[*]}"
    apt_install "${missing[@]}"
}

lists_are_fresh=false
refresh_package_lists() {
    $lists_are_fresh && return
    say "refreshing the package lists"
    apt_get "apt-get update" update
    lists_are_fresh=true
}

# newest_qemu: the highest version that any of apt's sources has, or nothing.
newest_qemu() {
    apt-cache madison qemu-system-x86 | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' |
        while read -r version; do
            if dpkg --compare-versions "$version" ge "$QEMU_VERSION_MIN"; then echo "$version"; fi
        done | head -n 1
}

install_qemu() {
    is_qemu_new_enough && return
    require_root "QEMU 10 or newer"
    refresh_package_lists
    local codename candidate release=()
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    candidate=$(LC_ALL=C apt-cache policy qemu-system-x86 | awk '$1 == "Candidate:" { print $2 }')
    if ! dpkg --compare-versions "${candidate:-0}" ge "$QEMU_VERSION_MIN"; then
        [ -n "$(newest_qemu)" ] || add_backports "$codename"
        [ -n "$(newest_qemu)" ] ||
            die "needs QEMU 10 or newer, and no apt source of this system has it (best: ${candidate:-none})"
        release=(-t "$codename-backports")
    fi
    say "installing QEMU"
    # qemu-utils must be of the same release.
    apt_get "installing QEMU" install -y --no-install-recommends "${release[@]}" qemu-system-x86 qemu-utils
    is_qemu_new_enough || die "QEMU is still older than 10 after installing it (see $LOG)"
}

# add_backports CODENAME: names the backports of the mirror that this machine uses already.
add_backports() {
    (. /etc/os-release && [ "$ID" = debian ]) || return 0
    local mirror
    mirror=$(PYTHONPATH=src /usr/bin/python3 -m sandfleet.images.machine_mirrors)
    say "adding $1-backports from $mirror, which has a newer QEMU"
    echo "deb $mirror $1-backports main" > "$BACKPORTS_FILE"
    apt_get "reading the backports" update
}

check_python() {
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "needs Python 3.11 or newer: this system has $(/usr/bin/python3 --version)"
}

make_venv() {
    if [ ! -x .cache/uv/bin/uv ] || [ "$(.cache/uv/bin/uv --version | cut -d' ' -f2)" != "$UV_VERSION" ]; then
        say "fetching uv"
        logged "making uv's environment" /usr/bin/python3 -m venv --clear .cache/uv
        logged "fetching uv" .cache/uv/bin/pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    fi
    local options=(sync --locked --inexact --no-progress) interpreter=()
    if $with_node && ! { command -v node && command -v npm; } > /dev/null; then
        options+=(--group typescript)
    fi
    [ -x .venv/bin/python ] || {
        say "making the virtual environment"
        interpreter=(--python /usr/bin/python3)
    }
    logged "making the virtual environment" env UV_PYTHON_DOWNLOADS=never \
        .cache/uv/bin/uv "${options[@]}" "${interpreter[@]}"
}

build_image() {
    # An image that is up to date is not worth a line.
    local line
    .venv/bin/python -m sandfleet.images build 2>&1 | while read -r line; do
        case $line in
            *"is up to date") ;;
            *) say "guest image: ${line#*] }" ;;
        esac
    done
}

check_only=false
with_node=false
for option in "$@"; do
    case $option in
        --check-only) check_only=true ;;
        --with-node) with_node=true ;;
        *) die "unknown option $option" ;;
    esac
done

check_system
{ mkdir -p .cache && : > "$LOG"; } 2> /dev/null || die "cannot write to $PWD: run it as root or as the owner"
install_packages "${PYTHON_PACKAGES[@]}"
check_python
if ! $check_only; then
    install_qemu
    had_haproxy=$(is_installed haproxy && echo yes || true)
    install_packages "${PACKAGES[@]}"
    # `sandfleet up` runs it with a configuration of its own; Debian's service has nothing to do here.
    [ -n "$had_haproxy" ] || ! [ -d /run/systemd/system ] ||
        logged "switching off Debian's own HAProxy service" systemctl disable --now haproxy
fi
make_venv
$check_only || build_image
if $did_something; then say "set-up is complete"; fi
