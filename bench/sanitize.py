r"""A mixer's first steps with its kernels tuned as a trial tunes them, to be watched by NVIDIA's compute-sanitizer.

    FLA_CACHE_RESULTS=0 PYTORCH_NO_CUDA_MEMORY_CACHING=1 TRITON_CACHE_DIR=$(mktemp -d) \
        compute-sanitizer --tool memcheck --padding 256 python -m bench.sanitize comba

A kernel, or a candidate that was only tried, that reads or writes what is not its own is named with its line; a clean
run ends with "done" and 0 errors. PyTorch's caching allocator is off so that a tensor's end is a piece of memory's end,
and the caches of FLA and Triton are empty so that every candidate is timed. About 75 s for a mixer on an H100; the
process takes tens of GiB of its memory (two beside other work filled 80), so watch one at a time.
"""

from __future__ import annotations

import argparse

import torch

from attnlab.config.trial import Trial
from attnlab.training.run import set_up
from bench.profiling import require_gpu

STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mixer")
    parser.add_argument("--d-model", type=int, default=64, help="with two heads; 64 makes them narrow")
    args = parser.parse_args()
    require_gpu()
    tree = {
        "model": {"d_model": args.d_model, "n_layers": 1, "n_heads": 2, "mlp": "none", "mixer": args.mixer},
        "task": {"name": "mqar", "seq_len": 128, "vocab_size": 512, "n_pairs": 8},
        "train": {"max_steps": 10, "eval_every": 5, "batch_size": 8, "step": "eager"},
    }
    run = set_up(Trial.model_validate(tree), torch.device("cuda", 0), rank=0, world=1)
    for step in range(1, STEPS + 1):
        run.step(step, step)
    torch.cuda.synchronize()
    print("done")


if __name__ == "__main__":
    main()
