#!/bin/sh
# Finds what SubOS needs on this machine and installs what is missing with the machine's own package manager.
#
#   installers/host.sh COMPONENT...          install those of the components that are missing
#   installers/host.sh --check COMPONENT...  only name the missing ones
#   installers/host.sh --python              print the Python to use
#
# Components: python qemu busybox kmod compiler headers udev make git bootdisk debian xserver desktop sdl libinput.
# Runs as root or by sudo, asks nothing, talks on stderr.
# Exit status: 0 all there; 2 wrong usage; 3 something is missing that cannot be installed from here;
# 4 the package manager failed.
set -eu

machine=$(uname -m)

# What to install. A new distribution is a column; a component without a row is left to the person.
packages() {
    cat <<'TABLE'
component     apt                   dnf                      pacman               zypper
python        python3,python3-venv  python3                  python               python313
qemu-x86_64   qemu-system-x86       qemu-system-x86-core     qemu-system-x86      qemu-x86
qemu-aarch64  qemu-system-arm       qemu-system-aarch64-core qemu-system-aarch64  qemu-arm
busybox       busybox-static        busybox                  busybox              busybox-static
kmod          kmod                  kmod                     kmod                 kmod
compiler      gcc,libc6-dev         gcc,glibc-devel          gcc                  gcc,glibc-devel
headers       python3-dev           python3-devel            python               python313-devel
udev          libudev1              systemd-libs             systemd-libs         libudev1
make          make                  make                     make                 make
git           git                   git                      git                  git
bootdisk      syslinux,syslinux-common,mtools syslinux,mtools syslinux,mtools      syslinux,mtools
sdl           libsdl2-2.0-0         SDL2                     sdl2                 libSDL2-2_0-0
libinput      libinput10,udev       libinput,systemd-udev    libinput,systemd     libinput10,udev
debian        mmdebstrap,uidmap,e2fsprogs,debian-archive-keyring
xserver       xvfb,xclip            xorg-x11-server-Xvfb,xclip xorg-server-xvfb,xclip xorg-x11-server-Xvfb,xclip
desktop       xsel,sway,wl-clipboard xsel,sway,wl-clipboard  xsel,sway,wl-clipboard xsel,sway,wl-clipboard
TABLE
}

why() {
    case $1 in
        python) echo "Python 3.11 or newer that can make a virtual environment" ;;
        qemu) echo "QEMU 8.2 or newer for $machine, which runs the guest" ;;
        busybox) echo "a static busybox, the guest's first process" ;;
        kmod) echo "modprobe, for the guest, and depmod, for the kernel that is downloaded" ;;
        compiler) echo "a C compiler: for faster devices, for input devices of this host, and for a C program in the tests" ;;
        headers) echo "Python's C headers: with a C compiler, for faster devices and for input devices of this host" ;;
        udev) echo "libudev, which tells of input devices of this host that are plugged in" ;;
        make) echo "the tests run make in the guest" ;;
        git) echo "the tests clone a repository in the guest" ;;
        bootdisk) echo "syslinux and mtools: the tests make a disk that boots" ;;
        xserver) echo "an X server without a screen, and xclip: the demo and the tests copy and paste there" ;;
        desktop) echo "a Wayland compositor without a screen, xsel and wl-clipboard: the tests copy and paste there" ;;
        sdl) echo "SDL 2: the tests play with a gamepad as games do" ;;
        libinput) echo "libinput and udevd: the tests ask libinput, in the guest, what it makes of input devices" ;;
        debian) echo "mmdebstrap and mke2fs: the tests install the agent in a real Debian" ;;
        *) return 1 ;;
    esac
}

say() { printf 'subos: %s\n' "$*" >&2; }

# die STATUS MESSAGE HINT
die() {
    say "$2"
    printf '  hint: %s\n' "$3" >&2
    exit "$1"
}

# --- what is there ---------------------------------------------------------------------------------------

# A pyenv shim answers for a version that is not selected with an error: so ask each to run something.
find_python() {
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    return 1
}

qemu_is_new_enough() {
    version=$("qemu-system-$machine" --version 2>/dev/null | sed -n '1s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
    major=${version%%.*} minor=${version#*.}
    [ "${major:-0}" -gt 8 ] || { [ "${major:-0}" -eq 8 ] && [ "$minor" -ge 2 ]; }
}

# ldd answers "not a dynamic executable" or, for a position-independent one, "statically linked".
busybox_is_static() {
    for name in busybox.static busybox-static busybox; do
        busybox=$(command -v "$name") || continue
        if LC_ALL=C ldd "$busybox" 2>&1 | grep -q -e 'not a dynamic' -e 'statically linked'; then
            return
        fi
    done
    return 1
}

# Those of the Python to use: one of pyenv has its own.
python_has_headers() {
    python=$(find_python) || return 1
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

python_loads() {
    python=$(find_python) || return 1
    "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null
}

# It is on nobody's PATH on Debian.
has_udevd() { PATH=$PATH:/usr/lib/systemd:/lib/systemd command -v systemd-udevd && command -v udevadm; } >/dev/null

# syslinux has it in a package of its own on Debian.
has_boot_sector() {
    for folder in /usr/lib/syslinux/mbr /usr/share/syslinux /usr/lib/syslinux/bios; do
        [ ! -e "$folder/mbr.bin" ] || return 0
    done
    return 1
}

can_make_debian() {
    command -v mmdebstrap >/dev/null && PATH=$PATH:/usr/sbin:/sbin command -v mke2fs >/dev/null &&
        [ -e /usr/share/keyrings/debian-archive-keyring.gpg ]
}

is_there() {
    case $1 in
        python) find_python >/dev/null ;;
        qemu) qemu_is_new_enough ;;
        busybox) busybox_is_static ;;
        kmod) PATH=$PATH:/usr/sbin:/sbin command -v depmod >/dev/null ;;
        compiler) command -v cc >/dev/null ;;
        headers) python_has_headers ;;
        udev) python_loads libudev.so.1 ;;
        make | git) command -v "$1" >/dev/null ;;
        # Only a PC boots such a disk.
        xserver) { command -v Xvfb && command -v xclip; } >/dev/null ;;
        sdl) PATH=$PATH:/usr/sbin:/sbin ldconfig -p | grep -q libSDL2-2.0.so.0 ;;
        libinput) python_loads libinput.so.10 && has_udevd ;;
        desktop) { command -v xsel && command -v sway && command -v wl-copy; } >/dev/null ;;
        bootdisk) [ "$machine" != x86_64 ] || { command -v syslinux && command -v mformat && has_boot_sector; } >/dev/null ;;
        # Only apt makes such a system.
        debian)
            [ "$machine" != x86_64 ] || ! command -v apt-get >/dev/null || can_make_debian ;;
    esac
}

# find_missing COMPONENT...: sets $missing
find_missing() {
    missing=
    for component; do
        is_there "$component" || missing="$missing $component"
    done
}

# --- installing ------------------------------------------------------------------------------------------

find_manager() {
    for manager in apt-get dnf pacman zypper; do
        if command -v "$manager" >/dev/null; then
            echo "${manager%-get}"
            return
        fi
    done
}

# packages_of COMPONENT: its packages under $manager, nothing when the table has none
packages_of() {
    row=$1
    [ "$row" != qemu ] || row=qemu-$machine
    packages | awk -v row="$row" -v manager="$manager" '
        NR == 1 { for (i = 2; i <= NF; i++) if ($i == manager) column = i }
        NR > 1 && column && $1 == row { gsub(",", " ", $column); print $column }'
}

# How to run a command as root; without a terminal sudo must not wait for a password.
find_root() {
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root=sudo
    else
        return 1
    fi
}

# Debian 12 has QEMU 7.2, so there it comes from backports. Their source is the machine's own entry for its
# release with another suite: same mirror, same options, same signing key.
enable_backports() {
    # shellcheck disable=SC2016 # apt's own variables
    if apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' | grep -qx "$suite"; then
        return
    fi
    # shellcheck disable=SC2016
    entry=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(RELEASE) $(SOURCESENTRY)' 'Created-By: Packages' |
        awk -v codename="$VERSION_CODENAME" '$1 == codename && $2 == "main" { print $3, $4; exit }')
    [ -n "$entry" ] || die 3 "apt has no source for Debian $VERSION_CODENAME to take the mirror of $suite from" \
        "add $suite to /etc/apt/sources.list.d yourself, then run this again"
    release=${entry%% *} file=${entry#* }
    line=${file##*:} file=${file%:*}
    target=/etc/apt/sources.list.d/subos-backports.${file##*.}
    say "adding $suite, in $target"
    case $file in
        *.sources) backports_stanza <"$file" ;;
        *) sed -n "${line}s| $release .*| $suite main|p" "$file" ;;
    esac | $as_root tee "$target" >/dev/null
    update_lists
}

# The stanza of $release, its comments dropped, its suite and components changed. A key may follow in it.
backports_stanza() {
    awk -v release="$release" -v suite="$suite" '
        BEGIN { RS = ""; FS = "\n" }
        !done {
            text = ""; found = 0
            for (i = 1; i <= NF; i++) {
                if ($i ~ /^#/) continue
                if ($i ~ /^Suites:/ && index($i " ", " " release " ")) found = 1
                sub(/^Suites:.*/, "Suites: " suite, $i)
                sub(/^Components:.*/, "Components: main", $i)
                text = text $i "\n"
            }
            if (found) { printf "%s", text; done = 1 }
        }'
}

update_lists() { $as_root apt-get -qq update >&2 || true; } # what could not be had, the install will name

candidate() { LC_ALL=C apt-cache policy "$1" | sed -n 's/^ *Candidate: //p' | grep -v none; }

apt_install() {
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install "$@" >&2
}

# names_of COMPONENT...: sets $names, their packages
names_of() {
    names=
    for component; do
        names="$names $(packages_of "$component")"
    done
}

# shellcheck disable=SC2086 # lists of names
install_by_apt() {
    for package in $names; do
        candidate "$package" >/dev/null || { say "fetching the package lists" && update_lists && break; }
    done
    case " $missing " in *" qemu "*) install_newer_qemu ;; esac || return
    [ -z "$names" ] || apt_install $names || { update_lists && apt_install $names; }
}

# Where the release's QEMU is too old: installs it from backports, and takes it off $names.
install_newer_qemu() {
    qemu=$(packages_of qemu)
    if dpkg --compare-versions "$(candidate "$qemu")" ge 1:8.2; then
        return
    fi
    # shellcheck source=/dev/null
    . /etc/os-release
    [ "$ID" = debian ] || die 3 "$PRETTY_NAME has only QEMU $(candidate "$qemu"), older than 8.2" \
        "install a newer QEMU by hand, or use Debian 12 or newer, or Ubuntu 24.04 or newer"
    suite=$VERSION_CODENAME-backports
    enable_backports
    apt_install -t "$suite" "$qemu" || return
    # shellcheck disable=SC2046,SC2086 # a list of components
    names_of $(printf '%s\n' $missing | grep -v qemu)
}

install_packages() {
    # shellcheck disable=SC2086 # a list of package names, and sudo or nothing
    case $manager in
        apt) install_by_apt ;;
        dnf) $as_root dnf install -y -q $names >&2 ;;
        pacman) $as_root pacman -S --noconfirm --needed --noprogressbar $names >&2 ;;
        zypper) $as_root zypper --non-interactive --quiet install --no-recommends $names >&2 ;;
    esac
}

# --- the command -----------------------------------------------------------------------------------------

check_only=
case ${1:-} in
    --python) find_python && exit || exit 3 ;;
    --check) check_only=yes && shift ;;
esac
[ $# -gt 0 ] || die 2 "no component named" "usage: installers/host.sh [--check] COMPONENT..."
for component; do
    why "$component" >/dev/null || die 2 "unknown component '$component'" "see the head of installers/host.sh"
done

find_missing "$@"
[ -n "$missing" ] || exit 0
if [ -n "$check_only" ]; then
    echo "${missing# }"
    exit 3
fi

manager=$(find_manager)
by_hand=
say "missing on this machine:"
for component in $missing; do
    packages=$(packages_of "$component")
    [ -n "$packages" ] || by_hand="$by_hand $component"
    printf '  %-9s %s%s\n' "$component" "$(why "$component")" "${packages:+  [$packages]}" >&2
done
[ -z "$by_hand" ] || die 3 "no package is known for this machine for:$by_hand" \
    "install by hand what the list above says, then run this again"
find_root || die 3 "installing needs root, and there is neither root nor a usable sudo" "as root, run: sh '$0'$missing"

# shellcheck disable=SC2086 # a list of components
names_of $missing
say "installing with $manager:$names"
install_packages || die 4 "$manager could not install them" \
    "its own words are above; is the network up, and are the package sources right?"
find_missing "$@"
[ -z "$missing" ] || die 3 "installed, but what was found is too old or does not run:$missing" \
    "installers/README.md says which distributions were tried"
