"""Step 2: text becomes ids. Trained with rustbpe, run by tiktoken, kept as one readable JSON file.

    tokenizer = Tokenizer.train(texts, vocab_size=4096)
    tokenizer.encode("hello world")        -> [104, 277, ...]
    tokenizer.special("assistant_end")     -> 4091
    tokenizer.save(folder);  Tokenizer.load(folder)

Text is always ordinary text: a user who types "<|assistant_end|>" gets its letters, never the control token. Control
tokens come only from `special`, by name.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rustbpe
import tiktoken

SPECIAL_TOKENS = (
    "<|bos|>",  # every document and every conversation begins with it
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",  # "I am done": trained, so that replies stop; also used as padding
    "<|python_start|>",  # the assistant calls the calculator ...
    "<|python_end|>",
    "<|output_start|>",  # ... and the calculator answers
    "<|output_end|>",
)

# How text is cut before merging: GPT-4's pattern, with numbers in groups of at most two digits instead of three, since
# a small vocabulary cannot spend a thousand tokens on numbers. Source: karpathy/nanochat, nanochat/tokenizer.py.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)

# The same cuts, spelled for speed: this is what tiktoken runs in place of SPLIT_PATTERN. Its regex engine backtracks
# where a pattern has a lookahead or a possessive mark (?+ ++), piece by piece, and is fast elsewhere. The possessive
# marks decide nothing here (what follows them cannot match what they took), and one group holds all that needs no
# lookahead, so that most cuts are found in one fast search. Encoding chats is then 1.8 times as fast.
#
# White space is taken at most LONGEST_SPACE characters at a time: the engine keeps a place to go back to for each, and
# panics at a million, which `except Exception` does not catch. Shorter runs are cut as SPLIT_PATTERN cuts them.
LONGEST_SPACE = 500_000
FAST_SPLIT_PATTERN = (
    r"(?:'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n])"
    rf"|\s{{1,{LONGEST_SPACE}}}(?!\S)|\s+"
)

FILE_NAME = "tokenizer.json"
FILE_FORMAT = "nanolab-tokenizer-1"
NUM_BYTES = 256  # every byte is a token, so every text can be encoded


class Tokenizer:
    """A byte-level BPE vocabulary with the nine special tokens after the merges.

    Args:
        token_bytes: the bytes of each ordinary token, in order of rank (rank = id).
        pattern: the regular expression that cuts text before merging.
    """

    def __init__(self, token_bytes: Sequence[bytes], pattern: str = SPLIT_PATTERN):
        self.token_bytes = list(token_bytes)
        self.pattern = pattern
        first = len(self.token_bytes)
        self.special_ids = {name: first + k for k, name in enumerate(SPECIAL_TOKENS)}
        self._encoding = tiktoken.Encoding(
            name="nanolab",
            pat_str=FAST_SPLIT_PATTERN if pattern == SPLIT_PATTERN else limit_space(pattern),
            mergeable_ranks={token: rank for rank, token in enumerate(self.token_bytes)},
            special_tokens=self.special_ids,
        )

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn the merges from texts; `vocab_size` counts bytes, merges and the nine special tokens.

        A text too small for that many merges gives a smaller vocabulary: look at `.vocab_size`.

        >>> Tokenizer.train(["low lower lowest"] * 10, vocab_size=268).vocab_size
        268
        """
        num_ordinary = vocab_size - len(SPECIAL_TOKENS)
        if num_ordinary < NUM_BYTES:
            raise ValueError(
                f"vocab_size {vocab_size} is too small: {NUM_BYTES} bytes and {len(SPECIAL_TOKENS)} special tokens "
                f"alone are {NUM_BYTES + len(SPECIAL_TOKENS)}."
            )
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(iter(texts), num_ordinary, pattern=limit_space(SPLIT_PATTERN))
        ranked = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
        return cls([bytes(token) for token, _ in ranked])

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.token_bytes) + len(SPECIAL_TOKENS)

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that differ when any token differs; checkpoints carry it."""
        digest = hashlib.sha256(self.pattern.encode())
        for token in self.token_bytes:
            digest.update(len(token).to_bytes(4, "little") + token)
        return digest.hexdigest()[:12]

    def encode(self, text: str | list[str]) -> list:
        """Ids of a text, or a list of ids for each text of a list (in threads). Special tokens never arise.

        Raises ValueError for a text with half of a surrogate pair, which has no UTF-8 (tiktoken would write U+FFFD).

        >>> tokenizer.encode("a"), tokenizer.encode(["a", "<|bos|>"])[0]
        ([97], [97])
        """
        for one in [text] if isinstance(text, str) else text:
            check_text(one)
        if isinstance(text, str):
            return self._encoding.encode_ordinary(text)
        return self._encoding.encode_ordinary_batch(text, num_threads=os.cpu_count() or 1)

    def encode_batch(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        """The ids that `encode` gives for each text, as int32 arrays, made by `num_threads` threads.

        A list of ids is made by Python, one thread at a time, and takes eight times the memory; an array is not.
        Raises ValueError as `encode` does, before anything is encoded.

        >>> tokenizer.encode_batch(["a", "bc"], num_threads=2)
        [array([97], dtype=int32), array([98, 99], dtype=int32)]
        """
        for text in texts:
            check_text(text)
        if num_threads == 1:
            return [self._array(text) for text in texts]
        with ThreadPoolExecutor(num_threads) as threads:
            return list(threads.map(self._array, texts))

    def _array(self, text: str) -> np.ndarray:
        return self._encoding.encode_to_numpy(text, disallowed_special=()).view(np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens show as their names, broken UTF-8 as the replacement character."""
        return self._encoding.decode(list(ids), errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids, for tokens that end in the middle of a character."""
        return self._encoding.decode_bytes(list(ids))

    def special(self, name: str) -> int:
        """The id of a special token, by short or full name: `special("bos") == special("<|bos|>")`."""
        full = name if name.startswith("<|") else f"<|{name}|>"
        if full not in self.special_ids:
            known = ", ".join(s[2:-2] for s in SPECIAL_TOKENS)
            raise KeyError(f"No special token {name!r}. There are: {known}.")
        return self.special_ids[full]

    def num_bytes(self) -> list[int]:
        """Bytes of text behind each id (0 for special tokens), for a loss in bits per byte."""
        return [len(token) for token in self.token_bytes] + [0] * len(SPECIAL_TOKENS)

    def save(self, folder: str | Path) -> Path:
        """Write `tokenizer.json` into the folder and return its path."""
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": FILE_FORMAT,
            "pattern": self.pattern,
            "special_tokens": SPECIAL_TOKENS,
            "fingerprint": self.fingerprint,
            "token_bytes_base64": [base64.b64encode(token).decode() for token in self.token_bytes],
        }
        beside = path.with_suffix(".writing")
        beside.write_text(json.dumps(content, indent=0), encoding="utf-8")
        os.replace(beside, path)  # a reader sees the old file or the new one, never half of one
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read what `save` wrote. Raises FileNotFoundError or ValueError that say what to do."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"No tokenizer at {path}. Train one first: python -m nanolab tokenizer")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            known = content["format"] == FILE_FORMAT and tuple(content["special_tokens"]) == SPECIAL_TOKENS
            tokenizer = cls._of_file(content) if known else None
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error}). Delete it and train the tokenizer again.") from None
        if tokenizer is None:
            raise ValueError(f"{path} is not a tokenizer of this version of nanolab ({FILE_FORMAT}).")
        return tokenizer

    @classmethod
    def _of_file(cls, content: dict) -> "Tokenizer":
        """The tokenizer that a file's content describes; ValueError, KeyError or TypeError where it describes none."""
        pattern, tokens = content["pattern"], content["token_bytes_base64"]
        if not isinstance(pattern, str) or not isinstance(tokens, list):
            raise ValueError("the pattern is not text, or the tokens are not a list")
        token_bytes = [base64.b64decode(token, validate=True) for token in tokens]
        different = set(token_bytes)
        if len(different) < len(token_bytes) or not different >= {bytes([b]) for b in range(NUM_BYTES)}:
            raise ValueError("a token is there twice, or one of the 256 bytes is not among the tokens")
        tokenizer = cls(token_bytes, pattern)
        if content.get("fingerprint", tokenizer.fingerprint) != tokenizer.fingerprint:  # early files have none
            raise ValueError("the tokens are not those that were saved")
        return tokenizer


def limit_space(pattern: str) -> str:
    r"""A split pattern as tiktoken and rustbpe can run it: white space in runs of at most LONGEST_SPACE, see there.

    >>> limit_space(r"\s+(?!\S)|\s+")
    '\\s{1,500000}(?!\\S)|\\s+'
    """
    return pattern.replace(r"\s+(?!\S)", rf"\s{{1,{LONGEST_SPACE}}}(?!\S)")


def check_text(text: str) -> None:
    """Raise ValueError for a text that has no UTF-8: one with half of a surrogate pair.

    >>> check_text("a\\udc80")
    Traceback (most recent call last):
    ValueError: The text holds '\\udc80' at character 1: half of a surrogate pair, which no text has. Take it out.
    """
    if text.isascii():  # known without looking at the text
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"{text[error.start]!r} at character {error.start:,}"
        raise ValueError(f"The text holds {found}: half of a surrogate pair, which no text has. Take it out.") from None
