"""What cannot fit is refused before it is built, and nothing that would fit."""

import math
from itertools import accumulate

import pytest
import torch

from attnlab import cli, models
from attnlab.config import sweep_file
from attnlab.config.merge import merge
from attnlab.config.trial import MixerConfig, ModelConfig, Trial
from attnlab.models.cost import size, state
from attnlab.models.cost.least import least_activations, least_params
from attnlab.plan import match, memory
from attnlab.plan.load import resolve
from attnlab.plan.memory import Least, Room
from attnlab.training.run import set_up
from attnlab.util import machine
from attnlab.util.errors import UserError

GIB = 2**30
ON_CPU = [
    name
    for name, row in models.MIXERS.items()
    if "cuda" not in row.needs and not models.check_mixer(MixerConfig(name=name), ModelConfig())
]


def plan_of(tiny, **changes):
    tree = {"name": "study", "trial": tiny, "arms": {"gla": {}}}
    return resolve(sweep_file.normal(merge(tree, changes)))


@pytest.mark.parametrize("name", ON_CPU)
def test_no_model_has_fewer_parameters_than_are_counted(name):
    model = ModelConfig(d_model=64, n_layers=3, n_heads=2, mixer=(name,))
    counted = least_params(model, 40) + size.mixer_params(model)
    real = models.count_params(size.build_empty(model, 40))["n_params"]
    assert 0.9 * real <= counted <= real


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("model", [{}, {"mlp": "gelu"}, {"mlp": "none"}, {"mixer": ["gla", "standard"]}])
def test_no_model_keeps_fewer_numbers_than_are_counted(model, bf16):
    config = ModelConfig(d_model=32, n_layers=3, n_heads=2, **model)
    built, kept = models.build_model(config, 40), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no other gets its place
        return tensor

    tokens = torch.randint(0, 40, (2, 24))
    weights = {p.untyped_storage().data_ptr() for p in built.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", enabled=bf16):
        loss = built.loss_sum(tokens, tokens)
    real = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in weights)
    assert loss.requires_grad and least_activations(config, tokens.numel()) * (2 if bf16 else 4) <= real


def test_an_optimizers_state_is_no_smaller_than_is_counted(tiny):
    for name in memory.MOMENTS:
        trial = Trial.model_validate(merge(tiny, {"optim": {"name": name}}))
        run = set_up(trial, torch.device("cpu"), 0, 1)
        run.step(1, 1)
        params = sum(p.numel() for p in run.model.parameters())
        assert memory.MOMENTS[name] * params <= sum(t.nbytes for t in run.optimizer.state_dict().values())


def test_a_step_takes_no_less_than_the_sum(tiny):
    """Gradients come as activations go with one micro-batch, and are kept with two: measured up to the update."""
    model = {"d_model": 64, "d_ff": 1024, "n_layers": 12, "mixer": "standard", "mlp": "gelu", "dropout": 0.0}
    tree = merge(tiny, {"model": model, "optim": {"name": "adamw", "clip": None}})
    takes = {}
    for parts in (1, 2):
        trial = Trial.model_validate(merge(tree, {"train": {"batch_size": 2 * parts, "grad_accum": parts}}))
        run = set_up(trial, torch.device("cpu"), 0, 1)
        run.optimizer.step = lambda: None  # whose temporaries are not counted
        params = sum(p.numel() for p in run.model.parameters())
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            run.step(1, 1)
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
        takes[parts] = 12 * params + max(accumulate(changes)), Least.of(trial, False, 1, params).training
    for taken, least in takes.values():
        assert 0.7 * taken < least <= taken
    assert takes[1][0] < takes[2][1]  # so the sum would refuse what fits


@pytest.mark.parametrize("workers, parts, together", [(1, 1, False), (1, 2, True), (2, 1, True)])
def test_gradients_and_activations_add_up_only_where_both_are_kept(tiny, workers, parts, together):
    train = {"batch_size": 4 * workers * parts, "grad_accum": parts, "precision": "fp32"}
    model = {"n_layers": 4, "mlp": "gelu", "d_ff": 64}
    trial = Trial.model_validate(merge(tiny, {"model": model, "optim": {"name": "adamw"}, "train": train}))
    activations = 4 * 3 * (4 * 32) * (16 + 64)  # bytes, layers but one, tokens, numbers
    for params in (100, 10**6):
        least = 12 * params + (4 * params + activations if together else max(4 * params, activations))
        rows = 16 * (4 * parts) * 32  # a worker's batch
        assert Least.of(trial, False, workers, params) == Least(params, least, least + rows, 12 * params)
        assert Least.of(trial, True, workers, params) == Least(params, least, 4 * params + rows, 0)


HUGE = {
    "309 billion": {"d_model": 16384, "n_layers": 96},
    "5 trillion": {"d_model": 65536, "n_layers": 100},
    "an own mixer's": {"d_model": 65536, "n_layers": 100, "mixer": "my_own:Mixer"},
    "many layers": {"d_model": 1024, "n_layers": 10**4},
    "one wide layer": {"d_model": 10**7, "n_layers": 1},
}


@pytest.mark.parametrize("model", HUGE.values(), ids=HUGE)
def test_dry_run_and_start_refuse_it_in_one_line(tiny, tmp_path, capsys, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "host_bytes", lambda: 23.0 * GIB)
    monkeypatch.setattr("attnlab.sweep.engine.runs_alone", lambda address: True)  # Ray may be up in this process
    monkeypatch.setattr(models, "try_mixer", lambda *args: pytest.fail("built"))
    monkeypatch.setattr(size, "assemble", lambda *args: pytest.fail("built"))
    trial = merge(tiny, {"model": {"n_heads": 1, "mixer": "standard", **model}})
    (tmp_path / "my_own.py").write_text(
        "import torch\n\n\nclass Mixer(torch.nn.Linear):\n"
        "    def __init__(self, d_model: int):\n        super().__init__(d_model, d_model)\n"
    )
    sweep_file_path = tmp_path / "study.yaml"
    sweep_file_path.write_text(sweep_file.dump(resolve({"name": "study", "trial": trial, "arms": {"big": {}}}).sweep))
    for option in (["--dry-run"], []):
        assert cli.main([str(sweep_file_path), "resources.gpus_per_worker=0", *option]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert line.startswith("error: arms.big: takes at least ") and "this machine has 23.0 GiB; lower" in line
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "setting",
    [
        {"train": {"batch_size": 10**9}},
        {"task": {"seq_len": 10**9}},
        {"task": {"n_eval": 10**9}},
        {"task": {"n_train": 10**9}},
    ],
)
def test_rows_that_cannot_be_held_are_refused_before_they_are_drawn(tiny, setting):
    mqar = {"name": "mqar", "seq_len": 64, "vocab_size": 64, "n_pairs": 4, "n_eval": 64}
    trial = {**tiny, "model": {"d_model": 32, "n_layers": 1, "n_heads": 2, "mlp": "none"}, "task": mqar}
    tree = {"name": "s", "trial": trial, "arms": {"a": setting}, "resources": {"gpus_per_worker": 0}}
    with pytest.raises(UserError, match="^arms.a: takes at least .* and rows"):
        memory.check(resolve(tree, solve=False), Room(23.0 * GIB))


@pytest.mark.parametrize(
    ("mixer", "said"),
    [
        ({"mode": "x"}, "model.mixer gla: cannot be built as given (AssertionError: Not supported mode `x`)"),
        ({"feature_map": "nope"}, "model.mixer gla: cannot be built as given (KeyError: 'nope')"),
    ],
)
def test_dry_run_says_in_one_line_what_a_layer_makes_nothing_of(tiny, tmp_path, capsys, mixer, said):
    trial = merge(tiny, {"model": {"mixer": {"name": "gla", **mixer}}})
    file = tmp_path / "study.yaml"
    file.write_text(sweep_file.dump(resolve({"name": "study", "trial": trial, "arms": {"a": {}}}).sweep))
    assert cli.main([str(file), "resources.gpus_per_worker=0", "--dry-run"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: trial.{said}")


def test_the_largest_corner_counts_and_is_named(tiny):
    space = {"model.d_model": {"choice": [16, 2**20]}, "optim.lr": {"loguniform": [1e-4, 1e-2]}}
    plan = plan_of(tiny, search={"space": space, "trials": 1})
    with pytest.raises(UserError, match=r"^search.space at \{'model.d_model': 1048576\}, arm gla: takes at least"):
        memory.check(plan, Room(23.0 * GIB))
    memory.check(plan, Room())


def test_mixers_count_once_data_are_prepared(tiny):
    plan = plan_of(tiny, trial={"model": {"d_model": 1024, "mlp": "none", "n_heads": 4}})
    room = Room(0.03 * GIB)
    memory.check(plan, room)
    with pytest.raises(UserError, match="arms.gla: takes at least"):
        memory.check(plan, room, {"gla": 257})


def test_on_a_gpu_its_own_memory_counts_and_the_hosts_for_the_weights(tiny):
    trial, params = Trial.model_validate(tiny), 10**9
    need = Least.of(trial, True, 1, params)
    assert need.training >= 12 * params and 4 * params <= need.host < 4.1 * params
    plan = plan_of(tiny, trial={"model": {"d_model": 8192, "n_heads": 4}})  # 0.2 billion in its MLP
    memory.check(plan, Room(8.0 * GIB, 8.0 * GIB))
    with pytest.raises(UserError, match="a worker has 1.0 GiB of GPU; lower"):
        memory.check(plan, Room(8.0 * GIB, 1.0 * GIB))
    with pytest.raises(UserError, match="built before they go to the GPU.*this machine has 0.5 GiB"):
        memory.check(plan, Room(0.5 * GIB, 8.0 * GIB))


def test_trials_that_run_at_once_share_the_host(tiny):
    plan = plan_of(tiny, trial={"model": {"d_model": 2048, "n_heads": 4}})  # 0.36 GiB each
    memory.check(plan, Room(1.0 * GIB), at_once=2)
    with pytest.raises(UserError, match=r"resources.max_concurrent: 8 trials at once take at least .* has 1.0 GiB"):
        memory.check(plan, Room(1.0 * GIB), at_once=8)
    memory.check(plan, Room(1.0 * GIB, 8.0 * GIB), at_once=100)  # for a GPU each is built there and leaves


def test_of_a_clusters_gpus_the_largest_of_the_name_counts_and_unknown_ones_hold_anything():
    gib = {kind: Room.of_cluster(1.0, {f"accelerator_type:{kind}": 1.0}).gpu for kind in ("A100", "H100", "NEW")}
    assert gib["A100"] >= 80 * GIB and gib["H100"] >= 80 * GIB and gib["NEW"] == math.inf
    both = {"accelerator_type:T4": 1.0, "accelerator_type:NEW": 1.0}
    assert Room.of_cluster(1.0, both).gpu == math.inf == Room.of_cluster(1.0, {}).gpu
    assert Room.of_cluster(0.25, {"accelerator_type:H100": 1.0}).gpu < 21 * GIB
    assert Room.of_cluster(0.0, {"accelerator_type:H100": 1.0}) == Room()


def test_what_match_would_build_with_values_to_solve_a_width_is_guarded(tiny, tmp_path, monkeypatch):
    """A model with an own mixer, which may compute with values, is no sooner looked at than it is known to fit."""
    monkeypatch.setattr(size, "host_bytes", lambda: 23.0 * GIB)
    monkeypatch.setattr(size, "assemble", lambda *args: pytest.fail("built"))
    wide = ModelConfig(d_model=65536, n_layers=100, mixer=("my_own:Mixer",))
    for kind in match.WORDS:
        with pytest.raises(
            ValueError, match="100 layers of d_model 65,536 take at least 12.5 TiB only to be looked at"
        ):
            size.measure(kind, wide, 32)


def test_a_layer_that_this_machine_cannot_hold_is_not_run_to_learn_of_its_state(monkeypatch):
    monkeypatch.setattr(state, "host_bytes", lambda: 1.0 * GIB)
    assert state.state_bytes(ModelConfig(d_model=2**20, n_heads=1, mixer=("gla",)), 32) is None


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    (tmp_path / "limit").write_text(f"{GIB}\n")
    monkeypatch.setattr(machine, "CGROUPS", (str(tmp_path / "limit"), str(tmp_path / "none")))
    monkeypatch.setattr(machine, "_swap_bytes", lambda: 0.0)
    assert machine.host_bytes() == GIB
    (tmp_path / "limit").write_text("max\n")
    assert machine.host_bytes() > GIB
