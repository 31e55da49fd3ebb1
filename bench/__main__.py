"""Run every measurement, print the tables, write bench/results.json.

    make bench            # a quarter of an hour on two quiet cores

All ratios come from one run: baseline and ours take turns, medians are compared.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench import memory, overhead, text_path, towers, trial
from pipeline.clip.backbone import load_backbone
from pipeline.clip.config import BackboneConfig
from pipeline.core import paths
from pipeline.core.files import save_json
from pipeline.core.provenance import git_commit, versions
from pipeline.sweep.ray_cluster import ALLOCATOR

RESULTS = Path("bench/results.json")
PARTS = ("text", "flops", "replicas", "trial", "memory", "overhead", "idle")
console = Console(highlight=False, soft_wrap=True)


def print_table(title: str, rows: list[dict[str, float]], keys: list[str]) -> None:
    """Print rows of numbers."""
    table = Table(title=title, title_justify="left")
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(
            *(f"{row[key]:.3g}" if row[key] < 1e4 else f"{row[key]:,.0f}" for key in keys)
        )
    console.print(table)


def text_results() -> dict[str, float]:
    """(a) the text step against its baselines."""
    model, tower = towers.vit_b_16()
    results: dict[str, float] = {"text_max_relative_error": 0.0}
    rows = []
    for n_ctx in (4, 16):
        for n_classes in (10, 50, 100, 1000):
            found = text_path.compare(model, tower, n_classes, n_ctx)
            rows.append({"classes": n_classes, "n_ctx": n_ctx, **found})
            error = max(results["text_max_relative_error"], found.pop("relative_error"))
            results |= {f"{key}_k{n_classes}_m{n_ctx}": value for key, value in found.items()}
            results["text_max_relative_error"] = error
    print_table("text step, forward and backward, ViT-B/16", rows, list(rows[0]))
    return results


def flops_results() -> dict[str, float]:
    """(c) the rate of useful work."""
    _, tower = towers.vit_b_16()
    found = {n: text_path.flops_fraction(tower, n, 4) for n in (50, 100)}
    rows = [{"classes": float(n), **row} for n, row in found.items()]
    print_table("useful work, against a large matrix product", rows, list(rows[0]))
    return {
        f"useful_{'flops_fraction' if key == 'fraction' else key.removeprefix('useful_')}_k{n}": v
        for n, row in found.items()
        for key, v in row.items()
    }


def replica_results() -> dict[str, float]:
    """(d) how much cheaper a replica is beside others."""
    embedded = load_backbone(
        BackboneConfig(name=str(paths.BACKBONE), pretrained=None, device="cpu")
    )
    found = {
        "embedded_k10": text_path.replicas(embedded.text, towers.imagenet_names(10), 4),
        "vitb16_k5": text_path.replicas(towers.vit_b_16()[1], towers.imagenet_names(5), 4),
    }
    results = {f"{key}_{case}": value for case, row in found.items() for key, value in row.items()}
    print_table("one replica's cost alone, over its cost in a shared pass", [results], [*results])
    return results


def trial_results() -> dict[str, float]:
    """(b) and (e) a whole trial against the CoOp-style loop."""
    found = trial.trial(*towers.vit_b_16())
    for key, value in found.items():
        console.print(f"{key.replace('_', ' '):<40} {value:>10,.2f}")
    return found


def memory_results() -> dict[str, float]:
    """(g) peak memory over all names of ImageNet."""
    found = {
        "imagenet1k_peak_bytes": float(memory.peak_bytes(1)),
        "imagenet1k_peak_bytes_3_replicas": float(memory.peak_bytes(3)),
    }
    print_table("peak resident bytes, 1,000 classes", [found], [*found])
    return found


def overhead_results() -> dict[str, float]:
    """(f) the sweep's overhead."""
    found = overhead.overhead()
    print_table("sweep against the same training in bare processes", [found], [*found])
    return found


def idle_results() -> dict[str, float]:
    """(h) what workers wait for results, so that the same sweep gives the same trials."""
    found = overhead.idle()
    print_table("wall time with sweep.lag over that without, less 1", [found], [*found])
    return found


def chosen(parts: list[str]) -> Iterator[dict[str, float]]:
    """Run the parts that were asked for."""
    runs = (
        text_results, flops_results, replica_results, trial_results, memory_results,
        overhead_results, idle_results,
    )  # fmt: skip
    for part, run in zip(PARTS, runs, strict=True):
        if part in parts:
            console.print(f"\n[bold]{part}[/bold]")
            yield run()


def main() -> None:
    """Measure, print, write."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(
            sys.executable,
            [sys.executable, "-m", "bench", *sys.argv[1:]],
            {**os.environ, **ALLOCATOR},
        )
    parser = argparse.ArgumentParser(description="Measure what the project promises of its speed.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = options.parts or list(PARTS)
    results: dict[str, float | str] = {"threads": options.threads, "git_commit": git_commit()}
    results |= {f"version_{name}": found for name, found in versions().items()}
    for found in chosen(parts):
        results |= found
    if parts == list(PARTS):
        save_json(RESULTS, results)
        console.print(f"\nwritten: {RESULTS}")


if __name__ == "__main__":
    main()
