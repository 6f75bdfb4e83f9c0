"""The words that spelling tasks spell, parted once into words to learn and words to test."""

import hashlib
import random
from pathlib import Path

from nanolab.tasks import toy
from nanolab.tasks.base import SHUFFLE_SEED, DataError
from nanolab.tasks.hub import DataUnavailable, hub_file
from nanolab.tasks.jsonfile import opened
from nanolab.tasks.rows import resolve_data
from nanolab.tasks.schema import FETCH_AGAIN

WORDS_FILE = "words_alpha.txt"
# 370,099 English words. The commit is named in the address, so that the words cannot change under us.
WORDS_COMMIT = "71fd8028395eb61be17e47f70dde0ae6994d9b72"
WORDS_URL = f"https://raw.githubusercontent.com/dwyl/english-words/{WORDS_COMMIT}/{WORDS_FILE}"
# Of the words joined by "\n": the file has CRLF line ends, which git or a proxy may turn into LF.
WORDS_SHA256 = "1d38cea916253d11d9cc47788e37aa7e16e91edf90ef75ea76ee8f168b54506b"
TEST_SHARE = 10  # one word in ten
LONGEST_WORD = 100  # letters; the list's own longest has 31


def load_words(split: str, data: str | Path | None = None) -> list[str]:
    """Return the list of words of a split, "train" or "test"; no word is in both.

    The words of `data` (the toy list, a directory's words_alpha.txt, or the downloaded one) are sorted, freed
    of doubles and shuffled with a fixed seed; the last tenth is for the test.

        >>> set(load_words("train", data="toy")) & set(load_words("test", data="toy"))
        set()
    """
    source = resolve_data(data)
    words = sorted(set(all_words(source)))
    random.Random(SHUFFLE_SEED).shuffle(words)
    for_test = len(words) // TEST_SHARE
    if not for_test:
        few = f"{len(words)} words are too few to part into train and test, 10 are needed"
        raise DataError(f"{WORDS_FILE} of {source}: {few}. {FETCH_AGAIN}")
    return words[-for_test:] if split == "test" else words[:-for_test]


def all_words(source: str | Path) -> list[str]:
    """Return the words of a resolved data source, in the order of its list."""
    if source == "toy":
        return toy.toy_words()
    if source == "hub":
        return read_words(hub_file(WORDS_FILE, WORDS_URL, check_words))
    return read_words(source / WORDS_FILE)


def read_words(path: Path) -> list[str]:
    """Return the words of a file; DataError names the first line that is not a word, or why there is no reading it."""
    with opened(path, "one word a line, for the spelling tasks to read") as file:
        content = file.read()
    try:
        words = split_words(content)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start:,}). {FETCH_AGAIN}") from None
    if not all(map(is_word, words)):
        number, line = first_bad_line(content)
        wrong = f"{line[:40]!r} is not a word of up to {LONGEST_WORD} letters"
        raise DataError(f"{path} line {number}: {wrong}. {FETCH_AGAIN}")
    return words


def is_word(word: str) -> bool:
    """Return whether a text is a word that a spelling task can take."""
    return word.isalpha() and len(word) <= LONGEST_WORD


def first_bad_line(content: bytes) -> tuple[int, str]:
    """Return (line number, line) of the first line that holds something other than words."""
    lines = content.decode("utf-8-sig").split("\n")
    return next((number, line) for number, line in enumerate(lines, start=1) if not all(map(is_word, line.split())))


def split_words(content: bytes) -> list[str]:
    r"""Return the words of a file's bytes, one a line, whatever its line ends.

    >>> split_words(b"a\r\naa\r\n\r\naaa")
    ['a', 'aa', 'aaa']
    """
    return content.decode("utf-8-sig").split()


def check_words(content: bytes) -> None:
    """Raise DataUnavailable unless these bytes hold the words we know."""
    found = hashlib.sha256("\n".join(split_words(content)).encode()).hexdigest()
    if found != WORDS_SHA256:
        raise DataUnavailable(
            WORDS_URL,
            f"the words have the checksum {found}, not {WORDS_SHA256}; the file was not kept. Try again.",
        )
