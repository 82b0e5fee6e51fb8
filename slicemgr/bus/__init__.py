# SPDX-License-Identifier: LGPL-2.1-or-later
"""D-Bus. The only rooms that know GLib, and who may wait for whom there:

    bus-server -> nobody      loop -> bus-client (futures with a time-out, never in guard.py)      bus-client -> the bus

- Thread "bus-server" (server.py) publishes the objects. It answers reads from an immutable tree that the loop swaps by
  one assignment; every other method starts a coroutine on the loop, which answers the call when it is done.
- Thread "bus-client" (client.py) makes the outgoing calls, each with a time-out, and has all subscriptions.
- The loop hands values to both and is handed values by both; neither ever waits for it.

With one thread for both, a published method that makes the service manager start a unit waits for a signal behind
itself (measured: for ever), and three slow methods at once took three times as long as one.

The command line has none of these threads: it asks with control.py, and waits for each answer.
"""
