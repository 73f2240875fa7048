"""Runs these benchmarks with their defaults, one after another: `make bench`."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    "clip_speed",
    "decode_speed",
    "encode_speed",
    "index_speed",
    "pipeline_speed",
    "retrieval_speed",
    "train_speed",
    "request_speed",
    "pe_av_speed",
)


def main() -> None:
    """Run each benchmark in a process of its own."""
    for name in BENCHMARKS:
        print(f"\n{name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
