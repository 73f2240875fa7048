from __future__ import annotations

import itertools
import threading

import pytest
import torch

from models.network.geometry import TgdpConfig
from training.data.batches import MomentBatches, prefetch, step_generator
from training.data.segments import PairedSegments

GEOMETRY = TgdpConfig()


def test_batches_hold_the_window_and_the_frame_of_one_moment(segments: PairedSegments) -> None:
    batches = MomentBatches(segments, GEOMETRY, batch_size=2, seed=0)
    windows, frames = batches.at(0)
    assert windows.shape == (2, 416, 128)
    assert frames.shape == (2, 224, 224, 3)
    starts = [min(max(0, 64 * i - 208), 608) for i in range(16)]
    for window, frame in zip(windows, frames.numpy(), strict=True):
        places = [
            (row, moment)
            for row in range(len(segments))
            for moment in range(16)
            if (segments.frames[row, moment] == frame).all()
            and (segments.log_mel[row, starts[moment] : starts[moment] + 416] == window.numpy()).all()
        ]
        assert places


def test_an_epoch_takes_every_segment_once(segments: PairedSegments) -> None:
    batches = MomentBatches(segments, GEOMETRY, batch_size=1, seed=0)
    for epoch in range(2):
        steps = range(epoch * len(segments), (epoch + 1) * len(segments))
        seen = {batches.at(step)[0].sum().item() for step in steps}
        assert len(seen) == len(segments)


class Seven:
    """As many segments as a draw needs to know."""

    def __len__(self) -> int:
        return 7


def test_an_epoch_is_one_pass_in_whole_batches_and_each_has_its_own_order() -> None:
    batches = MomentBatches(Seven(), GEOMETRY, batch_size=3, seed=0)  # type: ignore[arg-type]
    epochs = [[*batches.draw(2 * epoch)[0], *batches.draw(2 * epoch + 1)[0]] for epoch in range(20)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20
    assert {row for epoch in epochs for row in epoch} == set(range(7))  # nobody is left out for good


def test_moments_are_drawn_anew_in_every_step() -> None:
    batches = MomentBatches(Seven(), GEOMETRY, batch_size=7, seed=0)  # type: ignore[arg-type]
    moments = torch.stack([batches.draw(step)[1] for step in range(320)])  # (steps, B)
    counts = torch.bincount(moments.flatten(), minlength=16)
    assert len(counts) == 16
    assert counts.min() > 100  # 140 expected, standard deviation 11
    assert all(len(column.unique()) == 16 for column in moments.T)


def test_a_batch_is_a_function_of_its_step(segments: PairedSegments) -> None:
    first = MomentBatches(segments, GEOMETRY, batch_size=2, seed=0)
    second = MomentBatches(segments, GEOMETRY, batch_size=2, seed=0)
    second.at(0)
    assert all(torch.equal(a, b) for a, b in zip(first.at(5), second.at(5), strict=True))
    other = MomentBatches(segments, GEOMETRY, batch_size=2, seed=1)
    assert not torch.equal(first.at(5)[1], other.at(5)[1])
    draws = {
        tuple(torch.rand(4, generator=step_generator(*key)).tolist())
        for key in itertools.product(range(3), repeat=3)
    }
    assert len(draws) == 27


def test_processes_read_their_rows_of_the_same_batch(segments: PairedSegments) -> None:
    whole = MomentBatches(segments, GEOMETRY, batch_size=4, seed=0).at(1)
    parts = [
        MomentBatches(segments, GEOMETRY, batch_size=4, seed=0, rows=slice(2 * rank, 2 * rank + 2)).at(1)
        for rank in range(2)
    ]
    for number in range(2):
        assert torch.equal(torch.cat([part[number] for part in parts]), whole[number])


def test_a_network_of_other_mel_bins_is_refused(segments: PairedSegments) -> None:
    with pytest.raises(ValueError, match="stored log-mels have 128 bins, the network needs 64"):
        MomentBatches(segments, TgdpConfig(num_mel_bins=64), batch_size=2, seed=0)


class Steps:
    """Batches that say which step they are of, and note who asked."""

    def __init__(self, *, broken_step: int = -1) -> None:
        self.broken_step = broken_step
        self.asked: list[int] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def at(self, step: int) -> int:
        self.may_go_on.wait(10)
        self.asked.append(step)
        if step == self.broken_step:
            raise OSError(f"step {step} cannot be read")
        return step


def test_batches_are_read_ahead_in_order_and_never_too_far() -> None:
    steps = Steps()
    stream = prefetch(steps, 3, 9, depth=2)
    assert next(stream) == 3
    assert set(steps.asked) <= {3, 4, 5}
    assert list(stream) == [4, 5, 6, 7, 8]
    assert sorted(steps.asked) == list(range(3, 9))


def test_what_goes_wrong_while_reading_ahead_is_raised_in_its_turn() -> None:
    stream = prefetch(Steps(broken_step=5), 3, 9)
    assert [next(stream), next(stream)] == [3, 4]
    with pytest.raises(OSError, match="step 5 cannot be read"):
        next(stream)


def test_reading_ahead_ends_with_whom_it_is_for() -> None:
    stream = prefetch(Steps(), 0, 100, depth=3)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_batches_read_ahead_are_those_of_their_steps(segments: PairedSegments) -> None:
    batches = MomentBatches(segments, GEOMETRY, batch_size=2, seed=0)
    for step, (windows, frames) in enumerate(prefetch(batches, 0, 6, depth=3)):
        expected = batches.at(step)
        assert torch.equal(windows, expected[0])
        assert torch.equal(frames, expected[1])
