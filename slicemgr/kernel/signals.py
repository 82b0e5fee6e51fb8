# SPDX-License-Identifier: LGPL-2.1-or-later
"""The module `signal` without its enums: what `slicemgr run` reads before its command starts.

Python's own signal.py turns the numbers of its C module into enums at import, for which it reads `enum`, 4 ms of the
8 that slicemgr takes. The C module is loaded at the interpreter's start in any case, and does the same with plain
numbers.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    try:
        import _signal as signal
    except ImportError:  # An interpreter that is not CPython.
        import signal

__all__ = ["signal"]
