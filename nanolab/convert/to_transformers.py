"""Beside the line: our checkpoint becomes a folder that transformers loads by itself, without code from the folder.

    export_transformers(model, tokenizer, meta, "nanolab-d4")

    nanolab-d4/
        model.safetensors           the weights under the names of NanoChatForCausalLM, in the numbers they had
        config.json                 its shape
        generation_config.json      greedy, until <|assistant_end|> or <|bos|>
        tokenizer.json              the same ids as ours: byte-level BPE with the merges that our ranks imply
        tokenizer_config.json, special_tokens_map.json
        chat_template.jinja         render.py as a template, with {% generation %} marks
        nanolab.json                what the checkpoint's metadata said: where the weights come from
        README.md                   the same for people: a model card

All of these are written here as text. Neither transformers nor tokenizers is needed to export; the tests load what is
written with both.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from nanolab.attention import ROTARY_BASE
from nanolab.checkpoint import digest, flush, flush_folder
from nanolab.convert.chat_template import CHAT_TEMPLATE, HIDE, JOIN, KEPT
from nanolab.convert.names import is_known_pattern, transformers_settings, transformers_weights
from nanolab.gpt import GPT, LOGIT_SOFTCAP
from nanolab.paths import shown
from nanolab.runtime import versions
from nanolab.tokenizer import SPECIAL_TOKENS, Tokenizer

WEIGHTS = "model.safetensors"
PROVENANCE = "nanolab.json"  # also how an earlier export is recognised
PROVENANCE_FORMAT = "nanolab-export-1"
FILES = (
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    WEIGHTS,
    PROVENANCE,
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
BOS, END = "<|bos|>", "<|assistant_end|>"
MAX_NEW_TOKENS = 256  # of a reply, unless asked for more; as in Engine.reply
EPSILON = torch.finfo(torch.float32).eps  # of our norms, which is F.rms_norm's own in float32
NONE = 2**32  # a rank behind all ranks
UNKNOWN_LICENCE = "unknown"
LICENCE = re.compile(r"[A-Za-z0-9][\w.+-]*")
NOT_RECORDED = "not recorded"


def export_transformers(model: GPT, tokenizer: Tokenizer, meta: dict, folder: str | Path) -> Path:
    """Write the folder and return its path; one that an earlier export has written is replaced, in one step.

    `meta`: a checkpoint's metadata (`load_checkpoint(...).meta`); its provenance and settings go into the model card,
    and its `license`, a name that the hub knows, if there is one. The weights keep their dtype. Raises ValueError if
    something else is in the folder or the tokenizer has more tokens than the model, OSError if it cannot be written.

    >>> export_transformers(*load_checkpoint("sft", "d4")[:3], "nanolab-d4")             # doctest: +SKIP
    PosixPath('nanolab-d4')
    """
    place = Path(folder).expanduser()
    licence = _licence(meta)
    _check_belong(model, tokenizer)
    _refuse_foreign(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".writing-", dir=place.parent))
    try:
        weights = {name: weight.detach().contiguous().cpu() for name, weight in model.state_dict().items()}
        save_file(transformers_weights(weights), beside / WEIGHTS, metadata={"format": "pt"})
        provenance = _provenance(tokenizer, meta, beside / WEIGHTS)
        card = _model_card(model, tokenizer, provenance, place.resolve().name, licence)
        _write_texts(beside, {**_settings(model, tokenizer), PROVENANCE: provenance, "README.md": card})
        (beside / WEIGHTS).chmod(0o644)  # safetensors makes it private, mkdtemp the folder
        beside.chmod(0o755)
        flush(beside)
        _put_in_place(beside, place)
    except (OSError, SafetensorError) as error:
        raise OSError(f"Could not write {shown(place)}: {error}. What was there before is there still.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    flush_folder(place.parent)  # the renaming, too, is on the disk before this returns
    return place


def _write_texts(folder: Path, contents: dict[str, str | dict]):
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")


def _settings(model: GPT, tokenizer: Tokenizer) -> dict[str, str | dict]:
    """The files that transformers reads, but for the weights: texts, or what becomes JSON."""
    return {
        "config.json": model_config(model, tokenizer),
        "generation_config.json": generation_config(tokenizer),
        "tokenizer.json": fast_tokenizer(tokenizer),
        "tokenizer_config.json": tokenizer_config(model.config.sequence_len),
        "special_tokens_map.json": special_tokens_map(),
        "chat_template.jinja": CHAT_TEMPLATE,
    }


def _provenance(tokenizer: Tokenizer, meta: dict, weights: Path) -> dict:
    """What nanolab.json says: the checkpoint's metadata, who exports it, and which weights that is true of."""
    return {
        "format": PROVENANCE_FORMAT,
        "weights": digest(weights),
        "tokenizer": tokenizer.fingerprint,
        "versions": versions(),
        "meta": {key: value for key, value in meta.items() if key != "files"},
    }


def model_config(model: GPT, tokenizer: Tokenizer) -> dict:
    """The content of config.json.

    It names no padding token: transformers would make the embedding of that token one that never learns.
    """
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        **transformers_settings(model.config),
        "max_position_embeddings": model.config.sequence_len,
        "hidden_act": "relu2",
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(ROTARY_BASE)},
        "final_logit_softcapping": LOGIT_SOFTCAP,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": tokenizer.special(BOS),
        "eos_token_id": tokenizer.special(END),
        "pad_token_id": None,
        "dtype": str(model.lm_head.weight.dtype).removeprefix("torch."),
    }


def generation_config(tokenizer: Tokenizer) -> dict:
    """The content of generation_config.json: greedy by default, as our `Engine.reply`, and its two ends of a reply."""
    return {
        "bos_token_id": tokenizer.special(BOS),
        "eos_token_id": [tokenizer.special(END), tokenizer.special(BOS)],
        "pad_token_id": tokenizer.special(BOS),
        "do_sample": False,
        "max_new_tokens": MAX_NEW_TOKENS,
    }


def special_tokens_map() -> dict:
    """Which control token plays which part.

    Padding is <|bos|>, which is never learned. With <|assistant_end|>, which is, the collators that ignore the padding
    token's id wherever it stands would keep a model from learning to stop.
    """
    others = [name for name in SPECIAL_TOKENS if name not in (BOS, END)]
    return {"bos_token": BOS, "eos_token": END, "pad_token": BOS, "additional_special_tokens": others}


def tokenizer_config(sequence_len: int) -> dict:
    """The content of tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_tokens_map(),
        "clean_up_tokenization_spaces": False,
        "model_max_length": sequence_len,
        "padding_side": "right",
        "split_special_tokens": False,  # or the chat template's own control tokens would be split as well
    }


def fast_tokenizer(tokenizer: Tokenizer) -> dict:
    """The content of tokenizer.json, as the `tokenizers` library reads it.

    >>> tokenizers.Tokenizer.from_str(json.dumps(fast_tokenizer(ours))).encode("Hi").ids      # doctest: +SKIP
    [72, 105]
    """
    letters = byte_letters()
    spelled = ["".join(letters[b] for b in token) for token in tokenizer.token_bytes]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(name, tokenizer.special(name)) for name in SPECIAL_TOKENS],
        "normalizer": NORMALIZER,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [JOINED, _split({"Regex": tokenizer.pattern}, "Isolated"), BYTE_LEVEL],
        },
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a piece of text that is a token is that token, as in tiktoken
            "vocab": {token: rank for rank, token in enumerate(spelled)},
            "merges": [[spelled[left], spelled[right]] for left, right in merges_of(tokenizer.token_bytes)],
        },
    }


def _added_token(name: str, token_id: int) -> dict:
    ways = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": name, **ways}


def _split(pattern: dict, behavior: str) -> dict:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def _without(pattern: dict) -> dict:
    return {"type": "Replace", "pattern": pattern, "content": ""}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
# What takes the chat template's marks out of a text again, and cuts it where two parts were joined.
NORMALIZER = {"type": "Sequence", "normalizers": [_without({"String": HIDE}), _without({"Regex": KEPT})]}
JOINED = _split({"String": JOIN}, "Removed")


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary: itself if it can be seen, else one from 256 on.

    Source: GPT-2, `bytes_to_unicode` of openai/gpt-2, src/encoder.py.

    >>> byte_letters()[ord("a")], byte_letters()[ord(" ")]
    ('a', 'Ġ')
    """
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in seen else chr(next(others)) for b in range(256)]


def merges_of(token_bytes: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """The merges that make the tokens, in order of rank, as pairs of ids; tiktoken needs only the ranks, BPE these.

    Whenever tiktoken makes a token of two, it is the same two: what lies around a token cannot change how its own
    bytes were merged before. So its last merge is found by merging its bytes alone. A token that is never reached that
    way has none: it arises only from a piece of text that is this token.

    >>> list(merges_of([b"a", b"b", b"ab", b"abab"]))
    [(0, 1), (2, 2)]
    """
    ranks = {token: rank for rank, token in enumerate(token_bytes)}
    for token in token_bytes:
        if len(token) > 1 and (parts := _last_two(token, ranks)):
            yield ranks[parts[0]], ranks[parts[1]]


def _last_two(token: bytes, ranks: dict[bytes, int]) -> list[bytes] | None:
    """The two tokens that a token's bytes are before the merge that makes them one, or None if that never happens."""
    parts = [token[k : k + 1] for k in range(len(token))]
    made = [ranks.get(left + right, NONE) for left, right in pairwise(parts)]  # rank of each two neighbours as one
    while len(parts) > 2:
        k = made.index(min(made))
        if made.pop(k) == NONE:
            return None
        parts[k : k + 2] = [parts[k] + parts[k + 1]]
        for left in {k - 1, k} & set(range(len(made))):
            made[left] = ranks.get(parts[left] + parts[left + 1], NONE)
    return parts


def _licence(meta: dict) -> str:
    licence = meta.get("license", UNKNOWN_LICENCE)
    if not isinstance(licence, str) or not LICENCE.fullmatch(licence):
        raise ValueError(f'license {licence!r} is no name that the hub knows, such as "mit" or "cc-by-4.0".')
    return licence


def _model_card(model: GPT, tokenizer: Tokenizer, provenance: dict, name: str, licence: str) -> str:
    """The README.md: what this is, where it comes from, how to load it, what it cannot do."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in _card_rows(model, tokenizer, provenance))
    settings = json.dumps(provenance["meta"].get("settings", {}), indent=2, ensure_ascii=False)
    return CARD.format(licence=licence, name=name, rows=rows, settings=settings, join=_code_points(JOIN))


def _card_rows(model: GPT, tokenizer: Tokenizer, provenance: dict) -> Iterator[tuple[str, str]]:
    config, meta = model.config, provenance["meta"]
    made = meta.get("provenance") or {}
    stage, tag, step = (meta.get(key, "unknown") for key in ("stage", "model_tag", "step"))
    layers = f"{config.n_layer} layers, width {config.n_embd}, {config.n_head} heads, {config.n_kv_head} key heads"
    weights = f"{model.num_parameters()['total']:,} weights, trained on rows of up to {config.sequence_len} tokens"
    yield "stage", f"{stage}, model tag {tag}, step {step}"
    yield "started from", _listed(made.get("parent"))
    yield "data", made.get("data") or NOT_RECORDED
    yield "rows", _listed(made.get("rows"))
    yield "metrics", _listed(meta.get("metrics"))
    yield "model", f"{layers}, {weights}"
    yield "tokenizer", f"{tokenizer.vocab_size:,} tokens, fingerprint `{tokenizer.fingerprint}`"
    yield "trained with", _listed(made.get("versions"))
    yield "exported with", _listed(provenance["versions"])


def _listed(table: dict | None) -> str:
    shown_values = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in (table or {}).items()}
    return ", ".join(f"{key}: {value}" for key, value in shown_values.items()) or NOT_RECORDED


CARD = """\
---
license: {licence}
library_name: transformers
pipeline_tag: text-generation
---

# {name}

A small chat model, trained and exported with nanolab. Its model is nanochat's of November 2025.

## Where it comes from

| | |
| --- | --- |
{rows}

Settings of the run:

```json
{settings}
```

The licence of the weights is the field `license` above: fill it in before you pass them on ("unknown" means that nobody
has). It depends on the rows they were trained on.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
messages = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
reply = model.generate(**inputs)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(reply, skip_special_tokens=True))
```

- Generation is greedy unless asked otherwise, and ends at `<|assistant_end|>` or `<|bos|>`.
- A conversation is an optional system message, which joins the first user message, then user and assistant in turn. The
  content is a text, or a list of parts `{{"type": ..., "text": ...}}`: `text`, and in replies `python` (a call of the
  calculator) and `python_output` (its answer). With `add_generation_prompt=True` a reply that stands last is left out.
- `apply_chat_template(..., return_dict=True, return_assistant_tokens_mask=True)` marks what the model is trained to
  say, and TRL's `SFTConfig(assistant_only_loss=True)` trains on that: replies, calls and `<|assistant_end|>`.

## Limits

- transformers does not run the calculator: a reply that calls it goes on with an answer that the model made up.
- Text in messages never becomes a control token, whatever it spells. Outside the chat template that holds only for
  `tokenizer(text, split_special_tokens=True)`: by default transformers reads control tokens in any text. Do not set it
  for the chat template, whose own control tokens it would split.
- The template hides data from control tokens by marks that begin with U+FDD0, a character that no text holds. Messages
  with the pair {join} lose it; texts outside the template lose that, U+FDD0 U+FDD1, and the second of U+FDD0 U+FDD2.
- A `python_output` directly after a text that ends in a character beyond ASCII is refused: its mask would be wrong.
- `config.json` names no padding token, because transformers would no longer train its embedding; the tokenizer pads
  with `<|bos|>`, which is never learned.
- It is small: it says wrong things, in good English at best. Nothing was done to make it safe.
"""


def _code_points(text: str) -> str:
    return " ".join(f"U+{ord(character):04X}" for character in text)


def _check_belong(model: GPT, tokenizer: Tokenizer):
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size:,} tokens, the model only {model.config.vocab_size:,}: "
            "they do not belong together."
        )
    if spelled := {name.encode() for name in SPECIAL_TOKENS} & set(tokenizer.token_bytes):
        raise ValueError(f"An ordinary token spells {min(spelled).decode()}: transformers knows tokens by spelling.")
    if not is_known_pattern(tokenizer.pattern):
        raise ValueError(
            f"The tokenizer cuts text by another pattern than nanochat's, {tokenizer.pattern[:200]!r}: nobody knows "
            "whether transformers would cut alike, so it is not exported."
        )


def _refuse_foreign(place: Path):
    """Raise ValueError unless nothing is lost when a folder is put there."""
    if not place.exists() and not place.is_symlink():
        return
    if not place.is_dir() or place.is_symlink():
        raise ValueError(f"{shown(place)} is there and is not a folder. Name another place for the export.")
    found = sorted(path.name for path in place.iterdir())
    others = [name for name in found if name not in FILES]
    if others or (found and PROVENANCE not in found):
        raise ValueError(
            f"{shown(place)} holds something else than an earlier export ({(others or found)[0]}), which an export "
            "would replace. Name an empty or new folder, or empty this one."
        )


def _put_in_place(beside: Path, place: Path):
    """Rename a whole folder in; an older one leaves only then."""
    if not place.exists():
        beside.rename(place)
        return
    aside = Path(tempfile.mkdtemp(prefix=".replaced-", dir=place.parent))
    place.rename(aside / place.name)
    try:
        beside.rename(place)
    except OSError:
        (aside / place.name).rename(place)
        raise
    shutil.rmtree(aside)
