"""The chunked recurrence against the definition, step by step in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.kernels.cpu.recurrent.linear_rnn import linear_rnn
from attnlab.kernels.cpu.recurrent.scan import gated_scan, selective_scan

torch.set_num_threads(1)
B, H, K, V = 2, 2, 4, 3
KINDS = ("none", "head", "channel", "value", "bonus", "delta", "gated_delta", "kda", "dplr")


def stepwise(q, k, v, g=None, gv=None, erase=None, write=None, bonus=None, scale=1.0, state=None):
    """The docstring's two equations, one step at a time."""
    state = torch.zeros(B, H, K, V, dtype=v.dtype) if state is None else state
    out = []
    for t in range(v.shape[1]):
        new = k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        if bonus is not None:
            read = state + bonus[None, :, :, None] * new
        if erase is not None:
            new = new + write[:, t].unsqueeze(-1) * (erase[:, t].unsqueeze(-2) @ state)
        if g is not None:
            state = state * (g[:, t].exp() if g.dim() == 4 else g[:, t, :, None].exp()).unsqueeze(-1)
        if gv is not None:
            state = state * gv[:, t].exp().unsqueeze(-2)
        state = state + new
        out.append(scale * (q[:, t].unsqueeze(-2) @ (read if bonus is not None else state)).squeeze(-2))
    return torch.stack(out, 1), state


def inputs(kind, steps, strength, seed, dtype=torch.float64):
    """Arguments of both functions; `strength` scales the decays."""
    torch.manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=dtype)

    def decay(*shape):
        return -strength * torch.rand(*shape, dtype=dtype)

    q, v = normal(B, steps, H, K), normal(B, steps, H, V)
    k = torch.nn.functional.normalize(normal(B, steps, H, K), dim=-1)
    args = {"q": q, "k": k, "v": v}
    if kind in ("head", "gated_delta"):
        args["g"] = decay(B, steps, H)
    if kind in ("channel", "bonus", "kda", "dplr"):
        args["g"] = decay(B, steps, H, K)
    if kind == "value":
        args["gv"] = decay(B, steps, H, V)
    if kind == "bonus":
        args["bonus"] = normal(H, K)
    if kind in ("delta", "gated_delta", "kda", "dplr"):
        args["k"] = args["write"] = k * torch.rand(B, steps, H, 1, dtype=dtype)
        args["erase"] = -k
    if kind == "dplr":
        args["write"] = args["k"].flip(1).contiguous()
    return args


def chunked(args, **more):
    args = {{"g": "log_decay", "gv": "value_log_decay"}.get(name, name): x for name, x in args.items()}
    return linear_rnn(**args, **more)


def close(x, y, tolerance):
    return (x - y).norm() <= tolerance * (y.norm() + 1e-12)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    steps=st.integers(1, 40),
    chunk=st.sampled_from([4, 8, 16, 64]),
    strength=st.sampled_from([0.01, 1.0, 20.0]),
    carried=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_the_definition(kind, steps, chunk, strength, carried, seed):
    args = inputs(kind, steps, strength, seed)
    state = torch.randn(B, H, K, V, dtype=torch.float64) if carried else None
    got = chunked(args, scale=0.5, initial_state=state, chunk=chunk)
    want = stepwise(**args, scale=0.5, state=state)
    assert close(got[0], want[0], 1e-10)
    assert close(got[1], want[1], 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_the_definitions(kind):
    args = inputs(kind, 21, 1.0, 0)
    state = torch.randn(B, H, K, V, dtype=torch.float64)
    weight = torch.randn(B, 21, H, V, dtype=torch.float64)
    grads = []
    for run in (lambda a, s: chunked(a, initial_state=s, chunk=8), lambda a, s: stepwise(**a, state=s)):
        fresh = {id(x): x.clone().requires_grad_() for x in args.values()}
        own = {name: fresh[id(x)] for name, x in args.items()}
        start = state.clone().requires_grad_()
        out, final = run(own, start)
        ((out * weight).sum() + final.sum()).backward()
        grads.append([*(x.grad for x in fresh.values()), start.grad])
    assert all(close(a, b, 1e-9) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("kind", ["channel", "bonus", "kda", "value", "dplr"])
@pytest.mark.parametrize("burst", [False, True])
def test_strong_decay_neither_overflows_nor_loses_precision(kind, burst):
    """In fp32, with decays up to e^-60 a step: everywhere, or in bursts between steps that hardly decay."""
    args = inputs(kind, 70, 60.0, 1, dtype=torch.float32)
    name = "gv" if kind == "value" else "g"
    if burst:
        args[name] = torch.where(torch.rand_like(args[name]) < 0.1, args[name], args[name] / 1000)
    # A write that erases must not outlive its decay in this comparison, or fp32 itself is what is measured.
    own = {n: x.clone().requires_grad_() for n, x in args.items()}
    out, final = chunked(own)
    (out.sum() + final.sum()).backward()
    want = stepwise(**{n: x.double() for n, x in args.items()})
    assert close(out.double(), want[0], 1e-5)
    assert close(final.double(), want[1], 1e-5)
    assert all(x.grad.isfinite().all() for x in own.values())


@pytest.mark.parametrize("kind", ["bonus", "gated_delta"])
def test_what_the_step_before_wrote_is_met_undecayed_to_the_bit(kind):
    """In fp32, however far the decays have summed up: under strong decay nearly all that a step reads is this."""
    args = inputs(kind, 70, 60.0, 1, dtype=torch.float32)
    own = {n: x.clone().requires_grad_() for n, x in args.items()}
    exact = {n: x.double().requires_grad_() for n, x in args.items()}
    out, _ = chunked(own)
    want, _ = stepwise(**exact)
    out.sum().backward()
    want.sum().backward()
    assert close(out.double(), want, 1e-6)
    assert all(close(own[n].grad.double(), exact[n].grad, 5e-6) for n in own if n != "g")


@pytest.mark.parametrize("kind", ["head", "gated_delta"])
def test_the_gradient_of_a_decay_that_leaves_nothing_keeps_its_digits(kind):
    """In fp32. It is of the size of e^-10, and a difference of sums that hold each step's own, undecayed term."""
    args = inputs(kind, 70, 1.0, 1, dtype=torch.float32)
    args["g"] = args["g"] * 4 - 8
    own = {n: x.clone().requires_grad_() for n, x in args.items()}
    exact = {n: x.double().requires_grad_() for n, x in args.items()}
    chunked(own)[0].sum().backward()
    stepwise(**exact)[0].sum().backward()
    assert close(own["g"].grad.double(), exact["g"].grad, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_two_halves_that_hand_on_the_state_equal_the_whole(kind):
    args = inputs(kind, 50, 1.0, 2)

    def part(span):
        return {n: x if n == "bonus" else x[:, span] for n, x in args.items()}

    first, state = chunked(part(slice(0, 23)))
    second, final = chunked(part(slice(23, None)), initial_state=state)
    whole, end = chunked(args)
    assert close(torch.cat([first, second], 1), whole, 1e-10)
    assert close(final, end, 1e-10)


def test_results_keep_the_dtype_of_the_values_and_states_are_fp32():
    args = {n: x.bfloat16() for n, x in inputs("kda", 9, 1.0, 0).items()}
    out, state = chunked(args)
    assert out.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = chunked(inputs("kda", 9, 1.0, 0, torch.float32))
    assert close(out, chunked(inputs("kda", 9, 1.0, 0, torch.float32))[0], 1e-6)


def test_gated_scan_and_its_gradient():
    torch.manual_seed(0)
    x, g, h0 = (torch.randn(*shape, dtype=torch.float64) for shape in ((B, 7, 5), (B, 7, 5), (B, 5)))
    torch.autograd.gradcheck(
        lambda *a: gated_scan(a[0], -a[1].abs(), a[2]), (x.requires_grad_(), g.requires_grad_(), h0.requires_grad_())
    )
    h, out = h0, []
    for t in range(7):
        h = (-g[:, t].abs()).exp() * h + x[:, t]
        out.append(h)
    assert close(gated_scan(x, -g.abs(), h0)[0], torch.stack(out, 1), 1e-12)


def test_selective_scan_equals_its_definition():
    torch.manual_seed(0)
    x, delta, A, Bm, Cm, D = (torch.randn(*s) for s in ((2, 70, 6), (2, 70, 6), (6, 3), (2, 70, 3), (2, 70, 3), (6,)))
    delta, A = delta.abs(), -A.abs()
    h, out = torch.zeros(2, 6, 3), []
    for t in range(70):
        h = (delta[:, t, :, None] * A).exp() * h + (delta[:, t] * x[:, t]).unsqueeze(-1) * Bm[:, t, None]
        out.append((h * Cm[:, t, None]).sum(-1) + D * x[:, t])
    y, final = selective_scan(x, delta, A, Bm, Cm, D)
    assert close(y, torch.stack(out, 1), 1e-6)
    assert close(final, h, 1e-6)
