from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from training.cli import app
from training.data.archive import read_index
from training.data.segments import PairedSegments
from training.data.sharded import ShardedSegments


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["shard", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_media_become_shards_and_what_is_left_out_is_named(
    segments: PairedSegments, corpus: Path, tmp_path: Path
) -> None:
    output = tmp_path / "shards"
    data = [segments.paths[0], corpus / "broken.mp4"]
    code, said = run(*data, "--output", output, "--sample-bits", 16, "--quality", 80, "--workers", 1)
    assert code == 0
    assert re.search(r"1 segments in 1 shards, 0\.[1-4] MB, in", said)
    assert "1 files skipped" in said
    assert "broken.mp4: not_media: this is not a supported media file" in said
    assert ShardedSegments.open([output]).paths == segments.paths[:1]
    size = read_index(output).shards[0]["bytes"]
    code, said = run(*data, "--output", output, "--workers", 1)
    assert code == 2
    assert "holds shards with other packing; choose another folder" in said
    assert run(*data, "--output", tmp_path / "best", "--workers", 1)[0] == 0
    assert read_index(tmp_path / "best").shards[0]["bytes"] > 1.2 * size


def test_what_cannot_be_done_is_one_line_and_code_2(corpus: Path, tmp_path: Path) -> None:
    for data, reason in (
        (tmp_path / "none", "none does not exist"),
        (corpus / "broken.mp4", "none of 1 files has a segment with both picture and sound"),
    ):
        code, said = run(data, "--output", tmp_path / "shards", "--workers", 1)
        assert code == 2
        assert reason in said
    code, _ = run(corpus, "--output", tmp_path / "shards", "--quality", 100)
    assert code == 2
