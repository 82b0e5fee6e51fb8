# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of the processes whose end is the end of a session: one list, for the guards and for policy/vital.py.

Shell patterns of a comm, of which the kernel keeps 15 bytes: gnome-session-binary is gnome-session-b there,
kwin_wayland_wrapper kwin_wayland_wr, startplasma-wayland startplasma-way.
"""

from typing import Final

LEADING: Final = (
    # GNOME, and what is built like it.
    "gnome-shell", "gnome-session*", "mutter*", "cinnamon*", "mate-session", "marco", "budgie-*",
    "gala", "phosh", "phoc",
    # KDE.
    "kwin_*", "plasmashell", "plasma_session", "startplasma-*", "ksmserver",
    # Other compositors, window managers and their sessions.
    "sway", "Hyprland", "weston", "labwc", "wayfire", "river", "niri", "cage", "cosmic-*",
    "xfwm4", "xfce4-session", "lxqt-session", "lxsession", "openbox", "i3", "awesome", "enlightenment",
    "bspwm", "dwm", "qtile", "herbstluftwm", "fluxbox", "icewm*", "jwm", "fvwm*", "xmonad*",
    # Who has started it (xinit, startx) waits for nothing else.
    "Xorg",
)  # fmt: skip
"""Compositors, shells, session managers: who has started one of them is the session's launcher."""

CARRYING: Final = (
    # Without its locker a Wayland screen stays locked for ever.
    "kded[56]", "kscreenlocker_*", "swaylock", "hyprlock",
    # What all of them stand on; with sound, because a call that breaks off is the session to who is in it.
    "Xwayland", "dbus-daemon", "dbus-broker*", "pipewire*", "wireplumber", "pulseaudio",
)  # fmt: skip
"""What a session can't be without, and anybody may start: `dbus-run-session` is no launcher of the session."""

MANAGING: Final = ("systemd", "(sd-pam)", "slicemgr")
"""The user's manager and ourselves: never a victim, and no part of a session. In a session's own scope a `systemd` is
that of a container."""

VITAL_NAMES: Final = (*LEADING, *CARRYING, *MANAGING)
"""Whom no guard ever takes from a slice of apps or of a session."""
