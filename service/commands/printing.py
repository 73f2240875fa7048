"""Tables, progress bars and times for people. Control characters in the names of files are written out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from models.bundle.bundle import Agreement
from service.commands.tables import print_columns
from service.library.report import FailedFile, IndexReport, OnProgress
from service.library.report import Progress as IndexProgress
from service.system.modality import NAMES
from service.system.paths import show_path
from service.system.text import count

if TYPE_CHECKING:
    from service.jobs.release_jobs import OnStep

MAX_FAILURES = 50  # lines; --json has all
MAX_LINKS = 5
MAX_PLANNED_LINES = 200
CANNOT_TELL = (
    "This release tells what belongs together no better than chance: scores and order mean nothing here."
)

QUERY_NAMES: Mapping[str, str] = {
    "text": "words",
    "mixed": "clip and words",
    "audio": "sound",
    "video": "picture",
}


def format_time(seconds: float) -> str:
    """Write a time as mm:ss, from an hour on as h:mm:ss: 75.4 s → 01:15."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def format_when(seconds: float) -> str:
    """Write a time since 1970 as date and time of day here."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def format_path(path: Path | str) -> str:
    """Write a path in printable letters, relative to the working directory if it lies in it."""
    return format_text(show_path(path).removeprefix(show_path(Path.cwd()) + os.sep))


def format_text(text: str) -> str:
    """Write text in printable letters."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


@contextmanager
def _show_bar(
    console: Console, label: str, *more: ProgressColumn
) -> Iterator[Callable[[int, int | None, str], None]]:
    """Show a progress bar if the console is a terminal; yield what takes how many are done, how many in all, a text."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), *more)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda num_done, num_all, text: bar.update(
            task, completed=num_done, total=num_all, description=text
        )


@contextmanager
def show_progress(console: Console) -> Iterator[OnProgress]:
    """Show how many files are indexed; yield what updates it."""
    with _show_bar(console, "indexing") as update:

        def show(progress: IndexProgress) -> None:
            left = "" if progress.left_seconds is None else f"{format_time(progress.left_seconds)} left"
            rate = f"{progress.segments_per_second:.1f}/s"
            text = f"files · {progress.num_segments} segments · {rate} · {left}"
            update(progress.num_done, progress.num_files, text)

        yield show


@contextmanager
def show_copying(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show how many assets are copied; yield what takes the number of assets done, and of all."""
    with _show_bar(console, "copying", TimeRemainingColumn()) as update:
        yield lambda num_done, num_assets: update(num_done, num_assets, "assets")


@contextmanager
def show_bytes(console: Console) -> Iterator[Callable[[int, int | None], None]]:
    """Show how much of a file has come; yield what takes the bytes that are there, and of the whole file."""
    with _show_bar(console, "fetching", TimeRemainingColumn()) as update:
        yield lambda done, whole: update(done >> 20, None if whole is None else whole >> 20, "MiB")


@contextmanager
def show_steps(console: Console) -> Iterator[OnStep]:
    """Show how far the build of a release is; yield what takes its progress as JSON values."""
    with _show_bar(console, "building") as update:

        def show(progress: Mapping[str, Any]) -> None:
            left = progress.get("left_seconds")
            text = progress.get("step", "waiting") + ("" if left is None else f" · {format_time(left)} left")
            update(progress.get("num_done", 0), progress.get("num_files"), text)

        yield show


def print_report(console: Console, report: IndexReport) -> None:
    """Show what a run did, what it could not do, and why."""
    table = Table(box=box.SIMPLE, show_edge=False)
    table.add_column("")
    table.add_column("files", justify="right")
    table.add_column("segments", justify="right")
    for name in ("indexed", "unchanged", "failed"):
        table.add_row(name, str(getattr(report.files, name)), str(getattr(report.segments, name)))
    console.print(table)
    console.print(" · ".join(_notes(report)), highlight=False)
    for path in report.partial:
        console.print(Text(f"indexed, but its end is missing: {format_path(path)}", "yellow"))
    failed = [file for file in report.failed if not file.is_quarantined]
    quarantined = report.quarantined
    if failed:
        _print_failures(console, "failed", failed)
    if quarantined:
        title = f"{len(quarantined)} quarantined: skipped until they change; --retry tries them again"
        _print_failures(console, title, quarantined)
    if max(len(failed), len(quarantined)) > MAX_FAILURES:
        console.print("… and more: --json lists all")


def _notes(report: IndexReport) -> list[str]:
    notes = [f"{report.seconds:.1f} s"]
    if report.num_ignored:
        notes.append(f"{count(report.num_ignored, 'other file')} skipped: not media")
    if report.num_unsettled:
        notes.append(f"{report.num_unsettled} skipped for now: they are still being written to")
    if report.linked_folders:
        names = ", ".join(map(format_path, report.linked_folders[:MAX_LINKS]))
        more = ", …" if len(report.linked_folders) > MAX_LINKS else ""
        notes.append(f"{count(len(report.linked_folders), 'linked folder')} not followed: {names}{more}")
    for number, done in (
        (report.num_moved, "moved"),
        (report.num_copied, "copies of other files"),
        (report.num_retagged, "with new tags alone"),
        (report.num_deleted, "deleted"),
        (report.num_removed, "removed: no file has their content any more"),
    ):
        if number:
            notes.append(f"{number} {done}")
    if report.stages.elapsed_seconds:
        notes.append(f"{report.stages.slowest} took {report.stages.slowest_share:.0%} of the time")
    return notes


def print_plan(console: Console, report: IndexReport) -> None:
    """Show what a synchronisation would do: the report of a dry run."""
    rows = [
        (entry["does"], Text(format_path(entry["path"])), Text(format_path(entry.get("from", ""))))
        for entry in report.plan[:MAX_PLANNED_LINES]
    ]
    print_columns(console, ("action", "file", "moved from"), rows, folding=("file", "moved from"))
    if len(report.plan) > MAX_PLANNED_LINES:
        console.print(f"… and {len(report.plan) - MAX_PLANNED_LINES} more: --json lists all")


def job_paths(job: Mapping[str, Any]) -> Sequence[str]:
    """The files and folders of a job, or the bundle of a release."""
    request = job["request"]
    return [request["bundle"]] if "bundle" in request else list(request["paths"])


def print_jobs(console: Console, jobs: Sequence[Mapping[str, Any]]) -> None:
    """Show jobs, one a line."""
    rows = []
    for job in jobs:
        asked_at = format_when(job["created_at"])
        progress = job["progress"]
        files = f"{progress['num_done']}, {progress['num_failed']} failed" if job["report"] else ""
        paths = Text(", ".join(map(format_path, job_paths(job))))
        rows.append((job["job_id"], job["kind"], job["state"], asked_at, files, paths))
    print_columns(console, ("job", "kind", "state", "created", "files", "paths"), rows)


def _print_failures(console: Console, title: str, files: Sequence[FailedFile]) -> None:
    console.print(Text(title, style="bold red"))
    rows = [(format_path(failed.path), failed.code, failed.reason) for failed in files[:MAX_FAILURES]]
    print_columns(console, ("file", "code", "reason"), rows, folding=("file", "reason"))


def print_answer(console: Console, answer: Mapping[str, Any]) -> None:
    """Show what a search found."""
    results = answer["results"]
    columns: dict[str, list[str]] = {
        "#": [str(rank) for rank in range(1, len(results) + 1)],
        "score": ["" if result["score"] is None else f"{result['score']:.3f}" for result in results],
        "likely": [format_probability(result["match_probability"]) for result in results],
        "segment": [format_span(result) for result in results],
        "best moment": [_format_moment(result["best_moment"]) for result in results],
        "found by": [" and ".join(result["found_by"]) for result in results],
        "file": [format_path(result["path"]) for result in results],
    }
    if not any(columns["likely"]):  # the scores of the release are not calibrated
        del columns["likely"]
    if answer["from"] != "text":
        del columns["found by"]
    if all(len(result["moments"]) < 2 for result in results):  # a bundle with one vector for a segment
        del columns["best moment"]
    right = columns.keys() - {"file", "found by"}
    print_columns(console, [*columns], [*zip(*columns.values(), strict=True)], right=right)
    console.print(
        f"{QUERY_NAMES[answer['from']]} → {NAMES[answer['target']]} · {answer['bundle_id']}",
        style="dim",
        highlight=False,
    )
    if answer.get("probability_reason") == "cannot_tell":
        console.print(CANNOT_TELL, style="yellow", highlight=False)


def format_probability(probability: float | None) -> str:
    """Write a probability in percent; nothing if it is not known."""
    return "" if probability is None else f"{probability:.0%}"


def _format_moment(moment: Mapping[str, Any] | None) -> str:
    return "" if moment is None else f"{format_time(moment['time_seconds'])} ({moment['similarity']:.2f})"


def print_keys(console: Console, keys: Sequence[Mapping[str, str]]) -> None:
    """Show API keys."""
    rows = [(key["key_id"], key["scope"], key["created_at"], key["name"]) for key in keys]
    print_columns(console, ("id", "scope", "created", "name"), rows)


def print_assets(console: Console, assets: Sequence[Mapping[str, Any]]) -> None:
    """Show assets, one a line."""
    rows = []
    for asset in assets:
        seconds = asset["media"].get("duration_seconds")
        rows.append(
            (
                "" if seconds is None else format_time(seconds),
                str(asset["num_segments"]),
                " + ".join(asset["modalities"]),
                format_path(asset["path"]),
            )
        )
    print_columns(console, ("length", "segments", "holds", "file"), rows, right=("length", "segments"))
    console.print(count(len(assets), "asset"), style="dim", highlight=False)


def print_asset(console: Console, asset: Mapping[str, Any]) -> None:
    """Show everything known about one asset."""
    media = dict(asset["media"])
    said = media.pop("said", None) or {}
    rows = [
        ("asset", asset["asset_id"]),
        *(
            ("file" if number == 0 else "copy", format_path(path))
            for number, path in enumerate(asset["paths"])
        ),
        ("segments", f"{asset['num_segments']} with {' + '.join(asset['modalities'])}"),
        *((f"media.{key}", str(value)) for key, value in media.items() if value is not None),
        *((f"said.{key}", json.dumps(value, ensure_ascii=False)) for key, value in said.items()),
        *((key, json.dumps(value, ensure_ascii=False)) for key, value in asset["metadata"].items()),
    ]
    table = Table(box=None, show_header=False)
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(value))
    console.print(table)


def format_span(result: Mapping[str, Any]) -> str:
    """Write the span of a result: 01:10–01:20."""
    return f"{format_time(result['start_seconds'])}–{format_time(result['end_seconds'])}"


def print_diagnosis(console: Console, found: Mapping[str, Any]) -> None:
    """Show what `foley doctor` found: the document of `Diagnosis.to_json`."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _diagnosis_rows(found):
        table.add_row(name, Text(text))
    console.print(table)
    if "clip" in found:
        clip = found["clip"]
        size = f", {clip['width']} × {clip['height']}" if clip["width"] else ""
        console.print(Text(f"\n{clip['seconds']:g} s of {clip['source']}{size}"))
        rows = [(stage["stage"], f"{stage['milliseconds']:.1f}") for stage in clip["stages"]]
        print_columns(console, ("stage", "ms"), rows, right=("ms",))
    rows = [(entry["candidate"], _candidate_state(entry)) for entry in found["candidates"]]
    print_columns(console, ("fastest first", ""), rows)
    for line in found["advice"] or ["nothing known would make the encoder faster here"]:
        console.print(Text(f"→ {line}"))


def _diagnosis_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine, encoder, index = found["machine"], found["encoder"], found["index"]
    processor = f"{machine['processor']}, {machine['cores']} cores"
    rows = [
        ("machine", ", ".join(part for part in (processor, machine["gpu"]) if part)),
        ("decoder", machine["sandbox_weakness"] or f"confined by Landlock {machine['landlock_version']}"),
        ("release", found["bundle"]["release_id"]),
        ("bundle", f"{found['bundle']['bundle_id']} in {format_path(found['bundle']['path'])}"),
    ]
    if "provider" in encoder:
        threads = f"{encoder['num_threads']} threads × {encoder['num_runs']}"
        engine = f"{encoder['engine']} {encoder['engine_version']}, {encoder['precision']}"
        rows.append(("encoder", f"{engine} on {encoder['provider']}, {threads}"))
        reasons = [f"{passed['candidate']}: {passed['reason']}" for passed in encoder["passed_over"]]
        wish = (
            "the fastest"
            if machine["precision"] == "auto"
            else f"FOLEY_PRECISION={machine['precision']}: the fastest"
        )
        rows.append(("why", f"{wish} that runs here and agrees" + "".join(f"\nnot {r}" for r in reasons)))
    if "golden_difference" in encoder:
        rows.append(("golden clip", f"reproduced, largest difference {encoder['golden_difference']:.1e}"))
    if "text_difference" in encoder:
        rows.append(("golden texts", f"reproduced, largest difference {encoder['text_difference']:.1e}"))
    state = index.get("unavailable") or count(index["num_segments"], "segment")
    if "num_files_read" in index:
        state += f"; {index['num_files_read']} sealed files read"
    rows.append(("index", f"{index['engine']} {index['version']}, {state}"))
    if lost := found.get("ledger", {}).get("num_lost"):
        paths = "\n".join(format_path(one["path"]) for one in found["ledger"]["lost"])
        rows.append(("ledger", f"{count(lost, 'file')} stored that the index lacks, such as\n{paths}"))
    for process, memory in found["memory"].items():
        name = "memory" if process == "process" else process.replace("_", " ")
        rows.append((name, f"{memory['now_mib']} MiB, at most {memory['peak_mib']}"))
    return rows


def _candidate_state(entry: Mapping[str, Any]) -> str:
    if entry["obstacle"]:
        return str(entry["obstacle"])
    if entry["agreement"] is None:
        return "runs here" + ("" if entry["candidate"].endswith("fp32") else ", agreement not measured yet")
    text = str(Agreement(**entry["agreement"]))
    return f"refused: {', '.join(entry['shortfalls'])}; {text}" if entry["shortfalls"] else f"agrees: {text}"
