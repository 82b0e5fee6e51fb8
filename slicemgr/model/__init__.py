# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values and words: frozen dataclasses and enums that every other floor speaks; no I/O, no clock, no logging."""
