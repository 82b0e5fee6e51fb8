# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon's ear in a process of its own, to be killed: `python -m tests.service.sharing_daemon MOUNT SOCKET`."""

from __future__ import annotations

import asyncio
import sys

from slicemgr.service.budget_shares import BudgetShares
from slicemgr.service.control import ControlServer


async def main(mount: str, path: str) -> None:
    """Watch whatever it is asked to, until killed."""

    async def at_rest() -> None:
        """No kill is ever under way."""

    server = ControlServer(path, refusal=lambda cgroup, uid: None, at_rest=at_rest, shares=BudgetShares(mount))
    await server.start(for_everybody=False)
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
