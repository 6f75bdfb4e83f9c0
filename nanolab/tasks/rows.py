"""Where rows come from: the hub, the built-in toy rows, or a directory. It is said by `data`, never guessed.

    data="hub"    the Hugging Face hub, cached under <cache>/hub
    data="toy"    rows made by rule, in the hub sets' own schemas; no network, the default
    data=<path>   a directory of <name>/<subset>/<split>.parquet, .jsonl or .json files (no owner in name)

All three give the same columns, and all are shuffled with seed 42 by `datasets`.
"""

from contextlib import contextmanager
from pathlib import Path

import datasets

from nanolab.paths import cache_dir
from nanolab.settings import default_data
from nanolab.tasks import toy
from nanolab.tasks.base import SHUFFLE_SEED
from nanolab.tasks.hub import load_hub

BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}  # file ending -> builder of `datasets`


def resolve_data(data=None):
    """Return "hub", "toy" or the Path of an existing directory; FileNotFoundError for anything else.

    None means the environment variable NANOLAB_DATA, and where that is not set, "toy".

        >>> resolve_data()
        'toy'
    """
    chosen = data or default_data()
    if chosen in ("hub", "toy"):
        return chosen
    path = Path(chosen).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"data={str(chosen)!r} is neither 'hub', 'toy' nor an existing directory")
    return path


def load_rows(name, subset, split, data=None):
    """Load a split as a `datasets.Dataset`, shuffled with seed 42; `subset` is None where there are none.

    Raises DataUnavailable (hub), FileNotFoundError (directory), ValueError (toy) if it is not there.

        >>> load_rows("gsm8k", "main", "train", data="toy").column_names
        ['question', 'answer']
    """
    source = resolve_data(data)
    if source == "hub":
        rows = load_hub(name, subset, split)
    elif source == "toy":
        rows = datasets.Dataset.from_list(toy.toy_rows(name, subset, split))
    else:
        rows = load_file(find_file(source, name, subset, split))
    return rows.shuffle(seed=SHUFFLE_SEED)


def find_file(directory, name, subset, split):
    """Return the path of a split's file; FileNotFoundError lists the paths tried and what does exist.

    >>> find_file(Path("data"), "gsm8k", "main", "train")
    PosixPath('data/gsm8k/main/train.parquet')
    """
    folder = directory / name / (subset or "")
    tried = [folder / f"{split}{ending}" for ending in BUILDERS]
    for path in tried:
        if path.is_file():
            return path
    raise FileNotFoundError(missing_file_message(directory, tried))


def missing_file_message(directory, tried):
    """Say which paths were tried and which data files the directory does hold."""
    files = (path for path in directory.rglob("*") if path.suffix in BUILDERS)
    found = sorted(str(path.relative_to(directory)) for path in files) or ["no .parquet, .jsonl or .json file"]
    listed = "\n  ".join(["No file for this split. Tried:", *map(str, tried)])
    return listed + "\n" + "\n  ".join([f"{directory} holds:", *found])


def load_file(path):
    """Load one .parquet, .jsonl or .json file through `datasets`, memory-mapped from <cache>/hub.

    `datasets` names its cache after the file's path and time of change, so a changed file is read anew.
    """
    builder = BUILDERS[path.suffix]
    files = str(path.resolve())
    with without_bars():
        return datasets.load_dataset(builder, data_files=files, split="train", cache_dir=str(cache_dir() / "hub"))


@contextmanager
def without_bars():
    """Keep the progress bars of `datasets` away for a read that takes a second, and leave them as they were."""
    were_shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            datasets.enable_progress_bars()
