"""Rows and files from the internet: the Hugging Face hub, and two files that live elsewhere."""

import contextlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
from filelock import FileLock

from nanolab.paths import cache_dir
from nanolab.tasks.download import download

# What we call a data set -> its id on the hub.
HUB_IDS = {
    "smol-smoltalk": "HuggingFaceTB/smol-smoltalk",
    "mmlu": "cais/mmlu",
    "ai2_arc": "allenai/ai2_arc",
    "gsm8k": "openai/gsm8k",
    "openai_humaneval": "openai/openai_humaneval",
    "pretrain_text": "karpathy/fineweb-edu-100b-shuffle",
}
# Base text is 1,823 files. One is plenty for the small models of this lab, and nanochat validates on the last.
NUM_TRAIN_SHARDS = 1_822
PRETRAIN_SHARDS = {"train": "shard_00000.parquet", "validation": "shard_01822.parquet"}
PARQUET_MARK = b"PAR1"  # how a parquet file begins and ends
PROBE_TIMEOUT = 5  # seconds
RETRY_AFTER = 5  # seconds

OTHER_SOURCES = (
    'Two other sources need no network: data="toy" (rows built into nanolab) or data="<a directory>" holding '
    "<name>/<subset>/<split>.parquet or .jsonl files. The environment variable NANOLAB_DATA sets the default."
)


class DataUnavailable(RuntimeError):
    """Rows were asked of the internet and did not come; says which sources need no network."""

    def __init__(self, what: str, reason: object):
        super().__init__(f"{what} could not be loaded: {reason}\n{OTHER_SOURCES}")
        self.what, self.reason = what, str(reason)

    def __reduce__(self):
        """How a worker process hands the error to its parent."""
        return type(self), (self.what, self.reason)


def load_hub(name: str, subset: str | None, split: str) -> datasets.Dataset:
    """Load a split from the hub, or from the copy that an earlier load left in the cache, in the hub's order.

    Raises DataUnavailable after seconds, not minutes, if neither is there.

        >>> load_hub("gsm8k", "main", "test").num_rows  # doctest: +SKIP
        1319
    """
    arguments = hub_arguments(name, subset, split)
    # Left alone, `datasets` retries an unreachable hub for 23 seconds a data set, then looks into its cache.
    mode = contextlib.nullcontext() if hub_reachable() else offline()
    try:
        with mode:
            rows = datasets.load_dataset(**arguments, cache_dir=str(cache_dir() / "hub"))
    except Exception as error:  # three libraries lie below, each with its own errors; the cause is kept
        what = f"{arguments['path']} ({split})"
        raise DataUnavailable(what, f"{type(error).__name__}: {error}") from error
    return unnest(rows)


def hub_arguments(name: str, subset: str | None, split: str) -> dict:
    """Return the arguments that `datasets.load_dataset` needs for a split of ours.

    >>> hub_arguments("mmlu", "all", "auxiliary_train")
    {'path': 'cais/mmlu', 'name': 'auxiliary_train', 'split': 'train'}
    """
    arguments = {"path": HUB_IDS[name], "name": subset, "split": split}
    if name == "pretrain_text":
        # The card counts all shards, so its numbers cannot be checked against one.
        shard = PRETRAIN_SHARDS[split]
        return arguments | {"split": "train", "data_files": shard, "verification_mode": "no_checks"}
    if split == "auxiliary_train":
        return arguments | {"name": "auxiliary_train", "split": "train"}
    return arguments


def unnest(rows: datasets.Dataset) -> datasets.Dataset:
    """Lift rows of the form {"train": {...}} to {...}; others pass unchanged.

    The hub's MMLU auxiliary_train is nested so, by an accident of its upload.
    """
    if rows.column_names != ["train"]:
        return rows
    flat = rows.flatten()
    return flat.rename_columns({column: column.removeprefix("train.") for column in flat.column_names})


def hub_reachable() -> bool:
    """Return whether the hub answers at all, within seconds; False when HF_HUB_OFFLINE says not to ask."""
    if datasets.config.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(datasets.config.HF_ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PROBE_TIMEOUT).close()
    except urllib.error.HTTPError:
        return True  # it answered, if only to complain about the request
    except OSError:
        return False
    return True


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Let `datasets` use nothing but its cache inside the `with` block, as HF_HUB_OFFLINE=1 does throughout."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def hub_file(filename: str, url: str, check: Callable[[bytes], None] | None = None) -> Path:
    """Download a single file into the cache unless it is there; return its path, or raise DataUnavailable."""
    path = cache_dir() / "hub" / filename
    if datasets.config.HF_HUB_OFFLINE and not path.exists():
        raise DataUnavailable(url, "HF_HUB_OFFLINE is set, and it is not in the cache")
    try:
        return download(url, path, check)
    except (OSError, http.client.HTTPException) as error:  # the second: cut off halfway
        raise DataUnavailable(url, error) from error


def text_shards(num_shards: int) -> list[str]:
    """The names of the first `num_shards` files of base text to train on; -1 means all. ValueError for more.

    >>> text_shards(2)
    ['shard_00000.parquet', 'shard_00001.parquet']
    """
    if num_shards != -1 and not 1 <= num_shards <= NUM_TRAIN_SHARDS:
        raise ValueError(f"num_shards must be 1 to {NUM_TRAIN_SHARDS:,}, or -1 for all of them, got {num_shards:,}.")
    return [f"shard_{number:05d}.parquet" for number in range(NUM_TRAIN_SHARDS)][
        : None if num_shards == -1 else num_shards
    ]


def fetch_text_shard(name: str) -> Path:
    """Download a file of base text unless it is in the cache; return its path, or raise DataUnavailable.

    Of the processes of a machine one downloads, the others wait for it. What does not come is asked for a second time.
    """
    url = f"{datasets.config.HF_ENDPOINT}/datasets/{HUB_IDS['pretrain_text']}/resolve/main/{name}"
    inside = f"pretrain_text/{name}"
    path = cache_dir() / "hub" / inside
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        try:
            return hub_file(inside, url, check_parquet)
        except DataUnavailable:
            if datasets.config.HF_HUB_OFFLINE:
                raise
        time.sleep(RETRY_AFTER)
        return hub_file(inside, url, check_parquet)


def check_parquet(content: bytes) -> None:
    """Raise OSError for bytes that are no parquet file: the page of a proxy, say.

    >>> check_parquet(b"<html>Please log in</html>")
    Traceback (most recent call last):
    OSError: what came is no parquet file; it begins with b'<html>Please log in'
    """
    if not (content.startswith(PARQUET_MARK) and content.endswith(PARQUET_MARK)):
        raise OSError(f"what came is no parquet file; it begins with {content[:19]!r}")
