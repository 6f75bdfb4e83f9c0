"""A name on the Hugging Face hub becomes a local folder, which is then read like any other."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from nanolab.paths import cache_dir
from nanolab.tasks.hub import hub_reachable

# Of nanochat: weights, settings, tokenizer. Of transformers: the same, template, model card, and what an export notes.
# Never optimizer states, and never pytorch_model.bin, which is not read.
FILES = (
    *("model_*.pt", "meta_*.json", "tokenizer.pkl", "token_bytes.pt"),
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "README.md"),
    "nanolab.json",
)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SNAPSHOT = re.compile(r"models--(.+?)--(.+)/snapshots/([^/]+)/?")
MAX_DETAIL = 200  # letters of another library's message that are passed on


def hub_folder(name: str) -> Path:
    """The local folder of a model on the hub, `owner/name`; fetched, or taken from the cache where the hub is away.

    Raises ValueError for what is no such name, and FileNotFoundError, saying what to do, if it cannot be had.

    >>> hub_folder("karpathy/nanochat-d32")                                              # doctest: +SKIP
    PosixPath('data_cache/hub/models--karpathy--nanochat-d32/snapshots/1ad2b1f...')
    """
    if not HUB_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no model's name on the hub: that is owner/name, as in karpathy/nanochat-d32.")
    reachable = hub_reachable()
    try:
        found = snapshot_download(
            name, cache_dir=cache_dir() / "hub", allow_patterns=list(FILES), local_files_only=not reachable
        )
    except Exception as error:  # several libraries lie below, each with its own errors; the cause is kept
        raise FileNotFoundError(_cannot_be_had(name, reachable, error)) from error
    return Path(found)


def source_name(folder: Path) -> str:
    """What a folder is called in metadata: its hub name and revision if it is a snapshot, else its own name.

    >>> source_name(Path("hub/models--karpathy--nanochat-d32/snapshots/1ad2b1f"))
    'karpathy/nanochat-d32 at 1ad2b1f'
    """
    path = Path(folder).absolute()
    snapshot = SNAPSHOT.fullmatch("/".join(path.parts[-3:]))
    return f"{snapshot[1]}/{snapshot[2]} at {snapshot[3]}" if snapshot else path.name


def _cannot_be_had(name: str, reachable: bool, error: Exception) -> str:
    text = str(error).strip()
    told = f"{type(error).__name__}: {text.splitlines()[0][:MAX_DETAIL]}" if text else type(error).__name__
    reason = told if reachable else "the hub cannot be reached, and no earlier download is in the cache"
    return (
        f"{name} could not be had from the hub ({reason}). Download its files by hand, on a machine that reaches "
        f"https://huggingface.co/{name}/tree/main, into one folder, and give that folder's path instead of the name."
    )
