"""Beside the line: the same weights under other projects' names.

transformers has the same model as `NanoChatForCausalLM`; only the names of the weights and of the settings differ.
"""

import re

import torch

from nanolab.gpt import GPTConfig

# Ours, which are nanochat's -> transformers' (models/nanochat/modeling_nanochat.py).
TRANSFORMERS_NAMES = (
    (r"^transformer\.wte\.", "model.embed_tokens."),
    (r"^transformer\.h\.", "model.layers."),
    (r"\.attn\.c_proj\.", ".self_attn.o_proj."),
    (r"\.attn\.c_([qkv])\.", r".self_attn.\1_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def transformers_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's `state_dict()` under the names of `NanoChatForCausalLM`.

    >>> list(transformers_weights({"transformer.h.0.attn.c_q.weight": torch.zeros(1)}))
    ['model.layers.0.self_attn.q_proj.weight']
    """
    return {_renamed(name): weight for name, weight in weights.items()}


def transformers_settings(config: GPTConfig) -> dict:
    """The arguments of `NanoChatConfig` for a model of this shape.

    >>> transformers_settings(GPTConfig.from_depth(4, 300))["hidden_size"]
    256
    """
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": 4 * config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "tie_word_embeddings": False,
    }


def _renamed(name: str) -> str:
    for ours, theirs in TRANSFORMERS_NAMES:
        name = re.sub(ours, theirs, name)
    return name
