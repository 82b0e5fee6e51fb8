# SPDX-License-Identifier: LGPL-2.1-or-later
"""What build tools speak, and what is known of their steps."""
