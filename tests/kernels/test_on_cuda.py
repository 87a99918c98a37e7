"""Padding for FLA's kernels on CUDA computes the same, tried with the kernels' CPU form."""

import pytest
import torch

from attnlab.kernels import on_cuda, routing

B, T, H, V = 2, 70, 2, 48


@pytest.mark.parametrize("keys", (24, 32, 40))
@pytest.mark.parametrize("v_first", (True, False))
def test_widened_keys_change_neither_outputs_nor_states_nor_gradients(keys, v_first):
    routing.install()
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    torch.manual_seed(0)
    inputs = {name: torch.randn(B, T, H, n) for name, n in (("q", keys), ("k", keys), ("v", V))}
    inputs |= {"g": -torch.rand(B, T, H), "beta": torch.rand(B, T, H)}
    inputs["initial_state"] = torch.randn(B, H, V, keys) if v_first else torch.randn(B, H, keys, V)
    how = {"state_v_first": v_first, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    widths = []

    def kernel(**given):
        widths.append((given["q"].shape[-1], given["k"].shape[-1]))
        return chunk_gated_delta_rule(**given)

    def widened(**given):
        return on_cuda._narrow_keys(kernel, **given)

    results = []
    for function in (widened, chunk_gated_delta_rule):
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        out, state = function(**leaves, **how)
        (
            (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() + (state * state.detach().sin()).sum()
        ).backward()
        results.append([out.detach(), state.detach(), *(x.grad for x in leaves.values())])
    assert widths == [(64, 64) if keys <= 32 else (keys, keys)]
    for mine, theirs in zip(*results, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).norm() <= 2e-5 * theirs.norm()
