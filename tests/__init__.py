# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of this machine and of the guest it boots: a package, so that `tests.vm` is one name everywhere."""
