# SPDX-License-Identifier: LGPL-2.1-or-later
"""slicemgr keeps builds and desktop sessions in separate memory slices, and acts only inside the offending one."""

__version__ = "0.1.0"
