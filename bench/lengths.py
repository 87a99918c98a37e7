"""Speed, memory and state of six mixers against sequence length, with the lengths at which they cross.

    python -m bench.lengths --out docs                                   # on a GPU: 512 to 32768 tokens, 17M parameters
    python -m bench.lengths --device cpu --lengths 128 256 --d-model 64  # the same on a CPU

Measured as `python -m analysis --efficiency` measures a sweep's arms, at 32,768 tokens per batch. On a GPU all arms'
kernels are tuned first, a process per arm side by side. What there is no time for (`--budget-s`, all in all) is left
out and told. With --out: `efficiency-<device>.json` (every run), `.md` (the tables) and `.png` (the picture) there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from analysis.efficiency import kernels, lengths, measurement
from analysis.efficiency.results import WORKLOADS, runs_of
from analysis.figures import curves, svg
from analysis.figures.outcomes import against_length
from analysis.statistics import crossing
from attnlab.config.trial import Trial
from attnlab.util.files import write_json, write_text
from attnlab.util.text import large_text

MIXERS = ("standard", "gla", "mamba2", "deltanet", "gated_deltanet", "retnet")
VOCAB = 8192
MARGIN_S = 30.0  # of the budget, for imports and for writing what was found


def main() -> None:
    args, began = arguments(), time.perf_counter()
    trials = {name: trial(name, args) for name in args.mixers}
    if args.tune:
        tune(trials[args.tune], args)
        return
    if args.device == "cuda":
        tune_all(args)
    left = args.budget_s - MARGIN_S - (time.perf_counter() - began)
    console = Console(stderr=True)
    asked = (args.lengths, args.device, args.dtype, left, args.results, args.threads)
    tree = lengths.curves(trials, VOCAB, console, *asked)
    tree["model"] = trials[args.mixers[0]].model.model_dump(mode="json", exclude={"mixer"})
    text = tables(tree)
    print(text)
    if args.out:
        stem = re.sub(r"[^a-z0-9]+", "-", tree["device"].lower().replace("nvidia", "")).strip("-")
        path = args.out / f"efficiency-{stem}"
        write_json(path.with_suffix(".json"), tree)
        write_text(path.with_suffix(".md"), text)
        picture(tree, path.with_suffix(".png"))
        print(f"wrote {path}.json, .md and .png; {time.perf_counter() - began:.0f} s in all")


def trial(name: str, args: argparse.Namespace) -> Trial:
    """One mixer in the shared model."""
    model = {"d_model": args.d_model, "n_layers": args.n_layers, "n_heads": args.n_heads, "mixer": name}
    return Trial.model_validate({"model": model, "task": {"name": "text", "seq_len": 512}, "train": {"max_steps": 1}})


def cases(one: Trial, args: argparse.Namespace) -> list[measurement.Case]:
    """Every length, as `efficiency.curves` measures it."""
    lengths = sorted(args.lengths)
    dtype = "bfloat16" if args.dtype == "auto" else args.dtype
    return [measurement.Case(one, VOCAB, max(1, lengths[-1] // n), n, "cuda", dtype, 1) for n in lengths]


def tune(one: Trial, args: argparse.Namespace) -> None:
    """Run everything once, so that Triton keeps what it tuned and compiled."""
    kernels.ready("cuda", args.results)
    measurement.REPEATS = 1
    for case in cases(one, args):
        for part in WORKLOADS:
            if error := measurement.run(case, part).get("error"):
                print(f"{args.tune}, {part} at {case.length}: {error}", file=sys.stderr)


def tune_all(args: argparse.Namespace) -> None:
    """Every arm in a process of its own; none may take more than half of the time."""
    again = sys.argv[1:]
    began = time.perf_counter()
    running = {n: subprocess.Popen([sys.executable, "-m", "bench.lengths", *again, "--tune", n]) for n in args.mixers}
    for name, process in running.items():
        try:
            process.wait(max(1.0, args.budget_s / 2 - (time.perf_counter() - began)))
        except subprocess.TimeoutExpired:
            process.kill()
            print(f"{name}: not tuned in time; its first runs will be", file=sys.stderr)
    print(f"tuned in {time.perf_counter() - began:.0f} s", file=sys.stderr)


def tables(tree: dict[str, Any]) -> str:
    """The figures as Markdown: speeds, state and memory by length, then the crossings."""
    model, lengths = tree["model"], tree["lengths"]
    out = [
        f"{tree['device']}, {tree['dtype']}, {tree['tokens']:,} tokens per batch; d_model {model['d_model']}, "
        f"{model['n_layers']} layers, vocabulary {VOCAB:,}. Medians of {measurement.REPEATS} runs.\n"
    ]
    shown = [(f"{label}, tokens/s", lambda p, part=part: _speed(p, part)) for part, label in WORKLOADS.items()]
    shown.append(("state or cache per sequence, bytes", lambda p: large_text(p.get("cache_bytes"))))
    shown += [("peak memory of a training step, bytes", lambda p: large_text((p.get("train") or {}).get("peak_bytes")))]
    shown += [("MFU of a training step", lambda p: _percent((p.get("train") or {}).get("mfu")))]
    for title, cell in shown:
        out.append(f"| {title} | " + " | ".join(f"{n:,}" for n in lengths) + " |")
        out.append("|---|" + "---:|" * len(lengths))
        for arm, row in tree["arms"].items():
            by_length = {p["length"]: p for p in row["points"]}
            out.append(f"| {arm} | " + " | ".join(cell(by_length.get(n, {})) for n in lengths) + " |")
        out.append("")
    out.append("| of | pair | cross at [95 %] | faster at the longest |")
    out.append("|---|---|---|---|")
    for part, label in WORKLOADS.items():
        for found, _ in crossing.every({arm: runs_of(tree, arm, part) for arm in tree["arms"]}):
            ends = "" if found.low is None or found.high is None else f" [{found.low:,.0f}, {found.high:,.0f}]"
            at = "-" if found.length is None else f"{found.length:,.0f}{ends}"
            out.append(f"| {label} | {found.a}, {found.b} | {at} | {found.faster or '-'} |")
    for arm, row in tree["arms"].items():
        if row["left_out"]:
            out.append(f"\n{arm}: not measured at {', '.join(map(str, row['left_out']))}, the time was up.")
    return "\n".join(out) + "\n"


def _speed(point: dict[str, Any], part: str) -> str:
    told = point.get(part) or {}
    return f"{median(told['runs']):,.0f}" if told.get("runs") else told.get("error", "-")[:40]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def picture(tree: dict[str, Any], path: Path) -> None:
    """Training, prefill, decoding and state against length, in one picture."""
    import matplotlib as mpl
    from matplotlib.lines import Line2D

    with mpl.rc_context(svg.STYLE):
        figure = svg.new(9.6, 6.2)
        panels = figure.subplots(2, 2).ravel()
        speeds = [(part, f"{label}: tokens/s") for part, label in WORKLOADS.items()]
        for axes, (part, title) in zip(panels, [*speeds, ("", "state or cache, bytes per sequence")], strict=True):
            lines = {}
            for i, (arm, row) in enumerate(tree["arms"].items()):
                runs = runs_of(tree, arm, part) if part else {}
                lines[i] = [(n, median(r), min(r), max(r)) for n, r in sorted(runs.items())]
                if not part:
                    sizes = [(p["length"], p["cache_bytes"]) for p in row["points"] if p.get("cache_bytes")]
                    lines[i] = [(n, v, v, v) for n, v in sizes]
            against_length(axes, lines, title)
        handles = [Line2D([], [], **curves.style_of(i), linewidth=2.2, label=arm) for i, arm in enumerate(tree["arms"])]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
        figure.suptitle(f"{tree['device']}, {tree['dtype']}, {tree['tokens']:,} tokens per batch", fontsize=10)
        figure.savefig(path, dpi=130, facecolor="white")


def arguments() -> argparse.Namespace:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mixers", nargs="*", default=MIXERS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--lengths", type=int, nargs="+", help="default: 512 to 32768 on CUDA, 128 to 2048 on a CPU")
    parser.add_argument("--d-model", type=int, default=384)
    parser.add_argument("--n-layers", type=int, default=6)
    parser.add_argument("--n-heads", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--budget-s", type=float, default=570.0)
    parser.add_argument("--results", type=Path, default=Path("results"), help="tuned kernels are kept beside it")
    parser.add_argument("--out", type=Path, help="a folder for the figures as JSON, Markdown and PNG")
    parser.add_argument("--tune", metavar="MIXER", help=argparse.SUPPRESS)  # what a tuning process does
    args = parser.parse_args()
    args.lengths = args.lengths or list(lengths.LENGTHS[args.device])
    return args


if __name__ == "__main__":
    main()
