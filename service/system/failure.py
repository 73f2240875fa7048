"""The base of all errors of ours."""

from __future__ import annotations


class Failure(Exception):
    """An error of ours, defined beside the code that raises it; its message gives the value and the limit."""

    code: str = "internal_error"  # in the ledger and over HTTP; `service.http.problems` has a row for each
    is_public: bool = True  # whether a client is shown the message, or only the title of the problem
