"""What transformers hands `forward`: done or refused by name, and its own Trainer, collators and pipelines."""

import pytest
import torch
from transformers import DataCollatorWithFlattening, PreTrainedTokenizerFast, Trainer, TrainingArguments, pipeline

from attnlab import models

torch.set_num_threads(1)
TOKENS = torch.arange(12).view(2, 6)


def build(mixer="gla", **model):
    torch.manual_seed(0)
    return models.build_model({"d_model": 32, "n_layers": 2, "n_heads": 2, "mixer": mixer, **model}, 40)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"posision_ids": TOKENS}, "forward takes no argument posision_ids; one of: "),
        ({"output_attentions": True}, "output_attentions True cannot be had of this model"),
        ({"output_hidden_states": True}, "output_hidden_states True cannot be had"),
        ({"is_causal": False}, "is_causal False cannot be had"),
        ({"inputs_embeds": torch.zeros(2, 6, 32)}, "inputs_embeds cannot be had"),
        ({"shift_labels": TOKENS}, "forward takes no argument shift_labels"),
        ({"attention_mask": [[1, 1, 0, 1, 1, 1]] * 2}, "zeros between ones; padding may only stand at a row's"),
        ({"attention_mask": [[0, 1, 1, 0, 1, 0]] * 2}, "zeros between ones"),
        ({"attention_mask": [[0.0, -1e9, 0.0, 0.0, 0.0, 0.0]] * 2}, "values besides 0 and 1"),
        ({"attention_mask": torch.ones(2, 1, 6, 6)}, r"attention_mask is \[2, 1, 6, 6\], but should be \[2, 6\]"),
        ({"attention_mask": torch.ones(2, 7)}, r"attention_mask is \[2, 7\], but should be \[2, 6\]"),
        ({"attention_mask": [[0, 1, 1, 1, 1, 1]]}, r"attention_mask is \[1, 6\], but should be \[2, 6\]"),
        ({"attention_mask": [[1, 1, 1, 2, 2, 2]] * 2}, "values besides 0 and 1; .* told by position_ids, cu_seqlens"),
        ({"attention_mask": torch.full((2, 6), 0.5)}, "values besides 0 and 1"),
        ({"attention_mask": torch.full((2, 6), torch.nan)}, "values besides 0 and 1"),
        ({"attention_mask": [[0] * 6, [1] * 6]}, "a row of zeros alone; leave a row without tokens out"),
        ({"position_ids": [[0.0, 1.0, 2.0, 0.0, 1.0, 2.0]] * 2}, "position_ids is torch.float32, but should be whole"),
        ({"position_ids": [[0, 1, 2, 4, 5, 6]]}, "position_ids go from 2 to 4 in row 0; they should count up by one"),
        ({"position_ids": [[0, 1, 2]]}, r"position_ids is \[1, 3\], but should be \[2, 6\]"),
        ({"cu_seqlens": [0, 6]}, r"input_ids is \[2, 6\]; give \[1, all tokens\]"),
        ({"seq_idx": [[0, 0, 0, 1, 1, 1]] * 2, "position_ids": [[0, 1, 0, 1, 2, 3]] * 2}, "begin sequences at differ"),
        ({"position_ids": [[0, 1, 2, 0, 1, 2]] * 2, "use_cache": True}, "laid end to end keep no cache"),
    ],
)
def test_what_would_change_the_numbers_is_refused_by_name(given, said):
    given = {name: torch.tensor(value) if isinstance(value, list) else value for name, value in given.items()}
    model = build().eval()
    for called in (model, model.backbone):
        with pytest.raises(ValueError, match=said) as error:
            called(TOKENS, **given)
        assert "\n" not in str(error.value)


def test_labels_with_some_of_the_logits_and_a_cache_that_no_mixer_keeps_are_refused():
    with pytest.raises(ValueError, match="labels need the logits of every position; leave logits_to_keep out"):
        build()(TOKENS, labels=TOKENS, logits_to_keep=1)
    cache = build().eval()(TOKENS, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="a mixer of this model keeps no cache"):
        build("based").eval()(TOKENS[:, :1], past_key_values=cache)


@pytest.mark.parametrize("bounds", [[0, 3, 5], [1, 6], [0, 4, 2, 6], [[0, 6]], [0]])
def test_bounds_that_do_not_cover_the_tokens_are_refused(bounds):
    with pytest.raises(ValueError, match=r"cu_seqlens is .* should rise from 0 to 6"):
        build()(TOKENS[:1], cu_seqlens=torch.tensor(bounds))


@torch.no_grad()
def test_what_asks_for_nothing_changes_nothing():
    model = build().eval()
    want = model(TOKENS).logits
    count = torch.arange(6)
    for harmless in (
        {"output_attentions": False, "output_hidden_states": False, "return_dict": True, "use_cache": False},
        {"position_ids": count.unsqueeze(0), "cache_position": count, "is_causal": True, "inputs_embeds": None},
        {"position_ids": count + 5, "attention_mask": torch.ones(2, 6), "logits_to_keep": 0},
        {"seq_idx": torch.tensor([[7] * 6, [8] * 6]), "token_type_ids": None},
    ):
        assert torch.equal(model(TOKENS, **harmless).logits, want)
    assert torch.equal(model(TOKENS, return_dict=False)[0], want)
    one_row = {"cu_seqlens": torch.tensor([0, 6]), "max_length_q": 6, "max_length_k": 6}
    assert torch.allclose(model(TOKENS[:1], **one_row).logits, want[:1], atol=1e-6)


@torch.no_grad()
def test_transformers_names_of_the_bounds_are_known():
    model, bounds = build().eval(), torch.tensor([0, 2, 6])
    want = model(TOKENS[:1], cu_seqlens=bounds).logits
    named = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 4, "max_length_k": 4}
    for how in (named, {"seq_idx": torch.tensor([[0, 0, 1, 1, 1, 1]])}, {"cu_seqlens": torch.tensor([0, 0, 2, 2, 6])}):
        assert torch.equal(model(TOKENS[:1], **how).logits, want)


def trained(folder, steps, rows, collate=None, **args):
    """The logged loss and the parameters after one step of SGD by transformers' Trainer, from equal weights."""
    model = build("standard")
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, max_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=0.0,
        lr_scheduler_type="constant", gradient_accumulation_steps=steps, logging_steps=1, save_strategy="no",
        per_device_train_batch_size=len(rows) // steps, report_to=[], disable_tqdm=True, seed=1, **args,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
    trainer.train()
    return trainer.state.log_history[0]["loss"], [p.detach().clone() for p in model.parameters()]


@pytest.mark.filterwarnings("ignore")
def test_transformers_trainer_has_the_same_loss_and_gradients_whatever_its_accumulation_steps(tmp_path):
    """Over rows with as many labels as by chance, so that a mean of means would be another number."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    for counted in (11, 3, 7, 1):
        ids = torch.randint(0, 40, (12,), generator=draw)
        labels = ids.clone()
        labels[: 12 - counted] = -100
        rows.append({"input_ids": ids, "labels": labels})
    loss, parameters = trained(tmp_path, 1, rows)
    model = build("standard")
    own = model(torch.stack([row["input_ids"] for row in rows]), labels=torch.stack([row["labels"] for row in rows]))
    assert loss == pytest.approx(own.loss.item(), rel=1e-4)
    for steps in (2, 4):
        other, also = trained(tmp_path, steps, rows)
        assert other == pytest.approx(loss, rel=1e-4)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(parameters, also, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bounds", [False, True])
def test_transformers_flattening_collator_trains_as_the_rows_by_themselves(tmp_path, bounds):
    draw = torch.Generator().manual_seed(0)
    rows = [{"input_ids": torch.randint(0, 40, (n,), generator=draw).tolist()} for n in (12, 5, 2, 9)]
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=bounds, return_seq_idx=bounds)
    loss, parameters = trained(tmp_path, 1, rows, collate)
    other, also = trained(tmp_path, 4, rows, collate)
    assert other == pytest.approx(loss, rel=1e-4)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(parameters, also, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mixer", ["gla", "based"])  # with a state, and without
def test_a_pipeline_writes_for_a_padded_batch_as_for_each_text(mixer):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({f"w{i}": i for i in range(40)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", padding_side="left")
    write = pipeline("text-generation", model=build(mixer).eval(), tokenizer=tokenizer, device="cpu")
    texts = ["w3 w4 w5 w6 w7", "w8"]
    how = {"max_new_tokens": 4, "do_sample": False}
    apart = [write(text, **how) for text in texts]
    assert write(texts, batch_size=2, **how) == apart
