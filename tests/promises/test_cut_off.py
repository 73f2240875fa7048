"""Nothing leaves the machine: no command looks up a name, and none leaves a file in the home folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.cut_off import run_cut_off
from tests.support.families import write_pe_av
from tests.support.libraries import write_tones
from tests.support.paths import GOLDEN
from training.corpus.synthesis import write_corpus

SERVE = """
import sys
from pathlib import Path
import httpx
from tests.support.serving import run_server

folder = Path(sys.argv[1])
with run_server({"DATA": folder / "data", "DEVICE": "cpu", "MIN_FREE_BYTES": 0}, folder / "serve.log") as address:
    tone = (folder / "media" / "00000.wav").read_bytes()
    kinds = {"from": "audio", "target": "audio"}
    httpx.post(f"{address}/v1/search", files={"file": tone}, data=kinds, timeout=60).raise_for_status()
"""

STORAGE = """
from service.library.locations import locate
from service.library.objects import list_objects, read_object
from tests.support.storage import serve_storage

for storage in serve_storage():
    storage.put("rain/0.wav", b"content")
    assert [b"".join(read_object(found)) for found in list_objects(locate("s3://archive/rain"))] == [b"content"]
"""

TRAIN = """
import sys
from pathlib import Path
from training.cli import app

folder, weights, is_whole = sys.argv[1:]
lines = [
    f"pretrain --run ablation --data {folder}/corpus --output {folder}/run --steps 1 --batch-size 2"
    " --workers 1 --no-board",
    f"export {folder}/run/checkpoint --media {folder}/corpus --output {folder}/exported --clips 1",
    f"import {weights} --kind cavmae --output {folder}/imported --heads 4 --decoder-heads 4 --clips 1",
]
if not is_whole:  # both load all they need, find no weights, and end a minute earlier
    lines[1:] = [f"export {folder} --media {folder} --output {folder}/exported"]
    lines += [f"import {folder}/corpus/labels.csv --kind cavmae --output {folder}/imported"]
    (Path(folder) / "pe-av" / "tokenizer.json").write_text("{}")  # found wrong when all else is loaded
lines += [f"import {folder}/pe-av --kind pe-av --output {folder}/pe-av-bundle --clips 1"]
refused = [f"text --library --output {folder}/worded"]  # reads encoder and tracks; the only file has no words
if is_whole:
    refused += [f"{command} --library --output {folder}/mine" for command in ("adapt", "agreement")]
for line in lines + refused:
    try:
        app(line.split())
    except SystemExit as end:
        assert end.code == (0 if line not in refused and (is_whole or line is lines[0]) else 2), line
"""


@pytest.mark.long
def test_no_command_looks_up_a_name_or_writes_to_the_home_folder(tmp_path: Path) -> None:
    weights = GOLDEN / "cavmae_small_weights.safetensors"
    write_tones(tmp_path / "media", 1)
    write_corpus(tmp_path / "corpus", num_scenes=2, seed=1, split="train")
    write_pe_av(tmp_path / "pe-av", num_frames=16)
    settings = [
        "FOLEY_DEVICE=cpu",
        "FOLEY_PRECISION=fp32",
        "FOLEY_MIN_FREE_BYTES=0",
        f"FOLEY_DATA={tmp_path}/data",
    ]
    foley = ["env", *settings, sys.executable, "-m", "service.cli"]
    traces = run_cut_off(
        tmp_path / "cut off",
        [*foley, "index", str(tmp_path / "media")],
        [*foley, "search", str(tmp_path / "media" / "00000.wav"), "--from", "audio", "--target", "audio"],
        [sys.executable, "-c", SERVE, str(tmp_path)],
        [sys.executable, "-c", STORAGE],
        [
            *("env", *settings, sys.executable, "-c", TRAIN),
            *(str(tmp_path), str(weights), os.environ.get("FOLEY_SOAK", "")),
        ],
    )
    assert (traces.looked_up, traces.left_in_home) == ([], []), traces.output


def test_the_engines_by_themselves_would_be_seen(tmp_path: Path) -> None:
    """The control: both engines as they are."""
    traces = run_cut_off(tmp_path / "cut off", [sys.executable, "-c", "import onnxruntime, openvino"])
    assert "www.google-analytics.com" in traces.looked_up
    assert any("openvino_ga_cid" in name for name in traces.left_in_home)
    assert any("onnxruntime" in name for name in traces.left_in_home)
