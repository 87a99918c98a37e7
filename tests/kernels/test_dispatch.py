"""Putting the substitutes in place."""

import inspect
import sys
import warnings

import pytest
import torch

import attnlab.kernels
from attnlab.kernels import dispatch, install
from attnlab.kernels.install import _routes

torch.set_num_threads(1)
install()


def test_installing_again_changes_nothing():
    import fla.ops.gla as gla

    before = gla.chunk_gla
    attnlab.kernels.install()  # the documented call
    assert gla.chunk_gla is before
    assert not hasattr(before.fla_original, "fla_original")


def test_every_module_that_holds_a_function_is_reached():
    originals = {}
    for path in dispatch.SUBSTITUTES:
        module, _, name = path.partition(":")
        originals[id(getattr(sys.modules[module], name).fla_original)] = path
    for name, module in list(sys.modules.items()):
        if name.startswith("fla.") and module is not None:
            left = [originals[id(x)] for x in vars(module).values() if id(x) in originals]
            assert not left, f"{name} still holds {left}"


def test_a_function_that_fla_lacks_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setitem(dispatch.SUBSTITUTES, "fla.ops.gla.chunk:chunk_gone", lambda: None)
    monkeypatch.setitem(dispatch.SUBSTITUTES, "fla.ops.no_such:f", lambda: None)
    with pytest.raises(RuntimeError, match=r"fla\.ops\.gla\.chunk:chunk_gone, fla\.ops\.no_such:f"):
        _routes()


def test_an_argument_that_is_not_implemented_is_refused_and_a_hint_is_not():
    from fla.ops.gla import fused_recurrent_gla

    x = torch.randn(1, 3, 1, 4)
    fused_recurrent_gla(x, x, x, gk=-x.abs(), reverse=False)
    with pytest.raises(NotImplementedError, match=r"fused_recurrent_gla\(reverse=True\)"):
        fused_recurrent_gla(x, x, x, gk=-x.abs(), reverse=True)


def originals():
    for path in dispatch.SUBSTITUTES:
        module, _, name = path.partition(":")
        yield path, getattr(sys.modules[module], name).fla_original


@pytest.mark.parametrize("path", dispatch.SUBSTITUTES)
def test_every_argument_that_fla_takes_is_taken_or_refused_by_name(path):
    """And the CPU function asks for nothing that FLA's own function does not have."""
    theirs = inspect.signature(dict(originals())[path]).parameters.values()
    named = {p.name: p.default for p in theirs if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    ours = inspect.signature(dispatch.SUBSTITUTES[path]).parameters.values()
    if not named:
        return  # an autograd function's `apply`: its arguments are the CPU function's, in order
    needed = {p.name for p in ours if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    assert needed <= named.keys()
    reached = []
    route = dispatch.router(dict(originals())[path], _noting(dispatch.SUBSTITUTES[path], reached), "name", True)
    for name in named:
        try:
            route(**{name: 64 if name == "chunk_size" else 7})
        except NotImplementedError as refused:
            assert f"name({name}=7)" in str(refused)
        else:
            assert reached.pop().get(name) or name in dispatch.HINTS


def _noting(function, reached):
    """The function's signature, with a body that notes what it is called with."""

    def note(**given):
        reached.append(given)

    note.__signature__ = inspect.signature(function)
    return note


WITH_STATE = [
    "gla.fused_recurrent_gla", "simple_gla.fused_recurrent_simple_gla", "retention.fused_recurrent_retention",
    "gated_delta_rule.chunk_gated_delta_rule", "gated_delta_rule.fused_recurrent_gated_delta_rule",
    "kda.chunk_kda", "kda.fused_recurrent_kda", "gdn2.chunk_gdn2", "gdn2.fused_recurrent_gdn2",
    "precond_gated_delta_rule.chunk_precond_gated_delta_rule", "precond_kda.fused_recurrent_precond_kda",
]  # fmt: skip


@pytest.mark.parametrize("path", WITH_STATE)
def test_the_states_older_name_is_taken_with_flas_warning(path):
    """`transpose_state_layout`; the preconditioned rules know no other name, and do not warn."""
    package, _, name = path.partition(".")
    function = getattr(sys.modules[f"fla.ops.{package}"], name)
    torch.manual_seed(0)
    key = torch.randn(1, 5, 2, 4)
    takes = inspect.signature(function).parameters
    few, many = torch.rand(1, 5, 2), torch.rand(1, 5, 2, 4)
    gates = {"g": -many if "kda" in path or "gdn2" in path else -few, "beta": few, "g_atk": -few, "beta_atk": few}
    gates |= {"gk": -many, "b": many, "w": torch.rand(1, 5, 2, 6)}
    if "gated_delta_rule" in path:
        del gates["gk"]
    args = {"q": key, "k": key, "v": torch.randn(1, 5, 2, 6), **{n: x for n, x in gates.items() if n in takes}}
    args |= {"initial_state": torch.randn(1, 2, 4, 6), "output_final_state": True}
    want, state, *_ = function(**args)
    args["initial_state"] = args["initial_state"].mT.contiguous()
    old = {"transpose_state_layout": True}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got, swapped, *_ = function(**args, **old)
    assert torch.allclose(got, want, atol=1e-6) and torch.allclose(swapped.mT, state, atol=1e-6)
    if "precond" in path:
        assert not said
        return
    (warning,) = said
    assert warning.category is DeprecationWarning and warning.filename == __file__
    assert "`transpose_state_layout` is deprecated and renamed to `state_v_first`" in str(warning.message)
    with pytest.raises(ValueError, match="both `state_v_first` and the deprecated `transpose_state_layout`"):
        function(**args, **old, state_v_first=True)


def test_the_older_name_is_refused_where_fla_has_no_newer_one():
    from fla.ops.delta_rule import chunk_delta_rule

    x = torch.randn(1, 3, 1, 4)
    with pytest.raises(NotImplementedError, match="transpose_state_layout=True"):
        chunk_delta_rule(x, x, x, torch.rand(1, 3, 1), transpose_state_layout=True)


def test_a_chunk_size_that_fla_refuses_is_refused():
    from fla.ops.kda import chunk_kda

    x = torch.randn(1, 3, 1, 4)
    args = {"q": x, "k": x, "v": x, "g": -x.abs(), "beta": torch.rand(1, 3, 1)}
    for size in (32, 64):
        chunk_kda(**args, chunk_size=size)
    with pytest.raises(ValueError, match="`chunk_size` must be either 32 or 64 for KDA, got 16"):
        chunk_kda(**args, chunk_size=16)


def test_defaults_are_fla_s_own():
    """chunk_linear_attn normalises unless told not to; its recurrent sibling does not unless told to."""
    from fla.ops.linear_attn import chunk_linear_attn, fused_recurrent_linear_attn

    q = torch.rand(1, 5, 1, 4)
    assert torch.allclose(chunk_linear_attn(q, q, torch.ones_like(q))[0], torch.ones_like(q))
    assert not torch.allclose(fused_recurrent_linear_attn(q, q, torch.ones_like(q))[0], torch.ones_like(q))


def test_bypass_reaches_flas_own_function():
    from fla.ops.retention import chunk_retention

    dispatch.calls.clear()
    x = torch.randn(1, 4, 1, 16)
    chunk_retention(x, x, x)
    assert "chunk_retention" in dispatch.calls
    dispatch.calls.clear()
    with dispatch.bypass(), pytest.raises(Exception):  # noqa: B017  (Triton without a GPU raises what it likes)
        chunk_retention(x, x, x)
    assert not dispatch.calls
    assert not dispatch.bypassed()


@pytest.mark.parametrize("name", ["chunk_gla", "fused_recurrent_gated_delta_rule", "fused_recurrent_hgrn"])
def test_sequences_laid_end_to_end_equal_separate_ones(name):
    import fla.ops

    function, lengths = getattr(fla.ops, name), (5, 17, 8)
    torch.manual_seed(0)
    if name == "fused_recurrent_hgrn":
        args = {"x": torch.randn(1, 30, 6), "g": -torch.rand(1, 30, 6)}
    else:
        args = {n: torch.randn(1, 30, 2, 4) for n in "qkv"}
        args["g"] = -torch.rand(1, 30, 2, 4) if name == "chunk_gla" else -torch.rand(1, 30, 2)
        if "delta" in name:
            args["beta"] = torch.rand(1, 30, 2)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    out, final = function(**args, cu_seqlens=bounds, output_final_state=True)
    for i, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        one, state = function(**{n: x[:, start:end] for n, x in args.items()}, output_final_state=True)
        assert torch.allclose(out[:, start:end], one, atol=1e-6)
        assert torch.allclose(final[i : i + 1], state, atol=1e-6)


def test_attention_windows_groups_and_single_queries():
    from attnlab.kernels.cpu.attention import attend, attend_varlen

    torch.manual_seed(0)
    q, k, v = torch.randn(2, 9, 4, 8), torch.randn(2, 9, 2, 8), torch.randn(2, 9, 2, 8)

    def plain(q, k, v, left):
        k, v = (x.repeat_interleave(2, 2) for x in (k, v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * 8**-0.5
        back = torch.arange(9 - q.shape[1], 9)[:, None] - torch.arange(9)
        scores = scores.masked_fill((back < 0) | (back > left), -torch.inf)
        return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)

    for queries in (9, 4, 1):
        for left in (100, 8, 3, 0):
            mine = attend(q[:, -queries:], k, v, causal=True, window_size=(left if left < 100 else -1, 0))
            assert torch.allclose(mine, plain(q[:, -queries:], k, v, left), atol=1e-6), (queries, left)
    ends = torch.tensor([0, 9, 18])
    flat = attend_varlen(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), ends, ends, 9, 9, causal=True)
    assert torch.allclose(flat.view(2, 9, 4, 8), attend(q, k, v, causal=True), atol=1e-6)


def test_a_rotary_table_does_not_change_with_every_token():
    from fla.modules.rotary import RotaryEmbedding

    rotary, q = RotaryEmbedding(dim=8), torch.randn(1, 300, 2, 8)
    together = rotary(q, q)[0]
    table = rotary._cos_cached
    assert len(table) == 512
    one_by_one = [rotary(q[:, i : i + 1], q[:, i : i + 1], seqlen_offset=i)[0] for i in range(290, 300)]
    assert rotary._cos_cached is table
    torch.testing.assert_close(torch.cat(one_by_one, 1), together[:, 290:])
