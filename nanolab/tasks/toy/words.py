"""The word list of the built-in data, for the spelling tasks."""

import codecs
from functools import lru_cache

from english_words import get_english_words_set

SHORTEST, LONGEST = 3, 8  # letters; a small model has to be able to spell them
# Words that a class of learners need not meet at random, nor read here: hence rot13.
LEFT_OUT = frozenset(
    codecs.decode(
        """nefr nff onfgneq ovgpu ohttre ohz pbba qnza qvpx qvyqb qlxr snt tbbx uryy ubbxre wnc xvxr
        avttre cravf cvff cbbc cevpx chffl encr encre encvfg ergneq frzra frk frkhny fyhg gvg
        gvggl gheq gjng intvan ihyin juber jbc""",
        "rot13",
    ).split()
)


@lru_cache(maxsize=1)
def words() -> tuple[str, ...]:
    """Webster's English words of 3 to 8 letters, lower-case, sorted: ("aal", "aalii", ...)."""
    all_words = get_english_words_set(["web2"], lower=True, alpha=True)
    fitting = (word for word in all_words if SHORTEST <= len(word) <= LONGEST and word.isascii())
    return tuple(sorted(word for word in fitting if word not in LEFT_OUT))
