"""Tiny checkpoints and benchmarks for the tests of this folder."""

from dataclasses import replace

import torch

from analysis.benchmarks import BENCHMARKS
from attnlab.data.tokenizer import ByteTokenizer
from attnlab.models import build_model
from attnlab.records.paths import TrialDir
from attnlab.training import checkpoint
from attnlab.util import signature

WORDS = "the cat sat on a mat while rain fell over the quiet harbour and nobody spoke".split()  # noqa: SIM905


def words(seed, n):
    return " ".join(WORDS[(seed * 7 + 3 * i + i * i) % len(WORDS)] for i in range(n))


def export(home, mixer="gla", seed=0, signed=False, **model):
    """An untrained model over bytes, exported as training does; returns its final/.

    Without `signed` its files may be changed, as those of an older export may.
    """
    torch.manual_seed(seed)
    tokenizer = ByteTokenizer()
    built = build_model({"d_model": 32, "n_layers": 2, "n_heads": 2, "mixer": mixer, **model}, 257)
    with torch.no_grad():  # far enough from uniform that differences show
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    final = checkpoint.export(TrialDir(home), built, tokenizer.json, tokenizer.eos_id)
    if not signed:
        signature.unsign(final)
    return final


def benchmark(name):
    """A benchmark as it is; of BLiMP's 67 tasks, three."""
    found = BENCHMARKS[name]()
    return replace(found, files=found.files[:3], configs=found.configs[:3]) if name == "blimp" else found
