"""The demo against a count of its own: every track compared with every other, without index or search."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from models.media.clip import decode_segments
from service.commands.demo import (
    BadCorpus,
    Outcome,
    Query,
    choose_examples,
    read_scenes,
    run_demo,
    search_one,
)
from service.foley import Foley, open_foley
from service.index.contract import Segment
from service.library.indexing import index_paths
from service.system.settings import Settings

NUM_SCENES = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.corpus.synthesis import write_corpus

    folder = tmp_path_factory.mktemp("corpus") / "media"
    write_corpus(folder, num_scenes=NUM_SCENES, seed=11, split="heldout", separate_fraction=0.4)
    return folder


@pytest.fixture(scope="module")
def foley(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path) -> Iterator[Foley]:
    settings = Settings(
        data=tmp_path_factory.mktemp("data"), bundle=bundle_path, device="cpu", min_free_bytes=0
    )
    with open_foley(settings) as foley:
        yield foley


@pytest.fixture(scope="module")
def printed(corpus: Path, foley: Foley) -> str:
    output = io.StringIO()
    console = Console(file=output, width=160)
    assert run_demo(corpus, foley=foley, console=console, progress_console=Console(stderr=True)) == 0
    return output.getvalue()


def _count_right(corpus: Path, foley: Foley) -> dict[str, int]:
    """Right answers at rank 1 both ways, by brute force over all tracks; ties are wrong."""
    tracks: dict[str, dict[str, np.ndarray]] = {"audio": {}, "video": {}}
    for path in sorted(corpus.glob("*.m*")):
        (clip,) = decode_segments(path, foley.bundle.manifest.clip_spec).clips
        if clip.samples is not None:
            tracks["audio"][path.name] = foley.encoder.encode_audio([clip.samples], [clip.num_heard])[0]
        if clip.frames is not None:
            tracks["video"][path.name] = foley.encoder.encode_video([clip.frames])[0]
    right = {"audio": 0, "video": 0}
    for scene in read_scenes(corpus):
        for source, target in (("audio", "video"), ("video", "audio")):
            query = tracks[source][scene.files[source].name]
            scores = {name: float((query * track).sum(1).mean()) for name, track in tracks[target].items()}
            own = scores.pop(scene.files[target].name)
            right[source] += all(own > score for score in scores.values())
    return right


def test_recall_is_what_brute_force_counts(corpus: Path, foley: Foley, printed: str) -> None:
    right = _count_right(corpus, foley)
    for arrow, source in (("picture → sound", "video"), ("sound → picture", "audio")):
        found = re.search(rf"{arrow}\s+(\d+) of {NUM_SCENES}\s+([\d.]+)%\s+12\.5%", printed)
        assert found, printed
        assert int(found[1]) == right[source]
        assert float(found[2]) == pytest.approx(100 * right[source] / NUM_SCENES, abs=0.05)


def test_what_is_printed(corpus: Path, printed: str) -> None:
    separate = [scene for scene in read_scenes(corpus) if scene.is_separate]
    assert separate
    assert f"picture of {separate[0].files['video'].name}" in printed
    assert f"sound of {separate[0].files['audio'].name}" in printed
    num_rows = len(
        re.findall(r"^ (?:picture|sound) of .* (?:right|wrong, is #\d+)\s*$", printed, re.MULTILINE)
    )
    assert num_rows == 12
    assert f"{2 * NUM_SCENES} searches, file to answer, in " in printed
    assert "Candidates: 8 with sound and 8 with picture. A tie counts as wrong." in printed
    for command in ("index ~/Videos", "search clip.mp4 --target audio", "serve"):
        assert command in printed


def test_a_second_run_indexes_nothing(corpus: Path, foley: Foley, printed: str) -> None:
    report = index_paths([corpus], snapshot=foley.snapshot(), decoder=foley.decoder)
    assert report.files.indexed == 0
    assert report.files.unchanged == len(list(corpus.glob("*.m*")))


def test_a_tie_counts_against_us(corpus: Path, foley: Foley, printed: str) -> None:
    scene = read_scenes(corpus)[0]
    query = Query(scene=scene, source="video")
    before = search_one(query, NUM_SCENES, foley=foley)
    right = foley.index.find_path(str(scene.files["audio"]))
    assert right is not None
    (clip,) = decode_segments(scene.files["audio"], foley.bundle.manifest.clip_spec).clips
    assert clip.samples is not None
    twin = Segment(
        asset_id="f" * 64,
        path="/twin.wav",
        index=0,
        start_seconds=0.0,
        end_seconds=10.0,
        audio_track=foley.encoder.encode_audio([clip.samples], [clip.num_heard])[0],
    )
    foley.index.write_asset([twin], is_last=True)
    try:
        assert search_one(query, NUM_SCENES + 1, foley=foley).rank == before.rank + 1
    finally:
        foley.index.delete_asset(twin.asset_id)


def test_examples_are_chosen_by_number_alone(corpus: Path) -> None:
    scenes = read_scenes(corpus)
    outcomes = [
        Outcome(query=Query(scene=scene, source=source), rank=rank, names=(), score=0.0, moment_seconds=0.0)
        for rank, scene in enumerate(reversed(scenes), start=1)
        for source in ("audio", "video")
    ]
    chosen = choose_examples(outcomes)
    assert [o.query.source for o in chosen] == ["video"] * 6 + ["audio"] * 6
    expected = sorted(scenes, key=lambda scene: (not scene.is_separate, scene.number))[:6]
    assert [o.query.scene for o in chosen[:6]] == expected
    assert [o.query.scene for o in chosen[6:]] == expected


def test_a_folder_without_labels_is_refused(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(BadCorpus, match=r"labels\.csv cannot be read"):
        read_scenes(tmp_path)
    (tmp_path / "labels.csv").write_text("name,kind\na,b\n")
    with pytest.raises(BadCorpus, match=r"labels\.csv cannot be read"):
        read_scenes(tmp_path)
    shutil.copy(next(corpus.glob("*-sound.m4a")), tmp_path)
    (tmp_path / "labels.csv").write_text("file,scene,streams\na.m4a,1,audio\n")
    with pytest.raises(BadCorpus, match="names no scene with both picture and sound"):
        read_scenes(tmp_path)
