# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a daemon sees when somebody asks it: slices and jobs with their figures, and who would be ended now."""

import os
from collections.abc import Callable

from slicemgr.config.schema import Config
from slicemgr.kernel import procfs
from slicemgr.model.cgroup import owner_of
from slicemgr.model.process import ProcessIdentity
from slicemgr.service.explanation import Explanation, explain, spec_for
from slicemgr.service.overview import SYSTEM_ROOT, SliceOverview, look, look_with_users, user_root


class Views:
    """For any thread."""

    def __init__(
        self,
        user_uid: int | None,
        config: Callable[[], Config],
        *,
        total_bytes: int,
        spared: Callable[[], frozenset[ProcessIdentity]],
    ) -> None:
        """Of a user's daemon, or the system's; `config` is what holds when somebody looks."""
        self._user_uid = user_uid
        self._config = config
        self._total_bytes = total_bytes
        self._spared = spared

    def look(self) -> tuple[SliceOverview, ...]:
        """At all slices that are the daemon's to show. Raises KernelError, OSError."""
        if self._user_uid is not None:
            return look(self._config().slices, user_root(self._user_uid))
        # On the system bus no command lines are published.
        return look_with_users(self._config().slices, with_command_lines=False)

    def explain(self, cgroup: str) -> Explanation:
        """Who would be ended there now. Raises KernelError."""
        uid = owner_of(cgroup)
        spec = spec_for(cgroup, user_root(uid) if uid else SYSTEM_ROOT, self._config().slices)
        return explain(
            cgroup,
            spec,
            ourselves=procfs.ancestors_of(os.getpid()),
            machine_total_bytes=self._total_bytes,
            spared=self._spared,
        )
