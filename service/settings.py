"""Everything an operator may set: one frozen object, read once where a program starts and passed down.

Each field is read from the environment variable `FOLEY_` + its name in capitals (`FOLEY_DATA`,
`FOLEY_DEVICE`). The limits are safe defaults against hostile files and clients.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.bundle import starter_path

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MAX_LIMIT = 1000  # most results or assets one answer may hold, whatever the settings say


def default_data_folder() -> Path:
    """Where data lives when nobody says otherwise: `foley` under the XDG data folder."""
    xdg = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification says that a relative path here is to be ignored.
    root = Path(xdg) if Path(xdg).is_absolute() else Path("~/.local/share").expanduser()
    return root / "foley"


class Settings(BaseSettings):
    """All settings of the service, checked once; units are in the names."""

    model_config = SettingsConfigDict(env_prefix="FOLEY_", frozen=True, extra="forbid")

    # What to serve, and where
    data: Path = Field(
        default_factory=default_data_folder, description="Folder of the index and all other state."
    )
    bundle: Path = Field(
        default_factory=starter_path,
        description="Folder of the encoder bundle; default: the shipped starter.",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto", description="Where the encoder runs. `auto` takes CUDA where it works, else the CPU."
    )
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8"] = Field(
        default="auto",
        description="What the encoder multiplies. `auto` takes the fastest that agrees with float32 on this machine, "
        "and int8 only where it is named. `foley doctor` says which it is, and why.",
    )
    num_threads: PositiveInt | None = Field(
        default=None,
        description="Processor threads of one run of the encoder; default: all cores, shared by the runs.",
    )
    tensorrt: bool = Field(default=False, description="Let TensorRT compile the encoder for the GPU.")
    cuda_graphs: bool = Field(default=False, description="Replay the launches of the GPU as CUDA graphs.")
    gpu_memory_bytes: PositiveInt | None = Field(
        default=None, description="Most memory of the GPU for numbers in work; default: as much as there is."
    )
    host: str = Field(default="127.0.0.1", description="Address `foley serve` listens on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port `foley serve` listens on; 0 takes a free one."
    )
    allow_remote: bool = Field(
        default=False,
        description="Listen on an address other machines reach, though every caller may read and delete.",
    )

    # Requests
    max_upload_bytes: PositiveInt = Field(default=256 * MIB, description="Largest request with a query file.")
    max_json_bytes: PositiveInt = Field(default=1 * MIB, description="Largest request body without a file.")
    body_grace_seconds: PositiveFloat = Field(
        default=30.0, description="Time a client may make us wait for its body, beyond what its size earns."
    )
    min_body_bytes_per_second: PositiveInt = Field(
        default=256 * KIB, description="Each body byte received earns its share of a second at this rate."
    )
    header_timeout_seconds: PositiveFloat = Field(
        default=10.0, description="Time to receive a request's head."
    )
    idle_timeout_seconds: PositiveFloat = Field(
        default=10.0, description="Keep-alive time of an idle connection."
    )
    graceful_stop_seconds: PositiveInt = Field(
        default=25, description="Time for running requests after SIGTERM."
    )
    upload_reserve_bytes: int = Field(
        default=64 * MIB, ge=0, description="Free disk space an upload must leave where query files are kept."
    )
    readiness_cache_seconds: float = Field(
        default=5.0, ge=0, description="How long one readiness answer is reused."
    )

    # Operations
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="Form of the log on stderr. `auto` writes text to a terminal and JSON lines elsewhere.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important kind of line in the log of `foley serve`."
    )

    # Concurrency
    search_workers: PositiveInt = Field(
        default_factory=lambda: os.cpu_count() or 1,
        description="Requests that decode, encode and search at the same time.",
    )
    waiting_per_worker: PositiveInt = Field(
        default=4, description="Requests that may wait for each search worker; further ones get 429 at once."
    )
    max_wait_seconds: PositiveFloat = Field(
        default=5.0, description="Longest wait for a search worker, then 429."
    )
    max_work_seconds: PositiveFloat = Field(
        default=300.0,
        description="Time to answer a request whose body is there; what is not encoded by then is dropped.",
    )
    decode_workers: PositiveInt = Field(
        default_factory=lambda: os.cpu_count() or 1, description="Sandboxed processes that decode media."
    )

    # Encoding
    encode_max_batch: PositiveInt | None = Field(
        default=None,
        description="Most segments of several requests in one run of the encoder. Default, and most: what its "
        "engine takes, 16 on a GPU and 1 on a CPU.",
    )
    encode_wait_seconds: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Longest that a batch which is not full waits for more, where two requests are there. "
        "Default: 0.002 on a GPU, 0 on a CPU.",
    )
    encode_queue_segments: PositiveInt | None = Field(
        default=None,
        description="Segments that may wait for the encoder; further ones get 429. Default: 16 for each search "
        "worker.",
    )
    encode_runs: PositiveInt | None = Field(
        default=None,
        description="Batches under way at the same time; the engine runs one of them. Default: 2 on a GPU, else 1.",
    )

    # Decoding
    max_query_seconds: PositiveFloat = Field(
        default=600.0, description="Longest query file, declared or decoded."
    )
    max_library_seconds: PositiveFloat = Field(default=14_400.0, description="Longest library file.")
    max_frame_width: PositiveInt = Field(default=8192, description="Widest picture that is decoded, pixels.")
    max_frame_height: PositiveInt = Field(
        default=4320, description="Highest picture that is decoded, pixels."
    )
    max_streams: PositiveInt = Field(default=32, description="Most streams of one file.")
    max_channels: PositiveInt = Field(default=64, description="Most audio channels of one stream.")
    query_timeout_seconds: PositiveFloat = Field(
        default=30.0, description="Wall time to decode a query file."
    )
    worker_memory_bytes: PositiveInt = Field(
        default=3 * GIB, description="Address space of one decode worker."
    )
    worker_recycle_after: PositiveInt = Field(
        default=500, description="Clips after which a decode worker is replaced."
    )

    # Search and storage
    default_limit: int = Field(
        default=10, ge=1, le=MAX_LIMIT, description="Results when the request names no limit."
    )
    max_limit: int = Field(
        default=MAX_LIMIT, ge=1, le=MAX_LIMIT, description="Most results one request may ask for."
    )
    prefetch: PositiveInt = Field(
        default=200, description="Candidates by pooled vector that are scored by their tracks."
    )
    min_free_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Free disk space below which the index refuses writes; default: max(2 GiB, 5 %).",
    )

    @field_validator("data", "bundle", mode="after")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _refuse_open_doors(self) -> Settings:
        if not self.allow_remote and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} can be reached from other machines and requests carry no key yet: "
                "use 127.0.0.1 behind a proxy that asks who calls, or set FOLEY_ALLOW_REMOTE=1"
            )
        if self.default_limit > self.max_limit:
            raise ValueError(f"default_limit {self.default_limit} is above max_limit {self.max_limit}")
        return self

    def disk_floor_bytes(self, total_bytes: int) -> int:
        """Free space that is never written into, on a disk of this size."""
        if self.min_free_bytes is not None:
            return self.min_free_bytes
        return max(2 * GIB, total_bytes // 20)

    def replace(self, **changes: Any) -> Settings:
        """A copy with some fields changed, checked like the first.

        Args:
            **changes: New values by field name.

        Returns:
            The new settings.
        """
        return Settings(**{**self.model_dump(), **changes})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address (a name other than localhost counts as remote)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
