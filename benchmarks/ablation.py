"""How much each part of the method contributes: the ablation on the synthetic corpus, as a table.

    foley-train synthesize corpus/train --scenes 10000 --seed 1 --split train --workers 2
    foley-train synthesize corpus/heldout --scenes 500 --seed 1 --split heldout --workers 2
    python -m benchmarks.ablation --data corpus/train --validation corpus/heldout --output runs/ablation

Every run has the same network, budget, data, seeds and contrastive loss (both directions, all negatives of the batch).
They differ in how the visible patches are chosen and in whether the teacher's embedding is distilled. Finished runs are
not repeated. The interval of a mean over seeds is Student's t at 95 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.media.clip import ClipSpec
from training.data.segments import PairedSegments, prepare
from training.pretraining.config import ABLATIONS, PretrainConfig
from training.pretraining.pretrain import pretrain

WORDS = {
    "ablation_single_pass": ("single pass (CAV-MAE Sync)", "one random quarter for both losses", "no"),
    "ablation_random_undistilled": ("dual path, random", "random half", "no"),
    "ablation_random": ("dual path, random, distilled", "random half", "yes"),
    "ablation_undistilled": ("dual path, guided", "patch → CLS, best half", "no"),
    "ablation": ("dual path, guided, distilled: the whole method", "patch → CLS, best half", "yes"),
    "ablation_cls_to_patch": ("dual path, guided the other way, distilled", "CLS → patch, best half", "yes"),
    "ablation_sampled": ("dual path, guidance drawn, distilled", "patch → CLS, drawn half", "yes"),
}
"""Columns of the table: name, what alignment sees, whether it is distilled."""
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5th percentile of Student's t by number of seeds."""


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train every variant with every seed and return their results on the held-out clips."""
    training = prepare(options.data, options.output / "decoded-training", ClipSpec())
    held_out = prepare(options.validation, options.output / "decoded-validation", ClipSpec())
    wanted = [make() for make in ABLATIONS if not options.only or make.__name__ in options.only]
    found = []
    for seed in options.seeds:
        for config in wanted:
            config = dataclasses.replace(config, seed=seed, compile=options.compile)
            if options.finished and not (options.output / f"{config.name}-{seed}" / "checkpoint").exists():
                continue
            found.append(run_one(config, training, held_out, options.output))
            print(json.dumps(found[-1]), flush=True)
    return found


def run_one(
    config: PretrainConfig, training: PairedSegments, held_out: PairedSegments, output: Path
) -> dict[str, Any]:
    """Train one variant with one seed, or read the result of an earlier run."""
    folder = output / f"{config.name}-{config.seed}"
    checkpoint = pretrain(config, training, folder, validation=held_out, evaluate_every=config.num_steps)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "run": config.name,
        "seed": config.seed,
        "seconds": checkpoint.run["seconds"],
        "contrastive": last["contrastive"],
        **checkpoint.run["retrieval"]["student"],
    }


def interval(values: Sequence[float]) -> str:
    """Return the mean and half the width of its 95 % interval as text."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = STUDENT_T[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


def tabulate(found: list[dict[str, Any]]) -> str:
    """Return a Markdown table: one line a variant, mean over seeds with interval."""
    lines = [
        "| variant | alignment sees | distilled "
        "| sound → picture R@1 | R@10 | picture → sound R@1 | R@10 | median ranks | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (title, view, distilled) in WORDS.items():
        rows = [row for row in found if row["run"] == name]
        if not rows:
            continue
        cells = [
            interval([row[direction][at] for row in rows])
            for direction in ("audio_to_video", "video_to_audio")
            for at in ("at_1", "at_10")
        ]
        ranks = " / ".join(
            f"{statistics.mean(row[direction]['median_rank'] for row in rows):.0f}"
            for direction in ("audio_to_video", "video_to_audio")
        )
        lines.append("| " + " | ".join([title, view, distilled, *cells, ranks, str(len(rows))]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing and print or write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--validation", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", type=Path, help="also write the table to this file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", help="names of runs; default: all")
    parser.add_argument("--finished", action="store_true", help="train nothing; tabulate the finished runs")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    table = tabulate(run_all(options))
    if options.table:
        options.table.write_text(table)
    print(table)


if __name__ == "__main__":
    main()
