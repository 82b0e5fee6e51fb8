# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong between us and the kernel; each is different news, and each carries its path or pid."""


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
