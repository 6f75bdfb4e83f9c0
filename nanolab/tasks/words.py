"""The words that spelling tasks spell, parted once into words to learn and words to test."""

import hashlib
import random

from nanolab.tasks import toy
from nanolab.tasks.base import SHUFFLE_SEED
from nanolab.tasks.hub import DataUnavailable, hub_file
from nanolab.tasks.rows import resolve_data

WORDS_FILE = "words_alpha.txt"
# 370,099 English words. The commit is named in the address, so that the words cannot change under us.
WORDS_COMMIT = "71fd8028395eb61be17e47f70dde0ae6994d9b72"
WORDS_URL = f"https://raw.githubusercontent.com/dwyl/english-words/{WORDS_COMMIT}/{WORDS_FILE}"
# Of the words joined by "\n": the file has CRLF line ends, which git or a proxy may turn into LF.
WORDS_SHA256 = "1d38cea916253d11d9cc47788e37aa7e16e91edf90ef75ea76ee8f168b54506b"
TEST_SHARE = 10  # one word in ten


def load_words(split, data=None):
    """Return the list of words of a split, "train" or "test"; no word is in both.

    The words of `data` (the toy list, a directory's words_alpha.txt, or the downloaded one) are sorted, freed
    of doubles and shuffled with a fixed seed; the last tenth is for the test.

        >>> set(load_words("train", data="toy")) & set(load_words("test", data="toy"))
        set()
    """
    words = sorted(set(all_words(resolve_data(data))))
    random.Random(SHUFFLE_SEED).shuffle(words)
    for_test = len(words) // TEST_SHARE
    if not for_test:
        raise ValueError(f"{len(words)} words are too few to part into train and test, 10 are needed")
    return words[-for_test:] if split == "test" else words[:-for_test]


def all_words(source):
    """Return the words of a resolved data source, in the order of its list."""
    if source == "toy":
        return toy.toy_words()
    if source == "hub":
        return split_words(hub_file(WORDS_FILE, WORDS_URL, check_words).read_bytes())
    path = source / WORDS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the spelling tasks read it, one word a line")
    return split_words(path.read_bytes())


def split_words(content):
    r"""Return the words of a file's bytes, one a line, whatever its line ends.

    >>> split_words(b"a\r\naa\r\n\r\naaa")
    ['a', 'aa', 'aaa']
    """
    return content.decode("utf-8").split()


def check_words(content):
    """Raise DataUnavailable unless these bytes hold the words we know."""
    found = hashlib.sha256("\n".join(split_words(content)).encode()).hexdigest()
    if found != WORDS_SHA256:
        raise DataUnavailable(
            WORDS_URL,
            f"the words have the checksum {found}, not {WORDS_SHA256}; the file was not kept. Try again.",
        )
