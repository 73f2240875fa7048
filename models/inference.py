"""ONNX Runtime and OpenVINO, kept from reporting to their makers. The only place that may import either.

ONNX Runtime (from 1.29) and OpenVINO send telemetry when imported and leave an id in the home folder. ONNX Runtime is
told not to, which children inherit. OpenVINO takes its own stub if `openvino_telemetry` cannot be imported.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import onnxruntime as onnxruntime  # noqa: E402 - only now


def import_openvino() -> Any:
    """Import OpenVINO, which is an extra: raises `ImportError` if it is not installed."""
    import openvino  # noqa: PLC0415 - an extra

    return openvino
