"""Where nanolab keeps what it writes."""

import os
from pathlib import Path

# In an editable install (`pip install -e .`) this file lies in the clone, in nanolab/. From a wheel there is no clone.
CLONE = Path(__file__).resolve().parent.parent
NO_CLONE = "The notebooks are not part of the installed package, but of its repository. Clone it, and run this there."


def cache_dir() -> Path:
    """Return the folder that holds everything nanolab writes: downloads, tokenizers, checkpoints, runs.

    The environment variable NANOLAB_CACHE if it is set, else the `data_cache/` folder of the clone that the
    package is installed from, else `data_cache/` in the current folder. It is not created here.

        >>> os.environ["NANOLAB_CACHE"] = "/data/lab"
        >>> cache_dir()
        PosixPath('/data/lab')
    """
    chosen = os.environ.get("NANOLAB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    in_clone = CLONE / "data_cache"
    return in_clone if in_clone.is_dir() else Path("data_cache")


def shown(path: Path) -> str:
    """How a path is printed: from the clone on if it lies in it, so that saved notebooks name no home folders.

    >>> shown(CLONE / "data_cache" / "tokenizer")
    'data_cache/tokenizer'
    """
    path = Path(path).resolve()
    return str(path.relative_to(CLONE)) if path.is_relative_to(CLONE) else str(path)
