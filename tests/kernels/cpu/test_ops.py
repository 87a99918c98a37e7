"""The operations that are no plain `linear_rnn`, each against its definition or FLA's step-by-step reference."""

import pytest
import torch
import torch.nn.functional as F

from attnlab.kernels import install

torch.set_num_threads(1)
install()
B, T, H, K, V = 2, 150, 2, 8, 4  # three of FLA's chunks of 64, the last one not full


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def error(mine, theirs):
    return ((mine - theirs).norm() / theirs.norm()).item()


def same_gradients(mine, theirs, **inputs):
    """Outputs and all gradients of two functions of the same keyword tensors; the worst relative error."""
    results = []
    for function in (mine, theirs):
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        out = function(**leaves)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        results.append([out.detach(), *(x.grad for x in leaves.values())])
    return max(error(a, b) for a, b in zip(*results, strict=True))


def lower(n):
    return torch.ones(n, n, dtype=torch.bool).tril()


def test_log_linear_attention_and_its_decoder():
    from attnlab.kernels.cpu.recurrent import log_linear

    q, k, v = torch.randn(B, T, H, K), torch.randn(B, T, H, K), torch.randn(B, T, H, V)
    g, scales = -torch.rand(B, T, H) * 0.2, torch.rand(B, T, H, 10)

    def definition(q, k, v, g, level_scales):
        total = g.cumsum(1).transpose(1, 2)
        level = torch.tensor([[(t ^ j).bit_length() for j in range(T)] for t in range(T)])
        weight = level_scales.transpose(1, 2).gather(-1, level.expand(B, H, T, T))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * weight
        decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(~lower(T), -torch.inf).exp()
        return torch.einsum("bhij,bjhd->bihd", scores * decay, v)

    inputs = {"q": q, "k": k, "v": v, "g": g, "level_scales": scales}
    assert same_gradients(log_linear.attend, definition, **inputs) < 2e-6
    full = log_linear.attend(q, k, v, g, scales)
    for prompt in (1, 64, 101, 128):
        state = log_linear.final_states(k[:, :prompt], v[:, :prompt], g[:, :prompt], 10)
        for t in range(prompt, prompt + 9):
            o, state = log_linear.step(state, q[:, t], k[:, t], v[:, t], g[:, t], scales[:, t])
            assert error(o, full[:, t]) < 5e-6, (prompt, t)


def test_log_linear_attention_says_when_its_levels_end():
    from fla.ops.log_linear_attn import chunk_log_linear_attn

    x = torch.randn(1, 9, 1, 4)
    with pytest.raises(ValueError, match="9 steps need more than the 4 levels"):
        chunk_log_linear_attn(x, x, x, -torch.rand(1, 9, 1), torch.rand(1, 9, 1, 4))


def test_mesa_solves_its_systems_and_differentiates_the_solution():
    from fla.ops.mesa_net.naive import naive_mesa_net_exact

    from attnlab.kernels.cpu.recurrent.mesa import mesa

    inputs = {
        "q": unit(B, T, H, K), "k": unit(B, T, H, K), "v": torch.randn(B, T, H, K), "g": -torch.rand(B, T, H) * 0.1,
        "beta": torch.rand(B, T, H), "lamb": torch.rand(H, K) + 0.5,
    }  # fmt: skip

    def ours(**x):
        return mesa(**x, initial_state=None, iterations=30)[0]

    def exact(q, k, v, g, beta, lamb):
        return naive_mesa_net_exact(q, k, v, g, lamb, beta)[0]

    # 1e-5 stands in both of conjugate gradients' denominators, as in FLA, so that it stops short of exactness
    assert same_gradients(ours, exact, **inputs) < 2e-3


def test_mesa_goes_on_from_a_state():
    from attnlab.kernels.cpu.recurrent.mesa import mesa

    x = {"q": unit(B, T, H, K), "k": unit(B, T, H, K), "v": torch.randn(B, T, H, V)}
    x |= {"g": -torch.rand(B, T, H), "beta": torch.rand(B, T, H)}
    lamb = torch.rand(H, K) + 0.5
    full, state = mesa(**x, lamb=lamb, initial_state=None, iterations=30)
    first, middle = mesa(**{n: y[:, :70] for n, y in x.items()}, lamb=lamb, initial_state=None, iterations=30)
    second, last = mesa(**{n: y[:, 70:] for n, y in x.items()}, lamb=lamb, initial_state=middle, iterations=30)
    assert torch.allclose(torch.cat([first, second], 1), full, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(last, state, strict=True))


def test_mesa_has_the_gradient_of_the_state_it_began_with():
    from fla.ops.mesa_net.naive import naive_mesa_net_exact

    from attnlab.kernels.cpu.recurrent.mesa import mesa

    first = unit(B, H, K)
    fixed = {"q": unit(B, 20, H, K), "k": unit(B, 20, H, K), "v": torch.randn(B, 20, H, K)}
    fixed |= {"g": -torch.rand(B, 20, H) * 0.1, "beta": torch.rand(B, 20, H), "lamb": torch.rand(H, K) + 0.5}

    def ours(R, S):
        return mesa(**fixed, initial_state=(R, S), iterations=30)[0]

    def exact(R, S):
        return naive_mesa_net_exact(**fixed, h_kk_init=R, h_kv_init=S)[0]

    states = {"R": first.unsqueeze(-1) * first.unsqueeze(-2), "S": torch.randn(B, H, K, K)}
    assert same_gradients(ours, exact, **states) < 2e-3


def test_preconditioned_kda_makes_its_gate_of_the_raw_one():
    from fla.ops.kda.gate import fused_kda_gate
    from fla.ops.precond_kda import chunk_precond_kda

    key, few = torch.randn(B, 9, H, K), torch.rand(B, 9, H)
    args = {"q": key, "k": key, "v": torch.randn(B, 9, H, V), "g_atk": -few, "beta": few, "beta_atk": few}
    gate = {"A_log": torch.randn(H), "dt_bias": torch.randn(H * K)}
    raw = torch.randn(B, 9, H, K)
    want, *_ = chunk_precond_kda(g=fused_kda_gate(raw, **gate), **args)
    got, *_ = chunk_precond_kda(g=raw, use_gate_in_kernel=True, **gate, **args)
    assert torch.allclose(got, want, atol=1e-6)


def test_simple_gla_gives_its_scores():
    from fla.ops.simple_gla import parallel_simple_gla

    q, k, v, g = torch.randn(B, T, H, K), torch.randn(B, T, H, K), torch.randn(B, T, H, V), -torch.rand(B, T, H)
    for gate in (None, g):
        o, scores = parallel_simple_gla(q, k, v, gate, output_attentions=True)
        assert error(torch.einsum("bhij,bjhd->bihd", scores, v), o) < 1e-5
        assert parallel_simple_gla(q, k, v, gate)[1] is None


def test_path_scores_and_the_keys_it_leaves_behind():
    from attnlab.kernels.cpu.softmax_ops import path_scores

    q, k, w, beta = torch.randn(B, T, H, K), torch.randn(B, T, H, K), unit(B, T, H, K), 2 * torch.rand(B, T, H)
    moved, rows = torch.zeros(B, 0, H, K), []
    for t in range(T):  # every earlier key goes through step t's reflection
        moved = moved - (beta[:, t, None, :, None] * (moved * w[:, t, None]).sum(-1, keepdim=True)) * w[:, t, None]
        moved = torch.cat([moved, k[:, t, None]], 1)
        rows.append(F.pad(torch.einsum("bhd,bjhd->bhj", q[:, t], moved), (0, T - t - 1)))
    scores, carried = path_scores(q, k, w, beta)
    assert error(scores.tril(), torch.stack(rows, 2)) < 2e-6
    assert error(carried, moved) < 2e-6


def test_momentum_delta_rule_equals_flas_recurrence():
    from fla.ops.momentum_delta_rule import chunk_momentum_delta_rule
    from fla.ops.momentum_delta_rule.naive import recurrent_momentum_delta_rule_ref

    inputs = {"q": unit(B, T, H, K), "k": unit(B, T, H, K), "v": torch.randn(B, T, H, V), "p": unit(B, T, H, K)}
    inputs |= {"log_alpha": -torch.rand(B, T, H), "log_mu": -2 * torch.rand(B, T, H)}
    inputs |= {"beta": torch.rand(B, T, H) / 2, "eta": 2 * torch.rand(B, T, H)}
    plain = {"use_qk_l2norm_in_kernel": False, "use_p_times_alpha": False}
    assert same_gradients(
        lambda **x: chunk_momentum_delta_rule(**x, **plain)[0],
        lambda **x: recurrent_momentum_delta_rule_ref(**x)[0],
        **inputs,
    ) < 2e-6  # fmt: skip


def test_preconditioned_kda_equals_flas_recurrence():
    from fla.ops.precond_kda import chunk_precond_kda
    from fla.ops.precond_kda.naive import naive_recurrent_precond_kda

    inputs = {"q": unit(B, T, H, K), "k": unit(B, T, H, K), "v": torch.randn(B, T, H, V)}
    inputs |= {"g": -torch.rand(B, T, H, K), "g_atk": -torch.rand(B, T, H)}
    inputs |= {"beta_atk": torch.rand(B, T, H), "beta": torch.rand(B, T, H)}
    # FLA's kernel always normalises q and k, which are of unit length here
    assert same_gradients(
        lambda q, k, **x: chunk_precond_kda(q=F.normalize(q, dim=-1), k=F.normalize(k, dim=-1), **x)[0],
        lambda q, k, **x: naive_recurrent_precond_kda(q=F.normalize(q, dim=-1), k=F.normalize(k, dim=-1), **x)[0],
        **inputs,
    ) < 1e-5  # fmt: skip


@pytest.mark.parametrize("strength", [0.01, 1.0, 40.0])
def test_scores_whose_channels_fade(strength):
    from attnlab.kernels.cpu.variant_ops import decayed_scores

    q, k, g = torch.randn(B, T, H, K), torch.randn(B, T, H, K), -strength * torch.rand(B, T, H, K)

    def definition(q, k, g):
        q, k, total = q.double(), k.double(), g.double().cumsum(1)
        gaps = (total[:, :, None] - total[:, None]).masked_fill(~lower(T)[:, :, None, None], -torch.inf)
        return torch.einsum("bihd,bjhd,bijhd->bhij", q, k, gaps.exp()).float()

    assert same_gradients(decayed_scores, definition, q=q, k=k, g=g) < 1e-5


@pytest.mark.parametrize("name", ["parallax", "deltaformer", "stickbreaking"])
def test_equals_flas_reference(name):
    import fla.ops.deltaformer.naive
    import fla.ops.parallax.naive
    import fla.ops.stickbreaking_attn.naive
    from fla.ops.deltaformer import deltaformer_attn
    from fla.ops.parallax import parallel_parallax
    from fla.ops.stickbreaking_attn import parallel_stickbreaking_attn

    mine, theirs, extra = {
        "parallax": (parallel_parallax, fla.ops.parallax.naive.naive_parallax, {"r": torch.randn(B, T, H, K)}),
        "deltaformer": (
            deltaformer_attn,
            fla.ops.deltaformer.naive.naive_deltaformer_attn,
            {"beta": torch.rand(B, T, H)},
        ),
        "stickbreaking": (
            lambda **x: parallel_stickbreaking_attn(**x)[0],
            lambda **x: fla.ops.stickbreaking_attn.naive.naive_stickbreaking_attn(**x)[0],
            {},
        ),
    }[name]
    inputs = {n: torch.randn(B, T, H, K) for n in "qkv"}
    assert same_gradients(mine, theirs, **inputs, **extra) < 2e-6


@pytest.mark.parametrize("topk", [1, 2, 9])
def test_moba_sees_its_own_block_and_the_best_of_the_earlier_ones(topk):
    from fla.ops.moba import parallel_moba

    size, q, k, v = 32, torch.randn(1, T, H, K), torch.randn(1, T, H, K), torch.randn(1, T, H, V)
    mine = parallel_moba(q, k, v, cu_seqlens=torch.tensor([0, T]), max_seqlen=T, chunk_size=size, topk=topk)
    for t in (0, 31, 32, 100, T - 1):
        for h in range(H):
            own = t // size
            means = [k[0, b * size : (b + 1) * size, h].mean(0) @ q[0, t, h] for b in range(own)]
            best = sorted(range(own), key=lambda b: -means[b])[: topk - 1]
            if topk == 1:  # FLA's: one block means plain causal attention
                best = list(range(own))
            seen = [j for j in range(t + 1) if j // size in (own, *best)]
            weights = (k[0, seen, h] @ q[0, t, h] * K**-0.5).softmax(0)
            assert torch.allclose(mine[0, t, h], weights @ v[0, seen, h], atol=1e-5)


def test_abc_from_a_state_weighs_the_whole_past():
    """Two stretches equal one; FLA's own state forgets how much weight the past had."""
    from fla.ops.abc.naive import naive_cumsum_abc

    from attnlab.kernels.cpu.recurrent.linear_ops import abc

    q, k, v, s = (torch.randn(B, T, H, n) for n in (K, K, V, 3))
    (full, _), (first, state) = abc(q, k, v, s), abc(*(x[:, :70] for x in (q, k, v, s)), None, True)
    second, _ = abc(*(x[:, 70:] for x in (q, k, v, s)), state, True)
    assert torch.allclose(torch.cat([first, second], 1), full, atol=1e-5)
    heads_first = [x.transpose(1, 2) for x in (q, k, v, s)]
    assert torch.allclose(naive_cumsum_abc(*heads_first)[0].transpose(1, 2), full, atol=1e-5)
