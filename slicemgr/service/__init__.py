# SPDX-License-Identifier: LGPL-2.1-or-later
"""The asyncio floor: the only place where kernel, policy and placement meet."""
