"""A nanochat checkpoint of November 2025 becomes ours.

    chatsft_checkpoints/d32/
        model_000650.pt      the weights, under our names, some or all in bfloat16, perhaps each with `_orig_mod.`
        meta_000650.json     the model's shape, losses
        optim_000650_*.pt    not read
    tokenizer/               in nanochat's own tree two folders up; on the hub in the same folder
        tokenizer.pkl        a pickled tiktoken.Encoding
        token_bytes.pt       the number of bytes of each token

The model did not change between October 2025 and the first days of 2026, but that from December on rows without a
token pad the vocabulary to a multiple of 64: they are cut off. Later models have more parts, and are refused.
Sources: karpathy/nanochat, nanochat/checkpoint_manager.py, nanochat/tokenizer.py, scripts/tok_train.py.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from nanolab.checkpoint import META, digest, read_meta, save_checkpoint, stage_dir
from nanolab.convert.hub import source_name
from nanolab.convert.names import Imported, first_few, is_known_pattern, model_from_weights
from nanolab.convert.unpickle import EncodingParts, read_encoding, read_tensors
from nanolab.gpt import GPT, GPTConfig
from nanolab.paths import shown
from nanolab.runtime import versions
from nanolab.tokenizer import NUM_BYTES, SPECIAL_TOKENS, Tokenizer

MODEL_FILE = re.compile(r"model_(\d{6,})\.pt")
ENCODING, TOKEN_BYTES = "tokenizer.pkl", "token_bytes.pt"
COMPILED = "_orig_mod."  # what torch.compile puts before a name
PADDED = ("transformer.wte.weight", "lm_head.weight")  # weights with a row for each token
PADDED_TO = 64  # rows, since December 2025
LARGEST_META = 2**20  # bytes: nanochat's have about one thousand
TAG = re.compile(r"[A-Za-z0-9][\w.-]*")
FORMAT = "nanochat's checkpoints of November 2025"
MAX_DETAIL = 300  # letters of another message that are passed on
SINGLE_BYTES = frozenset(bytes([b]) for b in range(NUM_BYTES))

# What nanochat's later models have besides: part of a weight's name, or a setting -> what it is.
LATER_WEIGHTS = {
    "value_embeds": "value embeddings",
    "ve_gate": "gates of value embeddings",
    "smear": "smear",
    "backout": "backout",
    "resid_lambdas": "scales of the residual stream",
    "x0_lambdas": "scales of the first embedding",
}
LATER_SETTINGS = {"window_pattern": "sliding windows"}


def read_nanochat(folder: str | Path, step: int | None = None, tokenizer: str | Path | None = None) -> Imported:
    """Model (float32, eval mode), tokenizer and metadata of a nanochat checkpoint's folder. Runs nothing of it.

    `step`: the highest there is if none is named, or -1. `tokenizer`: the folder of tokenizer.pkl, or that file, where
    it does not lie in the checkpoint's folder. Raises FileNotFoundError or ValueError, saying what was found, for a
    later model, damaged files, files that ask for more than their kind needs, and tokenizers that ours cannot be.

    >>> read_nanochat("nanochat-d32").model.config.n_layer                               # doctest: +SKIP
    32
    """
    folder = Path(folder).expanduser()
    step = _highest_step(folder) if step is None or step < 0 else step
    weights_file, meta_file = folder / f"model_{step:06d}.pt", folder / f"meta_{step:06d}.json"
    encoding_file = _encoding_file(folder, tokenizer)
    meta, weights = _read_meta(meta_file), _read_weights(weights_file)
    _refuse_later(meta["model_config"], weights, folder)
    config = _config(meta["model_config"], meta_file)
    ours = _tokenizer(read_encoding(encoding_file), encoding_file)
    _refuse_other_vocabulary(ours, config, encoding_file)
    _check_token_bytes(ours, encoding_file.with_name(TOKEN_BYTES))
    model = _model(config, weights, weights_file)
    files = {file.name: digest(file) for file in (weights_file, meta_file, encoding_file)}
    return Imported(model, ours, _our_meta(step, f"nanochat folder {source_name(folder)}", meta, weights, files))


def save_imported(imported: Imported, stage: str, model_tag: str) -> Path:
    """Write an imported model as a checkpoint of ours and return its folder: sft, eval and chat then take it by name.

    Raises ValueError for an unknown stage or no usable tag, and rather than replace a checkpoint of another origin.

    >>> save_imported(read_nanochat("nanochat-d32"), "sft", "d32").name                  # doctest: +SKIP
    'step_000650'
    """
    if not TAG.fullmatch(model_tag):
        raise ValueError(f"model_tag {model_tag!r}: letters, digits and . _ - make a tag, a letter or digit first.")
    step = imported.meta["step"]
    place = stage_dir(stage) / model_tag / f"step_{step:06d}"
    if (place / META).exists() and read_meta(place).get("provenance", {}).get("files") != _files_of(imported):
        raise ValueError(f"{shown(place)} is a checkpoint of another origin. Name another model_tag, or remove it.")
    return save_checkpoint(stage, model_tag, step, imported.model, imported.tokenizer, imported.meta)


def _files_of(imported: Imported) -> dict:
    return imported.meta["provenance"]["files"]


def _highest_step(folder: Path) -> int:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    steps = [int(match[1]) for path in folder.iterdir() if (match := MODEL_FILE.fullmatch(path.name))]
    if not steps:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(f"No nanochat checkpoint (model_000650.pt or the like) in {folder}; there is: {there}.")
    return max(steps)


def _encoding_file(folder: Path, given: str | Path | None) -> Path:
    place = folder if given is None else Path(given).expanduser()
    file = place if place.is_file() else place / ENCODING
    if not file.is_file():
        usual = folder.resolve().parent.parent / "tokenizer"
        where = f"tokenizer={str(usual)!r}" if (usual / ENCODING).is_file() else "tokenizer=<the folder it lies in>"
        raise FileNotFoundError(f"There is no {ENCODING} in {place}; nanochat keeps it apart. Name it: {where}.")
    return file


def _read_meta(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}, which says the shape of the model.")
    try:
        if path.stat().st_size > LARGEST_META:
            raise ValueError("it is far too large")
        meta = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(meta, dict) or not isinstance(meta.get("model_config"), dict):
            raise ValueError("it has no model_config")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or not nanochat's: {error}.") from None
    return meta


def _refuse_later(settings: dict, weights: Mapping[str, torch.Tensor], folder: Path):
    """Raise ValueError, naming what was found, for a model with parts that nanochat's has had since 2026."""
    found = [f"{what} ({name} {str(settings[name])[:20]})" for name, what in LATER_SETTINGS.items() if name in settings]
    for part, what in LATER_WEIGHTS.items():
        names = [name for name in weights if part in name]
        found += [f"{what} ({first_few(names[:1])})"] if names else []
    if found:
        raise ValueError(f"{folder} is of a later nanochat: its model has {', '.join(found)}. nanolab reads {FORMAT}.")


def _config(settings: dict, path: Path) -> GPTConfig:
    """The shape of the model, from nanochat's model_config, which has our names."""
    known = set(GPTConfig.__dataclass_fields__)
    if set(settings) != known:
        missing, more = sorted(known - set(settings)), sorted(set(settings) - known)
        raise ValueError(
            f"{path}: model_config has not the six settings of {FORMAT}; "
            f"missing: {first_few(missing)}; unknown: {first_few(more)}."
        )
    try:
        return GPTConfig(**settings)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error)[:MAX_DETAIL]}") from None


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights under our names, mapped into memory: without what torch.compile puts before them."""
    found = read_tensors(path)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{path} holds no table of weights, as a nanochat checkpoint does.")
    odd = [name for name, weight in found.items() if not _is_plain(weight)]
    if odd:
        raise ValueError(f"{path} holds something else than plain tensors under {first_few(odd)}.")
    if sum(weight.numel() * weight.element_size() for weight in found.values()) > path.stat().st_size:
        raise ValueError(f"{path} is smaller than the weights it names: some share their numbers.")
    weights = {name.removeprefix(COMPILED): weight for name, weight in found.items()}
    if len(weights) < len(found):
        raise ValueError(f"{path} holds weights twice, with and without {COMPILED}")
    return weights


def _is_plain(weight: object) -> bool:
    kinds = (torch.Tensor, torch.nn.Parameter)
    return type(weight) in kinds and weight.layout == torch.strided and weight.device.type == "cpu"


def _model(config: GPTConfig, weights: dict[str, torch.Tensor], path: Path) -> GPT:
    padded = -(-config.vocab_size // PADDED_TO) * PADDED_TO  # rounded up
    own = dict(weights)
    for name in PADDED:
        if name in own and own[name].dim() == 2 and own[name].size(0) == padded:
            own[name] = own[name][: config.vocab_size]  # nanochat cuts these logits off, so the rows say nothing
    return model_from_weights(config, own, path)


def _tokenizer(parts: EncodingParts, path: Path) -> Tokenizer:
    """Our tokenizer with the same ids as the encoding. Raises ValueError where ours cannot be the same."""
    first = len(parts.ranks)
    special_ids = {name: first + k for k, name in enumerate(SPECIAL_TOKENS)}
    if parts.special_tokens != special_ids:
        raise ValueError(f"{path}: {_other_special_tokens(parts.special_tokens, first)}")
    token_bytes = [token for token, _ in sorted(parts.ranks.items(), key=lambda pair: pair[1])]
    if sorted(parts.ranks.values()) != list(range(first)) or not set(parts.ranks) >= SINGLE_BYTES or b"" in parts.ranks:
        raise ValueError(f"{path}: the ranks are not 0 to {first - 1:,}, or not each of the 256 bytes is a token.")
    if not is_known_pattern(parts.pattern):
        raise ValueError(
            f"{path} cuts text by another pattern than nanochat's, {parts.pattern[:200]!r}. nanolab takes that "
            "pattern, with digits in groups of at most any number."
        )
    return Tokenizer(token_bytes, parts.pattern)


def _other_special_tokens(found: dict[str, int], first: int) -> str:
    missing = [name for name in SPECIAL_TOKENS if name not in found]
    more = [name for name in found if name not in SPECIAL_TOKENS]
    if missing or more:
        return f"its special tokens are not nanochat's; missing: {first_few(missing)}; unknown: {first_few(more)}."
    last = first + len(SPECIAL_TOKENS) - 1
    return f"its special tokens do not have the ids {first:,} to {last:,} in nanochat's order."


def _refuse_other_vocabulary(tokenizer: Tokenizer, config: GPTConfig, path: Path):
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"{path} has {tokenizer.vocab_size:,} tokens, the model {config.vocab_size:,}: they do not belong together."
        )


def _check_token_bytes(tokenizer: Tokenizer, path: Path):
    """Compare nanochat's table of bytes per token with ours, if there is one.

    Until 2026 nanochat counted the bytes of a token's text, in which each broken character is U+FFFD of three bytes.
    """
    if not path.is_file():
        return
    found = read_tensors(path)
    shape = (tokenizer.vocab_size,)
    if not _is_plain(found) or tuple(found.shape) != shape or found.dtype.is_floating_point:
        raise ValueError(f"{path} is not a table of {shape[0]:,} whole numbers, one for each token.")
    special = [0] * len(SPECIAL_TOKENS)
    of_texts = [len(token.decode(errors="replace").encode()) for token in tokenizer.token_bytes] + special
    if found.tolist() not in (tokenizer.num_bytes(), of_texts):
        raise ValueError(f"{path} counts other bytes than the tokens beside it have: it is of another tokenizer.")


def _our_meta(step: int, source: str, meta: dict, weights: dict[str, torch.Tensor], files: dict[str, str]) -> dict:
    """Metadata as our own runs leave them, as far as they are known of a foreign one."""
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values()})
    provenance = {"data": source, "rows": {}, "versions": versions(), "parent": None}
    provenance |= {"source": source, "files": files, "dtypes": dtypes}
    others = {name: value for name, value in meta.items() if name != "model_config"}
    return {"step": step, "settings": {}, "metrics": {}, "provenance": provenance, "nanochat": others}
