# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every backend gives: a job where it has been put."""

from dataclasses import dataclass

from slicemgr.model.source import JobSource


@dataclass(frozen=True, slots=True)
class JobHandle:
    """A job where it has been put."""

    backend: str
    """For reports: `embedded`."""
    source: JobSource
