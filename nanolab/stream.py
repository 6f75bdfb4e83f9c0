"""Step 4 for base and mid training: documents end to end in one stream of tokens, without masks and without padding.

documents   bos a a a   bos b   bos c c c c ...
rows        bos a a a bos | b bos c c c | ...        max_seq_len tokens each, wherever documents end
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from nanolab.batch import Batch, Rows, Step, Totals, check_on_bad_row
from nanolab.tokenizer import Tokenizer

DOCUMENTS_TOGETHER = 64  # are encoded at once where `encode` can: enough for threads, little to wait for
NO_DOCUMENTS = "There are no documents: there is nothing to train on."


class Shards(Protocol):
    """Documents whose number is not known before the last one is reached, as `tasks.text.TextShards` has them."""

    def stretch(self, index: int, /) -> range:
        """Numbers of documents that are at hand, from `index` or, if there is none, the next one; empty at the end."""

    def __getitem__(self, index: int, /) -> Any:
        """One of them, by such a number."""


@dataclass(frozen=True)
class TextIds:
    """How a stream takes plain text: <|bos|> and the ids of `row["text"]`; `batch` encodes rows in threads.

    >>> TextIds(tokenizer)({"text": "a"}), TextIds(tokenizer, num_threads=2).batch([{"text": "b"}])
    ([256, 97], [array([256,  98], dtype=int32)])
    """

    tokenizer: Tokenizer
    num_threads: int = 1

    def __call__(self, row: dict) -> list[int]:
        return [self.tokenizer.special("bos"), *self.tokenizer.encode(row["text"])]

    def batch(self, rows: Sequence[dict]) -> list[np.ndarray]:
        """The same of several rows, as int32 arrays."""
        bos = np.array([self.tokenizer.special("bos")], np.int32)
        encoded = self.tokenizer.encode_batch([row["text"] for row in rows], self.num_threads)
        return [np.concatenate([bos, ids]) for ids in encoded]


class _Document(NamedTuple):
    """A document in the stream."""

    index: int  # its number among the documents
    first: int  # the place of its first token in the stream
    ids: np.ndarray  # int32: a token is 4 bytes, in a list it would be 8 and more
    problem: str  # why it could not be read, and has no ids

    def passed(self, start: int) -> bool:
        """Whether no step that begins with token `start` or later has anything to do with it."""
        return self.first < start and self.stop <= start

    @property
    def stop(self) -> int:
        """The place behind its last token."""
        return self.first + len(self.ids)


class StreamDataset(Dataset):
    """Base and mid training: documents end to end in one stream of tokens, cut into rows of `max_seq_len`.

    Item s is step s: tokens s*total_batch_size ... (s+1)*total_batch_size of the stream (and one more, as the last
    target), as micro-batches of `device_batch_size` rows without any padding; every token is a target. `documents` has
    len and [], or it is `Shards`; `encode(document)` gives its ids, and `encode.batch(documents)`, if there is one,
    those of several at once, as TextIds does. Documents are encoded shortly before they are needed and the stream
    starts over when they end. Tokens already passed are dropped; going back encodes from the start again, or from
    `start_at`.

    Where a step lies among the documents is known only to who has encoded all before it. So a Step says where the next
    one begins (`place`), which a checkpoint keeps, to go on without encoding what has passed. For the same reason one
    worker process of a DataLoader is best: of two, each gives every second step and encodes every document. Threads in
    `encode.batch` are what makes a stream faster.

    Of several ranks each takes every `world_size`-th micro-batch of the same stream, which it encodes by itself.

    `on_bad_row`: what to do with documents whose `encode` raises ValueError: "error", or "skip", and then the step that
    met them says so in `left_out`.
    """

    def __init__(
        self,
        documents: Rows | Shards,
        encode: Callable[[Any], list[int]],
        max_seq_len: int,
        device_batch_size: int,
        total_batch_size: int,
        on_bad_row: str = "error",
        rank: int = 0,
        world_size: int = 1,
    ):
        check_on_bad_row(on_bad_row)
        self.on_bad_row = on_bad_row
        self.rank, self.world_size = rank, world_size
        if world_size > 1 and total_batch_size % (device_batch_size * max_seq_len * world_size):
            raise ValueError(
                f"total_batch_size {total_batch_size:,} cannot be shared by {world_size} ranks in micro-batches of "
                f"device_batch_size * max_seq_len = {device_batch_size} * {max_seq_len} tokens: it must be a multiple "
                f"of {device_batch_size * max_seq_len * world_size:,}."
            )
        if not hasattr(documents, "stretch") and len(documents) == 0:
            raise ValueError(NO_DOCUMENTS)
        self.documents, self.encode = documents, encode
        self.max_seq_len, self.device_batch_size, self.total_batch_size = (
            max_seq_len,
            device_batch_size,
            total_batch_size,
        )
        self._together = DOCUMENTS_TOGETHER if hasattr(encode, "batch") else 1
        self._origin = (0, 0)
        self._restart(self._origin)

    def start_at(self, document: int, position: int) -> None:
        """Begin with this document, whose first token is token `position` of the stream: `place` of an earlier Step.

        The steps behind that one are then what they would have been; those before it still begin at the beginning.

        >>> again.start_at(*stream[6].place)      # doctest: +SKIP
        >>> again[7]      # stream[7], and no document before it is read      # doctest: +SKIP
        """
        self._origin = (document, position)

    def _restart(self, place: tuple[int, int]):
        self._held: deque[_Document] = deque()
        self._next, self._end = place  # the next document to be encoded, and the tokens of the stream until there
        self._begin = self._end  # tokens before it are gone
        self._new_epoch()

    def _new_epoch(self):
        self._whole = self._next == 0  # whether this is the epoch from its beginning
        self._met, self._filled, self._first_problem = 0, 0, ""  # its documents, those with ids, what is wrong with one

    def count_tokens(self) -> int:
        """Tokens in one epoch; encodes every document."""
        index = total = 0
        while found := self._encoded_from(index):
            index, total = found[-1][0] + 1, total + sum(len(ids) for _, ids, _ in found)
        return total

    def _encoded_from(self, index: int) -> list[tuple[int, Sequence[int], str]]:
        """Number, ids and problem of some documents from `index` on; [] behind the last one.

        An error is raised for the first of them only: that of a later one waits until it is the first.
        """
        together = self._stretch(index)[: self._together]
        if len(together) > 1:
            with suppress(ValueError):  # one of them is bad: the loop below finds out which
                rows = [self.documents[i] for i in together]
                return [(i, ids, "") for i, ids in zip(together, self.encode.batch(rows), strict=True)]
        found = []
        for i in together:
            try:
                found.append((i, *self._encoded(i)))
            except ValueError:
                if not found:
                    raise
                break
        return found

    def _stretch(self, index: int) -> range:
        if hasattr(self.documents, "stretch"):
            return self.documents.stretch(index)
        return range(index, len(self.documents))

    def _encoded(self, index: int) -> tuple[list[int], str]:
        """The ids of a document; no ids, and why, of one that cannot be read, if that is allowed."""
        try:
            return self.encode(self.documents[index]), ""
        except ValueError as error:
            if self.on_bad_row == "error":
                raise
            return [], f"{error} Skipped."

    def tokens(self, start: int, stop: int) -> list[int]:
        """Tokens start ... stop-1 of the endless stream."""
        return self._span(start, stop).tolist()

    def _span(self, start: int, stop: int) -> np.ndarray:
        origin = self._origin if self._origin[1] <= start else (0, 0)
        torn = self._held and self._held[-1].stop != self._end  # an interrupt came while documents were added
        if torn or start < self._begin or self._end < origin[1]:
            self._restart(origin)
        self._drop(start)
        while self._end < stop:
            self._read_on()
            self._drop(start)
        parts = [held.ids[max(0, start - held.first) : max(0, stop - held.first)] for held in self._held]
        return np.concatenate([np.zeros(0, np.int32), *parts])

    def _drop(self, start: int):
        """Let go of the documents that lie before token `start`."""
        self._begin = start
        while self._held and self._held[0].passed(start):
            self._held.popleft()

    def _read_on(self):
        """Encode the next documents, or begin again behind the last one."""
        found = self._encoded_from(self._next)
        for index, ids, problem in found:
            self._held.append(_Document(index, self._end, np.asarray(ids, dtype=np.int32), problem))
            self._next, self._end = index + 1, self._end + len(ids)
            self._met, self._filled = self._met + 1, self._filled + (len(ids) > 0)
            self._first_problem = self._first_problem or problem
        if not found:
            if self._whole and not self._filled:
                raise ValueError(self._nothing_there())
            self._next = 0
            self._new_epoch()

    def _nothing_there(self) -> str:
        if not self._met:
            return NO_DOCUMENTS
        if self._first_problem:
            return f"None of the {self._met:,} documents can be read, the first: {self._first_problem}"
        return f"All of the {self._met:,} documents are empty: there is nothing to train on."

    def __getitem__(self, step: int) -> Step:
        start = step * self.total_batch_size
        stop = start + self.total_batch_size
        flat = torch.from_numpy(self._span(start, stop + 1).astype(np.int64))
        inputs = flat[:-1].view(-1, self.max_seq_len)
        targets = flat[1:].view(-1, self.max_seq_len)
        size = self.device_batch_size
        bad = [held.problem for held in self._held if held.problem and start <= held.first < stop]
        following = next(held for held in self._held if not held.passed(stop))
        place = (following.index, following.first)
        micro_batches = zip(inputs.split(size), targets.split(size), strict=True)
        batches = [Batch(x, y, real_tokens=x.numel()) for x, y in micro_batches]
        pairs = len(inputs) * self.max_seq_len * (self.max_seq_len + 1) // 2
        if self.world_size == 1:
            return Step(batches, left_out=bad, pairs=pairs, place=place)
        totals = Totals(flat.numel() - 1, flat.numel() - 1, flat.numel() - 1, len(batches))
        mine = batches[self.rank :: self.world_size]
        return Step(mine, left_out=bad, of_all_ranks=totals, pairs=pairs, place=place)
