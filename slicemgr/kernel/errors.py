# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong between us and the kernel; each is different news, and each carries its path or pid."""

import os


class KernelError(Exception):
    """Any of the below."""


class ProcessGoneError(KernelError):
    """The process has ended, or its pid belongs to another one by now. Not a failure: processes end."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid} is gone")
        self.pid = pid


class FormatError(KernelError):
    """A kernel file does not look as its documentation says: the kernel is newer than we are, or no kernel."""

    def __init__(self, what: str, text: bytes) -> None:
        super().__init__(f"{what} has an unknown format: {text[:80]!r}")
        self.what = what


class NotPermittedError(KernelError):
    """The process exists and is not ours to touch; with hidepid=1, not even ours to look at."""

    def __init__(self, pid: int, operation: str) -> None:
        super().__init__(f"not permitted to {operation} process {pid}")
        self.pid = pid


class CgroupGoneError(KernelError):
    """The cgroup has been removed, or another one has its name by now. Not a failure: jobs end."""

    def __init__(self, path: str) -> None:
        super().__init__(f"cgroup {path} is gone")
        self.path = path


class CgroupNotPermittedError(KernelError):
    """The cgroup exists and is not ours to touch: EACCES, EPERM, or a file system mounted read-only."""

    def __init__(self, path: str, operation: str) -> None:
        super().__init__(f"not permitted to {operation} cgroup {path}")
        self.path = path
        self.operation = operation


class CgroupRefusedError(KernelError):
    """The kernel knows the request and declines: EBUSY for processes in an inner node, EINVAL for a value."""

    def __init__(self, path: str, operation: str, errno: int) -> None:
        super().__init__(f"the kernel refused to {operation} cgroup {path}: {os.strerror(errno)}")
        self.path = path
        self.operation = operation
        self.errno = errno


class NotSupportedError(KernelError):
    """The machine lacks something; the message says what, and what to try."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}; try {hint}")
        self.what = what
        self.hint = hint
