#!/bin/sh
# Installs the SubOS agent in this guest, or takes it out again. What it installs lies beside it.
#
#   sh install.sh [--zipapp] [--allow-exec]   install, or change to the version that lies here
#   sh install.sh --remove                    take it out; /etc/subos/agent.conf stays
#   sh install.sh --purge                     take it out with its configuration
#
# --zipapp      the one-file program in /usr/local, though this system has packages
# --allow-exec  let the host run commands here (subos-devices exec, cp)
#
# It takes the deb where there is dpkg, an rpm where there is rpm and one lies here, and else the zipapp with its unit;
# without systemd it says how to start the agent. What is installed one way is changed in the same way.
# Exit status: 0 done; 2 wrong usage; 3 something is missing; 4 the package manager failed.
set -eu

here=$(cd -- "$(dirname -- "$0")" && pwd)
name=subos-agent
program=/usr/local/bin/$name
unit=/etc/systemd/system/$name.service
autostart=/etc/xdg/autostart/$name-session.desktop
rules=/etc/udev/rules.d/60-$name.rules
configuration=/etc/subos/agent.conf

say() { printf 'subos: %s\n' "$*"; }

# die STATUS MESSAGE HINT
die() {
    printf 'subos: %s\n  hint: %s\n' "$2" "$3" >&2
    exit "$1"
}

has() { command -v "$1" >/dev/null 2>&1; }
has_systemd() { [ -d /run/systemd/system ] || { has systemctl && [ -d /etc/systemd/system ]; }; }
systemd_runs() { [ -d /run/systemd/system ]; }
new_enough() { python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; }

deb_is_installed() { has dpkg-query && dpkg-query -W -f '${db:Status-Status}' $name 2>/dev/null | grep -qx installed; }
deb_has_traces() { has dpkg-query && dpkg-query -W $name >/dev/null 2>&1; }
rpm_is_installed() { has rpm && rpm -q $name >/dev/null 2>&1; }

# only FILES...: the one that there is, and is not a pattern
only() { [ $# -eq 1 ] && [ -f "$1" ] && printf '%s\n' "$1"; }

install_deb() {
    say "installing $(basename "$1") with dpkg"
    if new_enough; then
        dpkg -i "$1" || die 4 "dpkg could not install it" "its own words are above"
    else
        has apt-get || die 3 "Python 3.9 or newer is missing" "install python3, then run this again"
        apt-get -y --no-install-recommends install "$1" ||
            die 4 "apt-get could not install it with Python" "is the network up? Or install python3 by hand first"
    fi
}

install_rpm() {
    say "installing $(basename "$1") with rpm"
    rpm -U --oldpackage --replacepkgs "$1" || die 4 "rpm could not install it" "its own words are above"
}

install_zipapp() {
    new_enough || die 3 "Python 3.9 or newer is missing" "install python3, then run this again"
    say "installing $program"
    mkdir -p /usr/local/bin
    copy "$here/$name.pyz" $program 755
    if [ -d /etc/udev ]; then
        mkdir -p /etc/udev/rules.d
        copy "$here/60-$name.rules" $rules 644
        ! has udevadm || udevadm control --reload 2>/dev/null || true
    fi
    if [ -d /etc/xdg ]; then
        mkdir -p /etc/xdg/autostart
        with_program "$here/$name-session.desktop" $autostart
    fi
    if has_systemd; then
        with_program "$here/$name.service" $unit
        systemctl enable $name.service 2>/dev/null
    else
        say "there is no systemd here: let your init run, as root and again when it ends:  $program serve"
    fi
    ! systemd_runs || systemctl daemon-reload
    act restart
}

# copy FROM TO MODE: whole or not at all, also while the old one runs
copy() {
    cp -- "$1" "$2.new"
    chmod "$3" "$2.new"
    mv -f -- "$2.new" "$2"
}

with_program() {
    sed "s|@AGENT@|$program|" "$1" >"$2.new"
    chmod 644 "$2.new"
    mv -f -- "$2.new" "$2"
}

# act restart|stop: at once, or five seconds later where this script is a command of the host's. It runs in the agent's
# own unit then, and would be ended half-way.
act() {
    systemd_runs || return 0
    if grep -q "/$name.service\$" /proc/self/cgroup 2>/dev/null; then
        systemd-run --quiet --collect --on-active=5 --timer-property=AccuracySec=100ms \
            systemctl "$1" $name.service
    else
        systemctl "$1" $name.service
    fi
}

remove_zipapp() {
    if has_systemd && [ -e $unit ]; then
        systemctl disable $name.service 2>/dev/null || true
        act stop || true
    fi
    rm -f $program $unit $autostart $rules
    rmdir /etc/xdg/autostart 2>/dev/null || true
    ! systemd_runs || systemctl daemon-reload
}

allow_exec() {
    $name allow exec >/dev/null || $program allow exec >/dev/null
    act restart
    say "the host may run commands here"
}

remove() {
    [ ! -e $program ] || remove_zipapp
    if deb_is_installed; then
        dpkg -r $name || die 4 "dpkg could not remove it" "its own words are above"
    fi
    if rpm_is_installed; then
        rpm -e $name || die 4 "rpm could not remove it" "its own words are above"
    fi
    say "$name is removed"
}

purge() {
    remove
    ! deb_has_traces || dpkg -P $name || die 4 "dpkg could not purge it" "its own words are above"
    rm -f $configuration
    [ ! -d /etc/subos ] || rmdir /etc/subos 2>/dev/null || true
}

# --- the command

action=install allow='' zipapp=''
for word; do
    case $word in
        --remove | --purge) action=${word#--} ;;
        --zipapp) zipapp=yes ;;
        --allow-exec) allow=yes ;;
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
        *) die 2 "'$word' is not known" "sh install.sh --help says what is" ;;
    esac
done
[ "$(id -u)" -eq 0 ] || die 3 "this needs root" "run it as root, or by sudo: sudo sh '$0' $*"

if [ "$action" != install ]; then
    $action
    exit
fi
[ ! -e $program ] || zipapp=yes
if [ -z "$zipapp" ] && has dpkg && deb=$(only "$here"/${name}_*.deb); then
    install_deb "$deb"
elif [ -z "$zipapp" ] && has rpm && rpm=$(only "$here"/$name-*.noarch.rpm); then
    install_rpm "$rpm"
else
    if deb_is_installed || rpm_is_installed; then
        die 2 "the package $name is installed" "take it out first: sh '$0' --remove"
    fi
    install_zipapp
fi
[ -z "$allow" ] || allow_exec
say "done; the host sees this guest's agent in: subos-devices status"
