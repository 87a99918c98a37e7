"""What is compiled on CUDA, with the compiler's tracer but without its code, on the CPU: the same function."""

import pytest
import torch

from attnlab.config.trial import ModelConfig
from attnlab.kernels import install
from attnlab.models import build_model
from attnlab.models.fused import compile_mixers
from attnlab.models.mixers.table import MIXERS

torch.set_num_threads(1)
install()
COMPILED = [name for name, row in MIXERS.items() if row.compiled]
LAYERS, VOCAB = 3, 32


@pytest.mark.xdist_group("fla")
@pytest.mark.parametrize("name", COMPILED)
def test_a_mixer_compiled_between_its_kernels_trains_alike_and_evaluates_as_written(name):
    torch.manual_seed(0)
    model = build_model(ModelConfig(d_model=32, n_heads=2, n_layers=LAYERS, mixer=name), VOCAB).train()
    tokens = torch.randint(VOCAB, (2, 71))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].reshape(-1)

    def trained():
        model.zero_grad()
        loss = model.loss_sum(inputs, targets)
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters()]

    loss, gradients = trained()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile_mixers(model.backbone.blocks, backend="aot_eager")
    again, compiled = trained()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 1, "nothing between the kernels was compiled"
    torch.testing.assert_close(again, loss, rtol=1e-5, atol=1e-5)
    for a, b in zip(compiled, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model.eval().loss_sum(inputs[:, :33], tokens[:, 1:34].reshape(-1))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "evaluation compiled something"
