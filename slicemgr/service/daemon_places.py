# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a daemon reads and writes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slicemgr.config import files
from slicemgr.service.places import bus_address, control_socket, state_directory


@dataclass(frozen=True, slots=True)
class Places:
    """Where a daemon reads and writes."""

    socket: str
    state: str
    """The directory of the history."""
    config: tuple[Path, ...]
    bus: str
    """The address of the bus where it is to be reached."""
    system_bus: str
    """The address of the one that login1 is on."""

    @classmethod
    def of(cls, *, is_user: bool, environment: Mapping[str, str]) -> "Places":
        """By the XDG directories for a user's daemon; /run and /var/lib for the system's."""
        uid = os.getuid() if is_user else None
        config = tuple(files.directories(environment if is_user else None))
        return cls(
            control_socket(uid, environment),
            state_directory(uid, environment),
            config,
            bus_address(uid, environment),
            bus_address(None, environment),
        )

    @property
    def runtime(self) -> str:
        """The directory of what outlives a SIGKILL, and no boot."""
        return os.path.dirname(self.socket)
