"""The machine's peak in matrix products: one large product by every installed library.

The share of the peak that an encoder reaches says how much is left to gain on any machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from models.inference import import_openvino, onnxruntime
from service.encode.engines.hardware import installed_version

SIDE = 2048
GFLOP = 2 * SIDE**3 / 1e9
Call = Callable[[], object]


class MatrixPeak:
    """Products of two 2048 × 2048 matrices in float32 and bfloat16; call `measure` between the calls to compare with.

    Args:
        num_threads: Threads of each product.
    """

    def __init__(self, num_threads: int) -> None:
        self._calls: dict[str, list[Call]] = {"fp32": [], "bf16": []}
        self._rates: dict[str, list[float]] = {"fp32": [], "bf16": []}
        values = np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32)
        self._add_torch(values)
        self._add_onnxruntime(values, num_threads)
        if installed_version("openvino") is not None:
            self._add_openvino(values, num_threads)
        for calls in self._calls.values():
            for call in calls:
                call()

    def _add_torch(self, values: np.ndarray) -> None:
        a = torch.from_numpy(values)
        half = a.bfloat16()
        self._calls["fp32"].append(lambda: a @ a)
        self._calls["bf16"].append(lambda: half @ half)

    def _add_onnxruntime(self, values: np.ndarray, num_threads: int) -> None:
        shape = [SIDE, SIDE]
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["a", "b"], ["c"])],
            "product",
            [helper.make_tensor_value_info("a", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("c", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(values, "b")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        session = onnxruntime.InferenceSession(
            onnx.ModelProto.SerializeToString(model), options, providers=["CPUExecutionProvider"]
        )
        self._calls["fp32"].append(lambda: session.run(None, {"a": values}))

    def _add_openvino(self, values: np.ndarray, num_threads: int) -> None:
        openvino = import_openvino()
        opset = openvino.opset13
        core = openvino.Core()
        for precision, hint in (("fp32", "f32"), ("bf16", "bf16")):
            a = opset.parameter([SIDE, SIDE], np.float32)
            product = opset.matmul(a, opset.constant(values), False, False)
            compiled = core.compile_model(
                openvino.Model([product], [a], "product"),
                "CPU",
                {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": num_threads, "NUM_STREAMS": 1},
            )
            request = compiled.create_infer_request()
            self._calls[precision].append(lambda request=request: request.infer([values]))  # type: ignore[misc]

    def measure(self) -> None:
        """Multiply once with every library and record the rates."""
        for precision, calls in self._calls.items():
            for call in calls:
                began = time.process_time()
                call()
                self._rates[precision].append(GFLOP / (time.process_time() - began))

    def best(self, precision: str) -> float:
        """Return the best rate so far, in GFLOP a core-second."""
        return max(self._rates[precision])
