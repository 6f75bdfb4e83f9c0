"""Step 8: weights become files, and files become weights. Nothing is pickled, nothing that is loaded can run code.

    data_cache/checkpoints/<stage>/<model_tag>/step_000123/
        model.safetensors    the weights
        optimizer.pt         what resuming needs besides: both optimizers, random states
        meta.json            the model's shape, settings, metrics, where it came from
        tokenizer.json       the tokenizer it was trained with, so that a checkpoint is complete by itself

A checkpoint is written into a folder beside its place, flushed to the disk and renamed in, so a reader never sees half
of one, and neither does the machine after a power cut. meta.json holds a digest of every other file, so that one that
was cut, changed or exchanged is noticed when it is loaded.
"""

import hashlib
import json
import math
import os
import pickle
import platform
import re
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nanolab.gpt import GPT, GPTConfig
from nanolab.paths import cache_dir, shown
from nanolab.tokenizer import Tokenizer

STAGES = ("base", "mid", "sft")
WEIGHTS, META, OPTIMIZER = "model.safetensors", "meta.json", "optimizer.pt"
TOKENIZER = "tokenizer.json"
# Folders on their way in and out, and whose they are.
WRITING, REPLACED, REMOVED = ".writing-", ".replaced-", ".removed-"
FOLDER_OF = re.compile(r"\.(?:writing|replaced|removed)-(.+)-(\d+)-[^-]*")
KNOWN = {"stage": str, "model_tag": str, "step": int, "model_config": dict, "tokenizer": str}  # always in meta.json
BLOCK = 2**20  # bytes read at once for a digest
MAX_DETAIL = 300  # letters of another library's message that are passed on
STEP_FOLDER = re.compile(r"step_(\d{6,})")


class Checkpoint(NamedTuple):
    """What `load_checkpoint` gives."""

    model: GPT
    tokenizer: Tokenizer
    meta: dict
    path: Path


def stage_dir(stage: str) -> Path:
    """`<cache>/checkpoints/<stage>`, for a known stage."""
    if stage not in STAGES:
        raise ValueError(f"Unknown stage {stage!r}. There are: {', '.join(STAGES)}.")
    return cache_dir() / "checkpoints" / stage


def save_checkpoint(
    stage: str,
    model_tag: str,
    step: int,
    model: GPT,
    tokenizer: Tokenizer,
    meta: dict,
    training_state: dict | None = None,
) -> Path:
    """Write a checkpoint and return its folder; one that was there for the same step is replaced.

    `meta` is kept as JSON under the keys given; `stage`, `model_tag`, `step`, `model_config`, `tokenizer` (its
    fingerprint) and `files` (their digests) are added. `training_state`: what `load_training_state` will give, plain
    data and tensors. Raises OSError, with the earlier checkpoints whole, if it cannot be written.

    >>> save_checkpoint("sft", "d4", 10, model, tokenizer, {"settings": {}}).name        # doctest: +SKIP
    'step_000010'
    """
    place = stage_dir(stage) / model_tag / f"step_{step:06d}"
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place.parent)
    beside = _folder_of_mine(WRITING, place.parent)
    try:
        weights = {name: weight.detach().contiguous().cpu() for name, weight in model.state_dict().items()}
        save_file(weights, beside / WEIGHTS)
        known = {
            "stage": stage,
            "model_tag": model_tag,
            "step": step,
            "model_config": asdict(model.config),
            "tokenizer": tokenizer.fingerprint,
            "number": 1 + max((n for n in map(_number, place.parent.glob("step_*")) if n < math.inf), default=0),
        }
        tokenizer.save(beside)
        if training_state is not None:
            torch.save(training_state, beside / OPTIMIZER)
        files = {file.name: digest(file) for file in sorted(beside.iterdir())}
        (beside / META).write_text(json.dumps({**known, **meta, "files": files}, indent=2), encoding="utf-8")
        flush(beside)
        os.chmod(beside, 0o755)  # mkdtemp makes it private
        if place.exists():
            _swap(beside, place)
        else:
            beside.rename(place)
        flush_folder(place.parent)
    except (OSError, SafetensorError, RuntimeError) as error:  # the last two: how safetensors and torch say it
        shutil.rmtree(beside, ignore_errors=True)
        free = shutil.disk_usage(place.parent).free / 2**20
        raise OSError(
            f"Could not write {shown(place)}: {error} ({free:,.0f} MiB are free there). Earlier checkpoints are whole."
        ) from error
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return place


def load_training_state(path: Path) -> dict:
    """What a run needs to go on from a checkpoint's folder: see `save_checkpoint`. Runs no code (`weights_only`).

    Raises ValueError if the checkpoint has none, or it is damaged.
    """
    if not (path / OPTIMIZER).exists():
        raise ValueError(f"{shown(path)} has no {OPTIMIZER}: it can be trained further as a start, not resumed.")
    check_files(path, read_meta(path), (OPTIMIZER,))
    try:
        return torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{shown(path / OPTIMIZER)} is damaged or holds more than plain data: {error}") from error


def remove_older(stage: str, model_tag: str, keep_last: int) -> None:
    """Keep only the checkpoints of a tag that were saved last; -1 keeps all.

    Each is renamed out of sight first: a process that is killed here leaves no half of a checkpoint behind.
    """
    folder = stage_dir(stage) / model_tag
    steps = saved_steps(folder)
    for step in steps[: len(steps) - keep_last] if keep_last > 0 else []:
        aside = _folder_of_mine(REMOVED, folder)
        (folder / f"step_{step:06d}").rename(aside / f"step_{step:06d}")
        shutil.rmtree(aside)


def saved_steps(folder: Path) -> list[int]:
    """The steps with a checkpoint in a tag's folder, in the order in which they were saved.

    That need not be the order of the steps: a shorter run may have followed a longer one.
    """
    steps = (int(match[1]) for path in folder.iterdir() if (match := STEP_FOLDER.fullmatch(path.name)))
    return sorted(steps, key=lambda step: (_number(folder / f"step_{step:06d}"), step))


def _number(path: Path) -> float:
    """How many checkpoints of its tag were saved up to it; one that cannot be read is the last, to be noticed."""
    try:
        return float(json.loads((path / META).read_text(encoding="utf-8")).get("number", 0))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return math.inf


def amend_meta(path: Path, changes: dict) -> None:
    """Change entries of a checkpoint's metadata, in one step: a reader finds all of them or none."""
    beside = path.parent / f"{path.name}-{META}-{os.getpid()}"
    try:
        beside.write_text(json.dumps({**read_meta(path), **changes}, indent=2), encoding="utf-8")
        os.replace(beside, path / META)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(f"Could not write {shown(path / META)}: {error}. The checkpoint is whole as it was.") from error


def flush(folder: Path) -> None:
    """Wait until a folder's files are on the disk: a rename may reach it before what was written first."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Wait until a folder's list of names is on the disk, after a renaming in it."""
    if os.name == "posix":  # elsewhere folders cannot be opened
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _swap(new: Path, place: Path):
    """Put `new` where an older checkpoint is, which leaves only once the new one is in place."""
    old = _folder_of_mine(REPLACED, place.parent) / place.name
    place.rename(old)
    new.rename(place)
    shutil.rmtree(old.parent)


def _put_back(folder: Path):
    """Finish or undo what a killed `_swap` has left: the older checkpoint returns if the new one is not in place."""
    for aside in folder.glob(f"{REPLACED}*"):
        if _is_writing(aside):
            continue
        for old in aside.iterdir():
            if not (folder / old.name).exists():
                old.rename(folder / old.name)
        shutil.rmtree(aside, ignore_errors=True)


def _folder_of_mine(prefix: str, parent: Path) -> Path:
    """A new folder whose name says which process of which machine writes it."""
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{platform.node()}-{os.getpid()}-", dir=parent))


def _is_writing(folder: Path) -> bool:
    """Whether the process that a folder is named after may still be at work: on another machine nobody can tell."""
    named = FOLDER_OF.fullmatch(folder.name)
    if named is None:
        return False
    machine, number = named.groups()
    if machine != platform.node():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, and alive
        return True
    return int(number) != os.getpid()


def _sweep(folder: Path):
    """Remove what processes that were killed while they wrote have left."""
    _put_back(folder)
    for half in (*folder.glob(f"{WRITING}*"), *folder.glob(f"{REMOVED}*")):
        if not _is_writing(half):
            shutil.rmtree(half, ignore_errors=True)


def find_checkpoint(stage: str, model_tag: str = "", step: int = -1) -> Path:
    """The folder of a checkpoint. An empty tag means the only one there is; step -1 the one saved last.

    Raises FileNotFoundError, saying what there is, when it is missing, and ValueError when the tag must be named.
    """
    folder = stage_dir(stage)
    tags = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []
    if not tags:
        raise FileNotFoundError(f"No {stage} checkpoint in {shown(folder)}. Make one first: python -m nanolab {stage}")
    if not model_tag:
        if len(tags) > 1:
            raise ValueError(f"There are several {stage} checkpoints; name one with model_tag: {', '.join(tags)}.")
        model_tag = tags[0]
    if model_tag not in tags:
        raise FileNotFoundError(
            f"No {stage} checkpoint {model_tag!r} in {shown(folder)}. There are: {', '.join(tags)}."
        )
    _put_back(folder / model_tag)
    steps = saved_steps(folder / model_tag)
    if not steps or (step >= 0 and step not in steps):
        there = ", ".join(map(str, sorted(steps))) or "none"
        raise FileNotFoundError(f"No step {step} in {shown(folder / model_tag)}. There are: {there}.")
    return folder / model_tag / f"step_{step if step >= 0 else steps[-1]:06d}"


def load_checkpoint(stage: str, model_tag: str = "", step: int = -1, device: torch.device | str = "cpu") -> Checkpoint:
    """Model (in eval mode, on `device`), tokenizer and metadata of a checkpoint, see `find_checkpoint`.

    Raises FileNotFoundError or ValueError naming the file and what to do.
    """
    return load_folder(find_checkpoint(stage, model_tag, step), device)


def load_folder(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """`load_checkpoint` of a folder."""
    meta = read_meta(path)
    check_files(path, meta, (WEIGHTS, TOKENIZER))
    try:
        weights = load_file(path / WEIGHTS)
        config = GPTConfig(**meta["model_config"])
        _check_shapes(config, weights)
        model = GPT(config)
        model.load_state_dict(weights)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError, SafetensorError) as error:
        raise _damaged(path, error) from error
    tokenizer = Tokenizer.load(path)
    if tokenizer.fingerprint != meta["tokenizer"]:
        raise ValueError(f"The checkpoint {path} holds another tokenizer than the one it was trained with.")
    return Checkpoint(model.to(device).eval(), tokenizer, meta, path)


def read_meta(path: Path) -> dict:
    """The metadata in a checkpoint's folder. Raises ValueError if they are missing or not those of a checkpoint."""
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        for key, kind in KNOWN.items():
            if not isinstance(meta[key], kind):
                raise TypeError(f"{key} is {meta[key]!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error
    return meta


def check_files(path: Path, meta: dict, names: tuple[str, ...]) -> None:
    """Raise ValueError unless these files are those that were saved; checkpoints without digests are let through."""
    for name in names if "files" in meta else ():
        try:
            if digest(path / name) != meta["files"].get(name):
                raise ValueError(f"{name} is not the file that was saved")
        except (OSError, ValueError, AttributeError) as error:
            raise _damaged(path, error) from error


def _check_shapes(config: GPTConfig, weights: dict[str, torch.Tensor]):
    """Compare what the metadata say with what the weights are, before a model of that size is made."""
    V, C = weights["lm_head.weight"].shape
    layers = {int(name.split(".")[2]) for name in weights if name.startswith("transformer.h.")}
    found = {"vocab_size": V, "n_embd": C, "n_layer": len(layers)}
    for name, value in found.items():
        if getattr(config, name) != value:
            raise ValueError(f"{META} says {name} {getattr(config, name)}, the weights have {value}")


def digest(file: Path) -> str:
    """The SHA-256 of a file, read block by block: "sha256:" and 64 hexadecimal digits.

    >>> len(digest(Path("README.md")))                                                   # doctest: +SKIP
    71
    """
    sha256 = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(BLOCK):
            sha256.update(block)
    return f"sha256:{sha256.hexdigest()}"


def _damaged(path: Path, error: Exception) -> ValueError:
    what = str(error).strip().splitlines()[0][:MAX_DETAIL] if str(error).strip() else type(error).__name__
    if isinstance(error, KeyError):
        what = f"{what} is missing"
    return ValueError(f"The checkpoint {path} is damaged or of another version: {what}")
