"""The tokenizer that base training needs."""

from collections.abc import Iterator
from pathlib import Path

from nanolab.jobs.job import Say
from nanolab.paths import cache_dir, shown
from nanolab.settings import REAL_VOCAB_SIZE, TOY_VOCAB_SIZE, TokenizerConfig
from nanolab.tasks import load_text
from nanolab.tasks.words import load_words
from nanolab.tokenizer import Tokenizer


def train_tokenizer(config: TokenizerConfig, say: Say = print) -> Tokenizer:
    """Train a tokenizer on the plain text of the data source, and save it under `<cache>/tokenizer`."""
    vocab_size = config.vocab_size
    if vocab_size == -1:
        vocab_size = TOY_VOCAB_SIZE if config.data == "toy" else REAL_VOCAB_SIZE
    tokenizer = Tokenizer.train(_tokenizer_texts(config), vocab_size)
    if tokenizer.vocab_size < vocab_size:
        say(f"The text is too small for {vocab_size:,} tokens: the vocabulary has {tokenizer.vocab_size:,}.")
    path = tokenizer.save(tokenizer_dir())
    say(f"Saved a tokenizer of {tokenizer.vocab_size:,} tokens ({tokenizer.fingerprint}) as {shown(path)}")
    return tokenizer


def tokenizer_dir() -> Path:
    """Where base training looks for its tokenizer."""
    return cache_dir() / "tokenizer"


def _tokenizer_texts(config: TokenizerConfig) -> Iterator[str]:
    """Plain text, then single words, up to the settings' limits.

    No conversations, as in nanochat: a tokenizer that has seen "- blue=B" a thousand times makes one token of "=B", and
    then the letter in the question is not the token that the reply must be.
    """
    num_chars = 0
    for row in load_text("train", config.data, num_shards=-1, ahead=False):
        if num_chars >= config.max_chars:
            break
        num_chars += len(row["text"])
        yield row["text"]
    words = load_words("train", config.data)
    yield from (f" {word}" for word in words[: config.max_words])
