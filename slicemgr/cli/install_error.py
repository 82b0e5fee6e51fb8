# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why `slicemgr install` could not do it."""

from slicemgr.cli.exit_codes import ExitCode


class InstallError(Exception):
    """It can't be done; says what to try."""

    def __init__(self, message: str, status: ExitCode = ExitCode.OWN_FAILURE) -> None:
        super().__init__(message)
        self.status = status
