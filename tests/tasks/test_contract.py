"""What every task must keep to, run over the table of tasks."""

import json
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

from attnlab.config.trial import TaskConfig
from attnlab.tasks import IGNORE, TASKS, build_task, check_task, metrics_of, settings_of

# a second configuration for tasks whose settings switch code paths
CONFIGS = [TaskConfig(name=name, seq_len=64) for name in TASKS]
CONFIGS += [
    TaskConfig(name="mqar", seq_len=64, n_train=50, random_fill=True),
    TaskConfig(name="text", seq_len=64, tokenizer="bytes"),
    TaskConfig(name="parity", seq_len=64, n_train=50, ask="every", eval_seq_lens=[96]),
    TaskConfig(name="modular_arithmetic", seq_len=64, brackets=True),
]


def build(config, seed=0, batch_size=8):
    return build_task(config, batch_size=batch_size, seed=seed)


def equal(a, b):
    return all((x == y).all() for x, y in zip(a, b, strict=True))


@pytest.fixture(params=CONFIGS, ids=lambda c: "-".join(map(str, [c.name, *c.args.values()])))
def config(request):
    return request.param


def test_shapes_types_and_vocabulary(config):
    task = build(config)
    for step in (0, 1, 977):
        inputs, targets = task.batch(step)
        for a in (inputs, targets):
            assert a.shape == (8, 64) and a.dtype == np.int64 and a.flags.c_contiguous
        asked = targets[targets != IGNORE]
        assert len(asked) and min(inputs.min(), asked.min()) >= 0 and max(inputs.max(), asked.max()) < task.vocab_size


def test_a_batch_is_a_pure_function_so_resuming_is_exact(config):
    used, fresh = build(config), build(config)
    for step in range(5):
        used.batch(step)
    assert equal(used.batch(5), fresh.batch(5)) and equal(used.batch(2), fresh.batch(2))
    assert not equal(fresh.batch(5), fresh.batch(6)) and not equal(fresh.batch(5), build(config, seed=1).batch(5))


def test_ranks_concatenate_to_the_global_batch(config):
    task = build(config)
    for world in (1, 2, 4):
        parts = [task.batch(3, rank, world) for rank in range(world)]
        assert equal([np.concatenate(p) for p in zip(*parts, strict=True)], task.batch(3))
    with pytest.raises(ValueError, match="cannot be split evenly over 3 workers"):
        task.batch(0, 0, 3)


def test_validation_is_fixed_and_of_one_shape(config):
    one, two = build(config, seed=0), build(config, seed=9, batch_size=2)
    batches = list(one.eval_batches(7))
    assert all(equal(a, b) for a, b in zip(batches, two.eval_batches(7), strict=True))
    assert {b.inputs.shape for b in batches} == {b.targets.shape for b in batches} == {(7, 64)}
    rows = [row for b in batches for row in b.targets if (row != IGNORE).any()]
    again = [row for b in one.eval_batches(5) for row in b.targets if (row != IGNORE).any()]
    assert np.array_equal(rows, again)  # the examples do not depend on the batch size; padding rows ask nothing
    assert len(list(one.eval_batches(7, max_batches=2))) == 2


def test_facts(config):
    task = build(config)
    assert task.metrics == metrics_of(config) and task.metrics[0] == "val_loss"
    json.dumps(task.describe())
    assert all(isinstance(v, float) for v in task.baselines().values())
    assert (task.tokenizer_json() is None) == (task.bytes_per_token is None) == (task.eos_id is None)


def test_every_argument_is_annotated_and_checked(config):
    assert check_task(config) == []
    for name, parameter in settings_of(config.name).items():
        assert parameter.kind is parameter.KEYWORD_ONLY and parameter.annotation is not parameter.empty
        tree = {**config.model_dump(), name: ["no", "list"]}
        (problem,) = [p for p in check_task(TaskConfig.model_construct(**tree)) if p.startswith(f"{name}:")]
        assert "not ['no', 'list']" in problem
        misspelt = TaskConfig.model_validate({"name": config.name, f"{name}x": 1})
        assert check_task(misspelt) == [f"{name}x: unknown argument; did you mean {name!r}?"]


def test_unknown_task():
    assert check_task(TaskConfig(name="txt")) == ["unknown task; did you mean 'text'?"]
    assert metrics_of(TaskConfig(name="txt")) == ()
    with pytest.raises(ValueError, match="task txt: unknown task"):
        build(TaskConfig(name="txt"))


@pytest.mark.parametrize("value", [True, "8", 8.0, None])
def test_types_are_strict(value):
    assert check_task(TaskConfig(name="mqar", n_pairs=value)) == [f"n_pairs: a whole number, not {value!r}"]
    assert check_task(TaskConfig(name="mqar", power_a=1)) == []


def test_checking_imports_nothing_heavy():
    code = (
        "import sys; from attnlab.config.trial import TaskConfig; from attnlab import tasks\n"
        "for name in tasks.TASKS: tasks.check_task(TaskConfig(name=name)); tasks.metrics_of(TaskConfig(name=name))\n"
        "print(sorted({'torch', 'ray', 'datasets', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", TASKS)
def test_no_setting_takes_a_number_out_of_all_bounds_or_a_boolean_for_one(name):
    for key, each in settings_of(name).items():
        if (
            key == "seq_len"
            or not {int, float} & {each.annotation, *get_args(each.annotation)}
            or each.annotation is bool
        ):
            continue
        for value in (-5, 2**62, True, 1e300, float("1e17")):
            if key != "fact_seed" or value != 2**62:
                said = check_task(TaskConfig(**{"name": name, "seq_len": 64, key: value}))
                assert said and all("\n" not in line for line in said), (key, value)
