"""What `foley doctor` finds: what runs here and why, whether it is correct, where time goes, and what would help.

Nothing is estimated: each figure is measured while the command runs, or marked as recorded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle.bundle import BrokenBundle, Bundle, load_bundle
from models.cores import num_cores
from models.media.clip import Clip, UnreadableClip
from service.decode.decoder import Decoder
from service.decode.landlock import describe_landlock, landlock_version
from service.decode.lane import DecodeFailure
from service.decode.sandbox import WorkerLimits
from service.encode.agreement import AgreementStore, ProbeClips, measure_agreement
from service.encode.encoder import Encoder
from service.encode.engines.candidates import (
    EXACT,
    GPU,
    RANKING,
    Candidate,
    candidates,
    check_hardware,
    find_variant,
)
from service.encode.engines.contract import EncoderFailure, EngineMissing, EngineOptions
from service.encode.engines.hardware import (
    gpu_name,
    has_bf16,
    has_cuda_driver,
    installed_version,
    processor_name,
)
from service.encode.engines.openvino_cpu import INSTALL
from service.encode.text import TextEncoder
from service.index.contract import Index
from service.index.embedded.generation import check_shard, current_shard, read_seal
from service.index.embedded.index import EmbeddedIndex
from service.index.failure import REPAIR, IndexDamaged, IndexFailure
from service.index.iteration import iter_assets
from service.index.opening import index_folder, index_place
from service.operations.clip_timing import time_clip, write_golden_clip
from service.operations.stopwatch import DecodedOnce
from service.releases.documents import describe_bundle
from service.releases.opening import active_release, open_encoder
from service.releases.store import ReleaseError, ReleaseNotFound, ReleaseStore
from service.search.sources import embedded
from service.system.failure import Failure
from service.system.modality import NAMES
from service.system.paths import show_path
from service.system.settings import Settings
from service.system.text import count

MAX_PROBE_CLIPS = 32
MAX_LOST = 10  # files that are named
MIB = 1 << 20

FindLost = Callable[[Container[str]], Mapping[str, str]]


@dataclass(kw_only=True)
class Diagnosis:
    """What was found, by part, what does not work, and what would make the encoder faster here."""

    facts: dict[str, Any] = field(default_factory=dict)  # JSON values by part, such as machine or encoder
    problems: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # why a file could not be measured, by path
    advice: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The document that `foley doctor --json` prints."""
        return {
            **self.facts,
            "problems": self.problems,
            "left_out": [{"path": path, "reason": reason} for path, reason in self.left_out.items()],
            "advice": self.advice,
        }


def examine(
    settings: Settings,
    *,
    files: Sequence[Path] = (),
    measures: bool = False,
    reads_index: bool = False,
    find_lost: FindLost = lambda _: {},
) -> Diagnosis:
    """Examine an installation by using it.

    The first of the `files` is timed, and precisions are compared on all of them; without files the golden clip of
    the bundle is used. `measures` measures the agreement of every precision that can run here, and keeps the
    results; `reads_index` checks the sealed files of the index against their hashes. `find_lost` takes the assets of
    the index and returns files that jobs have stored and that are not among them, each with its asset.
    """
    diagnosis = Diagnosis()
    release_id, bundle = _find_release(diagnosis, settings)
    diagnosis.facts["machine"] = _machine(settings)
    diagnosis.facts["bundle"] = {
        "bundle_id": bundle.bundle_id,
        "path": str(bundle.path),
        "release_id": release_id,
        **describe_bundle(bundle.manifest),
    }
    with ExitStack() as stack:
        decoder = Decoder(num_workers=1, limits=WorkerLimits(memory_bytes=settings.worker_memory_bytes))
        stack.callback(decoder.close)
        if measures:
            _measure_all(diagnosis, settings, bundle, _probe_clips(files, bundle, decoder, diagnosis))
        encoder = _examine_encoder(diagnosis, settings, bundle)
        index = _examine_index(diagnosis, settings, bundle, release_id, stack, reads_index=reads_index)
        if encoder is not None:
            _examine_clip(diagnosis, encoder, decoder, index, files)
        if "unavailable" not in diagnosis.facts["index"]:
            _compare_ledger(diagnosis, settings, release_id, index, find_lost)
        diagnosis.facts["memory"] = _memory(index)
    diagnosis.facts["candidates"] = _candidates(settings, bundle)
    diagnosis.advice += advise(settings, bundle, encoder)
    return diagnosis


def _find_release(diagnosis: Diagnosis, settings: Settings) -> tuple[str, Bundle]:
    """The active release; if it cannot be found, the bundle of the settings, and the reason becomes a problem."""
    try:
        return active_release(settings)
    except (IndexFailure, ReleaseError) as exc:
        diagnosis.problems.append(f"the active release is not known, FOLEY_BUNDLE is examined instead: {exc}")
        bundle = load_bundle(settings.bundle)
        return bundle.bundle_id, bundle


def _machine(settings: Settings) -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "cores": num_cores(),
        "bfloat16": has_bf16(),
        "gpu": gpu_name(),
        "landlock_version": landlock_version(),
        "sandbox_weakness": describe_landlock(),
        "onnxruntime": _first_version("onnxruntime-gpu", "onnxruntime"),
        "openvino": installed_version("openvino"),
        "device": settings.device,
        "precision": settings.precision,
    }


def _first_version(*packages: str) -> str | None:
    return next((found for package in packages if (found := installed_version(package))), None)


def _examine_encoder(diagnosis: Diagnosis, settings: Settings, bundle: Bundle) -> Encoder | None:
    facts: dict[str, Any] = {}
    diagnosis.facts["encoder"] = facts
    try:
        encoder = open_encoder(settings, bundle)
    except EncoderFailure as exc:
        diagnosis.problems.append(str(exc))
        return None
    facts |= {
        "provider": encoder.provider,
        "num_threads": encoder.options.num_threads,
        "num_runs": encoder.options.num_runs,
        **encoder.choice.to_json(),
    }
    try:
        facts["golden_difference"] = encoder.check_golden()
        if bundle.manifest.text is not None:
            texts = TextEncoder(bundle, num_threads=encoder.options.num_threads)
            facts["text_difference"] = texts.check_golden()
    except (EncoderFailure, BrokenBundle) as exc:
        diagnosis.problems.append(str(exc))
    return encoder


def _examine_index(
    diagnosis: Diagnosis,
    settings: Settings,
    bundle: Bundle,
    release_id: str,
    stack: ExitStack,
    *,
    reads_index: bool,
) -> Index | None:
    place = index_place(settings)
    facts: dict[str, Any] = {
        "engine": place.engine,
        "version": version(place.package),
        "path": place.describe(release_id),
    }
    diagnosis.facts["index"] = facts
    try:
        index = place.find(bundle, release_id=release_id)
        if index is None:
            facts["num_segments"] = 0
            return None
        stack.callback(index.close)
        facts |= asdict(index.info())
        index.check()
        if reads_index and not place.is_shared:
            facts["num_files_read"] = _read_sealed(diagnosis, index_folder(settings, release_id))
    except IndexFailure as exc:  # most often a running service has it open
        facts["unavailable"] = str(exc)
        if isinstance(exc, IndexDamaged):
            diagnosis.problems.append(str(exc))
        return None
    return index


def _compare_ledger(
    diagnosis: Diagnosis, settings: Settings, release_id: str, index: Index | None, find_lost: FindLost
) -> None:
    """Say which files jobs have stored and the index lacks, but for those that its release could not embed."""
    try:
        stored = {asset.asset_id for asset in iter_assets(index)} if index is not None else set()
        with suppress(ReleaseNotFound):  # before the first one is kept
            stored |= set(ReleaseStore(settings.release_folder).get(release_id).missing)
        lost = find_lost(stored)
    except Failure as exc:
        diagnosis.problems.append(str(exc))
        return
    shown = [{"path": show_path(path), "asset_id": asset} for path, asset in sorted(lost.items())[:MAX_LOST]]
    diagnosis.facts["ledger"] = {"num_lost": len(lost), "lost": shown}
    if lost:
        names = ", ".join(one["path"] for one in shown[:3])
        diagnosis.problems.append(
            f"the index lacks {count(len(lost), 'file')} that the ledger says are stored, such as {names}: {REPAIR}"
        )


def _read_sealed(diagnosis: Diagnosis, folder: Path) -> int:
    """Check every sealed file of the index against its hash, and return how many there are."""
    shard = folder / current_shard(folder)
    seal = read_seal(shard)
    try:
        check_shard(shard, hashes=True)
    except IndexFailure as exc:
        diagnosis.problems.append(str(exc))
    return len(seal.files) if seal else 0


def _examine_clip(
    diagnosis: Diagnosis, encoder: Encoder, decoder: Decoder, index: Index | None, files: Sequence[Path]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = "the golden clip, written as H.264 and AAC"
        if files:
            file = next((file for file in files if str(file) not in diagnosis.left_out), None)
            if file is None:
                return
            path, source = file.resolve(), str(file)
        else:
            path = Path(folder) / "golden.mp4"
            write_golden_clip(encoder.bundle.golden(), path, spec=encoder.bundle.manifest.clip_spec)
        try:
            timed = time_clip(path, encoder=encoder, decoder=decoder, index=index)
        except (UnreadableClip, DecodeFailure, EncoderFailure, ValueError) as exc:
            diagnosis.problems.append(f"{source}: {exc}")
            return
    diagnosis.facts["clip"] = _describe_clip(timed, source)


def _describe_clip(timed: DecodedOnce, source: str) -> dict[str, Any]:
    return {
        "source": source,
        "seconds": round(timed.clip.end_seconds - timed.clip.start_seconds, 3),
        "width": timed.info.width,
        "height": timed.info.height,
        "stages": [stage.to_json() for stage in timed.stages],
    }


def _probe_clips(
    files: Sequence[Path], bundle: Bundle, decoder: Decoder, diagnosis: Diagnosis
) -> ProbeClips | None:
    """Segments with all that the bundle embeds, from the files; None if there are no files or too few segments."""
    wanted = embedded(bundle)
    what = " and ".join(NAMES[modality] for modality in reversed(wanted))
    found: list[Clip] = []
    num_used = 0
    for file in files:
        try:
            decoded = decoder.submit(
                file.resolve(), bundle.manifest.clip_spec, modalities=wanted, timeout_seconds=600.0
            ).result()
        except (UnreadableClip, DecodeFailure) as exc:
            diagnosis.left_out[str(file)] = str(exc)
            continue
        clips = [
            clip
            for clip in decoded.clips
            if (clip.frames is not None or "video" not in wanted)
            and (clip.samples is not None or "audio" not in wanted)
        ]
        num_used += bool(clips) and len(found) < MAX_PROBE_CLIPS
        found += clips
    found = found[:MAX_PROBE_CLIPS]
    if len(found) < 2:  # else one bad file of many is not a problem
        diagnosis.problems += [f"{file}: {reason}" for file, reason in diagnosis.left_out.items()]
        if files:
            diagnosis.problems.append(f"fewer than 2 segments with {what}: measured on the golden clip")
        return None
    return ProbeClips(
        samples=[np.asarray(clip.samples) for clip in found] if "audio" in wanted else [],
        num_heard=[clip.num_heard for clip in found] if "audio" in wanted else [],
        frames=[np.asarray(clip.frames) for clip in found] if "video" in wanted else [],
        description=f"{count(len(found), 'segment')} of {count(num_used, 'file')}",
    )


def _measure_all(diagnosis: Diagnosis, settings: Settings, bundle: Bundle, clips: ProbeClips | None) -> None:
    store = AgreementStore(folder=settings.data / "agreement")
    options = EngineOptions(num_threads=settings.num_threads or num_cores())
    for candidate in RANKING:
        if candidate.precision == EXACT or _obstacle(candidate, bundle):
            continue
        try:
            agreement = measure_agreement(bundle, candidate, options, clips=clips)
        except EncoderFailure as exc:
            diagnosis.problems.append(f"{candidate}: {exc}")
        else:
            store.save(bundle, candidate, agreement)


def _obstacle(candidate: Candidate, bundle: Bundle) -> str | None:
    try:
        check_hardware(candidate)
        find_variant(candidate, bundle)
    except (EngineMissing, ValueError) as exc:
        return str(exc)
    return None


def _candidates(settings: Settings, bundle: Bundle) -> list[dict[str, Any]]:
    """Every engine and precision, fastest first: what prevents it from running, how much it differs from float32."""
    store = AgreementStore(folder=settings.data / "agreement")
    rows = []
    for candidate in RANKING:
        agreement = None if candidate.precision == EXACT else store.load(bundle, candidate)
        rows.append(
            {
                "candidate": str(candidate),
                "obstacle": _obstacle(candidate, bundle),
                "agreement": None if agreement is None else asdict(agreement),
                "shortfalls": [] if agreement is None else agreement.shortfalls(),
            }
        )
    return rows


def _memory(index: Index | None) -> dict[str, Any]:
    facts = {"process": _memory_of("self")}
    if isinstance(index, EmbeddedIndex):
        facts["index_process"] = _memory_of(str(index.shard_pid))
    return facts


def _memory_of(process: str) -> dict[str, int]:
    """Resident memory of a process now and at its peak, in MiB; psutil does not tell the peak."""
    lines = Path("/proc", process, "status").read_text().splitlines()
    pairs = dict(line.split(":", 1) for line in lines if ":" in line)
    return {
        name: int(pairs[key].split()[0]) * 1024 // MIB
        for name, key in (("now_mib", "VmRSS"), ("peak_mib", "VmHWM"))
    }


def advise(settings: Settings, bundle: Bundle, encoder: Encoder | None) -> list[str]:
    """What would make the encoder faster on this machine, the largest gain first; None is an encoder that fails."""
    advice = []
    chosen = None if encoder is None else encoder.choice.candidate
    on_gpu = chosen is not None and chosen.engine in GPU
    if has_cuda_driver() and not on_gpu and settings.device != "cpu":
        advice.append("this machine has a CUDA device that the encoder does not use; the reasons are above")
    if on_gpu and (reason := _obstacle(Candidate(engine="onnxruntime-cuda", precision="fp16"), bundle)):
        advice.append(reason)
    if not on_gpu and installed_version("openvino") is None:
        gain = "bfloat16, which takes half the time of float32" if has_bf16() else "a faster float32"
        advice.append(f"{INSTALL}: {gain} on this processor")
    if settings.precision != "auto" and chosen is not None:
        faster = RANKING[: RANKING.index(chosen)]
        allowed = candidates(device=settings.device, precision="auto", tensorrt=settings.tensorrt)
        better = next((c for c in faster if c in allowed and _obstacle(c, bundle) is None), None)
        if better is not None:
            advice.append(f"FOLEY_PRECISION=auto may take {better}")
    if settings.num_threads is not None and settings.num_threads * (settings.encode_runs or 1) < num_cores():
        advice.append(f"FOLEY_NUM_THREADS is {settings.num_threads} and there are {num_cores()} cores")
    return advice
