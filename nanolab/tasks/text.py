"""Plain text for base training and for the tokenizer."""

from nanolab.tasks.base import check_one_of
from nanolab.tasks.rows import load_rows

SPLITS = ("train", "validation")


def load_text(split="train", data=None):
    """Return a `datasets.Dataset` with a column "text", shuffled with seed 42; split is train or validation.

    On the hub this is one shard each of karpathy/fineweb-edu-100b-shuffle, nanochat's base text.

        >>> load_text("validation", data="toy").column_names
        ['text', 'source', 'title']
    """
    check_one_of("text split", split, SPLITS)
    return load_rows("pretrain_text", None, split, data)
