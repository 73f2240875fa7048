"""The process that embeds the library for a release: how it begins, and how it ends what does not."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from models.bundle.bundle import load_bundle
from service.index.failure import IndexInUse
from service.index.opening import index_place
from service.releases import builder
from service.releases.builder import open_patiently
from service.system.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, bundle_path: Path) -> Settings:
    return Settings(data=tmp_path, bundle=bundle_path, device="cpu", precision="fp32", min_free_bytes=0)


def test_it_waits_for_the_builder_of_a_service_that_was_killed(settings: Settings) -> None:
    bundle = load_bundle(settings.bundle)
    held = index_place(settings).open(bundle, release_id="r")
    closing = threading.Timer(1.0, held.close)
    closing.start()
    began = time.monotonic()
    open_patiently(settings, "r", bundle).close()
    assert time.monotonic() - began > 0.75
    closing.join()


def test_it_does_not_wait_for_ever(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "HELD_SECONDS", 0.0)
    bundle = load_bundle(settings.bundle)
    held = index_place(settings).open(bundle, release_id="r")
    with pytest.raises(IndexInUse):
        open_patiently(settings, "r", bundle)
    held.close()


@pytest.mark.parametrize(("run_seconds", "code"), [(0.0, 0), (60.0, 1)])
def test_a_run_that_takes_too_long_ends_the_process(run_seconds: float, code: int) -> None:
    script = f"""
        import time
        import numpy as np
        from service.encode.queue import BatchLimits
        from service.encode.batching import Batcher
        from service.system.caller import Caller
        from service.releases.builder import watch_encoder

        class Slow:
            def encode_audio(self, samples, num_heard=None):
                time.sleep({run_seconds})
                return np.zeros((len(samples), 16, 8), np.float32)
            encode_video = encode_audio

        with Batcher(Slow(), BatchLimits()) as batcher:
            watch_encoder(batcher, 0.2)
            time.sleep(0.6)
            batcher.encoder_of(Caller()).encode_audio([np.zeros(16, np.float32)])
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert time.monotonic() - began < 60, "it did not wait for the run"
    if code:
        assert json.loads(done.stdout)["stalled_seconds"] >= 0.2
