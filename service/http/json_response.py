"""A JSON answer, written once and by pydantic's serialiser; a number that is none becomes null."""

from __future__ import annotations

import pydantic_core
from starlette.responses import Response


class JsonResponse(Response):
    """Answers with a document of JSON values."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """The document as text."""
        return pydantic_core.to_json(content, inf_nan_mode="null")
