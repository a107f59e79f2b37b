#!/usr/bin/env bash
# Boots this machine's own systemd and journald once more, as process 1 of private namespaces.
#
#   boot.sh hold TOP ROOT [SOURCE:TARGET...]
#
# Needs root, and no image: the root directory inside is an overlay of ROOT, which is / or one that
# has a systemd of its own. What is written there is in memory, outlives a reboot and is gone in the
# end; each SOURCE is seen at its TARGET, read-only. /dev, /proc, /run, /sys and /tmp are new, and the network is that of outside.
# TOP/init.pid says which process is systemd, TOP/console what it said. To stop it, kill this;
# signals 38 and 39 to systemd (systemd(1), SIGRTMIN+4 and +5) power off in order, and reboot.
set -euo pipefail
PATH=/usr/sbin:/usr/bin:/sbin:/bin

step=$1 top=$2
shift 2
memory=$top/memory root=$top/memory/root

hold() { # what outlives a reboot; in a mount namespace of its own
    local lower=$1
    shift
    mount -t tmpfs -o mode=755 storelet "$memory"
    mkdir "$memory"/{upper,work,root,cgroup}
    mount -t overlay -o "lowerdir=$lower,upperdir=$memory/upper,workdir=$memory/work" overlay "$root"
    # Of version 2, which may stand beside a machine's version 1.
    mount -t cgroup2 cgroup2 "$memory/cgroup"
    cgroup=$memory/cgroup/$(basename "$top")
    mkdir "$cgroup"
    trap leave EXIT
    choose_units
    local status=129
    while [ "$status" -eq 129 ]; do # SIGHUP: reboot(2) in a pid namespace
        status=0
        setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --uts --ipc \
            bash "$0" start "$top" "$cgroup" "$@" || status=$?
    done
}

leave() { # what the kernel would keep
    local _
    for _ in {1..50}; do # until the last process is reaped
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null && break
        sleep 0.02
    done
}

choose_units() { # the journal, and what is enabled inside
    local units=$root/usr/lib/systemd/system
    rm -rf "$units"/*.wants "$root"/usr/lib/systemd/system-generators "$root"/etc/systemd/system/*
    rm -f "$units/systemd-journald-audit.socket" # the kernel would audit outside, too
    mkdir "$units/sysinit.target.wants"
    ln -s ../systemd-journald.service "$units/sysinit.target.wants/"
    # Without one, systemd takes this for the first boot ever, and enables what it knows.
    tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
}

start() { # process 1 of a boot: what is new for each
    local cgroup=$1 pid spec name
    shift
    read -r pid _ </proc/self/stat # outside: /proc is still that of there
    exec 3>"$top/init.pid"
    mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
    mount --bind -o ro "$root/proc/sys" "$root/proc/sys" # outside's settings
    mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
    mount -t tmpfs -o mode=755,nosuid dev "$root/dev"
    mount -t tmpfs -o mode=755,nosuid,nodev run "$root/run"
    mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"
    mkdir "$root"/dev/{pts,shm}
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
    mount -t tmpfs -o mode=1777,nosuid,nodev shm "$root/dev/shm"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    for name in null zero full random urandom tty; do
        mount_file "/dev/$name" "$root/dev/$name"
    done
    mount_file "$top/console" "$root/dev/console"
    [ ! -e /proc/sysrq-trigger ] || mount --bind /dev/null "$root/proc/sysrq-trigger"
    for spec in "$@"; do
        mkdir -p "$root${spec#*:}"
        mount --bind -o ro "${spec%%:*}" "$root${spec#*:}"
    done
    echo 0 >"$cgroup/cgroup.procs"
    echo "$pid" >&3
    exec 3>&- unshare --cgroup bash "$0" become "$top"
}

mount_file() { # source, target
    touch "$2"
    mount --bind "$1" "$2"
}

become() { # systemd, in its own cgroup namespace
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
    cd "$root"
    mkdir run/outside
    pivot_root . run/outside
    umount -l /run/outside
    rmdir /run/outside
    mount --make-rshared /
    # The clock, the modules and the log of the kernel are outside's.
    exec env -i container=storelet PATH="$PATH" \
        setpriv --bounding-set -sys_module,-sys_rawio,-sys_time,-syslog,-wake_alarm,-block_suspend \
        /lib/systemd/systemd --unit=multi-user.target --show-status=yes \
        </dev/null >/dev/console 2>&1
}

"$step" "$@"
