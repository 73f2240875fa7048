"""The base of all errors of ours."""

from __future__ import annotations


class Failure(Exception):
    """An error of ours. Each is defined beside the code that raises it; its message gives the value and the limit.

    Attributes:
        code: Its stable name in the ledger and over HTTP; `service.http.problems` has a row for each.
        is_public: Whether a client is shown the message, or only the title of the problem.
    """

    code: str = "internal_error"
    is_public: bool = True
