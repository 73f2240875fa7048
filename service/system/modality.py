"""The two modalities, and the embeddings of one segment of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Modality = Literal["audio", "video"]
MODALITIES: tuple[Modality, ...] = ("audio", "video")


Track = NDArray[np.float32]  # (T, D): one unit embedding per moment


OPPOSITE: Mapping[Modality, Modality] = {"audio": "video", "video": "audio"}
