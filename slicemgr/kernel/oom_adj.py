# SPDX-License-Identifier: LGPL-2.1-or-later
"""oom_score_adj of another process: who it is is proven on a pidfd, and only then it is written.

Facts (fs/proc/base.c, __set_oom_adj; proc_pid_oom_score_adj(5)):

- A child has its parent's value from its fork on (copy_signal), whatever the parent's becomes later.
- It is one value for all who share an address space by clone(CLONE_VM): written for one, it is the others' as well. Not
  so between a vfork and the exec: that child has a value of its own (4.8, "vfork which wants its own oom_score_adj").
- Without CAP_SYS_RESOURCE nobody goes below the last value that somebody with it has written; whoever has it moves that
  floor with every write. So an app that we have given 200 back can't lower itself to the 100 that its user's manager
  has; no file tells the floor.
- The open file is bound to the process and not to its number: written after its end it is ESRCH.
"""

import os
from typing import Final

from slicemgr.kernel.errors import NotPermittedError, ProcessGoneError
from slicemgr.kernel.kill import ProvenProcess
from slicemgr.model.process import OOM_SCORE_ADJ_MAX, OOM_SCORE_ADJ_MIN, ProcessIdentity

_LONGEST_READ: Final = 16


def adjust(identity: ProcessIdentity, value: int, *, only_from: int | None = None) -> int:
    """Set it to -999 to 1000, unless `only_from` is given and it has another one. Returns what it had before.

    Raises ProcessGoneError; NotPermittedError: another user's, or below the floor without CAP_SYS_RESOURCE;
    RefusedError: pid 1, ourselves, or -1000, which somebody has meant; OSError where no descriptor is to be had;
    ValueError.
    """
    if not OOM_SCORE_ADJ_MIN < value <= OOM_SCORE_ADJ_MAX:
        raise ValueError(f"no oom_score_adj that we set: {value}")
    with ProvenProcess(identity) as process:
        file = _opened(identity.pid)
        try:
            process.check()
            before = int(os.read(file, _LONGEST_READ))
            if before != value and only_from in {None, before}:
                os.write(file, b"%d" % value)
            return before
        except ProcessLookupError as error:
            raise ProcessGoneError(identity.pid) from error
        except PermissionError as error:
            raise NotPermittedError(identity.pid, f"set oom_score_adj {value} of") from error
        finally:
            os.close(file)


def _opened(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGoneError(pid) from error
    except PermissionError as error:
        raise NotPermittedError(pid, "set oom_score_adj of") from error
