"""Everything an operator may set: one frozen object, read once when a program starts and passed down.

Each field is read from the environment variable `FOLEY_` + its name in capitals (`FOLEY_DATA`,
`FOLEY_DEVICE`). The limits are safe defaults against hostile files and clients.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.bundle.bundle import starter_path
from models.cores import num_cores
from service.system.files import DiskSpace, read_disk_space
from service.system.storage import Storage

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MAX_LIMIT = 1000  # maximum number of results or assets in one answer, whatever the settings say


def default_data_folder() -> Path:
    """The default of `data`: `foley` under the XDG data folder."""
    xdg = os.environ.get("XDG_DATA_HOME", "")
    # By the XDG specification a relative path is ignored.
    root = Path(xdg) if Path(xdg).is_absolute() else Path("~/.local/share").expanduser()
    return root / "foley"


class Settings(BaseSettings):
    """All settings of the service, checked once; units are in the names."""

    model_config = SettingsConfigDict(
        env_prefix="FOLEY_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    # What to serve, and where
    data: Path = Field(default_factory=default_data_folder)
    """Folder of the index and all other state."""
    bundle: Path = Field(default_factory=starter_path)
    """Folder of the encoder bundle that answers until a release is activated. Default: the starter."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where the encoder runs. `auto` takes CUDA if it works, else the CPU."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8"] = "auto"
    """Number format of the encoder. `auto` takes the fastest that agrees with float32 on this machine, never int8.
    `foley doctor` shows which, and why."""
    num_threads: PositiveInt | None = None
    """Processor threads of one run of the encoder. Default: all cores, shared by the runs."""
    tensorrt: bool = False
    """Let TensorRT compile the encoder for the GPU."""
    cuda_graphs: bool = False
    """Replay the GPU's launches as CUDA graphs."""
    gpu_memory_bytes: PositiveInt | None = None
    """Maximum GPU memory for working data. Default: no limit."""
    host: str = "127.0.0.1"
    """Address `foley serve` listens on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port `foley serve` listens on; 0 takes a free one."""
    allow_remote: bool = False
    """Listen on an address that other machines reach without API keys: every caller may read and delete."""

    # Who may call
    api_keys_file: Path | None = None
    """File of `foley keys`. If it is set, or other machines reach `host`, requests need one of its keys. Default:
    `api-keys.json` in the data folder."""
    api_key: SecretStr | None = None
    """The key with which commands ask a running `foley serve` that requires one."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names under which the service is reached, separated by commas; pages of these hosts may call it. Default: on
    loopback this machine's own names, with API keys every name."""
    open_metrics: bool = False
    """Answer `/metrics` without a key."""

    library_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders of the library, separated by colons: jobs work on, and players get, what really lies in them. `*` means
    every folder, as does the default; with API keys there is no default."""

    storage_roots: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses (`s3://bucket/prefix`), separated by commas: objects of the library are below these. Jobs over HTTP may
    name no others. Default: what is named on the command line, if `library_roots` is not set."""

    agent_folders: Annotated[tuple[Path, ...], NoDecode] = ()
    """Further folders whose files agents may name (`foley mcp`), separated by colons. Those of the library they may
    name anyway: `library_roots`, or else the folders of its jobs."""

    # Requests
    max_upload_bytes: PositiveInt = 256 * MIB
    """Maximum size of a request with a query file."""
    max_json_bytes: PositiveInt = 1 * MIB
    """Maximum size of a request body without a file."""
    body_grace_seconds: PositiveFloat = 29.0  # who sends nothing is gone within 30 s
    """Maximum wait for a request's body, beyond what its size earns."""
    min_body_bytes_per_second: PositiveInt = 256 * KIB
    """Each body byte received earns its share of a second at this rate."""
    header_timeout_seconds: PositiveFloat = 10.0
    """Time to receive a request's head."""
    max_connections: PositiveInt = 1000
    """Maximum number of open connections; above it the one that has waited longest for a request is closed. At most
    half of the files that the process may open: the others are for work."""
    idle_timeout_seconds: PositiveFloat = 10.0
    """Keep-alive time of an idle connection."""
    graceful_stop_seconds: PositiveInt = 25
    """Time for running requests after SIGTERM."""
    upload_reserve_bytes: NonNegativeInt = 64 * MIB
    """Minimum free disk space that an upload must leave where query files are kept."""
    readiness_cache_seconds: NonNegativeFloat = 5.0
    """How long one readiness answer is reused."""

    # Operations
    log_format: Literal["auto", "json", "console"] = "auto"
    """Form of the log on stderr. `auto` writes text to a terminal and JSON lines elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of lines in the log of `foley serve`."""

    # Concurrency
    search_workers: PositiveInt = Field(default_factory=num_cores)
    """Maximum number of requests that decode, encode and search at the same time."""
    waiting_per_worker: PositiveInt = 4
    """Maximum number of waiting requests for each search worker; further ones get 429 at once."""
    max_wait_seconds: PositiveFloat = 5.0
    """Maximum wait for a search worker, then 429."""
    max_work_seconds: PositiveFloat = 300.0
    """Maximum time to answer a request once its body is there; what is not encoded by then is dropped."""
    decode_workers: PositiveInt = Field(default_factory=num_cores)
    """Sandboxed processes that decode media."""

    # Encoding
    encode_max_batch: PositiveInt | None = None
    """Maximum segments of several requests in one run of the encoder. Default, and upper limit: what its engine
    takes, 16 on a GPU and 1 on a CPU."""
    encode_wait_seconds: float | None = Field(default=None, ge=0, le=10)
    """Maximum wait of an unfilled batch for more segments, if at least two requests run. Default: 0.002 on a GPU,
    0 on a CPU."""
    encode_queue_segments: PositiveInt | None = None
    """Maximum segments that wait for the encoder; further ones get 429. Default: 16 for each search worker."""
    encode_runs: PositiveInt | None = None
    """Batches in preparation at the same time; the engine runs one of them. Default: 2 on a GPU, else 1."""

    # Decoding
    max_query_seconds: PositiveFloat = 600.0
    """Maximum length of a query file, declared or decoded."""
    max_library_seconds: PositiveFloat = 14_400.0
    """Maximum length of a library file."""
    max_frame_width: PositiveInt = 8192
    """Maximum width of a picture that is decoded, pixels."""
    max_frame_height: PositiveInt = 4320
    """Maximum height of a picture that is decoded, pixels."""
    max_streams: PositiveInt = 32
    """Maximum number of streams in one file."""
    max_channels: PositiveInt = 64
    """Maximum number of audio channels in one stream."""
    open_timeout_seconds: PositiveFloat = 5.0
    """Maximum wall time to open a query file and read its header."""
    query_timeout_seconds: PositiveFloat = 30.0
    """Maximum wall time to decode a query file."""
    worker_memory_bytes: PositiveInt = 3 * GIB
    """Maximum address space of one decode worker."""
    worker_recycle_after: PositiveInt = 500
    """Clips after which a decode worker is replaced."""

    # Search and storage
    default_limit: int = Field(default=10, ge=1, le=MAX_LIMIT)
    """Number of results if the request names no limit."""
    max_limit: int = Field(default=MAX_LIMIT, ge=1, le=MAX_LIMIT)
    """Maximum number of results that one request may ask for."""
    storage: Storage = "fine"
    """How a new embedded index stores tracks: `fine` in 8 or `compact` in 4 bits a number, which take a fifth and a
    ninth of the disk of `float16` (docs/search.md). One that exists keeps its own."""
    optimize_share: float = Field(default=0.3, gt=0, le=1)
    """The embedded index rebuilds its graphs, in separate processes, once more than this share of its segments
    changed, above 10,000. 1 means never."""
    max_event_streams: PositiveInt = 64
    """Maximum number of open event streams for each API key, or for all clients if none is needed."""
    max_batch_queries: int = Field(default=24, ge=1, le=MAX_LIMIT)
    """Maximum number of queries in one batch. 24 tracks of 16 × 768 fill 0.8 of the 1 MiB a body may have."""
    prefetch: PositiveInt | None = None
    """Candidates by pooled vector that are scored by their tracks. Default: 100, 200 or 500, more if the moments
    of the query differ more."""
    sync_max_gone: float = Field(default=0.5, gt=0, le=1)
    """Maximum share of a folder's files that one sync removes without asking, if at least 10 are gone."""
    min_free_bytes: NonNegativeInt | None = None
    """Minimum free disk space; below it the index refuses writes. Default: max(2 GiB, 5 %)."""

    preview_cache_bytes: PositiveInt = 4 * GIB
    """Maximum disk space of thumbnails, filmstrips and waveforms, at most 40 KB for each asset; what was not asked for
    the longest goes first, and is made again when it is asked for."""

    object_cache_bytes: PositiveInt = 16 * GIB
    """Maximum disk space of local copies of objects (`s3://`), and so of one object; what was not used the longest goes
    first."""

    models_url: str | None = None
    """Mirror from which `foley models get` fetches: this address replaces the host of each published one, whose path
    stays. Default: the published hosts."""

    # A Qdrant server in place of the embedded index
    qdrant_url: str | None = None
    """Address of a Qdrant server, http:// or https://; those of several nodes of one cluster are separated by commas.
    Default: an embedded index in the data folder."""
    qdrant_api_key: SecretStr | None = None
    """The key that the Qdrant server requires."""
    qdrant_ca_file: Path | None = None
    """Certificates (PEM) that sign that of the Qdrant server. Default: the usual ones."""
    qdrant_prefix: str = Field(default="foley", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Name of this library on the server: its alias, and the prefix of its collections' names."""
    qdrant_prefer_grpc: bool = True
    """Use gRPC if the server answers on its port."""
    qdrant_grpc_port: int = Field(default=6334, ge=1, le=65535)
    """The server's port for gRPC."""
    qdrant_timeout_seconds: PositiveFloat = 10.0
    """Maximum time for one request to the server."""
    qdrant_shards: PositiveInt | None = None
    """Shards of a new collection. Default: one for each node of the cluster."""
    qdrant_replicas: PositiveInt = 1
    """Copies of each shard of a new collection."""
    qdrant_write_acknowledgements: PositiveInt | None = None
    """Copies that must have a write before it counts. Default: half of them, so that writes go on while one of two is
    away."""

    # Releases
    release_max_recall_drop: float = Field(default=0.02, ge=0, le=1)
    """Maximum net share of queries that a new release may answer worse, unless it may be chance."""
    release_min_overlap: float = Field(default=0.1, ge=0, le=1)
    """Minimum share of the ten best results that a new release must keep."""
    release_min_coverage: float = Field(default=0.99, ge=0, le=1)
    """Minimum share of the assets that a new release must have embedded."""
    release_max_latency_ratio: PositiveFloat = 2.0
    """Maximum time for a segment, as a multiple of that of the active release."""
    release_max_memory_ratio: PositiveFloat = 2.0
    """Maximum memory of an encoder, as a multiple of that of the active release."""
    release_sample: PositiveInt = 500
    """Assets of the library that gates and calibration search with."""
    release_trial_bytes: PositiveInt | None = 16 * GIB
    """Maximum address space of the process that tries a bundle; no limit if a GPU maps all of its memory."""
    release_threads: PositiveInt = Field(default_factory=lambda: max(1, num_cores() // 2))
    """Processor threads that embed the library for a new release, at the lowest priority."""
    release_stall_seconds: PositiveFloat = 600.0
    """Maximum time for one run of a new release's encoder while it embeds the library."""
    index_call_seconds: PositiveFloat = 30.0
    """Maximum time for one call to an index of this machine; a release is built with the maximum for its encoder."""
    releases: Path | None = None
    """Folder of the releases, which replicas of one Qdrant server share. Default: in the data folder."""
    release_poll_seconds: PositiveFloat = 2.0
    """How often a replica asks a Qdrant server which release is active."""

    @field_validator("library_roots", "agent_folders", mode="before")
    @classmethod
    def _split_roots(cls, value: Any) -> Any:
        parts = [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value
        return ["/" if part == "*" else part for part in parts] if isinstance(parts, list) else parts

    @field_validator("library_roots", "agent_folders", mode="after")
    @classmethod
    def _check_roots(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in value:
            if not root.expanduser().is_absolute():
                raise ValueError(f"library roots and folders of agents must be absolute, got {str(root)!r}")
        return tuple(root.expanduser() for root in value)

    @field_validator("storage_roots", mode="before")
    @classmethod
    def _split_storages(cls, value: Any) -> Any:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("storage_roots", mode="after")
    @classmethod
    def _check_storages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for root in value:
            parts = urlsplit(root)
            if not parts.scheme or not parts.netloc or parts.username or parts.password or parts.query:
                raise ValueError("storage roots are addresses like s3://bucket/prefix, without keys")
        return tuple(root.rstrip("/") for root in value)

    @field_validator("data", "bundle", mode="after")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("api_keys_file", "releases", mode="after")
    @classmethod
    def _make_file_absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name.strip().lower() for name in value.split(",") if name.strip())
        return value

    @property
    def needs_keys(self) -> bool:
        """Whether requests need an API key: if other machines reach us, or a file of keys is named."""
        return self.api_keys_file is not None or not (self.allow_remote or is_loopback(self.host))

    @property
    def release_folder(self) -> Path:
        """Folder of the releases."""
        return self.releases or self.data / "releases"

    @property
    def keys_path(self) -> Path:
        """File of the API keys."""
        return self.api_keys_file or self.data / "api-keys.json"

    @field_validator("qdrant_url", "models_url", mode="after")
    @classmethod
    def _check_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        is_qdrant = info.field_name == "qdrant_url"
        for url in (value or "http://localhost").split(",") if is_qdrant else [value or "http://localhost"]:
            parts = urlsplit(url.strip())
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("must begin with http:// or https:// and name a host")
            _ = parts.port  # raises if it is not a port
            if parts.username or parts.password or parts.query:
                elsewhere = ": put that into FOLEY_QDRANT_API_KEY" if is_qdrant else ""
                raise ValueError(f"must hold no key{elsewhere}")
        return value

    @model_validator(mode="after")
    def _check_limits(self) -> Settings:
        if self.default_limit > self.max_limit:
            raise ValueError(f"default_limit {self.default_limit} is above max_limit {self.max_limit}")
        return self

    def client_headers(self) -> dict[str, str]:
        """Headers of a command's requests to a running service."""
        return {"Authorization": f"Bearer {self.api_key.get_secret_value()}"} if self.api_key else {}

    def disk_space(self, folder: Path | None = None) -> DiskSpace:
        """How full the disk of a folder is, by default of the data folder, and what must stay free on it."""
        return read_disk_space(folder or self.data, min_free_bytes=self.min_free_bytes)

    def replace(self, **changes: Any) -> Settings:
        """A copy with some fields changed, checked like the first."""
        return Settings(**{**self.model_dump(), **changes})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address (a name other than localhost counts as remote)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
