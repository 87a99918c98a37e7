"""fp32 on CUDA is refused for the mixers whose kernels refuse it, before anything starts."""

import importlib.machinery
import importlib.util
import re
from pathlib import Path

import pytest
import torch

from attnlab import run_experiment
from attnlab.config.merge import merge
from attnlab.config.trial import ModelConfig, Trial
from attnlab.kernels import install
from attnlab.models import MIXERS, precision_problems
from attnlab.models.build import build_mixer
from attnlab.plan import resolve
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.training.loop import train
from attnlab.util.errors import UserError

install()
SAID = "FLA's kernel takes no fp32 on CUDA; use train.precision bf16"
# Where FLA 0.6 refuses fp32 in training, and the row it belongs to; attnlab runs PyTorch for MomentumDeltaNet on CUDA.
REFUSALS = {
    "layers/stickbreaking_attn.py": "stickbreaking",
    "ops/delta_rule/chunk.py": "deltanet",
    "ops/gated_delta_product/chunk.py": "gated_deltaproduct",
    "ops/momentum_delta_rule/chunk.py": None,
    "ops/parallax/parallel.py": "parallax",
}


def test_the_rows_say_what_flas_sources_do():
    """Alternative backends choose themselves by type, and `*_ref.py` are not on the layers' way."""
    root = Path(importlib.util.find_spec("fla.layers").origin).parents[1]
    refuses = re.compile(r"q\.dtype (!= torch\.float32,|not in \(torch\.b?float16, torch\.b?float16\))")
    files = [f for part in ("layers", "ops") for f in (root / part).rglob("*.py") if "backends" not in f.parts]
    found = {str(f.relative_to(root)) for f in files if refuses.search(f.read_text()) and not f.stem.endswith("_ref")}
    assert found == set(REFUSALS)
    refused = {*REFUSALS.values(), "path"} - {None}  # PaTH's fp32 kernels ask for too much shared memory instead
    rows = {name: row for name, row in MIXERS.items() if row.path.startswith("fla.")}
    assert {name for name, row in rows.items() if row.half_only is True} == refused
    for name, row in rows.items():  # a layer that calls flash_attn, itself or through its operation
        parts = [root / "layers" / f"{row.path.partition(':')[0].rpartition('.')[2]}.py"]
        parts += [root / "ops" / name / "parallel.py"] if name in ("deltaformer", "nsa") else []
        calls = any("flash_attn_func(" in part.read_text() for part in parts)
        assert (row.half_only == "flash_attn") == (calls and name != "rodimus"), name  # whose row leaves attention out


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        ("fla.ops.delta_rule.chunk:chunk_delta_rule", [(1, 70, 2, 16)] * 3 + [(1, 70, 2)]),
        ("fla.ops.gated_delta_product.chunk:chunk_gated_delta_product", [(1, 70, 2, 16)] * 3 + [(1, 70, 2)] * 2),
        ("fla.ops.parallax.parallel:parallel_parallax", [(1, 70, 2, 16)] * 4),
    ],
)
def test_flas_functions_do_refuse(function, shapes):
    module, _, name = function.partition(":")
    theirs = getattr(importlib.import_module(module), name).fla_original
    more = {"num_householder": 1} if "product" in name else {}
    with pytest.raises((AssertionError, TypeError), match="float32"):
        theirs(*(torch.randn(shape) for shape in shapes), **more)


@pytest.mark.parametrize("name", [name for name, row in MIXERS.items() if row.half_only is True])
def test_on_the_cpu_fp32_is_what_they_train_in(name):
    model = ModelConfig(d_model=32, n_heads=2, mixer=name)
    mixer = build_mixer(model.mixer[0], model, 0)
    out = mixer(torch.randn(1, 70, 32))
    out = out[0] if isinstance(out, tuple) else out
    assert out.dtype == torch.float32
    out.sum().backward()


def test_each_mixer_that_a_layer_has_is_told_once():
    pattern = ["deltanet", "gla", "deltanet", "stickbreaking", "parallax"]
    model = ModelConfig(n_layers=4, mixer=pattern)  # the fifth of the pattern has no layer
    assert precision_problems(model, "fp32") == [f"deltanet: {SAID}", f"stickbreaking: {SAID}"]
    assert precision_problems(model, "bf16") == precision_problems(model, "auto") == []


def test_standard_attention_takes_fp32_unless_flash_attn_is_there(monkeypatch):
    find, flash = importlib.util.find_spec, importlib.machinery.ModuleSpec("flash_attn", None)
    for installed, problems in (
        (None, []),
        (flash, ["standard: flash_attn's kernel takes no fp32 on CUDA; use train.precision bf16"]),
    ):
        spec = {"flash_attn": installed}
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, spec=spec: spec[name] if name in spec else find(name)
        )
        assert precision_problems(ModelConfig(), "fp32") == problems


@pytest.fixture
def delta(tiny):
    return merge(tiny, {"model": {"mixer": "deltanet"}, "train": {"precision": "fp32"}})


def problems(trial, gpus, **more):
    try:
        resolve({"name": "s", "trial": trial, "arms": {"d": {}}, "resources": {"gpus_per_worker": gpus}, **more})
    except UserError as error:
        return error.problems
    return []


def test_a_sweep_on_gpus_is_refused_and_on_cpus_not(delta):
    line = f"trial.model.mixer deltanet: {SAID}"
    assert problems(delta, 1) == problems(delta, 0.25) == [line]
    assert problems(delta, 0) == problems(delta, "auto") == []  # auto: the worker finds out
    assert problems(merge(delta, {"train": {"precision": "auto"}}), 1) == []
    assert problems(merge(delta, {"model": {"mixer": "gla"}}), 1) == []
    searched = merge(delta, {"train": {"precision": "bf16"}})
    space = {"train.precision": {"choice": ["bf16", "fp32"]}}
    where = "search.space at {'train.precision': 'fp32'}, arm d: model.mixer deltanet: "
    assert problems(searched, 1, search={"space": space}) == [where + SAID]


def test_one_experiment_on_cuda_is_refused_before_anything_is_written(delta, tmp_path):
    with pytest.raises(UserError, match=re.escape(SAID)):
        run_experiment(delta, tmp_path, device="cuda")
    assert not list(tmp_path.iterdir())


def test_the_trial_itself_is_the_second_line(delta, tmp_path):
    job = Job.make("d", 0, Trial.model_validate(delta))
    with pytest.raises(ValueError, match=re.escape(f"mixer deltanet: {SAID}")):
        train(job, TrialDir(tmp_path), device="cuda")
    assert train(job, TrialDir(tmp_path), device="cpu")["state"] == "completed"
