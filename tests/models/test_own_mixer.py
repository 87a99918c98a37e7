"""A mixer in a file of the user's: the documented example works as printed; what is wrong with one is one line."""

import re
import sys
from pathlib import Path

import pytest
import torch

import launch
from attnlab import run_experiment
from attnlab.config.trial import ModelConfig
from attnlab.models import build_model, try_mixer
from attnlab.models.build import build_mixer
from attnlab.plan.load import load
from attnlab.plan.prepare import prepare_tasks, try_custom_mixers
from attnlab.util import trust
from attnlab.util.errors import UserError

torch.set_num_threads(1)
EXAMPLE = (Path(__file__).parents[2] / "docs/own_mixer.md").read_text()
FILE, ARMS = (re.search(f"```{kind}\n(.*?)```", EXAMPLE, re.DOTALL)[1] for kind in ("python", "yaml"))
MINE = {"name": "my_mixer:MyMixer", "expand": 2.0}
PLAIN = """
import torch
from torch import nn
class Mine(nn.Module):
    def __init__(self, d_model: int):
        super().__init__()
        self.out = nn.Linear(d_model, d_model)
        self.zero = nn.Parameter(torch.zeros(d_model, d_model))
        self.register_buffer("seen", torch.zeros(1))
        self.calls = 0
    def count(self):
        self.calls += 1
        return self.calls
    def forward(self, x, past_key_values=None, use_cache=False, **extra):
        return self.out(x)
"""


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """The working directory holds the example's file; what is imported from it is forgotten again."""
    (tmp_path / "my_mixer.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with trust.naming(["my_mixer", "mine", "noisy"]):
        yield tmp_path
    for name in [n for n, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def own(**args):
    model = ModelConfig(d_model=16, n_layers=2, n_heads=2, mixer={**MINE, **args})
    torch.manual_seed(0)
    return build_mixer(model.mixer[0], model, 0)


def test_the_example_is_the_recurrence_it_says(beside):
    mixer, x = own(), torch.randn(2, 70, 16)
    y, _, _ = mixer(x)
    h, steps = torch.zeros(2, 32), []
    for t in range(70):
        rate, value = mixer.rate(x[:, t]).sigmoid(), torch.nn.functional.softplus(mixer.value(x[:, t]))
        h = (1 - rate) * h + rate * value
        steps.append(mixer.out(h * mixer.gate(x[:, t])))
    assert torch.allclose(y, torch.stack(steps, 1), atol=1e-5)
    other = x.clone()
    other[:, 40:] += 1
    assert torch.allclose(mixer(other)[0][:, :40], y[:, :40], atol=1e-6)


def test_the_example_is_a_language_model(beside):
    model = build_model({"d_model": 16, "n_layers": 2, "n_heads": 2, "mixer": MINE}, 64).eval()
    assert model.backbone.blocks[1].mixer.rate.weight.shape == (32, 16)
    tokens = torch.randint(0, 64, (1, 5))
    got = model.generate(tokens, max_new_tokens=3, do_sample=False)
    for _ in range(3):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(got, tokens)
    with torch.autocast("cpu", torch.bfloat16):  # as on CUDA
        rounded = model.loss_sum(tokens, tokens)
    assert torch.allclose(rounded, model.loss_sum(tokens, tokens), rtol=0.02)
    padded, mask = torch.cat([torch.zeros_like(tokens), tokens], 1), torch.ones(1, 16, dtype=torch.long)
    mask[:, :8] = 0  # the example looks at no mask: the model takes the padding away
    assert torch.allclose(model(padded, attention_mask=mask).logits[:, 8:], model(tokens).logits, atol=1e-5)


def test_the_example_trains(beside, tiny):
    tree = {**tiny, "model": {**tiny["model"], "dropout": 0.0, "mixer": MINE}}
    rows = []
    results = run_experiment(tree, beside / "results", report=rows.append, device="cpu")
    assert results["state"] == "completed" and rows[-1]["val_loss"] < rows[0]["val_loss"]


def sweep_file(folder, tiny, arms=ARMS):
    import yaml

    (folder / "my_study.yaml").write_text(yaml.safe_dump({"name": "my_study", "trial": tiny}) + arms)
    return "my_study.yaml"


def test_the_examples_arms_are_a_sound_sweep(beside, tiny, capsys):
    tree = {**tiny, "model": {"d_model": 16, "n_layers": 3, "n_heads": 2}}
    sweep = load(sweep_file(beside, tree))
    assert sweep.arm("mine").trial.model.mixer[0].args == {"expand": 2.0}
    prepare_tasks(sweep)
    assert launch.main(["my_study.yaml", "--dry-run"]) == 0
    assert "layers 0, 2: gla; layer 1: my_mixer:MyMixer" in capsys.readouterr().out


def connected():
    """Whether this process has a Ray, as it may of other tests."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def test_a_mistake_in_the_file_stops_the_launch_before_anything_is_written(beside, tiny, capsys):
    before = connected()
    sweep_file(beside, tiny)
    (beside / "my_mixer.py").write_text(FILE.replace("return out,", "return out[..., :3],"))
    for more in ([], ["--dry-run"]):
        assert launch.main(["my_study.yaml", *more]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said == [
            "error: arms.mine.model.mixer my_mixer:MyMixer: forward gave [2, 8, 3] for [2, 8, 16]; it must give the "
            "shape it got"
        ]  # the arm `both` has one layer, gla
    with pytest.raises(UserError, match=r"forward gave \[2, 8, 3\]"):
        run_experiment({**tiny, "model": {**tiny["model"], "mixer": MINE}}, "results", device="cpu")
    assert not (beside / "results").exists()
    assert connected() == before, "no Ray was left up"


def tried(folder, text, name="Mine"):
    (folder / "mine.py").write_text(text)
    sys.modules.pop("mine", None)
    model = ModelConfig(d_model=16, n_heads=2, n_layers=2, mixer=f"mine:{name}")
    before = torch.get_rng_state()
    said = try_mixer(model.mixer[0], model, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert said is None or "\n" not in said
    return said


RETURNED = "self.out(x)\n"  # what the cases below replace


def returning(value):
    return PLAIN.replace("return " + RETURNED, f"return {value}\n")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("self.out(x)[:, :1]", "forward gave [2, 1, 16] for [2, 8, 16]; it must give the shape it got"),
        ("[self.out(x)]", "forward gave a list; it must give a tensor or a tuple that begins with one"),
        ("None, self.out(x)", "forward gave a NoneType; it must give a tensor or a tuple that begins with one"),
        ("self.out(x).argsort(-1)", "forward gave int64 for float32; it must give the type it got, or a shorter float"),
        ("self.out(x).double()", "forward gave float64 for float32; it must give the type it got, or a shorter float"),
        ("self.out(x).log()", "forward gave values that are not finite for normally distributed [2, 8, 16]"),
        ("(self.out(x) * 0).sqrt()", "its gradient is not finite for normally distributed [2, 8, 16]"),
        ("self.out(x).exp_() * x.mul_(2)", "forward for [2, 8, 16] raised RuntimeError: a leaf Variable"),
        ("self.in_(x)", "raised AttributeError: 'Mine' object has no attribute 'in_' (mine.py:15)"),
        ("x.view(2, -1, 4, 16).flatten(1, 2)", "forward for [2, 7, 16] raised RuntimeError: shape '[2, -1, 4, 16]'"),
        ("self.out(x) * self.count()", "forward gave two outputs for one input and torch seed; nothing may stay"),
    ],
)
def test_what_forward_gives_is_checked(beside, value, said):
    assert said in tried(beside, returning(value))


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (", **extra", "", "forward takes no attention_mask; it is called as forward(hidden_states, past_key_values="),
        (
            ", past_key_values=None, use_cache=False, **extra",
            "",
            "takes no past_key_values, use_cache, attention_mask;",
        ),
        ("past_key_values=None, use", "past_key_values, use", "missing a required argument: 'past_key_values'"),
        ("super().__init__()", "pass", "its constructor raised AttributeError: cannot assign module"),
        (
            "import torch\n",
            "import no_such\n",
            "importing it raised ModuleNotFoundError: No module named 'no_such' (mine",
        ),
        (
            "import torch\n",
            "raise SystemExit('usage:\\n ...')\n",
            "importing it raised SystemExit: usage: ... (mine.py",
        ),
        ("nn.Module", "object", "it is no torch.nn.Module"),
    ],
)
def test_what_keeps_it_from_running_is_told_with_its_line(beside, was, now, said):
    assert was in PLAIN
    assert said in tried(beside, PLAIN.replace(was, now))


@pytest.mark.parametrize(
    "value",
    [
        "self.out(x.roll(-1, 1))",
        "self.out(x - x.mean(1, keepdim=True))",
        "self.out(torch.fft.irfft(torch.fft.rfft(x, dim=1) * 1j, x.shape[1], dim=1))",
        "self.out(x.argsort(1).float())",  # no derivative shows it
        "x + torch.cat([x[:, -1:] * 0.001, x[:, 1:]], 1)",  # only the last token, only to the first, and little of it
        "x.flip(1) @ self.zero",  # behind a matrix that begins at zero
        "nn.functional.normalize(x, dim=0) * x.std((0, 1))",
    ],
)
def test_a_mixer_that_sees_later_tokens_is_refused(beside, value):
    said = tried(beside, returning(value))
    assert said.startswith("not causal: other tokens from 1 on changed the output at token 0 (of 8, counted from 0)")


@pytest.mark.parametrize(
    "value",
    [
        "self.out(x), None",
        "self.out(x).bfloat16()",
        "torch.zeros_like(x)",  # no mixer at all, to compare with
        "nn.functional.dropout(self.out(x), 0.5)",
        "self.out(x.cumsum(1)) @ self.zero",
        "self.out(x) + self.seen.add_(1)",  # moves a buffer on, as batch statistics do
        "torch.fft.irfft(torch.fft.rfft(x, 32, dim=1) * torch.fft.rfft(torch.ones(16), 32)[:, None], 32, dim=1)"
        "[:, :x.shape[1]]",
    ],
)
def test_a_sound_one_passes(beside, value):
    assert tried(beside, returning(value)) is None


def test_one_for_cuda_alone_is_not_tried_without(beside):
    text = returning("self.out(x.cuda())").replace("    def __init__", "    cuda_only = True\n    def __init__")
    if not torch.cuda.is_available():
        assert tried(beside, text) is None


def test_the_corners_of_the_space_are_tried_and_equal_mistakes_told_once(beside, tiny):
    (beside / "mine.py").write_text(
        returning("self.out(x)")
        .replace("d_model: int)", "d_model: int, power: int = 1)")
        .replace("super().__init__()", "super().__init__(); assert power < 3, 'power must be below 3'")
    )
    tree = {**tiny, "model": {**tiny["model"], "mixer": "mine:Mine"}}
    space = "{model.mixer.power: {int: [1, 4]}, optim.lr: {choice: [1, 2]}}"
    arms = f"arms: {{a: {{}}, b: {{optim.clip: 2.0}}}}\nsearch: {{space: {space}}}"
    sweep = load(sweep_file(beside, tree, arms))
    with pytest.raises(UserError) as error:
        try_custom_mixers(sweep)
    assert error.value.problems == [
        "search.space at {'model.mixer.power': 4}, arm a: model.mixer mine:Mine: its constructor raised "
        "AssertionError: power must be below 3 (mine.py:6)"
    ]


def test_what_its_author_warns_of_is_told_once_and_no_other_threads_warning(beside, caplog):
    warn = 'super().__init__()\n        import warnings\n        warnings.warn("lr below 1e-3, please")\n'
    warn += '        warnings.warn("no socks", ImportWarning)'  # as urllib3's, while Ray is imported in its thread
    (beside / "noisy.py").write_text(PLAIN.replace("super().__init__()", warn))
    model = ModelConfig(d_model=8, n_heads=1, n_layers=2, mixer={"name": "noisy:Mine"})
    for layer in range(2):
        build_mixer(model.mixer[0], model, layer)
    assert [record.message for record in caplog.records] == ["noisy:Mine: lr below 1e-3, please"]
