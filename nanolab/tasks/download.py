"""Download one file, whole or not at all."""

import os
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

DOWNLOAD_TIMEOUT = 30  # seconds without an answer


def download(url: str, path: str | Path, check: Callable[[bytes], None] | None = None) -> Path:
    """Download `url` to `path` unless the file is there; return the path.

    The bytes go to a temporary file beside `path`, are given to `check(bytes)` (which raises if they are
    wrong), and only then renamed, so that a reader never sees half a file and several processes may do this
    at once. Raises OSError if the address cannot be read, and whatever `check` raises.

        >>> download("https://example.org/words.txt", "data_cache/hub/words.txt")  # doctest: +SKIP
        PosixPath('data_cache/hub/words.txt')
    """
    path = Path(path)
    if not path.exists():
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response:
            content = response.read()
        if check is not None:
            check(content)
        write_whole(path, content)
    return path


def write_whole(path: Path, content: bytes) -> None:
    """Write bytes to `path` through a temporary file and a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
