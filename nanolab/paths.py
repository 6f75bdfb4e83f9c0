"""Where nanolab keeps what it writes."""

import os
from pathlib import Path

# In an editable install (`pip install -e .`) this file lies in the clone, in nanolab/.
CLONE = Path(__file__).resolve().parent.parent


def cache_dir():
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
