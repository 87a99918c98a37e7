"""Every way of being fast gives what reading each request by itself gives."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.scoring.checkpoints import open_model
from analysis.scoring.scorer import Scorer, dtype_of
from attnlab.util.errors import UserError
from tests.analysis.small import words

NO_REUSE = ["forgetting", "log_linear_mamba2", "based"]  # one token at a time after a state; the last keeps none
MIXERS = ["standard", "gla", "mamba2", "deltanet", "hgrn", "forgetting", "log_linear_mamba2", "based",
          ["gla", {"name": "standard", "window": 8}]]  # fmt: skip


def scorer(path, **how):
    return Scorer(*open_model(path), **how)


@torch.no_grad()
def by_itself(model, context, continuation):
    """(nats, greedy) of one request, in the plainest way."""
    tokens = torch.tensor([[*context, *continuation]])
    logits = model(tokens, use_cache=False).logits[0, len(context) - 1 : -1]
    wanted = tokens[0, len(context) :]
    return -F.cross_entropy(logits, wanted, reduction="sum").item(), bool((logits.argmax(-1) == wanted).all())


def requests():
    """Shared contexts long and short, equal requests, an empty context, spaces at the border."""
    out = [(words(i, 4 + 5 * (i % 5)), f" {words(i + k, 1 + k)}") for i in range(9) for k in range(3)]
    return [*out, out[4], ("", "alone"), ("x ", "y"), ("", "alone again"), (words(3, 30), " a")]


@pytest.mark.parametrize("mixer", MIXERS, ids=str)
def test_equals_one_request_at_a_time(exported, mixer):
    ours = scorer(exported(mixer), max_tokens=400)
    assert ours.reuses == (mixer not in NO_REUSE)
    pairs = ours.encode_pairs(requests())
    for (context, continuation), got in zip(pairs, ours.score(pairs), strict=True):
        nats, greedy = by_itself(ours.model, context, continuation)
        assert got.loglikelihood == pytest.approx(nats, abs=1e-4) and got.greedy == greedy


@pytest.mark.parametrize("mixer", ["standard", "gla", "based"])
def test_rows_filled_up_to_powers_of_two_change_nothing(exported, mixer):
    """As on CUDA, where kernels are made for a number of rows."""
    ours = scorer(exported(mixer), max_tokens=400)
    read = []
    assert ours.reuses == (mixer not in NO_REUSE)  # tried with other numbers of rows, before they are counted
    hidden = ours.model.backbone.hidden
    ours.model.backbone.hidden = lambda tokens, *rest: (read.append(len(tokens)), hidden(tokens, *rest))[1]
    ours.model.backbone.register_forward_pre_hook(lambda module, args: read.append(len(args[0])))
    prompts = [words(i, 3) for i in range(5)]
    inputs = torch.randint(256, (11, 60)).numpy()

    def everything():
        return ours.loglikelihoods(requests()), ours.greedy(prompts, [3] * 5), ours.aligned(inputs, inputs, -100)

    plain, odd = everything(), set(read)
    read.clear()
    ours.powers = True
    filled = everything()
    assert any(n & (n - 1) for n in odd) and not any(n & (n - 1) for n in read), read
    for a, b in zip(plain[0], filled[0], strict=True):
        assert a.loglikelihood == pytest.approx(b.loglikelihood, abs=1e-4) and a.greedy == b.greedy
    assert filled[1] == plain[1] and filled[2][0] == pytest.approx(plain[2][0], abs=1e-3)


@pytest.mark.parametrize("mixer", ["standard", "gla"])
def test_a_shared_context_is_read_once(exported, mixer):
    ours = scorer(exported(mixer))
    read = []
    inner = ours.model.backbone.hidden
    ours.model.backbone.hidden = lambda tokens, *rest: (read.append(tokens.numel()), inner(tokens, *rest))[1]
    context = words(1, 40)
    once = [(context, f" {word}") for word in ("cat", "mat", "rain")]
    assert ours.reuses
    read.clear()
    ours.loglikelihoods(once)
    assert sum(read) < 1.2 * len(context)


def test_a_state_that_is_not_exact_is_not_used(exported, monkeypatch):
    ours = scorer(exported("gla"))
    inner = ours.model.backbone.hidden

    def drifting(tokens, cache=None, *rest):
        return inner(tokens, cache, *rest) + (0.01 if cache is not None else 0)

    monkeypatch.setattr(ours.model.backbone, "hidden", drifting)
    assert not ours.reuses


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.lists(st.integers(0, 255), min_size=1)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 200),
)
def test_any_requests_under_any_budget(ours, pairs, budget):
    pairs = [*pairs, *[(pairs[0][0], continuation) for _, continuation in pairs]]
    ours.max_tokens = budget
    done = []
    got = ours.score(pairs, done.append)
    assert sum(done) == len(pairs)
    for (context, continuation), one in zip(pairs, got, strict=True):
        assert one.loglikelihood == pytest.approx(by_itself(ours.model, context, continuation)[0], abs=1e-3)


@pytest.fixture(scope="module")
def ours(exported):
    return scorer(exported("gla"))


def test_a_long_context_loses_its_beginning(exported):
    ours = scorer(exported("gla"), max_length=16)
    (got,) = ours.loglikelihoods([(words(0, 30), " cat")])
    tail = list(words(0, 30).encode())[-13:]
    assert got.loglikelihood == pytest.approx(by_itself(ours.model, tail, list(b" cat"))[0], abs=1e-4)
    with pytest.raises(UserError, match="a continuation of 20 tokens; the model reads 16"):
        ours.loglikelihoods([("a", "b" * 20)])


def test_rolling_predicts_every_token_once(exported):
    ours = scorer(exported("hgrn"))
    text, eos = words(2, 12), ours.tokenizer.eos_id
    tokens = list(text.encode())
    windows = [([eos, *tokens][i : i + 1], tokens[i : i + 20]) for i in range(0, len(tokens), 20)]
    assert len(tokens) > 20 and len(windows[-1][1]) < 20
    windows[-1] = [eos, *tokens][len(tokens) - 20 : -len(windows[-1][1])], windows[-1][1]  # 20 inputs, as in the others
    want = -sum(by_itself(ours.model, *window)[0] for window in windows)
    ((nats, n), (empty, none)) = ours.rolling([text, ""], 20)
    assert nats == pytest.approx(want, abs=1e-3) and n == len(tokens) and (empty, none) == (0.0, 0)


@pytest.mark.parametrize("mixer", ["gla", "based"])
def test_greedy_is_the_models_own_generation(exported, mixer):
    ours = scorer(exported(mixer))
    prompts = [words(i, 3 + i % 3) for i in range(6)]
    for prompt, got in zip(prompts, ours.greedy(prompts, [5] * 6), strict=True):
        tokens = torch.tensor([list(prompt.encode())])
        wanted = ours.model.generate(tokens, max_new_tokens=5, do_sample=False)[0, tokens.shape[1] :].tolist()
        wanted = wanted[: wanted.index(ours.tokenizer.eos_id)] if ours.tokenizer.eos_id in wanted else wanted
        assert got == ours.tokenizer.decode(wanted)


def test_half_precision_is_near_and_names_are_checked(exported):
    exact, half = (scorer(exported("gla"), dtype=dtype) for dtype in ("float32", "bfloat16"))
    for a, b in zip(exact.loglikelihoods(requests()), half.loglikelihoods(requests()), strict=True):
        assert a.loglikelihood == pytest.approx(b.loglikelihood, rel=0.05)
    assert dtype_of(torch.device("cuda"), "auto") is torch.bfloat16 and dtype_of(torch.device("cpu"), "auto") is None
    with pytest.raises(UserError, match="--dtype int8: one of auto, float32"):
        scorer(exported("gla"), dtype="int8")
