"""What a command says when the server it asks refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HINTS = {
    "unauthorized": "set FOLEY_API_KEY to a key that `foley keys create` made there",
    "insufficient_scope": "set FOLEY_API_KEY to a key of that scope",
}


def explain_refusal(status: int, problem: Mapping[str, Any]) -> str:
    """Say in one line what a problem document says, and what helps.

    Args:
        status: Status of the answer.
        problem: Its body; RFC 9457.

    Returns:
        The reason, its code, and a hint where there is one: `the file has 0 bytes (empty)`.
    """
    code = problem.get("code")
    text = str(problem.get("detail") or problem.get("title") or f"status {status}")
    text += f" ({code})" if code else ""
    return f"{text}: {HINTS[code]}" if code in HINTS else text
