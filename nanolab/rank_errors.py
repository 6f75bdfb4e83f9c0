"""Beside the line: why a launched training has ended, found in what torchrun and the ranks have left; see launch.py."""

import re
import signal
from pathlib import Path
from typing import NamedTuple

from nanolab.interrupt import Interrupted
from nanolab.jobs import OR_AGAIN
from nanolab.paths import shown
from nanolab.ranks import LostContact
from nanolab.trackers import read_json

LOG = "torchrun.log"  # what torchrun itself has said
TAIL = 100_000  # characters of a log's end in which an error is looked for
STOPPED = re.compile(r"^nanolab: (Stopped .*)$", re.MULTILINE)
EXIT_CODE = re.compile(r"rank\s*: \d+ \(local_rank: (\d+)\)\s+exitcode\s*: (-?\d+)")
OF_RANK = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)  # torch puts it before each line of an error that nobody catches
NO_MATTER = (LostContact.__name__, Interrupted.__name__, KeyboardInterrupt.__name__)  # consequences of another's end


def failure(folder: Path, first_rank: int, told_only: bool) -> str | None:
    """Which rank failed first and why; None if none did. `told_only`: leave out what the end of others brings about."""
    ranks = _last_attempt(folder)
    found = [words for rank in ranks if (words := _told(rank, first_rank)) is not None]
    if not told_only:
        found += [words for rank in ranks if (words := _traceback(rank, first_rank)) is not None]
    real = [words for words in found if not words.kind.endswith(NO_MATTER)]
    if real:
        return min(real, key=lambda words: words.when).text
    if told_only:
        return None
    silent = _killed(folder, first_rank)
    return silent or next((words.text for words in found if words.kind == LostContact.__name__), None)


def own_words_of_the_end(folder: Path) -> str | None:
    """What a rank has said that was stopped; the advice for a notebook that holds the job itself is left out."""
    for rank in _last_attempt(folder):
        if found := STOPPED.findall(_end_of(rank / "stderr.log")):
            return found[-1].replace(OR_AGAIN, "")
    return None


def _last_attempt(folder: Path) -> list[Path]:
    """The folders of the ranks, as torchrun has started them last."""
    attempts = sorted(folder.glob("*/attempt_*"), key=lambda path: int(path.name.split("_")[1]))
    return sorted(attempts[-1].iterdir(), key=lambda path: int(path.name)) if attempts else []


class Words(NamedTuple):
    """What a rank has said of its failure."""

    when: float  # in nanoseconds
    kind: str  # of the error
    text: str


def _told(folder: Path, first_rank: int) -> Words | None:
    """An error that a rank has handed to torchrun, see ranks.record_error."""
    path = folder / "error.json"
    told = read_json(path).get("message")
    if not isinstance(told, dict):
        return None
    kind, _, text = told["message"].partition(": ")
    return Words(path.stat().st_mtime_ns, kind, f"nanolab (rank {first_rank + int(folder.name)}): {text}")


def _traceback(folder: Path, first_rank: int) -> Words | None:
    """An error that has ended a rank's Python: its line, and where the rest stands."""
    path = folder / "stderr.log"
    line = last_error(path)
    if line is None:
        return None
    text = f"rank {first_rank + int(folder.name)}: {line}\nThe whole traceback: {shown(path)}"
    return Words(path.stat().st_mtime_ns, line.partition(":")[0], text)


def last_error(path: Path) -> str | None:
    """The line behind the last traceback of a log."""
    _, found, rest = OF_RANK.sub("", _end_of(path)).rpartition("Traceback (most recent call last):\n")
    return next((line for line in rest.splitlines() if line and not line.startswith(" ")), None) if found else None


def _killed(folder: Path, first_rank: int) -> str | None:
    """The rank that was killed first, or ended without a word; torchrun tells the exit codes."""
    said = _end_of(folder / LOG)
    codes = [(int(rank), int(code)) for rank, code in EXIT_CODE.findall(said)]
    codes = codes[-1:] + codes[:-1]  # the first failure stands last
    by_others = [(rank, code) for rank, code in codes if code < 0 and code != -signal.SIGTERM]
    for rank, code in by_others:
        return f"rank {first_rank + rank} {killed_by(-code)}"
    return None


def killed_by(number: int) -> str:
    """What to say of a process that a signal has ended.

    >>> killed_by(9)
    'was killed (SIGKILL): out of memory?'
    """
    perhaps = ": out of memory?" if number == signal.SIGKILL else ""
    return f"was killed ({signal.Signals(number).name}){perhaps}"


def _end_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-TAIL:]
    except OSError:
        return ""
