"""What several benchmarks need."""

from nanolab.render import conversation_segments
from nanolab.tokenizer import Tokenizer

TOKENIZER_SIZE = 8_192  # for realistic lengths of rows; training one of 65,536 would take longer than the benchmark


def train_small_tokenizer(mixture) -> Tokenizer:
    """A tokenizer of the size that the data gives, enough for realistic lengths."""
    count = min(len(mixture), 5_000)
    texts = (s.text for i in range(count) for s in conversation_segments(mixture[i]) if not s.is_special)
    return Tokenizer.train(texts, TOKENIZER_SIZE)
