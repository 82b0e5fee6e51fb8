# SPDX-License-Identifier: LGPL-2.1-or-later
"""How builds are paced here: by the configuration, and by what was said for this one job."""

import os
from collections.abc import Mapping, Sequence

from slicemgr.config import ConfigError, Tree, files, schema
from slicemgr.kernel.machine import MachineReader
from slicemgr.model.pacing import PacingSettings
from slicemgr.policy.slice_limits import amount_bytes, thresholds


def settings_for(environment: Mapping[str, str], never_hold: Sequence[str]) -> PacingSettings:
    """A configuration with a fault in it is the daemon's and `slicemgr config`'s to tell of: then the defaults hold."""
    try:
        config = schema.read(files.load(files.directories(environment if os.getuid() else None)))
    except ConfigError:
        config = schema.read(Tree())
    machine = MachineReader()
    try:
        reading = machine.reading()
    finally:
        machine.close()
    spec = config.pacing
    return PacingSettings(
        enabled=spec.enabled,
        never_hold=(*spec.never_hold, *never_hold),
        borrow_bytes=amount_bytes(spec.borrow, reading.total_bytes),
        reserve_bytes=thresholds(config.machine, reading.total_bytes, reading.swap_total_bytes).available_bytes,
    )
