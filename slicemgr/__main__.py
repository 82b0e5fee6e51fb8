# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python -m slicemgr` is the command line."""

from slicemgr.cli import main

raise SystemExit(main())
