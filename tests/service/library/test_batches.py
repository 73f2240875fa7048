"""Handing out files: each goes to one worker at a time, until somebody says that it is done."""

from __future__ import annotations

import random
from pathlib import Path

from service.library.batches import MAX_BYTES, MAX_FILES, MAX_LOSSES, Handout, Task
from service.library.scanning import FoundFile


def tasks(count: int, size_bytes: int = 1) -> list[Task]:
    return [
        Task(found=FoundFile(path=Path(f"/{n}"), size_bytes=size_bytes, modified_ns=0)) for n in range(count)
    ]


def test_batches_have_bounds_and_become_small_at_the_end() -> None:
    handout, sizes = Handout(tasks(1000)), []
    while (batch := handout.take(num_workers=2)) is not None:
        sizes.append(len(batch.tasks))
    assert (sum(sizes), max(sizes), sizes[-7:]) == (1000, MAX_FILES, [1] * 7)
    assert sizes == sorted(sizes, reverse=True)
    large = Handout(tasks(40, size_bytes=MAX_BYTES // 4)).take(num_workers=1)
    assert large is not None
    assert len(large.tasks) == 4
    assert Handout(tasks(3)).take(num_workers=0) is not None


def test_a_file_is_done_once_and_only_by_word() -> None:
    handout = Handout(tasks(2))
    batch = handout.take(num_workers=0)
    assert batch is not None
    rest = handout.take(num_workers=1)
    assert rest is not None
    assert handout.take(num_workers=1) is None
    assert handout.end_file(batch.number, "/0") is not None
    assert handout.end_file(batch.number, "/0") is None
    assert handout.end(batch.number) == []
    assert not handout.is_done
    handout.lose(rest.number)
    assert handout.end_file(rest.number, "/1") is None, "of a lost batch nothing counts any more"
    again = handout.take(num_workers=1)
    assert again is not None
    assert (again.tasks[0].num_losses, str(again.tasks[0].found.path)) == (1, "/1")
    handout.end(again.number)  # without a word of the file
    assert not handout.is_done


def test_a_file_that_kills_every_worker_is_given_up_alone() -> None:
    handout, num_deaths, given_up, done = Handout(tasks(100)), 0, [], set()
    while not handout.is_done:
        batch = handout.take(num_workers=2)
        assert batch is not None
        for task in batch.tasks:
            if str(task.found.path) == "/7":
                num_deaths += 1
                given_up += handout.lose(batch.number)
                break
            handout.end_file(batch.number, str(task.found.path))
            done.add(task.found.path)
        else:
            assert handout.end(batch.number) == []
    assert [str(task.found.path) for task in given_up] == ["/7"]
    assert (num_deaths, len(done)) == (MAX_LOSSES, 99)


def test_what_a_machine_lacks_is_no_fault_of_the_files() -> None:
    handout = Handout(tasks(3))
    for _ in range(3 * MAX_LOSSES):
        batch = handout.take(num_workers=1)
        assert batch is not None
        assert handout.lose(batch.number, is_their_fault=False) == []
    assert batch.tasks[0].num_losses == 0


def test_nothing_is_lost_and_nothing_done_twice_whatever_dies() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        handout, running, done = Handout(tasks(60)), [], []
        while not handout.is_done:
            while len(running) < 6 and (batch := handout.take(num_workers=3)) is not None:
                running.append(batch)
            batch = running.pop(chance.randrange(len(running)))
            told = batch.tasks[: chance.randint(0, len(batch.tasks))]
            done += [task for task in told if handout.end_file(batch.number, str(task.found.path))]
            left = handout.end(batch.number) if len(told) == len(batch.tasks) else handout.lose(batch.number)
            done += left  # given up: told once too
        assert sorted(str(task.found.path) for task in done) == sorted(f"/{n}" for n in range(60))
