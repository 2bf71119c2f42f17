"""A tiny random Llama whose blocks differ enough that a wrong place or sign shows."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)


def random_llama(tied=False):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).float().eval()
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.data.mul_(3)
    return model
