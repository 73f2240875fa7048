"""The base of all errors of ours."""

from __future__ import annotations

import errno


class Failure(Exception):
    """An error of ours, defined beside the code that raises it; its message gives the value and the limit."""

    code: str = "internal_error"  # in the ledger and over HTTP; `service.http.problems` has a row for each
    is_public: bool = True  # whether a client is shown the message, or only the title of the problem


def is_out_of_files(exc: Exception) -> bool:
    """Whether this process or the machine has too many files open: that passes."""
    return isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE)
