"""Opening a release: its bundle loaded as the settings say, its queue, its index and its calibration.

`service.foley` opens the active one when a program starts, `service.releases.manager` every other.
"""

from __future__ import annotations

import base64
import logging
import pickle
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from importlib.metadata import version

from models.bundle.bundle import BrokenBundle, Bundle, load_bundle, read_bundle_id, starter_path
from models.cores import num_cores
from service.encode.batching import Batcher
from service.encode.encoder import Encoder
from service.encode.queue import BatchLimits
from service.encode.spool import Spool, chunk_segments
from service.encode.text import TextEncoder, TextQueue
from service.index.contract import Index
from service.index.opening import index_folder, index_place
from service.releases.store import ReleaseNotFound, ReleaseStore
from service.releases.switch import OpenRelease
from service.system.files import make_private
from service.system.settings import Settings

logger = logging.getLogger(__name__)


def active_release(settings: Settings) -> tuple[str, Bundle]:
    """Name and verified bundle of the active release; before the first one, those of the settings' bundle.

    Raises `ReleaseNotFound` if another release is active and is not in the store.
    """
    store = ReleaseStore(settings.release_folder)
    active = store.active()
    release_id = index_place(settings).active() or (active.release_id if active else None)
    if release_id is not None and (store.path(release_id) / "release.json").exists():
        return release_id, store.load_bundle(release_id)
    if release_id is None and (releases := store.list()):
        names = ", ".join(release.release_id for release in releases)
        raise ReleaseNotFound(
            f"{store.folder / 'active.json'} is lost, so nothing says which release is active: `foley repair --active "
            f"RELEASE` with one of {names}"
        )
    bundle = load_bundle(settings.bundle)
    if release_id not in (None, bundle.bundle_id):
        raise ReleaseNotFound(
            f"release {release_id} is active, but not in {store.folder}: FOLEY_RELEASES names the folder of releases"
        )
    return bundle.bundle_id, bundle


def warn_of_other_indexes(settings: Settings, release_id: str) -> None:
    """Warn if the library's folder has indexes of other bundles and none of the release that answers."""
    folder = index_folder(settings, release_id)
    others = [] if folder.exists() else sorted(path.name for path in folder.parent.glob("*"))
    if others and settings.qdrant_url is None:
        logger.warning(
            "the library looks empty: it was indexed with %s, and FOLEY_BUNDLE is %s; index it again, or name that one",
            " and ".join(others),
            release_id,
        )


def warn_of_unused_bundle(settings: Settings, release_id: str) -> None:
    """Warn if the bundle of the settings is named, but is not active and no release of it exists."""
    if settings.bundle == starter_path():  # none was named
        return
    try:
        bundle_id = read_bundle_id(settings.bundle)
    except BrokenBundle as exc:
        logger.warning("release %s is active; FOLEY_BUNDLE is not a bundle: %s", release_id, exc)
        return
    store = ReleaseStore(settings.release_folder)
    if release_id != bundle_id and bundle_id not in {release.bundle_id for release in store.list()}:
        logger.warning(
            "release %s is active, not FOLEY_BUNDLE: `foley releases create %s --activate` makes a release of it",
            release_id,
            settings.bundle,
        )


def open_release(settings: Settings, release_id: str, bundle: Bundle) -> OpenRelease:
    """Load the encoder, start its queue, open the index of a release and read its calibration."""
    calibration = ReleaseStore(settings.release_folder).load_calibration(release_id)
    indexes = () if settings.qdrant_url else (settings.data / "index",)
    for folder in (settings.release_folder, settings.data / "spool", *indexes):
        with suppress(OSError):  # whoever writes there says it better
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_private(folder)
    with ThreadPoolExecutor(1, thread_name_prefix="open-index") as pool, ExitStack() as stack:
        # Both take a second, in processes and threads of their own.
        opening = pool.submit(index_place(settings).open, bundle, release_id=release_id)
        stack.callback(_close_opened, opening)
        encoder = open_encoder(settings, bundle)
        texts = open_texts(settings, bundle)
        if texts is not None:
            stack.callback(texts.close)
        index = opening.result()
        batcher = Batcher(encoder, batch_limits(settings, encoder.engine.max_batch))
        release = OpenRelease(
            release_id=release_id,
            bundle=bundle,
            encoder=encoder,
            batcher=batcher,
            index=index,
            calibration=calibration,
            spool=open_spool(settings, release_id, bundle),
            texts=texts,
        )
        stack.pop_all()
        return release


def open_spool(settings: Settings, release_id: str, bundle: Bundle) -> Spool:
    """Open the spool of a release, and remove what was left there long ago."""
    spec = bundle.manifest.clip_spec
    facts = (bundle.bundle_id, spec, chunk_segments(spec), version("av"), version("foley-av"))
    spool = Spool(
        settings.data / "spool" / release_id, basis=repr(facts), min_free_bytes=settings.min_free_bytes
    )
    spool.sweep()
    return spool


def _close_opened(opening: Future[Index]) -> None:
    """Close an index that was opened for a release that could not be."""
    if opening.exception() is None:
        opening.result().close()


def open_encoder(settings: Settings, bundle: Bundle) -> Encoder:
    """Load a bundle on the engine that the settings allow; measured and compiled files lie with the data."""
    return Encoder(
        bundle,
        device=settings.device,
        precision=settings.precision,
        num_threads=settings.num_threads,
        num_runs=settings.encode_runs or 1,
        tensorrt=settings.tensorrt,
        cuda_graphs=settings.cuda_graphs,
        gpu_memory_bytes=settings.gpu_memory_bytes,
        agreement=settings.data / "agreement",
        cache=settings.data / "compiled",
    )


def open_texts(settings: Settings, bundle: Bundle) -> TextQueue | None:
    """Load the text encoder of a bundle, with a queue; None if it embeds no words."""
    if bundle.manifest.text is None:
        return None
    num_runs = settings.encode_runs or 1
    threads = settings.num_threads or max(1, num_cores() // num_runs)
    limits = BatchLimits(
        max_queued=settings.encode_queue_segments or 16 * settings.search_workers, num_runs=num_runs
    )
    return TextQueue(TextEncoder(bundle, num_threads=threads), limits)


def batch_limits(settings: Settings, max_batch: int) -> BatchLimits:
    """How segments of several requests are joined, by default after what the engine takes in one run.

    That is 1 on a CPU, which the 16 pictures of one segment fill.
    """
    joins = max_batch > 1
    wait_seconds = settings.encode_wait_seconds
    return BatchLimits(
        # More than the engine takes would only make the first segments wait for the last.
        max_batch=min(settings.encode_max_batch or max_batch, max_batch),
        max_wait_seconds=(0.002 if joins else 0.0) if wait_seconds is None else wait_seconds,
        max_queued=settings.encode_queue_segments or 16 * settings.search_workers,
        # On a GPU the next batch is copied together while one runs; engines run one at a time.
        num_runs=settings.encode_runs or (2 if joins else 1),
    )


def write_settings(settings: Settings) -> str:
    """Settings as a line that a child process of ours reads from its standard input, secrets included."""
    return base64.b64encode(pickle.dumps(settings)).decode("ascii") + "\n"


def read_settings(line: str) -> Settings:
    """Read what `write_settings` wrote; only what a parent of ours wrote may be read.

    A parent that runs the code of before an update lacks fields of this one, or has more.
    """
    given = vars(pickle.loads(base64.b64decode(line)))  # noqa: S301 - from our parent, over a pipe
    return Settings(**{name: value for name, value in given.items() if name in Settings.model_fields})
