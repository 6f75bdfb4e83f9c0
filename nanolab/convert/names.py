"""The same model under two projects' names: nanochat's, which are ours, and transformers' (`NanoChatForCausalLM`).

Only names differ: of the weights, and of the settings. What the ways in and out share is here too: `Imported`,
`model_from_weights`, which compares weights with the shape they should have before a model is made of them, and
`is_known_pattern`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from nanolab.attention import ROTARY_BASE
from nanolab.gpt import GPT, LOGIT_SOFTCAP, GPTConfig
from nanolab.tokenizer import SPLIT_PATTERN, Tokenizer

# Ours, which are nanochat's -> transformers' (models/nanochat/modeling_nanochat.py).
TRANSFORMERS_NAMES = (
    (r"^transformer\.wte\.", "model.embed_tokens."),
    (r"^transformer\.h\.", "model.layers."),
    (r"\.attn\.c_proj\.", ".self_attn.o_proj."),
    (r"\.attn\.c_([qkv])\.", r".self_attn.\1_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
# And back.
OUR_NAMES = (
    (r"^model\.embed_tokens\.", "transformer.wte."),
    (r"^model\.layers\.", "transformer.h."),
    (r"\.self_attn\.o_proj\.", ".attn.c_proj."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.c_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)

# Settings of NanoChatConfig that our model has built in: name -> (the only value it can have, what it is).
BUILT_IN = {
    "model_type": ("nanochat", "kind of model"),
    "hidden_act": ("relu2", "activation"),
    "attention_bias": (False, "biases in attention"),
    "qkv_bias": (False, "biases in attention"),  # as the first folders call it
    "mlp_bias": (False, "biases in the MLP"),
    "attention_dropout": (0.0, "dropout in attention"),
    "final_logit_softcapping": (LOGIT_SOFTCAP, "cap of the logits"),
    "logits_soft_cap": (LOGIT_SOFTCAP, "cap of the logits"),  # as the first folders call it
    "tie_word_embeddings": (False, "head tied to the embedding"),
    "rope_theta": (ROTARY_BASE, "base of the rotary positions"),
    "rope_scaling": (None, "scaling of the rotary positions"),
    "sliding_window": (None, "attention windows"),
    "quantization_config": (None, "quantized weights"),
}
ROPE_BUILT_IN = {
    "rope_theta": (ROTARY_BASE, "base of the rotary positions"),
    "rope_type": ("default", "kind of rotary positions"),
    "partial_rotary_factor": (1.0, "share of rotary channels"),
}
LARGEST_EPSILON = 1e-5  # of the norms: ours is float32's 1.2e-7, theirs 1e-6, and both vanish beside a mean square of 1
KEPT_EXACTLY = (torch.float32, torch.bfloat16, torch.float16)  # number formats that float32 holds without rounding
FILLS = ("normal_", "uniform_", "kaiming_uniform_")  # what gives new weights their random numbers
SHOWN = 4  # names that an error lists
LONGEST_SHOWN = 100  # letters of a name or value that an error shows


class Imported(NamedTuple):
    """A foreign checkpoint as ours: what `read_nanochat` and `read_transformers` give and `save_imported` writes.

    `meta` are plain data for meta.json: `step`, `source` (words), `imported_from` (file names and digests), ...
    """

    model: GPT
    tokenizer: Tokenizer
    meta: dict


class Unfilled(TorchFunctionMode):
    """While it is on, `nn.init.normal_` and its kin do nothing: the weights are about to be replaced.

    On the meta device they would import parts of the compiler, which takes seconds.
    """

    def __torch_function__(self, func: Callable, types: Iterable, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in FILLS:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def transformers_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's `state_dict()` under the names of `NanoChatForCausalLM`.

    >>> list(transformers_weights({"transformer.h.0.attn.c_q.weight": torch.zeros(1)}))
    ['model.layers.0.self_attn.q_proj.weight']
    """
    return {_renamed(name, TRANSFORMERS_NAMES): weight for name, weight in weights.items()}


def weights_from_transformers(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a `NanoChatForCausalLM` under our names: the inverse of `transformers_weights`, same tensors.

    Names that neither model has stay as they are: `model_from_weights` refuses them.

    >>> list(weights_from_transformers({"model.layers.0.mlp.fc2.weight": torch.zeros(1)}))
    ['transformer.h.0.mlp.c_proj.weight']
    """
    return {_renamed(name, OUR_NAMES): weight for name, weight in weights.items()}


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


def config_from_transformers(settings: Mapping) -> GPTConfig:
    """The shape of a `NanoChatForCausalLM` from its settings, which are the content of config.json.

    `max_position_embeddings` becomes `sequence_len` (our default where there is none). Raises ValueError, naming the
    setting, for what our model has not: another activation, biases, other rotary positions, tied embeddings, ...

    >>> config = GPTConfig.from_depth(4, 300)
    >>> config_from_transformers(transformers_settings(config)) == config
    True
    """
    _refuse_others(settings, BUILT_IN, "")
    rope = settings.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise ValueError(f"rope_parameters is {rope!r}, not a table of settings.")
    _refuse_others(rope, ROPE_BUILT_IN, "rope_parameters: ")
    width, heads = _number(settings, "hidden_size"), _number(settings, "num_attention_heads")
    config = GPTConfig(
        sequence_len=settings.get("max_position_embeddings", GPTConfig.sequence_len),
        vocab_size=_number(settings, "vocab_size"),
        n_layer=_number(settings, "num_hidden_layers"),
        n_head=heads,
        n_kv_head=heads if settings.get("num_key_value_heads") is None else settings["num_key_value_heads"],
        n_embd=width,
    )
    _refuse_other_sizes(settings, config)
    return config


def model_from_weights(config: GPTConfig, weights: Mapping[str, torch.Tensor], where: object) -> GPT:
    """A model (float32, eval mode, on the CPU) that owns a copy of these weights, which have our names.

    Raises ValueError, naming the first few, for weights that are missing, not the model's, or of another shape;
    `where` says in the message where they lie.

    >>> config = GPTConfig.from_depth(1, 300)
    >>> model_from_weights(config, {"lm_head.weight": torch.zeros(300, 32)}, "model.safetensors")
    Traceback (most recent call last):
    ValueError: model.safetensors: its settings say n_embd 64, its weights have 32.
    """
    _refuse_other_shape(config, weights, where)
    with torch.device("meta"), Unfilled():  # shapes only: no memory is taken before the weights are known to fit
        model = GPT(config)
    refuse_wrong_weights({name: tuple(weight.shape) for name, weight in model.state_dict().items()}, weights, where)
    own = {name: torch.empty(weight.shape).copy_(weights[name]) for name, weight in model.state_dict().items()}
    model.load_state_dict(own, assign=True)
    return model.eval()


def refuse_wrong_weights(shapes: dict[str, tuple], weights: Mapping[str, torch.Tensor], where: object) -> None:
    """Raise ValueError unless `weights` are tensors of exactly these names and shapes, of 16 or 32 bits a number.

    >>> refuse_wrong_weights({"a": (2,)}, {"a": torch.zeros(3)}, "a.pt")
    Traceback (most recent call last):
    ValueError: a.pt does not hold the model that its settings describe; of another shape: a (3,) instead of (2,).
    """
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    misshapen = [f"{n} {found[n]} instead of {shapes[n]}" for n in shapes if n in found and found[n] != shapes[n]]
    faults = {
        "missing": [name for name in shapes if name not in found],
        "not the model's": [name for name in found if name not in shapes],
        "of another shape": misshapen,
        "not float32, bfloat16 or float16": [name for name, w in weights.items() if w.dtype not in KEPT_EXACTLY],
    }
    told = [f"{what}: {first_few(names)}" for what, names in faults.items() if names]
    if told:
        raise ValueError(f"{where} does not hold the model that its settings describe; {'; '.join(told)}.")


def _refuse_other_shape(config: GPTConfig, weights: Mapping[str, torch.Tensor], where: object):
    """Compare the sizes that settings claim with the weights, before anything of that size is made or counted up."""
    head = weights.get("lm_head.weight")
    found = {}
    if head is not None and head.dim() == 2:
        found |= {"n_embd": head.size(1), "vocab_size": head.size(0)}
    found["n_layer"] = len({name.split(".")[2] for name in weights if name.startswith("transformer.h.")})
    for name, size in found.items():
        if getattr(config, name) != size:
            there = "" if size else f"; they are: {first_few(weights)}"
            raise ValueError(
                f"{where}: its settings say {name} {getattr(config, name)}, its weights have {size}{there}."
            )


def is_known_pattern(pattern: str) -> bool:
    """Whether a split pattern is nanochat's, with digits in groups of at most any number (GPT-4's has three).

    Two libraries' engines run it, and only of this pattern it is known that they cut alike: the test compares them.

    >>> is_known_pattern(SPLIT_PATTERN), is_known_pattern(".*")
    (True, False)
    """
    return re.sub(r"\\p\{N\}\{1,[1-9]\}", r"\\p{N}{1,2}", pattern, count=1) == SPLIT_PATTERN


def first_few(names: Iterable[str]) -> str:
    """Names for a message: the first few of them, those of a foreign file in letters that only show themselves.

    >>> first_few(["a", "b\\x1b[2J"]), first_few("abcdef"), first_few([])
    ("a, 'b\\\\x1b[2J'", 'a, b, c, d, ... (6 in all)', 'none')
    """
    names = list(names)
    told = [(name if name.isprintable() else ascii(name))[:LONGEST_SHOWN] for name in map(str, names[:SHOWN])]
    return ", ".join(told + [f"... ({len(names)} in all)"] * (len(names) > SHOWN)) or "none"


def _refuse_others(settings: Mapping, built_in: dict[str, tuple], where: str):
    for name, (ours, what) in built_in.items():
        if settings.get(name, ours) != ours:
            raise ValueError(
                f"{where}{name} ({what}) is {ascii(settings[name])[:LONGEST_SHOWN]}; nanolab's model has {ours!r} "
                "there and nothing else."
            )


def _refuse_other_sizes(settings: Mapping, config: GPTConfig):
    sizes = {"intermediate_size": 4 * config.n_embd, "head_dim": config.n_embd // config.n_head}
    for name, size in sizes.items():
        if settings.get(name) not in (None, size):
            raise ValueError(f"{name} is {settings[name]!r}; nanolab's model has {size} at this width and these heads.")
    epsilon = settings.get("rms_norm_eps", 0.0)
    if not isinstance(epsilon, int | float) or not 0 <= epsilon <= LARGEST_EPSILON:
        raise ValueError(f"rms_norm_eps is {epsilon!r}; nanolab's norms have next to none (at most {LARGEST_EPSILON}).")
    kinds = settings.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise ValueError(f"layer_types is {kinds!r}; every layer of nanolab's model looks at everything before it.")


def _number(settings: Mapping, name: str) -> int:
    if name not in settings:
        raise ValueError(f"There is no {name} among the settings, which a NanoChatForCausalLM always has.")
    return settings[name]


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name
