"""The two modalities, and the embeddings of one segment of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.system.failure import Failure

Modality = Literal["audio", "video"]
MODALITIES: tuple[Modality, ...] = ("audio", "video")


Track = NDArray[np.float32]  # (T, D): one embedding per moment


OPPOSITE: Mapping[Modality, Modality] = {"audio": "video", "video": "audio"}


class NotEmbedded(Failure):
    """The active bundle does not embed what was asked for."""

    code = "not_embedded"


class NotComparable(Failure):
    """The active bundle embeds sound and picture in spaces of their own: they cannot be compared."""

    code = "not_comparable"


NAMES: Mapping[Modality, str] = {"audio": "sound", "video": "picture"}


def name_direction(target: Modality) -> str:
    """The one name of a search across the modalities: `sound → picture` searches for pictures with a sound."""
    return f"{NAMES[OPPOSITE[target]]} → {NAMES[target]}"
