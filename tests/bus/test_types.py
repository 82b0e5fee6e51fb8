# SPDX-License-Identifier: LGPL-2.1-or-later
"""PyGObject makes its types when they are asked for, and not safely: ours are all made before there are threads."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bus.private_bus import PrivateBus

CODE = """
import asyncio, gc, json, os, sys
from gi.module import IntrospectionModule
from slicemgr.bus.client import BUS, BUS_PATH, BusClient
from slicemgr.bus.errors import NotFoundError, RemoteError
from slicemgr.bus.objects import BUS_NAME, MANAGER, ROOT
from slicemgr.bus.server import BusServer

def types():
    modules = [each for each in gc.get_objects() if isinstance(each, IntrospectionModule)]
    return {f"{module._namespace}.{name}" for module in modules for name, value in module.__dict__.items()
            if isinstance(value, type)}

async def handle(call):
    if call.method == "Reload":
        raise NotFoundError("no; try yes")
    return ({},)

async def main():
    before = types()
    loop = asyncio.get_running_loop()
    there, known = asyncio.Event(), asyncio.Event()
    server = BusServer(sys.argv[1], loop=loop, handle=handle, reads={}, refresh=lambda: None,
                       tell=lambda state: loop.call_soon_threadsafe(known.set))
    client = BusClient(sys.argv[1], loop=loop, connected=there.set)
    server.publish({ROOT: {MANAGER: {"Version": "1"}}})
    server.start()
    client.start()
    await asyncio.wait_for(asyncio.gather(there.wait(), known.wait()), 20)
    heard = asyncio.Event()
    client.subscribe(BUS_NAME, MANAGER, "JobAdded", lambda *_: heard.set())
    await client.call(BUS, BUS_PATH, BUS, "GetId")
    await client.call(BUS_NAME, ROOT, MANAGER, "Explain", "(sa{sv})", ("x", {"a": 1}))
    try:
        await client.call(BUS_NAME, ROOT, MANAGER, "Reload", "(a{sv})", ({},))
    except RemoteError as error:
        assert str(error) == "no; try yes"
    server.emit(ROOT, MANAGER, "JobAdded", "x", ROOT)
    await asyncio.wait_for(heard.wait(), 20)
    client.stop()
    server.stop()
    print(json.dumps(sorted(types() - before)))

asyncio.run(main())
"""


def test_no_type_is_made_in_a_thread(bus: PrivateBus) -> None:
    """A conversation with everything in it, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", CODE, bus.address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
