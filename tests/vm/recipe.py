# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the guest is made of, as data: its packages, its users, the files put into it, its drives."""

from __future__ import annotations

import os
from dataclasses import dataclass

CHECKOUT = "/srv/slicemgr"
"""Where the guest finds the checkout; fixed, so that a path in a failure means the same on every machine."""

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "polkitd",
    "udev",
    "python3",
    "python3-gi",
    "python3-pydbus",
    "python3-psutil",
    "python3-tomli",
    "python3-pytest",
    "python3-pytest-asyncio",
    "python3-hypothesis",
    "gcc",
    "g++",
    "libc6-dev",
    "make",
    "ninja-build",
    "ccache",
    # Real steps of a build, 76-89 MB and 1 s each: KDE's manuals through meinproc5, as in examples/kde-docs. No cargo:
    # 390 MB with its compiler and libraries, for a build tool that needs nothing of a guest.
    "kdoctools5",
    "kate5-data",
    "procps",
    # Who kills by pressure: a test that wants it beside us starts it, see DISABLED_UNITS.
    "systemd-oomd",
    # Desktops of their own: an X server without a screen, started by startx, and a window manager that reads autostart.
    "xvfb",
    "xinit",
    "openbox",
    "python3-xdg",
    # A notification server that can be asked what it shows, and pressed by a script.
    "dunst",
    "util-linux",
    "initramfs-tools",
    # The cloud kernel has all we ask for (PSI=y, ZRAM=m, VIRTIO_CONSOLE=m) in a third of the modules.
    "linux-image-cloud-amd64",
)

USERS = {"tester": 1000, "other": 1001}
"""Unprivileged users by uid. `tester` lingers; `other` is the stranger that may not touch tester's things."""

MASKED_UNITS = (
    # Timers and one-shots that would wake up in the middle of a memory measurement.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "logrotate.timer",
    "man-db.timer",
    "motd-news.timer",
    # 15 min after the boot, for 0.3 s: who counts the living just then misses somebody later.
    "systemd-tmpfiles-clean.timer",
    # Nothing to do in a guest without network and clock, yet each costs 0.2-0.5 s of an emulated boot;
    # modprobe@ is six modules that nobody here uses (fuse, loop, drm, ...), 1 s of processor time each.
    "modprobe@.service",
    "systemd-binfmt.service",
    "systemd-hwdb-update.service",
    "systemd-networkd.service",
    "systemd-timesyncd.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    # The serial line belongs to the kernel's console; a login prompt would only hide its last words.
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "serial-getty@hvc0.service",
)

DISABLED_UNITS = ("systemd-oomd.service", "systemd-oomd.socket")
"""Installed and not started: Debian enables what it installs, and this one would kill in other tests."""

MASKED_DROP_INS = (
    # ManagedOOM...=kill, at 50 % for 20 s and for swap: a unit with it starts systemd-oomd though that is disabled. A
    # test that wants it so says it by `systemctl set-property --runtime`.
    "-.slice.d/10-oomd-root-slice-defaults.conf",
    "user@.service.d/10-oomd-user-service-defaults.conf",
)

AGENT_SCRIPT = f"""\
#!/bin/sh
# Unpacks the checkout and hands over to the agent inside it: so the agent can change without a new image.
set -e
tar -xf /dev/disk/by-id/virtio-job -C /srv
cd {CHECKOUT}
exec python3 -m tests.vm.agent
"""

AGENT_UNIT = """\
[Unit]
Description=slicemgr test agent
Requires=user@1000.service
After=multi-user.target user@1000.service dbus.service systemd-logind.service

[Service]
# exec, not oneshot: the boot is finished while the tests run, as on a machine that is in use.
Type=exec
ExecStart=/usr/local/sbin/slicemgr-vm-agent
# However the agent ends, the guest ends with it: the host waits for the exit of qemu.
ExecStopPost=/usr/bin/systemctl poweroff --force --force
OOMScoreAdjust=-1000
"""

JOURNALD = """\
[Journal]
Storage=volatile
# Every line leaves the guest as it is logged: the journal of a guest that hung is the one worth reading.
ForwardToConsole=yes
TTYPath=/dev/hvc0
MaxLevelConsole=info
"""


ENTRY_SCRIPT = """\
#!/usr/bin/python3
# What pip writes for an entry point. `python3 -m` would read runpy first: 5 ms of a bare interpreter's 9.
import sys

from slicemgr.cli import main

sys.exit(main())
"""


@dataclass(frozen=True, slots=True)
class GuestFile:
    """One file put into the image, owned by root; with `target` it is a symbolic link."""

    path: str
    text: str = ""
    mode: int = 0o644
    target: str | None = None


FILES = (
    GuestFile("etc/hostname", "testvm\n"),
    GuestFile("etc/hosts", "127.0.0.1 localhost testvm\n"),
    GuestFile("etc/fstab"),
    # With MODULES=most the initrd has 15 MB, which an emulated processor unpacks for 2 s.
    GuestFile("etc/initramfs-tools/conf.d/slicemgr", "MODULES=list\n"),
    GuestFile("etc/initramfs-tools/modules", "virtio_pci\nvirtio_blk\nvirtio_console\n"),
    GuestFile("etc/systemd/journald.conf.d/slicemgr.conf", JOURNALD),
    GuestFile("etc/systemd/system/slicemgr-vm-agent.service", AGENT_UNIT),
    GuestFile(
        "etc/systemd/system/default.target.wants/slicemgr-vm-agent.service",
        target="/etc/systemd/system/slicemgr-vm-agent.service",
    ),
    *(GuestFile(f"etc/systemd/system/{unit}", target="/dev/null") for unit in (*MASKED_UNITS, *MASKED_DROP_INS)),
    GuestFile("usr/local/sbin/slicemgr-vm-agent", AGENT_SCRIPT, mode=0o755),
    GuestFile("usr/local/bin/slicemgr", ENTRY_SCRIPT, mode=0o755),
    # A .pth file and not PYTHONPATH: a child of `slicemgr run` must not inherit a changed environment.
    GuestFile("usr/lib/python3/dist-packages/slicemgr-checkout.pth", CHECKOUT + "\n"),
    GuestFile("var/lib/systemd/linger/tester"),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what an image contains; its `repr` is part of the image's key in the cache."""

    suite: str = "bookworm"
    packages: tuple[str, ...] = PACKAGES
    users: tuple[tuple[str, int], ...] = tuple(USERS.items())
    files: tuple[GuestFile, ...] = FILES
    disabled: tuple[str, ...] = DISABLED_UNITS
    # 3 GiB sparse, of which 0.85 are used: room for a test that fills a disk. 21,000 inodes are used.
    size_mib: int = 3072
    inodes: int = 131072
    excluded: tuple[str, ...] = (
        "/usr/share/man/*",
        "/usr/share/locale/*",
        "/usr/share/doc/*",
        # 150 MB with which an X server would draw in three dimensions.
        "/usr/lib/*/libLLVM*",
        "/usr/lib/*/dri/*",
    )
    included: tuple[str, ...] = ("/usr/share/doc/HTML/*.docbook",)
    """Of the excluded: the manuals, without their pictures."""


_RENAMED = {"trixie": {"kate5-data": "kate-data"}}

RECIPES = {
    suite: Recipe(suite, tuple(_RENAMED.get(suite, {}).get(package, package) for package in PACKAGES))
    for suite in ("bookworm", "trixie")
}
"""Guests by name; `SLICEMGR_VM_SUITE` chooses one, the first unless it is set."""


def chosen() -> Recipe:
    """The guest that this run asks for."""
    return RECIPES[os.environ.get("SLICEMGR_VM_SUITE") or "bookworm"]
