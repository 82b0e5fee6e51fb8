# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine: short, bounded calls to the kernel, one place per file format; raises, never waits, never decides."""
