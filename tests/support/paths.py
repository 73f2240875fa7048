"""Where things lie in the checkout."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SUPPORT = REPOSITORY / "tests" / "support"
GOLDEN = REPOSITORY / "tests" / "golden"
MEDIA = REPOSITORY / "tests" / "media"
