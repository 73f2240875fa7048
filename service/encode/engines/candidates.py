"""Which engine and precision serve a bundle here: the candidates, fastest first, and what stands in the way of each.

candidate               needs
tensorrt fp16 / tf32    FOLEY_TENSORRT=1, an NVIDIA GPU, TensorRT's libraries
onnxruntime-cuda fp16   an NVIDIA GPU, the fp16 variant of the bundle
onnxruntime-cuda tf32   an NVIDIA GPU
onnxruntime-cuda fp32   an NVIDIA GPU
openvino bf16           a processor that multiplies bfloat16, the extra [openvino]
openvino fp32           the extra [openvino]
onnxruntime fp32        nothing
onnxruntime int8        the int8 variant of the bundle, and to be asked for
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from models.bundle.bundle import Bundle, Variant, load_variant
from models.inference import onnxruntime
from service.encode.engines.contract import (
    Device,
    DeviceMissing,
    Engine,
    EngineMissing,
    EngineName,
    EngineOptions,
    Graphs,
    Precision,
)
from service.encode.engines.hardware import has_bf16, has_cuda_driver, installed_version
from service.encode.engines.onnx_cpu import OnnxCpuEngine
from service.encode.engines.onnx_cuda import CUDA, OnnxCudaEngine
from service.encode.engines.openvino_cpu import INSTALL, OpenVinoEngine

GPU: frozenset[EngineName] = frozenset({"tensorrt", "onnxruntime-cuda"})
EXACT: Precision = "fp32"
OPT_IN: frozenset[Precision] = frozenset({"int8"})
WITH_GRAPHS: frozenset[Precision] = frozenset({"fp16", "int8"})


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine in one precision."""

    engine: EngineName
    precision: Precision

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"

    @property
    def version(self) -> str:
        """Version of the engine's package: agreement may depend on it."""
        if self.engine == "openvino":
            return installed_version("openvino") or "not installed"
        return str(onnxruntime.__version__)


RANKING = (
    Candidate(engine="tensorrt", precision="fp16"),
    Candidate(engine="tensorrt", precision="tf32"),
    Candidate(engine="onnxruntime-cuda", precision="fp16"),
    Candidate(engine="onnxruntime-cuda", precision="tf32"),
    Candidate(engine="onnxruntime-cuda", precision="fp32"),
    Candidate(engine="onnxruntime", precision="int8"),
    Candidate(engine="openvino", precision="bf16"),
    Candidate(engine="openvino", precision="fp32"),
    Candidate(engine="onnxruntime", precision="fp32"),
)
"""Fastest first."""


def candidates(
    *, device: Device, precision: Precision | Literal["auto"], tensorrt: bool = False
) -> tuple[Candidate, ...]:
    """What the settings allow, fastest first, at least one; raises `EngineMissing` if they contradict each other."""
    allowed = [
        candidate
        for candidate in RANKING
        if (candidate.engine == "tensorrt") == tensorrt
        if device == "auto" or (candidate.engine in GPU) == (device == "cuda")
        if candidate.precision == precision or (precision == "auto" and candidate.precision not in OPT_IN)
    ]
    if not allowed:
        wish = f"device {device}, precision {precision}" + (", TensorRT" if tensorrt else "")
        having = ", ".join(str(candidate) for candidate in RANKING)
        raise EngineMissing(f"no engine has {wish}; there are {having}")
    return tuple(allowed)


def open_candidate(candidate: Candidate, graphs: Graphs, options: EngineOptions) -> Engine:
    """Load graphs in a candidate's precision on its engine."""
    if candidate.engine in GPU:
        return OnnxCudaEngine(
            graphs, options, precision=candidate.precision, uses_tensorrt=candidate.engine == "tensorrt"
        )
    if candidate.engine == "openvino":
        return OpenVinoEngine(graphs, options, precision=cast(Literal["bf16", "fp32"], candidate.precision))
    return OnnxCpuEngine(graphs, options)


def find_variant(candidate: Candidate, bundle: Bundle) -> Variant | None:
    """The variant that a candidate runs, None if the bundle's own graphs; raises `EngineMissing` if it is not there."""
    if candidate.precision not in WITH_GRAPHS:
        return None
    variant = load_variant(bundle, candidate.precision)
    if variant is None:
        command = f"foley-train convert {bundle.path} --precision {candidate.precision} --media FOLDER"
        raise EngineMissing(
            f"the bundle has no {candidate.precision} graphs beside it: `{command}` makes them"
        )
    return variant


def check_hardware(candidate: Candidate) -> None:
    """Raise what keeps a candidate from running here, as far as that can be told without loading anything.

    `DeviceMissing`: there is no GPU driver, or ONNX Runtime has no CUDA. `EngineMissing`: a package is not installed,
    or the processor lacks the precision.
    """
    if candidate.engine in GPU:
        if CUDA not in onnxruntime.get_available_providers():
            raise DeviceMissing("this build of ONNX Runtime has no CUDA: pip install onnxruntime-gpu")
        if not has_cuda_driver():
            raise DeviceMissing("no CUDA device was found")
    if candidate.engine == "openvino":
        if candidate.precision == "bf16" and not has_bf16():
            raise EngineMissing("the processor has neither avx512_bf16 nor amx_bf16")
        if installed_version("openvino") is None:
            raise EngineMissing(f"OpenVINO is not installed: {INSTALL}")
