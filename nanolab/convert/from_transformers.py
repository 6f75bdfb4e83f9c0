"""Beside the line: a folder of transformers' NanoChatForCausalLM becomes ours.

    read_transformers("nanochat-d32-hf")  ->  Imported(model, tokenizer, meta)

    config.json                           the shape
    model.safetensors                     the weights, or several files and model.safetensors.index.json
    tokenizer.json                        byte-level BPE: the bytes of each token, the pattern, the control tokens
    nanolab.json                          where they come from, if nanolab has exported the folder

Nothing is unpickled: a folder that has only pytorch_model.bin is refused. The tokenizer becomes ours only if ours gives
the same ids: everything in tokenizer.json that could change an id is looked at, and refused if ours has no such thing.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nanolab.checkpoint import digest
from nanolab.convert.hub import source_name
from nanolab.convert.names import (
    Imported,
    config_from_transformers,
    is_known_pattern,
    model_from_weights,
    weights_from_transformers,
)
from nanolab.convert.to_transformers import (
    JOINED,
    NORMALIZER,
    PROVENANCE,
    PROVENANCE_FORMAT,
    WEIGHTS,
    byte_letters,
    merges_of,
)
from nanolab.gpt import GPT, GPTConfig
from nanolab.runtime import versions
from nanolab.tokenizer import NUM_BYTES, SPECIAL_TOKENS, Tokenizer

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*\.safetensors")  # of a file of weights: it lies in the folder itself
LARGEST_JSON = 2**28  # bytes; a tokenizer of 65,536 tokens has about four million
KIND = "nanochat"
LETTER_BYTES = {letter: b for b, letter in enumerate(byte_letters())}
# What of tokenizer.json's model changes ids, and what it must be, apart from vocabulary and merges.
PLAIN_BPE = {
    "type": ("BPE",),
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (False, None),
}
KEPT_META = ("settings", "metrics", "num_iterations", "dtype")  # of an exported checkpoint's metadata


def read_transformers(folder: str | Path) -> Imported:
    """Model (float32, eval mode), tokenizer and metadata of a NanoChatForCausalLM folder. Runs nothing of it.

    Of a folder that `export_transformers` has written, weights and tokenizer are bit by bit those that were exported.
    Raises FileNotFoundError or ValueError, saying what was found, for another kind of model, pickled weights, damaged
    files, and tokenizers that ours cannot be.

    >>> read_transformers("nanolab-d4").model.config.n_layer                             # doctest: +SKIP
    4
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    config = _config(folder / CONFIG)
    tokenizer = read_fast_tokenizer(folder / TOKENIZER)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{folder / TOKENIZER} has {tokenizer.vocab_size:,} tokens, the model {config.vocab_size:,}: they do not "
            "belong together."
        )
    model, dtypes, files = _model(config, folder)
    named = {file.name: digest(file) for file in (folder / CONFIG, folder / TOKENIZER, *files)}
    return Imported(model, tokenizer, _meta(folder, dtypes, named))


def read_fast_tokenizer(path: Path) -> Tokenizer:
    """Our tokenizer with the same ids as a tokenizer.json of transformers. Raises ValueError where ours cannot be.

    >>> read_fast_tokenizer(Path("nanolab-d4/tokenizer.json")).special("bos")            # doctest: +SKIP
    1015
    """
    content = _read_json(path)
    if "token_bytes_base64" in content:
        raise ValueError(f"{path} is nanolab's own tokenizer, not transformers': this is no folder of transformers.")
    try:
        return _tokenizer(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or of another kind of tokenizer: {error!r}.") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _config(path: Path) -> GPTConfig:
    settings = _read_json(path)
    if settings.get("model_type") != KIND:
        raise ValueError(
            f"{path} is of the kind {settings.get('model_type')!r}; nanolab reads {KIND!r} (NanoChatForCausalLM) only."
        )
    try:
        return config_from_transformers(settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _model(config: GPTConfig, folder: Path) -> tuple[GPT, list[str], list[Path]]:
    """The model, the dtypes its weights had, and the files they were read from."""
    files = _weight_files(folder)
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            found = load_file(file)
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise ValueError(f"{file} is damaged, or no safetensors file: {error}") from None
        if twice := sorted(weights.keys() & found.keys()):
            raise ValueError(f"{file} holds {twice[0]}, which another file holds too.")
        weights |= found
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values()})
    return model_from_weights(config, weights_from_transformers(weights), folder), dtypes, files


def _weight_files(folder: Path) -> list[Path]:
    """The one file of weights, or those that the index names. Raises in words if there is none that may be read."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickled = sorted(path.name for kind in PICKLED for path in folder.glob(kind))
    if pickled:
        raise ValueError(
            f"{folder} holds its weights as {pickled[0]}, a pickle, which can run code when it is read: nanolab reads "
            "safetensors only. Load it with transformers, if you trust it, and save_pretrained it again."
        )
    raise FileNotFoundError(f"There is neither {WEIGHTS} nor {INDEX} in {folder}.")


def _shards(folder: Path) -> list[Path]:
    places = _read_json(folder / INDEX).get("weight_map")
    names = sorted(set(map(str, places.values()))) if isinstance(places, Mapping) else []
    if not names:
        raise ValueError(f"{folder / INDEX} names no files of weights.")
    for name in names:
        if not PLAIN_NAME.fullmatch(name):
            raise ValueError(f"{folder / INDEX} names {name!r}, which is no safetensors file in the folder itself.")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"There is no file {name} in {folder}, one of {len(names)} that {INDEX} names.")
    return [folder / name for name in names]


def _tokenizer(content: dict) -> Tokenizer:
    model = content["model"]
    for name, allowed in PLAIN_BPE.items():
        if model.get(name) not in allowed:
            raise ValueError(
                f"its model's {name} is {model.get(name)!r}; nanolab's tokenizer has {allowed[0]!r} there."
            )
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    ordinary = {text: token_id for text, token_id in model["vocab"].items() if text not in added}
    _check_special(added, len(ordinary))
    _check_normalizer(content.get("normalizer"))
    token_bytes = _token_bytes(ordinary)
    tokenizer = Tokenizer(token_bytes, _pattern(content["pre_tokenizer"]))
    _check_merges(model, token_bytes)
    return tokenizer


def _check_special(added: dict[str, int], first: int):
    if added != {name: first + k for k, name in enumerate(SPECIAL_TOKENS)}:
        missing = [name for name in SPECIAL_TOKENS if name not in added]
        more = [name for name in added if name not in SPECIAL_TOKENS]
        raise ValueError(
            f"its control tokens are not nanochat's nine, behind the {first:,} others in nanochat's order; missing: "
            f"{', '.join(missing) or 'none'}; unknown: {', '.join(more[:4]) or 'none'}."
        )


def _check_normalizer(normalizer: dict | None):
    """Ours changes no text that programs exchange, see chat_template.py. Any other may change ids."""
    if normalizer not in (None, NORMALIZER):
        raise ValueError(f"it changes texts before it cuts them ({normalizer['type']}); nanolab's tokenizer does not.")


def _pattern(pre_tokenizer: dict) -> str:
    """The regular expression that cuts text, if nothing else does."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    cuts = [step for step in steps if step["type"] == "Split" and "Regex" in step["pattern"]]
    letters = [step for step in steps if step["type"] == "ByteLevel"]
    is_plain = len(cuts) == len(letters) == 1 and len(steps) == 2 + steps.count(JOINED)
    if not is_plain or letters[0].get("add_prefix_space") or letters[0].get("use_regex", True):
        kinds = ", ".join(str(step.get("type")) for step in steps)
        raise ValueError(f"it cuts texts by {kinds}; nanolab's tokenizer cuts them by one pattern, then into bytes.")
    pattern = cuts[0]["pattern"]["Regex"]
    if cuts[0]["behavior"] != "Isolated" or cuts[0].get("invert") or not is_known_pattern(pattern):
        raise ValueError(
            f"it cuts texts by another pattern than nanochat's, {pattern[:200]!r}. nanolab takes that pattern, with "
            "digits in groups of at most any number."
        )
    return pattern


def _token_bytes(vocab: dict[str, int]) -> list[bytes]:
    """The bytes of each token, in order of id, from their byte-level spelling."""
    try:
        tokens = [bytes(LETTER_BYTES[c] for c in text) for text, _ in sorted(vocab.items(), key=lambda pair: pair[1])]
    except KeyError as error:
        raise ValueError(f"a token is spelled with {error}, which stands for no byte: it is not byte-level.") from None
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"the ids of its tokens are not 0 to {len(vocab) - 1:,}.")
    if not set(tokens) >= {bytes([b]) for b in range(NUM_BYTES)} or b"" in tokens:
        raise ValueError("one of the 256 bytes is not among its tokens, or an empty token is.")
    return tokens


def _check_merges(model: dict, token_bytes: list[bytes]):
    """Raise ValueError unless its merges make the same tokens in the same order as our ranks do.

    More of them may be there than ours needs (each way to cut a token in two is customary): they are never used.
    """
    ranks = {token: rank for rank, token in enumerate(token_bytes)}
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    theirs = [tuple(bytes(LETTER_BYTES[c] for c in part) for part in pair) for pair in pairs]
    made = [ranks[left + right] for left, right in theirs]
    needed = list(merges_of(token_bytes))
    missing = {(token_bytes[left], token_bytes[right]) for left, right in needed} - set(theirs)
    unreachable = len(token_bytes) - NUM_BYTES - len(needed)
    if made != sorted(made) or missing or (unreachable and not model.get("ignore_merges")):
        raise ValueError(
            "its merges are not in the order of its ids, or some are missing: nanolab's tokenizer, which goes by the "
            "ids, would cut some texts otherwise."
        )


def _meta(folder: Path, dtypes: list[str], files: dict[str, str]) -> dict:
    """Metadata as our own runs leave them: those of the exported checkpoint if its weights are still the same."""
    source = f"transformers folder {source_name(folder)}"
    exported = _exported(folder / PROVENANCE)
    if exported.get("weights") != files.get(WEIGHTS):
        exported = {}  # trained further since, or not by us
    before = exported.get("meta", {})
    provenance = {"data": source, "rows": {}, "versions": versions(), "parent": None}
    provenance |= {"source": source, "files": files, "dtypes": dtypes}
    if before:
        origin = {key: before[key] for key in ("stage", "model_tag", "step", "provenance") if key in before}
        provenance |= {"data": (before.get("provenance") or {}).get("data", source), "exported": origin}
    step = before.get("step", 0)
    kept = {"settings": {}, "metrics": {}} | {key: before[key] for key in KEPT_META if key in before}
    return {"step": step if type(step) is int and step >= 0 else 0, **kept, "provenance": provenance}


def _exported(path: Path) -> dict:
    content = _read_json(path) if path.is_file() else {}
    is_ours = content.get("format") == PROVENANCE_FORMAT and isinstance(content.get("meta"), dict)
    return content if is_ours else {}


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}, which a folder of transformers has.")
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError("it is far too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no table")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from None
    return content
