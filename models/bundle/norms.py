"""The norms of an exported graph: their channels made larger or smaller, the function of the graph unchanged.

    add_outliers(Path("audio.onnx"), Path("stressed.onnx"))

A LayerNorm multiplies channel c by gamma_c and adds beta_c; the layers that read it multiply channel c by row c of
their weights. So for any s_c > 0

    gamma_c · s_c,  beta_c · s_c,  W[c, :] / s_c

is the same function, but the numbers between the two are other ones: that is what a low precision is tried on. An
RMSNorm is exported as its parts, of which the last is the product with gamma; there is no beta.

The file is changed where its numbers lie, found by walking its protobuf fields, so neither the package `onnx` nor
memory for a second copy is needed. The numbers of the fields are those of onnx.proto, which never change. Numbers
that lie outside the file, as in graphs above 2 GB, are copied beside the copy and changed there.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import DATA_SUFFIX

NUM_OUTLIERS = 6
"""Channels of each LayerNorm that become outliers."""
OUTLIER_FACTOR = 30.0
"""How many times larger they become."""

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
GRAPH = 7  # of a model
NODE, INITIALIZER = 1, 5  # of a graph
INPUT, OUTPUT, OP_TYPE = 1, 2, 4  # of a node
DIMS, DATA_TYPE, TENSOR_NAME, RAW_DATA, OUTSIDE = 1, 2, 8, 9, 13  # of a tensor
KEY, VALUE = 1, 2  # of an entry that says where numbers lie outside
DTYPES: Mapping[int, type[np.floating]] = {1: np.float32, 10: np.float16}

Scale = Callable[[NDArray[np.floating], NDArray[np.floating]], NDArray[np.floating]]
Field = tuple[int, int, int, int]  # number, value of a varint, first byte and end of the bytes


class NoScalableNorm(ValueError):
    """The graph has no norm that is read by matrix products with fixed weights alone."""


@dataclass(frozen=True, kw_only=True)
class _Node:
    """One operation of a graph with the names of its inputs and outputs."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def add_outliers(source: Path, target: Path) -> int:
    """Write a copy of a graph in which six channels of every LayerNorm are thirty times larger.

    Args:
        source: ONNX file.
        target: File to write.

    Returns:
        How many LayerNorms were changed.
    """
    rng = np.random.default_rng(0)

    def scale(gamma: NDArray[np.floating], _: NDArray[np.floating]) -> NDArray[np.floating]:
        factors = np.ones(len(gamma))
        factors[rng.permutation(len(gamma))[:NUM_OUTLIERS]] = OUTLIER_FACTOR
        return factors

    return rescale_norms(source, target, scale)


def level_channels(source: Path, target: Path) -> int:
    """Write a copy of a graph in which every channel of a LayerNorm is equally large: a root mean square of 1.

    What leaves the normalisation has mean 0 and variance 1, so after gamma and beta channel c has a mean square of
    gamma_c² + beta_c². Integers of 8 bits, which share one scale among all channels, lose nothing to outliers that a
    LayerNorm makes (https://arxiv.org/abs/2209.13325 calls it gamma migration). No data is needed for it.

    Args:
        source: ONNX file.
        target: File to write.

    Returns:
        How many LayerNorms were changed.
    """
    return rescale_norms(
        source,
        target,
        lambda gamma, beta: 1 / np.sqrt(np.maximum(gamma**2 + beta**2, 1e-8)).astype(np.float64),
    )


def rescale_norms(source: Path, target: Path, scale: Scale) -> int:
    """Write a copy of a graph with other channels between its LayerNorms and the layers that read them.

    A norm that something else reads than matrix products with fixed weights is left as it is.

    Args:
        source: ONNX file, float32 or float16.
        target: File to write, in another folder if the numbers of the source lie outside it.
        scale: Gives the factor of each channel, shape (D,), from gamma and beta, shape (D,) each.

    Returns:
        How many norms were changed.

    Raises:
        NoScalableNorm: If none can be changed.
    """
    shutil.copyfile(source, target)
    data = np.memmap(target, np.uint8, mode="r+")
    beside = source.with_name(source.name + DATA_SUFFIX)
    outside = np.zeros(0, np.uint8)
    if beside.exists():
        shutil.copyfile(beside, target.with_name(beside.name))
        outside = np.memmap(target.with_name(beside.name), np.uint8, mode="r+")
    nodes, arrays = _read_graph(data, outside, beside.name)
    num_changed = 0
    for gamma, beta, weights in _scalable_norms(nodes, arrays):
        factors = scale(gamma.astype(np.float64), beta.astype(np.float64))
        for vector in (gamma, beta):
            vector[:] = vector * factors
        for matrix in weights:
            matrix[:] = matrix / factors[:, None]
        num_changed += 1
    data.flush()
    if not num_changed:
        raise NoScalableNorm(f"{source} has no norm that only matrix products with fixed weights read")
    return num_changed


def _scalable_norms(
    nodes: list[_Node], arrays: Mapping[str, NDArray[np.floating]]
) -> Iterator[tuple[NDArray[np.floating], NDArray[np.floating], list[NDArray[np.floating]]]]:
    readers = defaultdict(list)
    for node in nodes:
        for name in node.inputs:
            readers[name].append(node)
    num_readers = Counter({name: len(found) for name, found in readers.items()})

    def weights_of(name: str) -> list[NDArray[np.floating]] | None:
        found = []
        for reader in readers[name]:
            if reader.op_type != "MatMul" or reader.inputs[0] != name:
                return None
            weight = reader.inputs[1]
            if weight not in arrays or num_readers[weight] > 1:
                return None
            found.append(arrays[weight])
        return found

    for node in nodes:
        vectors = _vectors_of(node, arrays)
        if not vectors or any(num_readers[name] > 1 for name in vectors):
            continue
        if weights := weights_of(node.outputs[0]):
            gamma = arrays[vectors[0]]
            yield gamma, arrays[vectors[1]] if len(vectors) > 1 else np.zeros_like(gamma), weights


def _vectors_of(node: _Node, arrays: Mapping[str, NDArray[np.floating]]) -> tuple[str, ...]:
    """Gamma and beta of a LayerNorm, or gamma of an RMSNorm; nothing for any other operation."""
    if node.op_type == "LayerNormalization":
        names = node.inputs[1:3]
        return names if all(name in arrays for name in names) else ()
    fixed = tuple(name for name in node.inputs if name in arrays)
    is_product = node.op_type == "Mul" and len(fixed) == 1 and arrays[fixed[0]].ndim == 1
    return fixed if is_product and arrays[fixed[0]].size > 1 else ()


def _read_graph(
    data: NDArray[np.uint8], outside: NDArray[np.uint8], location: str
) -> tuple[list[_Node], dict[str, NDArray[np.floating]]]:
    """The operations of a model, and its floating-point arrays as writable views of the file."""
    nodes: list[_Node] = []
    arrays: dict[str, NDArray[np.floating]] = {}
    for number, _, first, end in _fields(data, 0, len(data)):
        if number != GRAPH:
            continue
        for inner, _, begin, stop in _fields(data, first, end):
            if inner == NODE:
                nodes.append(_read_node(data, begin, stop))
            elif inner == INITIALIZER:
                named = _read_tensor(data, begin, stop, outside, location)
                if named is not None:
                    arrays[named[0]] = named[1]
    return nodes, arrays


def _read_node(data: NDArray[np.uint8], first: int, end: int) -> _Node:
    texts: dict[int, list[str]] = {INPUT: [], OUTPUT: [], OP_TYPE: []}
    for number, _, begin, stop in _fields(data, first, end):
        if number in texts:
            texts[number].append(data[begin:stop].tobytes().decode())
    return _Node(op_type=texts[OP_TYPE][0], inputs=tuple(texts[INPUT]), outputs=tuple(texts[OUTPUT]))


def _read_tensor(
    data: NDArray[np.uint8], first: int, end: int, outside: NDArray[np.uint8], location: str
) -> tuple[str, NDArray[np.floating]] | None:
    """Return name and numbers of a tensor, or None if they are integers or not stored as raw bytes."""
    dims: list[int] = []
    name, dtype, raw = "", 0, None
    place: dict[str, str] = {}
    for number, value, begin, stop in _fields(data, first, end):
        if number == DIMS:  # one after another, or packed into one field
            dims += [value] if begin == stop else [v for v, _ in _varints(data, begin, stop)]
        elif number == DATA_TYPE:
            dtype = value
        elif number == TENSOR_NAME:
            name = data[begin:stop].tobytes().decode()
        elif number == RAW_DATA:
            raw = data[begin:stop]
        elif number == OUTSIDE:
            entry = {key: data[b:e].tobytes().decode() for key, _, b, e in _fields(data, begin, stop)}
            place[entry[KEY]] = entry[VALUE]
    if place.get("location") == location:
        at = int(place.get("offset", 0))
        raw = outside[at : at + int(place.get("length", 0))]
    if dtype not in DTYPES or raw is None or raw.size != np.prod(dims) * np.dtype(DTYPES[dtype]).itemsize:
        return None
    return name, raw.view(DTYPES[dtype]).reshape(dims)


def _fields(data: NDArray[np.uint8], at: int, end: int) -> Iterator[Field]:
    """The fields of one protobuf message."""
    while at < end:
        key, at = _varint(data, at)
        number, kind, value, size = key >> 3, key & 7, 0, 0
        if kind == VARINT:
            value, at = _varint(data, at)
        elif kind == BYTES:
            size, at = _varint(data, at)
        elif kind in (FIXED_64, FIXED_32):
            size = 8 if kind == FIXED_64 else 4
        else:
            raise NoScalableNorm(f"the file is not an ONNX model: field of kind {kind} at byte {at}")
        yield number, value, at, at + size
        at += size


def _varints(data: NDArray[np.uint8], at: int, end: int) -> Iterator[tuple[int, int]]:
    while at < end:
        value, at = _varint(data, at)
        yield value, at


def _varint(data: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """Read a varint (seven bits a byte, lowest first); return it and its end."""
    value = shift = 0
    while True:
        byte = int(data[at])
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at
