"""Lets the suite use the helpers of the tests of the service and of the decoder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
for folder in ("service", "models"):
    if str(TESTS / folder) not in sys.path:
        sys.path.append(str(TESTS / folder))
os.environ.setdefault("FOLEY_PRECISION", "fp32")
