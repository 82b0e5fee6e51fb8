# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a job is put, and what can be done to it there."""
