"""No media file opens another file or the network. The controls show that each of two walls holds alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.media.clip import ClipSpec, UnreadableClip
from service.decode.decoder import Decoder
from service.decode.landlock import FIRST_WITH_TCP, landlock_version
from service.decode.sandbox import WorkerLimits
from tests.support.hostile.escapes import ESCAPES, Canaries, decode_without_allow_list
from tests.support.paths import REPOSITORY

FOLDERS = (REPOSITORY / "tests",)
REACHING = [name for name, escape in ESCAPES.items() if escape.reaches]
LEAKING = [name for name, escape in ESCAPES.items() if escape.leaks]


@pytest.fixture(scope="module")
def walled() -> Iterator[Decoder]:
    with Decoder(num_workers=1, limits=WorkerLimits(readable_folders=FOLDERS)) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def unwalled() -> Iterator[Decoder]:
    with Decoder(num_workers=1, limits=WorkerLimits(restricts_files=False)) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canaries]:
    with Canaries(tmp_path_factory.mktemp("escapes") / "secret") as canaries:
        yield canaries


def write(name: str, canaries: Canaries) -> Path:
    path = canaries.folder / ESCAPES[name].file_name
    path.write_bytes(ESCAPES[name].content(canaries))
    canaries.take()
    return path


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("wall", ["both walls", "the allow-list alone"])
def test_nothing_else_is_opened(
    name: str, wall: str, walled: Decoder, unwalled: Decoder, canaries: Canaries
) -> None:
    path = write(name, canaries)
    decoder = walled if wall == "both walls" else unwalled
    with pytest.raises(UnreadableClip) as caught:
        decoder.submit(path, ClipSpec(), timeout_seconds=20.0).result()
    assert caught.value.code == ESCAPES[name].outcome
    assert canaries.take() == set()


@pytest.mark.parametrize("name", REACHING)
def test_the_canaries_notice_ffmpeg_without_walls(name: str, unwalled: Decoder, canaries: Canaries) -> None:
    path = write(name, canaries)
    unwalled.call(decode_without_allow_list, 20.0, str(path))
    assert ESCAPES[name].reaches in canaries.take()


@pytest.mark.parametrize("name", LEAKING)
def test_landlock_alone_holds_and_without_it_ffmpeg_gets_out(
    name: str, walled: Decoder, unwalled: Decoder, canaries: Canaries
) -> None:
    if landlock_version() < FIRST_WITH_TCP:
        pytest.skip("needs Landlock version 4, Linux 6.7")
    path = write(name, canaries)
    demuxer = ESCAPES[name].demuxer
    walled.read(path, decode_without_allow_list, 20.0, demuxer)
    assert canaries.take() == set()
    unwalled.read(path, decode_without_allow_list, 20.0, demuxer)
    assert ESCAPES[name].reaches in canaries.take()


def test_names_that_are_addresses_are_only_names(walled: Decoder, canaries: Canaries) -> None:
    secret = canaries.folder / "canary.ts"
    for name in (
        f"concat:{secret}",
        f"subfile,,start,0,end,9,,:{secret}",
        f"crypto+file:{secret}",
        f"http://127.0.0.1:{canaries.port}/a.ts",
        f"tcp://127.0.0.1:{canaries.port}",
        "data:text/plain,x",
        str(canaries.folder / "%03d.png"),
    ):
        with pytest.raises(UnreadableClip) as caught:
            walled.submit(name, ClipSpec(), timeout_seconds=20.0).result()
        assert caught.value.code == "not_a_file"
    assert canaries.take() == set()
