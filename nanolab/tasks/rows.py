"""Where rows come from: the hub, the built-in toy rows, or a directory. It is said by `data`, never guessed.

    data="hub"    the Hugging Face hub, cached under <cache>/hub
    data="toy"    rows made by rule, in the hub sets' own schemas; no network, the default
    data=<path>   a directory of <name>/<subset>/<split>.parquet, .jsonl or .json files (no owner in name)

All three give the same columns, and all are shuffled with seed 42 by `datasets`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets

from nanolab.paths import cache_dir
from nanolab.settings import default_data
from nanolab.tasks import toy
from nanolab.tasks.base import SHUFFLE_SEED, DataError, check_one_of
from nanolab.tasks.hub import HUB_IDS, load_hub
from nanolab.tasks.jsonfile import load_json
from nanolab.tasks.schema import COLUMNS, FETCH_AGAIN, check_columns

ENDINGS = (".parquet", ".jsonl", ".json")


def resolve_data(data: str | Path | None = None) -> str | Path:
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


def load_rows(name: str, subset: str | None, split: str, data: str | Path | None = None) -> datasets.Dataset:
    """Load a split as a `datasets.Dataset`, shuffled with seed 42; `subset` is None where there are none.

    Raises DataUnavailable (hub), FileNotFoundError (directory), ValueError (toy) if it is not there, and DataError if
    it is damaged. What a single row lacks is found when it is read: see `schema.read_row`.

        >>> load_rows("gsm8k", "main", "train", data="toy").column_names
        ['question', 'answer']
    """
    check_one_of("data set", name, tuple(COLUMNS))
    source = resolve_data(data)
    if source == "hub":
        rows, origin = load_hub(name, subset, split), f"{HUB_IDS[name]} ({split})"
    elif source == "toy":
        rows, origin = datasets.Dataset.from_list(toy.toy_rows(name, subset, split)), "toy"
    else:
        origin = find_file(source, name, subset, split)
        rows = load_parquet(origin) if origin.suffix == ".parquet" else load_json(origin, name)
    check_columns(rows, name, origin)
    return rows.shuffle(seed=SHUFFLE_SEED)


def find_file(directory: Path, name: str, subset: str | None, split: str) -> Path:
    """Return the path of a split's file; FileNotFoundError lists the paths tried and what does exist.

    >>> find_file(Path("data"), "gsm8k", "main", "train")  # doctest: +SKIP
    PosixPath('data/gsm8k/main/train.parquet')
    """
    folder = directory / name / (subset or "")
    tried = [folder / f"{split}{ending}" for ending in ENDINGS]
    for path in tried:
        if path.is_file():
            return path
    raise FileNotFoundError(missing_file_message(directory, tried))


def missing_file_message(directory: Path, tried: Sequence[Path]) -> str:
    """Say which paths were tried and which data files the directory does hold."""
    files = (path for path in directory.rglob("*") if path.suffix in ENDINGS and path.is_file())
    found = sorted(str(path.relative_to(directory)) for path in files) or ["no .parquet, .jsonl or .json file"]
    tried = [f"{path} (a folder)" if path.is_dir() else str(path) for path in tried]
    listed = "\n  ".join(["No file for this split. Tried:", *tried])
    return listed + "\n" + "\n  ".join([f"{directory} holds:", *found])


def load_parquet(path: Path) -> datasets.Dataset:
    """Load a .parquet file through `datasets`, memory-mapped from <cache>/hub; DataError if it cannot be read.

    `datasets` names its cache after the file's path and time of change, so a changed file is read anew.
    """
    cache, files = str(cache_dir() / "hub"), str(path.resolve())
    try:
        with quiet():
            return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    except Exception as error:  # three libraries lie below, each with its own errors
        raise DataError(f"{path} cannot be read as parquet ({first_cause(error)}). {FETCH_AGAIN}") from None


def first_cause(error: BaseException) -> str:
    """Return the kind and the first line of the error with which a chain of errors began, in at most 200 characters."""
    while below := error.__cause__ or error.__context__:
        error = below
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars and log of `datasets` away for a read that takes a second; leave them as they were."""
    were_shown, verbosity = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would log is in the error that is raised
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if were_shown:
            datasets.enable_progress_bars()
