"""One pre-norm decoder around any sequence mixer, as a transformers model.

    x = embed(tokens);  n_layers x [ x += mixer(norm(x));  x += mlp(norm(x)) ];  logits = head(norm(x))

Only the mixer differs between the arms of a sweep. What lies between the mixers is in `fused`. It has static
shapes and never waits for the host, so that a training step can be compiled and captured as a CUDA graph.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.config.trial import ModelConfig, check_recipe
from attnlab.kernels import install
from attnlab.models.block import INIT_STD, NORM_EPS, Block
from attnlab.models.checks import spec_of
from attnlab.models.fused import EAGER, IGNORED
from attnlab.models.inputs import Packed, read_arguments
from attnlab.models.pretrained import CheckedLoading, is_dropped
from attnlab.models.readout import Readout

install()  # before the imports below: it imports FLA, and through it transformers, without their warnings

from fla.models.generation_utils import FLAGenerationMixin  # noqa: E402
from fla.models.utils import Cache  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel  # noqa: E402
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast  # noqa: E402
from transformers.utils import can_return_tuple  # noqa: E402


class BackboneConfig(PreTrainedConfig):
    """`attnlab.config.trial.ModelConfig` and the vocabulary's size, as transformers saves them."""

    model_type = "attnlab"
    attribute_map = {"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}

    def __init__(
        self,
        vocab_size: int = 256,
        d_model: int = 128,
        n_layers: int = 2,
        n_heads: int = 4,
        d_ff: int | None = None,
        mlp: str = "swiglu",
        dropout: float = 0.0,
        mixer: list[dict[str, Any]] | None = None,
        tie_word_embeddings: bool = False,
        use_cache: bool = True,
        readout: str | None = None,
        recipe: int = 1,
        **kwargs: Any,
    ):
        self.vocab_size, self.d_model, self.n_layers, self.n_heads = vocab_size, d_model, n_layers, n_heads
        self.d_ff, self.mlp, self.dropout, self.use_cache = d_ff, mlp, dropout, use_cache
        self.mixer = mixer or [{"name": "standard"}]
        self.readout, self.recipe = readout, check_recipe(recipe)
        kwargs = {name: value for name, value in kwargs.items() if not is_dropped(name)}
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)

    @classmethod
    def of(cls, model: ModelConfig, vocab_size: int, readout: str | None, recipe: int) -> BackboneConfig:
        """From the sweep's own description."""
        tree = model.model_dump(mode="json")
        tied = tree.pop("tie_embeddings")
        return cls(vocab_size=vocab_size, readout=readout, recipe=recipe, tie_word_embeddings=tied, **tree)

    def model(self) -> ModelConfig:
        """The sweep's own description."""
        names = ("d_model", "n_layers", "n_heads", "d_ff", "mlp", "dropout", "mixer")
        return ModelConfig(tie_embeddings=self.tie_word_embeddings, **{name: getattr(self, name) for name in names})


class BackbonePreTrainedModel(CheckedLoading, PreTrainedModel):
    """What transformers needs to know of both classes below."""

    config_class = BackboneConfig
    base_model_prefix = "backbone"
    _no_split_modules = ["Block"]
    _input_embed_layer = "embed"  # where get_input_embeddings() looks


class Backbone(BackbonePreTrainedModel):
    """Tokens -> normalised hidden states.

    Dropout is on the embedding and on both residual branches, as in GPT-2 (Radford et al. 2019; `embd_pdrop` and
    `resid_pdrop` of its released code); FLA's mixers have none inside. The embedding is drawn from N(0, 0.02), as there
    (section 2.3), and so are the blocks (`Block.initialize`).
    """

    def __init__(self, config: BackboneConfig):
        super().__init__(config)
        model = config.model()
        self.embed = nn.Embedding(config.vocab_size, model.d_model)
        self.dropout = nn.Dropout(model.dropout)
        self.blocks = nn.ModuleList(Block(model, layer) for layer in range(model.n_layers))
        self.norm = nn.RMSNorm(model.d_model, eps=NORM_EPS)
        rows = [spec_of(mixer.name) for mixer in model.mixer]
        self.cached = all(row.cached for row in rows)
        self.caches_padded = all(row.padded or row.mask_to_cache for row in rows)
        self.fused = EAGER
        nn.init.normal_(self.embed.weight, std=INIT_STD)
        for block in self.blocks:
            block.initialize(branches=model.n_layers * (1 if model.mlp == "none" else 2))
        first: dict[int, str] = {}
        names = ((name, first.setdefault(id(p), name)) for name, p in self.named_parameters(remove_duplicate=False))
        self._tied_weights_keys = {name: stored for name, stored in names if name != stored}  # a mixer may share some
        self.post_init()

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Tie what mixers share whether or not the head is tied. Such a weight is stored once."""
        return dict(self._tied_weights_keys)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        **extra: Any,
    ) -> BaseModelOutputWithPast:
        """Args as `BackboneForCausalLM.forward`; `last_hidden_state` is [B, T, D]."""
        past = past_key_values is not None
        read = read_arguments(input_ids, attention_mask, past, position_ids, cu_seqlens, extra)
        return self.run(input_ids, *read, past_key_values, use_cache)

    def run(
        self,
        input_ids: Tensor,
        padding: Tensor | None,
        packed: Packed | None,
        past_key_values: Cache | None,
        use_cache: bool | None,
    ) -> BaseModelOutputWithPast:
        """Run tokens [B, T] as `read_arguments` found them to be laid out.

        Raises:
            ValueError: a state is asked for that a mixer cannot keep; one line.
        """
        if packed is not None:
            if use_cache or past_key_values is not None:
                raise ValueError("sequences laid end to end keep no cache; pass use_cache=False and no past_key_values")
            flat = self.hidden(packed.flat(input_ids), cu_seqlens=packed.cu_seqlens)
            return BaseModelOutputWithPast(packed.spread(flat))
        if past_key_values is not None and not self.cached:
            raise ValueError("a mixer of this model keeps no cache; pass the whole sequence and no past_key_values")
        extra = {}
        if padding is not None:
            extra["attention_mask"] = padding
            if self.cached and not self.caches_padded:
                if use_cache or past_key_values is not None:
                    raise ValueError("a mixer of this model keeps no cache of padded sequences; pass use_cache=False")
                use_cache = False
        cache = self._cache(past_key_values, use_cache)
        return BaseModelOutputWithPast(self.hidden(input_ids, cache, **extra), cache)

    def hidden(
        self, input_ids: Tensor, cache: Cache | None = None, at: tuple[Tensor, Tensor] | None = None, **extra: Any
    ) -> Tensor:
        """input_ids [B, T] -> the last norm's output [B, T, D].

        With `at`, two index tensors [N] (sequences, positions), it is given there alone, [N, D]: what comes after the
        last mixer, which no other position reads, is computed for these.
        """
        norms = [block.mixer_norm for block in self.blocks] + [self.norm]
        x, normed = self.fused.embedding(self.embed, self.dropout, norms[0], input_ids)
        shared: dict[str, Tensor] = {}
        for block, norm in zip(self.blocks, norms[1:], strict=True):
            mixed = block.mix(normed, cache, shared, **extra)
            if at is not None and block is self.blocks[-1]:
                x, mixed = x[at], mixed[at]
            x, normed = self.fused.residual(block, norm, x, mixed)
        return normed

    def _cache(self, given: Cache | None, wanted: bool | None) -> Cache | None:
        wanted = (self.config.use_cache and not self.training) if wanted is None else wanted
        if not (wanted and self.cached):
            return None
        return given if given is not None else Cache()


class BackboneForCausalLM(BackbonePreTrainedModel, FLAGenerationMixin):
    """The language model: `loss_sum` to train, `forward` for transformers, lm-eval and `generate()`."""

    _tied_weights_keys = {"head.weight": "backbone.embed.weight"}
    accepts_loss_kwargs = True  # to transformers' Trainer: `forward` divides by its `num_items_in_batch`

    def __init__(self, config: BackboneConfig):
        super().__init__(config)
        self.backbone = Backbone(config)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        nn.init.normal_(self.head.weight, std=INIT_STD)
        self.readout = Readout(config.d_model) if config.readout else nn.Identity()
        self.post_init()  # ties the head to the embedding if the config says so

    def hidden(self, input_ids: Tensor) -> Tensor:
        """input_ids [B, T] -> the hidden states that the head reads, [B, T, D]."""
        return self.readout(self.backbone.hidden(input_ids))

    def loss_sum(self, input_ids: Tensor, targets: Tensor, positions: Tensor | None = None) -> Tensor:
        """Cross entropy in nats, summed over the targets that count: a scalar fp32 tensor.

        Args:
            input_ids: [B, T].
            targets: [B, T], aligned: targets[:, t] is what position t predicts; -100 does not count. With `positions`
                [N], those at these positions.
            positions: [N], b T + t for position t of sequence b: the head reads these alone. None: all of them.
        """
        hidden = self.hidden(input_ids).flatten(0, 1)
        hidden = hidden if positions is None else hidden[positions]
        return self.backbone.fused.loss(hidden, self.head.weight, targets.flatten())

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **extra: Any,
    ) -> CausalLMOutputWithPast:
        """The transformers interface.

        Args:
            input_ids: [B, T].
            attention_mask: [B, past + T], 0 at padding (to the left or right), or None.
            past_key_values: FLA's cache, moved on by T.
            labels: [B, T], unshifted as transformers has it: position t is scored on labels[:, t + 1]; -100 is ignored,
                and so is what another sequence laid end to end begins with.
            use_cache: default: the config's, in evaluation mode.
            logits_to_keep: how many last positions (0: all), or which.
            position_ids: [B, T]; where they begin again, so does a sequence that sees nothing of those before it.
            cu_seqlens: [sequences + 1], the same for one row, B = 1: where each sequence begins, and T.
            num_items_in_batch: what the loss is divided by, of a step of transformers' Trainer all labels that count.
            extra: transformers' other names for the bounds, and switches that are off (`attnlab.models.inputs`).

        Returns:
            logits [B, T or kept, vocabulary]; `loss`, the mean over the labels that count, if there are labels.

        Raises:
            ValueError: an argument that would change the numbers, and that these models do not know; one line.
        """
        past, keeps_all = past_key_values is not None, isinstance(logits_to_keep, int) and logits_to_keep == 0
        if labels is not None and not keeps_all:
            raise ValueError("labels need the logits of every position; leave logits_to_keep out")
        read = read_arguments(input_ids, attention_mask, past, position_ids, cu_seqlens, extra)
        out = self.backbone.run(input_ids, *read, past_key_values, use_cache)
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.head(self.readout(out.last_hidden_state)[:, positions])
        loss = None if labels is None else _loss(logits, labels, read[1], num_items_in_batch)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=out.past_key_values)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, use_cache: bool = True, **kwargs: Any
    ) -> dict[str, Any]:
        """Have a model whose mixers keep no state read the whole sequence for each token."""
        if not self.backbone.cached:
            next_sequence_length, use_cache = None, False
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, use_cache=use_cache, **kwargs
        )

    def get_output_embeddings(self) -> nn.Linear:
        """The head."""
        return self.head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the head."""
        self.head = value


def _loss(logits: Tensor, labels: Tensor, packed: Packed | None, items: Tensor | int | None) -> Tensor:
    """Cross entropy of logits [B, T, V] on the next position's label, over `items` or the labels that count."""
    labels = labels if packed is None else labels.masked_fill(packed.starts, IGNORED)
    scores, wanted = logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten()
    if items is None:
        return F.cross_entropy(scores, wanted, ignore_index=IGNORED)
    return F.cross_entropy(scores, wanted, ignore_index=IGNORED, reduction="sum") / items


AutoConfig.register(BackboneConfig.model_type, BackboneConfig, exist_ok=True)
AutoModel.register(BackboneConfig, Backbone, exist_ok=True)
AutoModelForCausalLM.register(BackboneConfig, BackboneForCausalLM, exist_ok=True)
