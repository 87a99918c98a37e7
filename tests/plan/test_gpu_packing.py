"""How many trials share a GPU, and no GPU is asked."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnlab.config.merge import merge
from attnlab.config.sweep import ResourcesConfig
from attnlab.config.trial import Trial
from attnlab.models import build_model, count_params
from attnlab.plan import gpu_packing
from attnlab.plan.dry_run import show
from attnlab.plan.gpu_packing import MOST, Need
from attnlab.plan.load import resolve
from attnlab.plan.prepare import prepare_tasks
from attnlab.sweep.cluster.room import SlotShape

needs = st.builds(Need, gib=st.floats(0.01, 500), tflop=st.floats(1e-6, 1e3))
memories = st.floats(1, 400)
trees = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {
                "d_model": st.integers(8, 2048),
                "n_layers": st.integers(1, 32),
                "mlp": st.sampled_from(["swiglu", "gelu", "none"]),
            }
        ),
        "task": st.fixed_dictionaries({"seq_len": st.integers(8, 4096)}),
        "train": st.fixed_dictionaries({"batch_size": st.integers(1, 512)}),
    }
)


def need_of(tree, vocab_size=4096, targets_ratio=1.0):
    return gpu_packing.need(Trial.model_validate(tree), vocab_size, targets_ratio)


def larger(a, b):
    return a.gib >= b.gib and a.tflop >= b.tflop


@given(needs, memories, st.integers(1, 64))
def test_those_who_share_fit_and_do_not_fill_the_card(need, gib, most):
    n = gpu_packing.sharers(need, gib, most)
    assert 1 <= n <= min(MOST, most)
    assert n == 1 or (n * (need.gib + gpu_packing.CONTEXT_GIB) <= gib and n * need.tflop <= gpu_packing.FULL_TFLOP)


@given(needs, memories, st.floats(1, 10), st.floats(1, 10))
def test_a_larger_trial_never_shares_more_and_a_larger_gpu_never_less(need, gib, more, factor):
    n = gpu_packing.sharers(need, gib)
    assert gpu_packing.sharers(Need(need.gib * more, need.tflop), gib) <= n
    assert gpu_packing.sharers(Need(need.gib, need.tflop * more), gib) <= n
    assert gpu_packing.sharers(need, gib * factor) >= n


@given(trees, st.sampled_from(["model.d_model", "model.n_layers", "task.seq_len", "train.batch_size"]))
def test_more_of_anything_needs_more(tree, key):
    part, name = key.split(".")
    more = merge(tree, {part: {name: 2 * tree[part][name]}})
    assert larger(need_of(more), need_of(tree))
    assert larger(need_of(tree, 8192), need_of(tree)) and larger(need_of(tree), need_of(tree, targets_ratio=0.1))
    assert need_of(merge(tree, {"train": {"precision": "fp32"}})).gib > need_of(tree).gib
    assert need_of(merge(tree, {"train": {"step": "eager"}})).gib > need_of(tree).gib


@given(trees, st.integers(2, 8))
def test_micro_batches_need_less_memory_for_the_same_work(tree, parts):
    tree = merge(tree, {"train": {"batch_size": 8 * parts}})
    split = need_of(merge(tree, {"train": {"grad_accum": parts}}))
    assert split.gib < need_of(tree).gib and split.tflop == need_of(tree).tflop


def test_the_measured_case_lies_below_its_bound():
    model = {"d_model": 384, "n_layers": 6, "n_heads": 8}
    tree = {"model": model, "task": {"seq_len": 512}, "train": {"batch_size": 32}}
    need = need_of(tree, 8192)
    assert need.gib == pytest.approx(5.8, abs=0.05)
    assert need.gib > 3.3, "mamba2, measured on an H100"
    assert gpu_packing.sharers(need, 79) == 1, "one alone keeps the GPU busy"


@pytest.mark.parametrize("mixer", ["standard", "gla", "gated_deltanet", "mamba2", "rwkv7"])
@pytest.mark.parametrize("mlp", ["swiglu", "none"])
def test_the_work_is_near_what_the_parameters_say(mixer, mlp):
    model = {"d_model": 256, "n_layers": 2, "n_heads": 4, "mixer": mixer, "mlp": mlp}
    with torch.device("meta"):
        sizes = count_params(build_model(model, 512))
    tokens = 2 * 32
    said = need_of({"model": model, "task": {"seq_len": 32}, "train": {"batch_size": 2}}, 512).tflop
    counted = 6e-12 * tokens * (sizes["n_params_non_embedding"] + 512 * 256)
    assert 0.6 < said / counted < 1.5


def resources(**changes):
    return ResourcesConfig(**changes)


SMALL, H100 = Need(1.0, 0.01), {"CPU": 16.0, "GPU": 1.0, "accelerator_type:H100": 1.0}


@pytest.mark.parametrize(
    ("wanted", "have", "trials", "gpus"),
    [
        ({}, {"CPU": 16.0}, 32, 0.0),
        ({}, H100, 32, 0.25),
        ({}, H100, 3, 0.3333),
        ({}, H100, 1, 1.0),
        ({}, {**H100, "GPU": 8.0, "CPU": 64.0}, 9, 0.5),
        ({}, {**H100, "accelerator_type:T4": 1.0, "GPU": 2.0}, 32, 0.3333),
        ({"workers": 2}, H100, 32, 1.0),
        ({"cpus_per_worker": 8}, H100, 32, 0.5),
        ({"max_concurrent": 2}, H100, 32, 0.5),
        ({"gpus_per_worker": 0.5}, H100, 32, 0.5),
        ({"gpus_per_worker": 0}, H100, 32, 0.0),
    ],
)
def test_auto_is_resolved_by_what_the_cluster_has(wanted, have, trials, gpus):
    assert gpu_packing.gpus_per_worker(resources(**wanted), SMALL, have, trials) == gpus


def test_a_trial_that_fills_the_card_gets_it_whole():
    for need in (Need(1.0, 4.1), Need(60.0, 0.01)):
        assert gpu_packing.gpus_per_worker(resources(), need, H100, 32) == 1.0


def test_the_memory_of_the_smallest_kind_counts_and_an_unknown_one_is_taken_for_small():
    assert gpu_packing.gpu_gib(H100) == 79
    assert gpu_packing.gpu_gib({**H100, "accelerator_type:L4": 1.0}) == 22
    assert gpu_packing.gpu_gib({"GPU": 1.0}) == gpu_packing.gpu_gib({"accelerator_type:Abacus": 1.0}) == 15


@pytest.mark.parametrize("n", range(1, 9))
def test_as_many_slots_fit_on_a_gpu_as_share_it(n):
    part = gpu_packing.fraction(n)
    assert n * part <= 1 and part * 10_000 == pytest.approx(round(part * 10_000))
    assert SlotShape(1, 1, part).fits(64, 1) == n
    assert SlotShape(1, 1, part).fits(64, 2) == 2 * n


@given(st.integers(2, 8), st.floats(8, 300))
def test_the_parts_of_all_who_share_leave_room_beside_the_allocator(n, gib):
    part = gpu_packing.memory_fraction(gpu_packing.fraction(n), gib)
    assert 0 < part < 1 / n
    if gib / n > 2 * gpu_packing.CONTEXT_GIB:
        assert n * (part * gib + gpu_packing.CONTEXT_GIB) <= gib * (1 + 1e-9)


def sweep_of(tiny, **changes):
    return resolve({"name": "shared", "trial": tiny, "arms": {"gla": {}}, **changes})


def test_the_largest_arm_and_corner_decide(tiny):
    sweep = sweep_of(
        tiny,
        arms={"small": {}, "large": {"model": {"n_layers": 2}}},
        search={"space": {"model.d_model": {"choice": [16, 64]}, "optim.lr": {"loguniform": [1e-3, 1e-1]}}},
    )
    trial = sweep.arm("large").with_settings({"model.d_model": 64})
    tasks = prepare_tasks(sweep)
    assert gpu_packing.largest(sweep, tasks) == gpu_packing.need(trial, tasks["large"].vocab_size)


def test_the_plan_says_who_shares(tiny, capsys):
    show(sweep_of(tiny))
    assert "up to 4 trials share one of 80 GB" in capsys.readouterr().out
    show(sweep_of(merge(tiny, {"model": {"d_model": 512, "n_layers": 8}, "train": {"batch_size": 512}})))
    assert "each trial has one to itself" in capsys.readouterr().out
    show(sweep_of(tiny, resources={"workers": 2}))
    assert "workers of one trial never share one" in capsys.readouterr().out
