"""What `nanolab import` and `nanolab export` do: a foreign folder becomes a checkpoint, and one of ours a folder."""

import re
from collections.abc import Callable
from pathlib import Path

from nanolab.checkpoint import load_checkpoint
from nanolab.convert.from_transformers import read_transformers
from nanolab.convert.hub import hub_folder
from nanolab.convert.names import Imported
from nanolab.convert.nanochat import MODEL_FILE, read_nanochat, save_imported
from nanolab.convert.to_transformers import export_transformers
from nanolab.paths import shown
from nanolab.settings import ExportConfig, ImportConfig, check_settings

TRANSFORMERS_CONFIG = "config.json"


def import_checkpoint(config: ImportConfig, say: Callable[[str], None] = print) -> Path:
    """Make a foreign folder, or a model on the hub, a checkpoint of ours; returns its folder.

    Raises ValueError and FileNotFoundError, saying what was found, for whatever cannot be read.

    >>> import_checkpoint(ImportConfig(path="nanochat/chatsft_checkpoints/d20"))          # doctest: +SKIP
    PosixPath('data_cache/checkpoints/sft/d20/step_000650')
    """
    check_settings(config)
    if config.from_hub:
        say(f"Fetching {config.from_hub}, or taking it from the cache, for weights can be gigabytes.")
    folder = hub_folder(config.from_hub) if config.from_hub else Path(config.path).expanduser()
    imported = _read(folder, config)
    saved = save_imported(
        imported, config.stage, config.model_tag or _tag_of(config.from_hub or str(folder.absolute()))
    )
    say(f"Read {imported.meta['provenance']['source']}: {_described(imported)}")
    say(f"Saved as {shown(saved)}. Now e.g.: nanolab chat --source {config.stage} --model_tag {saved.parent.name}")
    return saved


def export_checkpoint(config: ExportConfig, say: Callable[[str], None] = print) -> Path:
    """Write a checkpoint of ours as a folder that transformers loads; returns that folder.

    Raises FileNotFoundError for a checkpoint that is not there, ValueError for a folder that holds something else.

    >>> export_checkpoint(ExportConfig(model_tag="d4", to="nanolab-d4"))                  # doctest: +SKIP
    PosixPath('nanolab-d4')
    """
    check_settings(config)
    model, tokenizer, meta, _ = load_checkpoint(config.source, config.model_tag, config.step)
    meta = {**meta, "license": config.license} if config.license else meta
    folder = export_transformers(model, tokenizer, meta, Path(config.to).expanduser())
    say(f"Wrote {shown(folder)}: {config.source} {meta['model_tag']}, step {meta['step']}.")
    say(f'In Python: AutoModelForCausalLM.from_pretrained("{folder}"), AutoTokenizer.from_pretrained("{folder}")')
    return folder


def _read(folder: Path, config: ImportConfig) -> Imported:
    """By what lies in the folder: nanochat's weights have a step in their name, transformers' a config.json beside."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {shown(folder)}.")
    names = [path.name for path in folder.iterdir()]
    if TRANSFORMERS_CONFIG in names and not any(map(MODEL_FILE.fullmatch, names)):
        return read_transformers(folder)
    return read_nanochat(folder, config.step, config.tokenizer or None)


def _tag_of(name: str) -> str:
    """A tag out of the last part of a name or path.

    >>> _tag_of("karpathy/nanochat-d32")
    'nanochat-d32'
    """
    return re.sub(r"[^\w.-]+", "-", re.split(r"[/\\]", name.rstrip("/\\"))[-1])


def _described(imported: Imported) -> str:
    shape, step = imported.model.config, imported.meta["step"]
    return f"{shape.n_layer} layers of width {shape.n_embd}, vocabulary {shape.vocab_size:,}, step {step:,}"
