"""What every error of ours has in common: a stable name, for programs."""

from __future__ import annotations


class Failure(Exception):
    """An error of ours. Each lives beside the code that raises it and gives the value and the limit.

    Attributes:
        code: Its stable name in the ledger and over HTTP; `service.http.problems` has a row for each.
        is_public: Whether a client is shown the message, or only the title of the problem.
    """

    code: str = "internal_error"
    is_public: bool = True
