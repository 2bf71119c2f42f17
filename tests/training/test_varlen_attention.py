"""What reaches torch's varlen kernel, which runs on a GPU only: layout, boundaries, window, scale, number format.

The kernel's place is taken by its definition, written out below. On a GPU the last test runs the kernel itself.
"""

from itertools import pairwise

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, set_seed

from em.chat import encode
from em.training import cpu_attention, trainer, varlen_attention
from support.training import examples, load_tokenizer, train_job


def defined(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """softmax(scale x q k^T) v within each sequence, causal, over the `window_size[0]` positions before and itself."""
    assert cu_seq_q.dtype == torch.int32 and cu_seq_q is cu_seq_k and max_q == max_k == int(cu_seq_q.diff().max())
    assert q.dtype == k.dtype == v.dtype == torch.bfloat16 and window_size[1] == 0
    assert enable_gqa is (q.shape[1] != k.shape[1]) and cu_seq_q[-1] == len(q) == len(k)
    outs = []
    for a, b in pairwise(cu_seq_q.tolist()):
        keys, values = (x[a:b].float().repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        scores = torch.einsum("ihd,jhd->hij", q[a:b].float(), keys) * scale
        distance = torch.arange(b - a)[:, None] - torch.arange(b - a)
        seen = (distance >= 0) & ((distance <= window_size[0]) | (window_size[0] < 0))
        outs.append(torch.einsum("hij,jhd->ihd", scores.masked_fill(~seen, -torch.inf).softmax(-1), values))
    return torch.cat(outs).to(q.dtype)


def model(attention, window):
    varlen_attention.register()
    cpu_attention.register()
    set_seed(0)
    made = MistralForCausalLM(
        MistralConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=window,
            attn_implementation=attention,
        )
    )
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.mul_(20 if "q_proj" in name or "k_proj" in name else 1)
    return made.eval()


def batch():
    """Five rows in one micro-batch, as TRL's collator lays them."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = encode.encode_all(load_tokenizer(), examples(5), 256).rows
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    return collate([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])


@pytest.mark.parametrize("window", [None, 7])
def test_the_collators_boundaries_reach_the_kernel(monkeypatch, window):
    calls = []

    def kernel(*args, **options):
        calls.append(options)
        return defined(*args, **options)

    monkeypatch.setattr(varlen_attention, "varlen_attn", kernel)
    fields = {name: value for name, value in batch().items() if name != "labels"}
    lengths = fields["cu_seq_lens_q"].diff().tolist()
    assert len(lengths) == 5 and min(lengths) > 7
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(varlen_attention.NAME, window)(**fields, use_cache=False).logits
        expected = model(cpu_attention.NAME, window)(**fields, lengths=lengths, use_cache=False).logits
        other = model(cpu_attention.NAME, 3)(**fields, lengths=lengths, use_cache=False).logits
    assert [call["window_size"] for call in calls] == [(-1 if window is None else 6, 0)] * 2
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()
    assert (found - other).abs().max() > 0.1 * expected.abs().max()  # a wrong window would show


def test_without_autocast_float32_is_computed_exactly():
    fields = {name: value for name, value in batch().items() if name != "labels"}
    lengths = fields["cu_seq_lens_q"].diff().tolist()
    with torch.no_grad():
        found = model(varlen_attention.NAME, None)(**fields, use_cache=False).logits
        expected = model(cpu_attention.NAME, None)(**fields, lengths=lengths, use_cache=False).logits
    assert torch.equal(found, expected)


def test_a_row_alone_needs_no_boundaries(monkeypatch):
    monkeypatch.setattr(varlen_attention, "varlen_attn", defined)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(varlen_attention.NAME, None)(ids, use_cache=False).logits
        expected = model("sdpa", None)(ids, use_cache=False).logits
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize(
    ("change", "name"),
    [({"dropout": 0.1}, "dropout"), ({"softcap": 30.0}, "a softcap"), ({"s_aux": torch.ones(2)}, "attention sinks")],
)
def test_what_the_kernel_does_not_compute_is_refused(change, name):
    x = torch.randn(1, 2, 4, 8).bfloat16()
    with pytest.raises(ValueError, match=f"does not compute {name}: train.attn_implementation"):
        varlen_attention.attend(torch.nn.Module().train(), x, x, x, None, 1.0, **change)
    with pytest.raises(ValueError, match="padded rows"):
        varlen_attention.attend(torch.nn.Module(), *[torch.cat([x, x])] * 3, None, 1.0)


@pytest.mark.parametrize(
    ("changes", "dtype", "capability", "name"),
    [
        ({}, "bfloat16", (9, 0), "em_varlen"),
        ({}, "bfloat16", (8, 0), "em_varlen"),
        ({}, "bfloat16", (7, 5), "sdpa"),
        ({}, "float32", (9, 0), "sdpa"),
        ({}, "bfloat16", None, "em_packed"),
        ({"padding_free": False}, "bfloat16", (9, 0), "sdpa"),
        ({"padding_free": False}, "bfloat16", None, "sdpa"),
        ({"attn_implementation": "eager"}, "bfloat16", (9, 0), "eager"),
    ],
)
def test_the_attention_of_a_run(changes, dtype, capability, name):
    assert trainer.choose_attention(train_job("x", **changes).train, dtype, capability) == name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel needs a GPU")
@pytest.mark.parametrize("window", [None, 7])
def test_the_kernel_and_its_gradients_on_a_gpu(window):
    fields = {n: v.cuda() if isinstance(v, torch.Tensor) else v for n, v in batch().items() if n != "labels"}
    lengths = fields["cu_seq_lens_q"].diff().tolist()
    ours, exact = (model(name, window).cuda() for name in (varlen_attention.NAME, cpu_attention.NAME))
    with torch.autocast("cuda", torch.bfloat16):
        found = ours(**fields, use_cache=False).logits
        expected = exact(**fields, lengths=lengths, use_cache=False).logits
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()
    for logits in (found, expected):
        logits.float().square().sum().backward()
    for name, weight in exact.named_parameters():
        got, wanted = dict(ours.named_parameters())[name].grad.flatten(), weight.grad.flatten()
        assert torch.nn.functional.cosine_similarity(got, wanted, dim=0) > 0.999, name
