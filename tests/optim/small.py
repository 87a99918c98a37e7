"""A small language model that holds one of each kind of parameter."""

import torch
from torch import nn


class Block(nn.Module):
    """One of each kind of parameter that a mixer may hold."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.conv = nn.Conv1d(width, width, 4, groups=width, padding=3)
        self.to_scalar = nn.Linear(width, 1, bias=False)
        self.positions = nn.Embedding(8, width)
        self.bonus = nn.Parameter(torch.randn(4, width // 4))
        self.shift = nn.Parameter(torch.randn(1, 1, width))
        self.A_log = nn.Parameter(torch.randn(width, 3))
        self.A_log._no_weight_decay = True
        self.mix = nn.Parameter(torch.eye(width))
        self.mix._hidden_matrix = True
        self.kept = nn.Linear(width, width, bias=False)
        self.kept.weight._hidden_matrix = False
        self.frozen = nn.Linear(width, width, bias=False).requires_grad_(False)

    def forward(self, x):
        h = self.norm(x) * (1 + self.shift) + self.positions.weight[: x.shape[1]]
        h = self.conv(h.mT)[..., : x.shape[1]].mT + self.frozen(self.kept(h)) @ self.mix
        h = h + self.bonus.flatten() * self.to_scalar(h) + self.A_log.sum(-1)
        return x + self.down(torch.tanh(self.up(h)))


class Model(nn.Module):
    """A language model with the accessors of `transformers`."""

    def __init__(self, width=16, vocab=11, tied=False):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
