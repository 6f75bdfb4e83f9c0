"""Fixtures: small tokenizers made on the spot, a tiny model, a cache folder of its own. No network, no GPU."""

import os

import pytest
import regex
import torch
from hypothesis import settings

from nanolab.gpt import GPT, GPTConfig
from nanolab.tokenizer import NUM_BYTES, SPLIT_PATTERN, Tokenizer

torch.set_num_threads(1)  # the models are tiny: threads would wait for each other more than they would work
os.environ.setdefault("OMP_NUM_THREADS", "1")  # and so for the processes that tests start

settings.register_profile("nanolab", deadline=None)  # a busy machine is slow, and nothing is wrong
settings.load_profile("nanolab")

# Files that take minutes, so that `make test` does not end with one of them alone (it asks xdist for this order).
LONGEST_FIRST = ("notebooks", "ranks", "resume", "launch", "jobs", "memory", "fuzz", "damaged_data", "trackers")
LONGEST_FIRST += ("browser", "full_run", "sandbox", "wheel", "compiled")

BYTES = [bytes([b]) for b in range(NUM_BYTES)]


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """Whole files in another order; their tests stay in theirs."""
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """One token a byte, so ids are ASCII codes that can be read by eye; <|bos|> is 256."""
    return Tokenizer(BYTES)


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """A trained vocabulary of 320 tokens."""
    texts = [f"the cat number {n} sat on the mat and said hello to the dog.\nWhy not?" for n in range(50)]
    return Tokenizer.train(texts, vocab_size=320)


@pytest.fixture(scope="session")
def word_tokenizer():
    """A function from texts to a tokenizer in which every word of them is one token: for masks one can read."""

    def make(*texts: str) -> Tokenizer:
        words = {piece.encode() for text in texts for piece in regex.findall(SPLIT_PATTERN, text)}
        return Tokenizer(BYTES + sorted(word for word in words if len(word) > 1))

    return make


@pytest.fixture
def tiny_model(small_tokenizer) -> GPT:
    """A random model of 2 layers whose head is not zero, so that its logits differ."""
    return random_model(small_tokenizer.vocab_size)


def random_model(vocab_size: int, depth: int = 2, seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    model = GPT(GPTConfig.from_depth(depth, vocab_size, sequence_len=64))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "lm_head.weight" or name.endswith("c_proj.weight"):
                weight.normal_(std=0.05)
    return model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Every test writes to a cache folder of its own, and uses the built-in rows."""
    monkeypatch.setenv("NANOLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NANOLAB_DATA", raising=False)
    return tmp_path / "cache"
