"""Step 4: a step's conversations become batches of inputs and targets.

    ids      bos  user  hi  end  asst  yo  stop
    mask      0    0    0    0    0    1    1

    inputs   bos  user  hi  end  asst  yo            every id but the last (nothing comes after it to be learned)
    targets   -1   -1   -1   -1   yo  stop           every id but the first, IGNORE_INDEX where its mask is 0

A step of the optimizer is a set of conversations: step s trains on conversations s*N ... (s+1)*N - 1 of the mixture,
N = target_examples_per_step. How they are laid out in batches changes speed and nothing else, because the loss is the
sum over supervised tokens divided by the number of supervised tokens of the whole step. The step number is also the
whole state of the data loader: `StepDataset[s]` is step s, whatever was read before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.utils.data import Dataset

from nanolab.render import render_conversation
from nanolab.tokenizer import Tokenizer

IGNORE_INDEX = -1  # the target of a position where nothing is learned; what cross_entropy's ignore_index is set to
OVERLONG = ("skip", "truncate", "error")  # what to do with a conversation of more than max_data_tokens tokens

Row = tuple[list[int], list[int]]  # (ids, mask) of one conversation


@dataclass
class Batch:
    """What the model sees in one forward pass.

    inputs: (B, T) ids. targets: (B, T) ids or IGNORE_INDEX. real_tokens: how many input slots hold a conversation's
    token, not padding.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    real_tokens: int

    @property
    def slots(self) -> int:
        """Positions computed, padding included: B * T."""
        return self.inputs.numel()

    @property
    def num_tokens(self) -> int:
        """Supervised tokens: positions with a target ("active" tokens)."""
        return int((self.targets != IGNORE_INDEX).sum())

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(self.inputs.to(device), self.targets.to(device), self.real_tokens)


@dataclass
class Step:
    """One optimizer step's batches, and what was left out of it and why."""

    batches: list[Batch]
    num_conversations: int = 0
    left_out: list[str] = field(default_factory=list)

    @property
    def slots(self) -> int:
        """Positions computed in the step, padding included."""
        return sum(batch.slots for batch in self.batches)

    @property
    def real_tokens(self) -> int:
        """Slots that hold a conversation's token."""
        return sum(batch.real_tokens for batch in self.batches)

    @property
    def num_tokens(self) -> int:
        """Supervised tokens: the denominator of the step's loss."""
        return sum(batch.num_tokens for batch in self.batches)


def shift(ids: Sequence[int], mask: Sequence[int]) -> tuple[list[int], list[int]]:
    """Inputs and targets of one conversation, both one shorter than its ids.

    >>> shift([3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1])
    ([3, 4, 1, 5, 6, 2], [-1, -1, -1, -1, 2, 7])
    """
    targets = [token if bit else IGNORE_INDEX for token, bit in zip(ids[1:], mask[1:], strict=True)]
    return list(ids[:-1]), targets


def pad_batch(rows: Sequence[Row], pad_id: int) -> Batch:
    """Lay rows below each other, right-padded to the longest: one Batch of shape (len(rows), longest - 1).

    Padding needs no attention mask: it comes last, attention is causal, so no real token sees it, and its targets are
    IGNORE_INDEX, so nothing is learned from it.

    >>> pad_batch([([3, 1, 7], [0, 1, 1]), ([3, 7], [0, 1])], pad_id=7).targets.tolist()
    [[1, 7], [7, -1]]
    """
    width = max(len(ids) for ids, _ in rows) - 1
    inputs = torch.full((len(rows), width), pad_id, dtype=torch.long)
    targets = torch.full((len(rows), width), IGNORE_INDEX, dtype=torch.long)
    for i, (ids, mask) in enumerate(rows):
        row_inputs, row_targets = shift(ids, mask)
        inputs[i, : len(row_inputs)] = torch.tensor(row_inputs, dtype=torch.long)
        targets[i, : len(row_targets)] = torch.tensor(row_targets, dtype=torch.long)
    return Batch(inputs, targets, real_tokens=sum(len(ids) - 1 for ids, _ in rows))


def lay_out(rows: Sequence[Row], batching: str = "padded", *, pad_id: int, device_batch_size: int = 4) -> list[Batch]:
    """A step's conversations as micro-batches that give the same gradient, whatever the layout.

    "padded": in order, `device_batch_size` rows at a time, each micro-batch as wide as its longest row.

    >>> [tuple(b.inputs.shape) for b in lay_out([([1] * 9, [1] * 9)] * 3, pad_id=0, device_batch_size=2)]
    [(2, 8), (1, 8)]
    """
    if batching != "padded":
        raise ValueError(f"Unknown batching {batching!r}. There is: 'padded'.")
    groups = (rows[i : i + device_batch_size] for i in range(0, len(rows), device_batch_size))
    return [pad_batch(group, pad_id) for group in groups]


def fit(row: Row, max_data_tokens: int | None, overlong: str, where: str = "a conversation") -> Row | None:
    """Apply the policy for over-long conversations before batching: the row, a cut row, or None (skipped).

    `max_data_tokens` None or -1 means no limit. Raises ValueError, naming `where`, for overlong="error".
    """
    ids, mask = row
    if max_data_tokens in (None, -1) or len(ids) <= max_data_tokens:
        return row
    if overlong == "skip":
        return None
    if overlong == "truncate":
        return ids[:max_data_tokens], mask[:max_data_tokens]
    if overlong == "error":
        raise ValueError(f"{where}: {len(ids)} tokens are more than max_data_tokens {max_data_tokens}.")
    raise ValueError(f"Unknown overlong {overlong!r}. There are: {', '.join(OVERLONG)}.")


class StepDataset(Dataset):
    """Item s is optimizer step s: `num_examples` conversations of the mixture, rendered and laid out.

    Conversations are taken in order, around the end of the mixture into the next epoch. Fewer of them remain where
    `max_data_tokens` skips some; which were skipped or cut, and why, is in `Step.left_out`.

    >>> StepDataset(mixture, tokenizer, num_examples=32)[7].num_conversations      # doctest: +SKIP
    32
    """

    def __init__(
        self,
        mixture,
        tokenizer: Tokenizer,
        num_examples: int,
        device_batch_size: int = 4,
        max_data_tokens: int | None = None,
        overlong: str = "skip",
        batching: str = "padded",
    ):
        if len(mixture) == 0:
            raise ValueError("The mixture has no conversations: there is nothing to train on.")
        if overlong not in OVERLONG:
            raise ValueError(f"Unknown overlong {overlong!r}. There are: {', '.join(OVERLONG)}.")
        self.mixture, self.tokenizer = mixture, tokenizer
        self.num_examples, self.device_batch_size = num_examples, device_batch_size
        self.max_data_tokens, self.overlong, self.batching = max_data_tokens, overlong, batching

    def __len__(self) -> int:
        """Steps in one epoch; asking for later ones goes on into the next epoch."""
        return len(self.mixture) // self.num_examples

    def __getitem__(self, step: int) -> Step:
        if step < 0:
            raise IndexError(f"Steps count from 0, got {step}.")
        rows, left_out = [], []
        for k in range(step * self.num_examples, (step + 1) * self.num_examples):
            conversation = self.mixture[k % len(self.mixture)]
            row = render_conversation(conversation, self.tokenizer)
            where = conversation.get("where", f"conversation {k}")
            kept = fit(row, self.max_data_tokens, self.overlong, where)
            if kept is not row:
                done = "skipped" if kept is None else "cut"
                left_out.append(f"{where}: {done}, {len(row[0])} tokens are more than {self.max_data_tokens}")
            if kept is not None:
                rows.append(kept)
        pad_id = self.tokenizer.special("assistant_end")
        batches = lay_out(rows, self.batching, pad_id=pad_id, device_batch_size=self.device_batch_size)
        return Step(batches, len(rows), left_out)


def sft_data_generator(
    dataset, tokenizer: Tokenizer, batch_size: int, device: str = "cpu", max_data_tokens: int | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The seed's generator: endless (inputs, targets) of `batch_size` conversations in order, over and over.

    Both are (batch_size, longest - 1) on `device`. Conversations over `max_data_tokens` (None or -1: no limit) are
    passed over. Raises ValueError, instead of searching for ever, when a whole epoch holds nothing that fits.
    Source: karpathy/nanochat, scripts/chat_sft.py (November 2025).

    >>> inputs, targets = next(sft_data_generator(sft_mixture(), tokenizer, batch_size=2))   # doctest: +SKIP
    """
    pad_id = tokenizer.special("assistant_end")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}.")
    batch = []
    while True:
        fitting = 0
        for index in range(len(dataset)):
            row = fit(render_conversation(dataset[index], tokenizer), max_data_tokens, "skip")
            if row is None:
                continue
            fitting += 1
            batch.append(row)
            if len(batch) == batch_size:
                laid = pad_batch(batch, pad_id).to(device)
                yield laid.inputs, laid.targets
                batch = []
        if fitting == 0:
            raise ValueError(
                f"None of the {len(dataset)} conversations fits into max_data_tokens={max_data_tokens}: "
                "there is nothing to yield. Raise the limit or pass None."
            )


class StreamDataset(Dataset):
    """Base and mid training: documents end to end in one stream of tokens, cut into rows of `max_seq_len`.

    Item s is step s: tokens s*total_batch_size ... (s+1)*total_batch_size of the stream (and one more, as the last
    target), as micro-batches of `device_batch_size` rows without any padding; every token is a target. `documents` has
    len and []; `encode(document)` gives its ids. Documents are encoded when they are first needed and the stream starts
    over when they end. Tokens already passed are dropped; going back encodes from the start again.
    """

    def __init__(self, documents, encode, max_seq_len: int, device_batch_size: int, total_batch_size: int):
        if len(documents) == 0:
            raise ValueError("There are no documents: there is nothing to train on.")
        self.documents, self.encode = documents, encode
        self.max_seq_len, self.device_batch_size, self.total_batch_size = (
            max_seq_len,
            device_batch_size,
            total_batch_size,
        )
        self._restart()

    def _restart(self):
        self._buffer, self._first, self._next_document = [], 0, 0

    def count_tokens(self) -> int:
        """Tokens in one epoch; encodes every document."""
        return sum(len(self.encode(self.documents[i])) for i in range(len(self.documents)))

    def tokens(self, start: int, stop: int) -> list[int]:
        """Tokens start ... stop-1 of the endless stream."""
        if start < self._first:
            self._restart()
        while self._first + len(self._buffer) < stop:
            self._buffer.extend(self.encode(self.documents[self._next_document % len(self.documents)]))
            self._next_document += 1
            passed = min(start - self._first, len(self._buffer))
            if passed > 0 and self._next_document % 64 == 0:  # now and then, since dropping copies the list
                self._buffer, self._first = self._buffer[passed:], self._first + passed
        return self._buffer[start - self._first : stop - self._first]

    def __getitem__(self, step: int) -> Step:
        start = step * self.total_batch_size
        flat = torch.tensor(self.tokens(start, start + self.total_batch_size + 1), dtype=torch.long)
        inputs = flat[:-1].view(-1, self.max_seq_len)
        targets = flat[1:].view(-1, self.max_seq_len)
        size = self.device_batch_size
        pairs = zip(inputs.split(size), targets.split(size), strict=True)
        return Step([Batch(x, y, real_tokens=x.numel()) for x, y in pairs])
