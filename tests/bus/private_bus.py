# SPDX-License-Identifier: LGPL-2.1-or-later
"""A bus of one's own: a real dbus-daemon on a socket in a test's folder."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{services}</servicedir>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>{forbidden}
  </policy>
</busconfig>
"""


class PrivateBus:
    """Started, killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:path={folder}/bus"
        self._config = folder / "bus.conf"
        self.services = folder / "services"
        """Where files would be of what the bus may start; there is no such directory."""
        self.forbid()
        self._socket = folder / "bus"
        self._process: subprocess.Popen[str] | None = None

    def forbid(self, name: str = "") -> None:
        """Nobody may have this name, from the next start or ReloadConfig on."""
        forbidden = f'<deny own="{name}"/>' if name else ""
        self._config.write_text(
            CONFIG.format(address=self.address, services=self.services, forbidden=forbidden), encoding="ascii"
        )

    def start(self) -> None:
        """Returns when it listens."""
        self._process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={self._config}", "--nofork", "--print-address"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # It wants more descriptors than a container allows, and says so.
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("unix:path=")

    def kill(self) -> None:
        """As a crash; its socket is left."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
            self._socket.unlink(missing_ok=True)
