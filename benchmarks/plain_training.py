"""One training step written in the simplest way: the baseline of `benchmarks.train_speed`.

Each sample decodes its whole clip again and converts and resizes every frame. It computes the log-mel of the whole
sound again for each of its windows, as the released loader does for its 16 windows. The network runs eagerly in
float32: all tokens go through the joint block although only CLS is needed, and once more for the teacher's attention.
Loss and masks are those of the real step, from the same random numbers.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchaudio.compliance import kaldi

from models.network.frontend import LOG_MEL_MEAN, LOG_MEL_STD, NUM_LOG_MEL_FRAMES
from models.network.geometry import MODALITIES
from models.network.tgdp import Tgdp, take_tokens
from training.data.augment import augment
from training.data.batches import AUGMENTATION, MASKS, step_generator
from training.data.draws import Draws
from training.pretraining.config import PretrainConfig
from training.pretraining.losses import contrastive_loss, distillation_loss
from training.pretraining.masking import count_visible, guided_visible, random_visible
from training.pretraining.objective import loss_of_hidden

NUM_MOMENTS = 16
SEGMENT_SECONDS = 10.0


class Clock:
    """Processor and wall seconds by part.

    Args:
        device: Device of the work; on a GPU the clock waits until the work is finished.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.processor: dict[str, float] = {}
        self.wall: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        self._wait()
        processor, wall = time.process_time(), time.perf_counter()
        yield
        self._wait()
        self.processor[part] = self.processor.get(part, 0.0) + time.process_time() - processor
        self.wall[part] = self.wall.get(part, 0.0) + time.perf_counter() - wall

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def decode_plainly(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decode and resize every frame of the first 10 s and resample all sound; keep 16 frames."""
    times, frames = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.best("video")):
            if frame.time is not None and frame.time < SEGMENT_SECONDS:
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                scale = 224 / min(image.size)
                size = (round(image.width * scale), round(image.height * scale))
                square = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
                top, left = (square.shape[0] - 224) // 2, (square.shape[1] - 224) // 2
                times.append(frame.time)
                frames.append(square[top : top + 224, left : left + 224])
    wanted = np.arange(NUM_MOMENTS) * SEGMENT_SECONDS / NUM_MOMENTS
    picked = np.searchsorted(times, wanted + 1e-6) - 1
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
        parts = []
        for frame in container.decode(container.streams.best("audio")):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.stack([frames[max(0, i)] for i in picked]), np.concatenate(parts)[:160_000]


def log_mel_plainly(samples: NDArray[np.float32]) -> Tensor:
    """Compute the normalised log-mel of a whole sound with torchaudio, shape (1024, 128)."""
    waveform = torch.from_numpy(samples).unsqueeze(0)
    log_mel = kaldi.fbank(
        waveform - waveform.mean(),
        htk_compat=True,
        sample_frequency=16_000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    padded = torch.nn.functional.pad(log_mel, (0, 0, 0, NUM_LOG_MEL_FRAMES - len(log_mel)))
    return (padded - LOG_MEL_MEAN) / LOG_MEL_STD


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread, as in the processes of a data loader."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


class PlainTraining:
    """A training run in which every step starts from files.

    Args:
        config: The run.
        device: Where the network computes.
        num_windows: Number of windows for which the log-mel is computed in each sample; one of them is used.
    """

    def __init__(
        self, config: PretrainConfig, device: torch.device, *, num_windows: int = NUM_MOMENTS
    ) -> None:
        self.config = config
        self.num_windows = num_windows
        self.device = device
        torch.manual_seed(config.seed)
        self.student = Tgdp(config.network).to(device).train()
        self.teacher = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.student.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )

    def load(self, path: Path, moment: int, clock: Clock | None = None) -> tuple[Tensor, Tensor]:
        """Read one sample: its window (W, M) and its frame (H, W, 3)."""
        with clock.measure("decode") if clock else contextlib.nullcontext():
            frames, samples = decode_plainly(path)
        width = self.config.network.window_frames
        with clock.measure("front end") if clock else contextlib.nullcontext():
            for window in [*range(self.num_windows - 1), moment]:
                start = min(max(0, 64 * window - width // 2), NUM_LOG_MEL_FRAMES - width)
                cut = log_mel_plainly(samples)[start : start + width]
        return cut, torch.from_numpy(frames[moment])

    def load_batch(self, files: Sequence[Path], moments: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read a batch with as many loaders as the network has threads."""
        num_threads = torch.get_num_threads()
        with (
            one_thread(),
            ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            windows, frames = zip(*pool.map(self.load, files, moments), strict=True)
        return torch.stack(windows), torch.stack(frames)

    def step(self, step: int, windows: Tensor, frames: Tensor, clock: Clock) -> dict[str, float]:
        """Take one step on a batch and return its losses."""
        with clock.measure("front end"):
            windows, pixels = windows.to(self.device), self.student.pixels(frames.to(self.device))
            windows, pixels = augment(
                windows, pixels, self.config.augmentation, self._draws(AUGMENTATION, step, len(windows))
            )
        with clock.measure("forward"):
            losses = self.losses(windows, pixels, self._draws(MASKS, step, len(windows)))
        with clock.measure("backward"):
            self.optimiser.zero_grad()
            losses["loss"].backward()
        with clock.measure("optimiser"):
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.config.max_gradient_norm)
            self.optimiser.step()
            with torch.no_grad():
                for ours, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                    ours.mul_(self.config.momentum).add_(theirs, alpha=1 - self.config.momentum)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _draws(self, stream: int, step: int, num_rows: int) -> Draws:
        generator = step_generator(self.config.seed, stream, step)
        return Draws(generator=generator, num_rows=num_rows, rows=slice(0, num_rows))

    def losses(self, windows: Tensor, pixels: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Return the losses of two passes of the student and one of the teacher."""
        config, student, teacher = self.config, self.student, self.teacher
        pictures = {"audio": student.audio_pictures(windows), "video": pixels}
        targets, attention, embeddings, visible = {}, {}, {}, {}
        for m in MODALITIES:
            with torch.no_grad():
                hidden = teacher.encode(teacher.embed_patches(pictures[m], m), m)
                attention[m] = teacher.joint_block.attention_weights(hidden, m)[:, 1:, 0]
                targets[m] = teacher.norms[m](teacher.joint_block(hidden, m))[:, 0]
        tokens = {m: student.embed_patches(pictures[m], m) for m in MODALITIES}
        for m in MODALITIES:
            kept = guided_visible(
                attention[m], count_visible(tokens[m].shape[1], config.hidden_share_alignment)
            )
            hidden = student.encode(take_tokens(tokens[m], kept), m)
            embeddings[m] = student.norms[m](student.joint_block(hidden, m))[:, 0]
        for m in MODALITIES:
            num_visible = count_visible(tokens[m].shape[1], config.hidden_share_reconstruction)
            noise = draws.uniform(tokens[m].shape[1])
            visible[m] = random_visible(noise, num_visible).to(self.device)
        predicted = student.reconstruct(tokens["audio"], tokens["video"], visible["audio"], visible["video"])
        sizes = {"audio": config.network.audio_patch, "video": config.network.video_patch}
        rebuilt = [
            loss_of_hidden(values, pictures[m], visible[m], sizes[m])
            for m, values in zip(MODALITIES, predicted, strict=True)
        ]
        losses = {
            "reconstruction": torch.stack(rebuilt).sum(),
            "distillation": torch.stack(
                [distillation_loss(embeddings[m], targets[m]) for m in MODALITIES]
            ).sum(),
            "contrastive": contrastive_loss(
                embeddings["audio"], embeddings["video"], temperature=config.temperature
            ),
        }
        weights = config.loss_weights
        return losses | {"loss": torch.stack([weights[name] * value for name, value in losses.items()]).sum()}
