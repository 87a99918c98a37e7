r"""Our scoring of benchmarks against lm-eval's HFLM on the same exported checkpoint: agreement and tokens per second.

    python -m bench.scoring CHECKPOINT... --data-dir DIR [--tasks hellaswag lambada] [--limit 500] [--device cuda]
    python -m bench.scoring --train standard gla --data-dir DIR --tasks hellaswag --limit 0 --batch-sizes 64 256 \
        --repeats 2 --dtype bfloat16 --out docs                        # all of HellaSwag, models of 17M, on a GPU

CHECKPOINT: a trial's `checkpoints/final`; or `--train MIXER...` first trains one of each on the built-in novels, for
`--steps` steps. DIR: as `python -m analysis --data-dir`. With --out the table and a picture are written there, as
scoring-<device>.md and .png. Both sides get the same requests as texts and are timed (in CPU seconds on the CPU) from
the texts to the log-likelihoods, tokenising included; HFLM at each of its batch sizes, the best one counting. Tokens
are those of all requests, context and continuation, however often either side reads them.
Needs `pip install attnlab[eval] accelerate` (HFLM imports it).
"""

from __future__ import annotations

import argparse
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from analysis.benchmarks import Context, harness_of
from analysis.efficiency import kernels
from analysis.figures import svg
from analysis.scoring.checkpoints import open_model
from analysis.scoring.lm_eval import LM
from analysis.scoring.scorer import Scorer

TOLERANCE = 2e-3  # nats


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if args.device == "cpu" else "true")
    kernels.ready(args.device, args.results)
    checkpoints = [*args.checkpoints, *(trained(mixer, args) for mixer in args.train)]
    rows: list[dict[str, Any]] = []
    print(f"{'task':<11} {'model':<16} {'scored by':<15} requests  tokens/s  ratio accuracy worst difference")
    for name in args.tasks:
        task = harness_of(name).load(Context(data_dir=args.data_dir, limit=args.limit or None))
        for path in checkpoints:
            rows += compare(name, task, path, args)
    if args.out:
        write(rows, args)


def trained(mixer: str, args: argparse.Namespace) -> Path:
    """A model of that mixer, trained here; found again by its settings."""
    from attnlab import run_experiment

    tree = {
        "model": {"d_model": args.d_model, "n_layers": args.n_layers, "n_heads": args.n_heads, "mixer": mixer,
                  "tie_embeddings": False},
        "task": {"name": "text", "dataset": "austen", "seq_len": 256, "vocab_size": 8192},
        "optim": {"name": "muon", "lr": 0.01},
        "train": {"max_steps": args.steps, "batch_size": 32, "eval_every": args.steps},
    }  # fmt: skip
    results = run_experiment(tree, args.results, name="bench-scoring", device=args.device)
    assert results["checkpoint"], results["error"]
    return args.results / "bench-scoring" / results["trial_id"] / results["checkpoint"]


def compare(name: str, task: Any, path: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One task on one checkpoint: a line for each way of scoring, and the same as rows."""
    rows = []
    scorer = Scorer(*open_model(path), args.device, args.dtype)
    label = "+".join(dict.fromkeys(mixer.name for mixer in scorer.model.config.model().mixer))
    label += f" {sum(p.numel() for p in scorer.model.parameters()) / 1e6:.1f}M"
    pairs = scorer.encode_pairs([request.args for request in task.requests])
    tokens = sum(len(context) + len(continuation) for context, continuation in pairs)

    def line(who: str, scored: list[tuple[float, bool]], seconds: float) -> float:
        accuracy = task.accuracy(scored)
        worst = max(abs(a - b) for (a, _), (b, _) in zip(scored, first, strict=True)) if first else 0.0
        speed = tokens / seconds
        ratio = f"{speed / best:.2f}" if best else ""
        row = (
            f"{name:<11} {label:<16} {who:<15} {len(scored):>8,} {speed:>9,.0f} {ratio:>6} {accuracy:>8.4f} {worst:.1e}"
        )
        print(row, flush=True)
        rows.append({"task": name, "model": label, "scored by": who, "requests": len(scored), "tokens/s": speed,
                     "ratio": speed / best if best else None, "accuracy": accuracy, "worst": worst})  # fmt: skip
        assert worst < TOLERANCE or args.dtype != "float32", "the log-likelihoods differ"
        return speed

    # one thread's CPU seconds, so that other work on the machine does not count; on a GPU the wall clock
    clock = time.process_time if args.device == "cpu" and args.threads == 1 else time.perf_counter
    first: list[tuple[float, bool]] = []
    best = 0.0
    for size in args.batch_sizes:
        scored, seconds = timed(hflm(scorer, path, size, args), task.requests, args.repeats, clock)
        first, best = first or scored, max(best, line(f"HFLM, batch {size}", scored, seconds))
    scored, seconds = timed(lambda requests: LM(scorer).loglikelihood(requests), task.requests, args.repeats, clock)
    line("attnlab", scored, seconds)
    if math.isclose(task.accuracy(scored), task.accuracy(first)) is False:
        print("  the accuracies differ")
    return rows


def hflm(scorer: Scorer, path: Path, size: int, args: argparse.Namespace) -> Callable[[list[Any]], Any]:
    """lm-eval's own, around the same model, under the same autocast."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    lm = HFLM(pretrained=scorer.model, tokenizer=tokenizer, batch_size=size, device=args.device)

    def run(requests: list[Any]) -> Any:
        with scorer.autocast():
            return lm.loglikelihood(requests, disable_tqdm=True)

    return run


def timed(
    score: Callable[[list[Any]], Any], requests: list[Any], repeats: int, clock: Callable[[], float]
) -> tuple[Any, float]:
    """What `score` gives, and the seconds of its fastest run after one for warming up."""
    score(requests[: max(8, len(requests) // 20)])
    seconds = []
    for _ in range(repeats):
        begin = clock()
        scored = score(requests)
        seconds.append(clock() - begin)
    return scored, min(seconds)


def write(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """The table as Markdown, and the speeds as bars."""
    import matplotlib as mpl

    from attnlab.util.files import write_text

    device = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {args.threads} thread"
    stem = re.sub(r"[^a-z0-9]+", "-", device.lower().replace("nvidia", "")).strip("-")
    lines = [f"{device}, {args.dtype}.\n", "| " + " | ".join(rows[0]) + " |", "|---" * 3 + "|---:" * 5 + "|"]
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
        numbers = (
            f"{row['requests']:,}",
            f"{row['tokens/s']:,.0f}",
            ratio,
            f"{row['accuracy']:.4f}",
            f"{row['worst']:.1e}",
        )
        lines.append("| " + " | ".join((row["task"], row["model"], row["scored by"], *numbers)) + " |")
    write_text(args.out / f"scoring-{stem}.md", "\n".join(lines) + "\n")
    with mpl.rc_context(svg.STYLE):
        figure = svg.new(6.4, 0.9 + 0.27 * len(rows))
        axes = figure.add_subplot()
        colours = ["#0072B2" if row["scored by"] == "attnlab" else "#b8b8b8" for row in rows]
        axes.barh(range(len(rows)), [row["tokens/s"] for row in rows], color=colours)
        axes.set_yticks(range(len(rows)), [f"{r['task']}, {r['model']}, {r['scored by']}" for r in rows])
        axes.invert_yaxis()
        axes.set_title(f"scoring, tokens/s: {device}, {args.dtype}")
        figure.savefig(args.out / f"scoring-{stem}.png", dpi=130, facecolor="white")
    print(f"wrote {args.out}/scoring-{stem}.md and .png")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--train", nargs="+", default=[], metavar="MIXER")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--d-model", type=int, default=384)
    parser.add_argument("--n-layers", type=int, default=6)
    parser.add_argument("--n-heads", type=int, default=6)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["hellaswag", "lambada"])
    parser.add_argument("--limit", type=int, default=500, help="items per task; 0: all")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if not args.checkpoints and not args.train:
        parser.error("give a checkpoint, or --train MIXER")
    return args


if __name__ == "__main__":
    main()
