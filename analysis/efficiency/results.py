"""`analysis/efficiency.json` as the report reads it; `analysis.efficiency.lengths` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlab.util.files import read_json

WORKLOADS = {"train": "training step", "prefill": "prefill", "decode": "decoding"}


def read(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """An `analysis/` folder's file, or None, and a line for what cannot be used."""
    path = folder / "efficiency.json"
    if not path.exists():
        return None, []
    try:
        tree = read_json(path)
        for row in tree["arms"].values():
            for point in row["points"]:
                float(point["length"])
        return tree, []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, [f"efficiency.json cannot be used, so efficiency is not shown: {type(error).__name__}: {error}"]


def runs_of(tree: Mapping[str, Any], arm: str, workload: str) -> dict[int, list[float]]:
    """Tokens per second of each run by length; lengths without a figure are left out."""
    points = tree["arms"].get(arm, {}).get("points", [])
    measured = {p["length"]: p[workload] for p in points if isinstance(p.get(workload), dict)}
    return {length: row["runs"] for length, row in measured.items() if row.get("runs")}


def errors(tree: Mapping[str, Any] | None) -> list[str]:
    """What could not be measured, a line each."""
    out: list[str] = []
    for arm, row in tree["arms"].items() if tree else ():
        if row.get("error"):
            out.append(f"{arm}: {row['error']}")
        elif row.get("left_out"):
            out.append(f"{arm}: not measured at {', '.join(map(str, row['left_out']))}: the time was up")
        failed: dict[tuple[str, str], list[str]] = {}
        for point in row["points"]:
            for workload in WORKLOADS:
                if isinstance(point.get(workload), dict) and (error := point[workload].get("error")):
                    failed.setdefault((workload, error), []).append(str(point["length"]))
        out += [f"{arm}, {workload} at {', '.join(lengths)}: {why}" for (workload, why), lengths in failed.items()]
    return out
