# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python -m slicemgr`, but that root's history is the tests' own too (conftest.py): it obeys no variable."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from slicemgr.cli import main
from slicemgr.service import places

# Without the variable (test_install.py) there is no place to write to, and none is made.
places.SYSTEM_STATE = os.path.join(os.environ.get("XDG_STATE_HOME") or "/proc/nowhere", "slicemgr")  # type: ignore[misc]

raise SystemExit(main())
