"""Step 4: a step's conversations become batches of inputs and targets.

    ids      bos  user  hi  end  asst  yo  stop
    mask      0    0    0    0    0    1    1

    inputs   bos  user  hi  end  asst  yo            every id but the last (nothing comes after it to be learned)
    targets   -1   -1   -1   -1   yo  stop           every id but the first, IGNORE_INDEX where its mask is 0

A step of the optimizer is a set of conversations: step s trains on conversations s*N ... (s+1)*N - 1 of the mixture,
N = target_examples_per_step. How they are laid out in batches changes speed and nothing else, because the loss is the
sum over supervised tokens divided by the number of supervised tokens of the whole step. The step number is also the
whole state of the data loader: `StepDataset[s]` is step s, whatever was read before.

There are three layouts, here of conversations a, b and c (a point is padding). layout.py plans them, this file makes
their tensors.

    padded    aaaaa    right-padded rows in order; causal attention never looks at padding, which comes last
              bb...
              ccc..

    bucketed  bb.  aaaaa      the same kind of rows, but with neighbours of about the same length
              ccc

    packed    aaaaabbccc      one flat row (1, T) of documents end to end, no padding between them
    borders   0    5 7  10    where documents begin and end: attention must not look across
    positions 0123401012      start again in each document
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from nanolab.layout import Plan, check_batching, imbalance, plan, share_out
from nanolab.render import render_conversation
from nanolab.tokenizer import Tokenizer

IGNORE_INDEX = -1  # the target of a position where nothing is learned; what cross_entropy's ignore_index is set to
OVERLONG = ("skip", "truncate", "error")  # what to do with a conversation of more than max_data_tokens tokens
ON_BAD_ROW = ("error", "skip")

SLOTS_A_BORDER = 8  # one border of a static table for so many slots; the SFT mixtures' conversations have 10 or more

Row = tuple[list[int], list[int]]  # (ids, mask) of one conversation


class Rows(Protocol):
    """What steps are made of: a task, a mixture of tasks, texts, or a list of them."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> Any:
        """One of them."""


@dataclass
class Batch:
    """What the model sees in one forward pass.

    inputs: (B, T) ids. targets: (B, T) ids or IGNORE_INDEX. real_tokens: how many input slots hold a conversation's
    token, not padding. borders: None for padded rows; for one flat row (1, T) of documents the (documents + 1,) int32
    slots where they begin and end, from 0 to T. Empty documents at the end are allowed, they give the table a fixed
    size. num_tokens: supervised tokens, the positions with a target; counted when the batch is made, because counting
    on an accelerator would wait for it.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    real_tokens: int
    borders: torch.Tensor | None = None
    num_tokens: int | None = None

    def __post_init__(self):
        if self.num_tokens is None:
            self.num_tokens = int((self.targets != IGNORE_INDEX).sum())

    @property
    def slots(self) -> int:
        """Positions computed, padding included: B * T."""
        return self.inputs.numel()

    @property
    def positions(self) -> torch.Tensor:
        """(1, T): each slot's place in its row or, in a flat row, in its document."""
        width = self.inputs.size(1)
        if self.borders is None:
            return torch.arange(width, device=self.inputs.device)[None]
        return positions_in_documents(self.borders, width)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device; from pinned memory to CUDA without waiting for the copy."""
        no_wait = torch.device(device).type == "cuda"  # the other way round the numbers might be read too early
        return self._each(lambda tensor: tensor.to(device, non_blocking=no_wait))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; what DataLoader(pin_memory=True) calls."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change) -> "Batch":
        borders = None if self.borders is None else change(self.borders)
        return replace(self, inputs=change(self.inputs), targets=change(self.targets), borders=borders)


@dataclass(frozen=True)
class Totals:
    """What a whole step has, over all ranks: every rank knows it, from the plan."""

    num_tokens: int  # supervised tokens: the denominator of the step's loss
    real_tokens: int
    slots: int
    micro_batches: int
    imbalance: float = 1.0  # real tokens of the rank that has most, over the mean


@dataclass
class Step:
    """One optimizer step's batches, and what was left out of it and why; with several ranks, this rank's batches."""

    batches: list[Batch]
    num_conversations: int = 0  # of the whole step
    left_out: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)  # where its conversations are from, for messages; [] for streams
    of_all_ranks: Totals | None = None  # None: there is one rank
    pairs: int = 0  # of a position and one that it may look at, in the whole step: the size of attention's work
    place: tuple[int, int] | None = None  # of a stream: where to start for the next step, see StreamDataset.start_at

    @property
    def totals(self) -> Totals:
        """Counts of the whole step, over all ranks; those of `slots`, `real_tokens`, `num_tokens` are this rank's."""
        if self.of_all_ranks is not None:
            return self.of_all_ranks
        return Totals(self.num_tokens, self.real_tokens, self.slots, len(self.batches))

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
        """Supervised tokens."""
        return sum(batch.num_tokens for batch in self.batches)

    def pin_memory(self) -> "Step":
        """The same step in page-locked memory; what DataLoader(pin_memory=True) calls."""
        return replace(self, batches=[batch.pin_memory() for batch in self.batches])


def shift(ids: Sequence[int], mask: Sequence[int]) -> tuple[list[int], list[int]]:
    """Inputs and targets of one conversation, both one shorter than its ids.

    >>> shift([3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1])
    ([3, 4, 1, 5, 6, 2], [-1, -1, -1, -1, 2, 7])
    """
    targets = [token if bit else IGNORE_INDEX for token, bit in zip(ids[1:], mask[1:], strict=True)]
    return list(ids[:-1]), targets


def positions_in_documents(borders: torch.Tensor, width: int) -> torch.Tensor:
    """(1, width) positions of a flat row's slots, each counted from the beginning of its document.

    >>> positions_in_documents(torch.tensor([0, 2, 5, 5], dtype=torch.int32), 5).tolist()
    [[0, 1, 0, 1, 2]]
    """
    slots = torch.arange(width, device=borders.device, dtype=borders.dtype)  # (T,)
    document = torch.searchsorted(borders, slots, right=True) - 1  # (T,) the last one that begins here or before
    return (slots - borders[document]).long()[None]


def pad_batch(rows: Sequence[Row], pad_id: int, height: int | None = None, width: int | None = None) -> Batch:
    """Lay rows below each other, right-padded: one Batch of shape (height, width).

    Default: no rows but the given ones, and as wide as the longest of them, longest - 1. Padding needs no attention
    mask: it comes last, attention is causal, so no real token sees it, and its targets are IGNORE_INDEX, so nothing is
    learned from it. Raises ValueError if the rows do not fit into (height, width).

    >>> pad_batch([([3, 1, 7], [0, 1, 1]), ([3, 7], [0, 1])], pad_id=7).targets.tolist()
    [[1, 7], [7, -1]]
    """
    pairs = [shift(ids, mask) for ids, mask in rows]
    longest = max(len(inputs) for inputs, _ in pairs)
    height, width = height or len(pairs), width or longest
    if height < len(pairs) or width < longest:
        raise ValueError(f"{len(pairs)} rows of up to {longest} slots do not fit into a batch of ({height}, {width}).")
    pairs += [([], [])] * (height - len(pairs))
    inputs = chain.from_iterable(row + [pad_id] * (width - len(row)) for row, _ in pairs)
    targets = chain.from_iterable(row + [IGNORE_INDEX] * (width - len(row)) for _, row in pairs)
    shape = (height, width)
    return Batch(_tensor(inputs).view(shape), _tensor(targets).view(shape), sum(len(row) for row, _ in pairs))


def pack_batch(rows: Sequence[Row], pad_id: int, size: int | None = None, table_size: int | None = None) -> Batch:
    """Lay rows end to end, as the documents of one flat row: a Batch of shape (1, size) with borders.

    Default: exactly as many slots as the rows have, and a table of documents + 1 borders. Further slots are padding, a
    document of its own without targets; further borders are empty documents. So borders[-1] is always T, and positions
    and attention need no special case. Raises ValueError if the rows do not fit into `size` or `table_size`.

    >>> batch = pack_batch([([3, 1, 7], [0, 1, 1]), ([3, 7], [0, 1])], pad_id=7, size=4)
    >>> batch.inputs.tolist(), batch.targets.tolist(), batch.borders.tolist()
    ([[3, 1, 3, 7]], [[1, 7, 7, -1]], [0, 2, 3, 4])
    """
    pairs = [shift(ids, mask) for ids, mask in rows]
    real_tokens = sum(len(inputs) for inputs, _ in pairs)
    size = size or real_tokens
    if size < real_tokens:
        raise ValueError(f"{len(pairs)} documents of {real_tokens} slots together do not fit into a row of {size}.")
    pairs.append(([pad_id] * (size - real_tokens), [IGNORE_INDEX] * (size - real_tokens)))
    borders = [0, *accumulate(len(inputs) for inputs, _ in pairs if inputs)]
    table_size = table_size or len(borders)
    if table_size < len(borders):
        raise ValueError(f"{len(pairs)} documents have {len(borders)} borders, more than table_size {table_size}.")
    borders += [size] * (table_size - len(borders))
    inputs, targets = (_tensor(chain.from_iterable(side))[None] for side in zip(*pairs, strict=True))  # (1, T)
    return Batch(inputs, targets, real_tokens, torch.tensor(borders, dtype=torch.int32))


def border_table_size(size: int, documents: int, most_documents: int | None = None) -> int:
    """Borders in the table of a static flat row of `size` slots: the same for all rows of a size and a data set.

    One for 8 slots, but no more than `most_documents` (the conversations of a step: on CUDA every empty document costs
    attention as many blocks of threads as a full one), and 2 for the beginning and the padding. Only a row of
    `documents` too short for that gets a table twice as large (or 4 times, ...), which costs a compiled model one more
    shape instead of stopping the run.

    >>> border_table_size(2048, 20), border_table_size(2048, 20, most_documents=32), border_table_size(2048, 400)
    (258, 34, 516)
    """
    table_size = min(size // SLOTS_A_BORDER, most_documents or size) + 2
    while table_size < documents + 2:
        table_size *= 2
    return table_size


def _tensor(numbers: Iterator[int]) -> torch.Tensor:
    return torch.from_numpy(np.fromiter(numbers, dtype=np.int64))  # torch.tensor takes four times as long on a list


def lay_out(
    rows: Sequence[Row],
    batching: str = "padded",
    *,
    pad_id: int,
    device_batch_size: int = 4,
    device_batch_tokens: int = 2048,
    static_shapes: bool = False,
    most_documents: int | None = None,
) -> list[Batch]:
    """A step's conversations as micro-batches that give the same gradient, whatever the layout.

    The arguments are those of `layout.plan`, which see; `pad_id` fills padding. `most_documents`: conversations that a
    step can have, for static packed rows (border_table_size).

    >>> rows = [([1] * 9, [1] * 9)] * 3
    >>> [tuple(b.inputs.shape) for b in lay_out(rows, pad_id=0, device_batch_size=2)]
    [(2, 8), (1, 8)]
    >>> lay_out(rows, "packed", pad_id=0)[0].borders.tolist()
    [0, 8, 16, 24]
    """
    laid = plan(
        [len(ids) - 1 for ids, _ in rows],
        batching,
        device_batch_size=device_batch_size,
        device_batch_tokens=device_batch_tokens,
        static_shapes=static_shapes,
    )
    return batches_of(laid, rows, pad_id, most_documents)


def batches_of(laid: Plan, rows: Sequence[Row], pad_id: int, most_documents: int | None = None) -> list[Batch]:
    """The tensors of a plan: one Batch a micro-batch, `rows` being the conversations that were planned.

    `most_documents`: that any step can have, see border_table_size.
    """
    batches = []
    for micro_batch in laid.micro_batches:
        chosen = [rows[i] for i in micro_batch.rows]
        height, width = micro_batch.shape
        if laid.batching == "packed":
            table_size = border_table_size(width, len(chosen), most_documents) if laid.static_shapes else None
            batches.append(pack_batch(chosen, pad_id, width, table_size))
        else:
            batches.append(pad_batch(chosen, pad_id, height, width))
    return batches


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


def check_on_bad_row(on_bad_row: str) -> None:
    """Raise ValueError unless it is a known policy for rows that cannot be read."""
    if on_bad_row not in ON_BAD_ROW:
        raise ValueError(f"Unknown on_bad_row {on_bad_row!r}. There are: {', '.join(ON_BAD_ROW)}.")


class StepDataset(Dataset):
    """Item s is optimizer step s: `num_examples` conversations of the mixture, rendered and laid out.

    Conversations are taken in order, around the end of the mixture into the next epoch. Fewer of them remain where
    `max_data_tokens` skips some, or `on_bad_row="skip"` those that cannot be rendered ("error" raises what is wrong
    with the first); which were skipped or cut, and why, is in `Step.left_out`.

    `batching` and what stands after it are the arguments of `layout.plan`. With several ranks the conversations are
    dealt by length, every rank gets its own batches and the counts of the whole step; one to whom none falls gets a
    batch without targets.

    >>> steps = StepDataset(mixture, tokenizer, num_examples=32, batching="packed")      # doctest: +SKIP
    >>> print(steps.plan(7))      # what step 7 will look like      # doctest: +SKIP
    packed: 4 micro-batches, 32 conversations, ...
    >>> steps[7].num_conversations      # doctest: +SKIP
    32
    """

    def __init__(
        self,
        mixture: Rows,
        tokenizer: Tokenizer,
        num_examples: int,
        device_batch_size: int = 4,
        max_data_tokens: int | None = None,
        overlong: str = "skip",
        batching: str = "padded",
        *,
        device_batch_tokens: int = 2048,
        static_shapes: bool = False,
        on_bad_row: str = "error",
        rank: int = 0,
        world_size: int = 1,
    ):
        if len(mixture) == 0:
            raise ValueError("The mixture has no conversations: there is nothing to train on.")
        if overlong not in OVERLONG:
            raise ValueError(f"Unknown overlong {overlong!r}. There are: {', '.join(OVERLONG)}.")
        check_on_bad_row(on_bad_row)
        check_batching(batching, device_batch_size, device_batch_tokens)
        self.on_bad_row = on_bad_row
        self.mixture, self.tokenizer, self.num_examples = mixture, tokenizer, num_examples
        self.max_data_tokens, self.overlong = max_data_tokens, overlong
        self.batching, self.device_batch_size = batching, device_batch_size
        self.device_batch_tokens, self.static_shapes = device_batch_tokens, static_shapes
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        """Steps in one epoch; asking for later ones goes on into the next epoch."""
        return len(self.mixture) // self.num_examples

    def __getitem__(self, step: int) -> Step:
        rows, left_out, names = self._rows(step)
        shares = [[rows[i] for i in share] for share in self._shares(rows)]
        plans = [self._plan_of(share) for share in shares]
        batches = self._batches_of(plans[self.rank], shares[self.rank])
        pairs = sum(len(ids) * (len(ids) - 1) // 2 for ids, _ in rows)
        if self.world_size == 1:
            return Step(batches, len(rows), left_out, names, pairs=pairs)
        return Step(batches or self._filler(), len(rows), left_out, names, _totals(plans, rows), pairs)

    def plan(self, step: int) -> Plan:
        """How step `step` is laid out, without its tensors; the conversations are rendered, for their lengths."""
        rows = self._rows(step)[0]
        return self._plan_of([rows[i] for i in self._shares(rows)[self.rank]])

    def _shares(self, rows: list[Row]) -> list[list[int]]:
        """Which of the step's conversations each rank takes."""
        return share_out([len(ids) - 1 for ids, _ in rows], self.world_size)

    def _filler(self) -> list[Batch]:
        """What a rank without a conversation computes, so that the others need not wait for it: nothing to learn."""
        row = ([self.tokenizer.special("assistant_end")] * 2, [0, 0])
        return [replace(batch, real_tokens=0) for batch in self._batches_of(self._plan_of([row]), [row])]

    def longest(self) -> int:
        """Input slots of the longest conversation: `max_data_tokens` - 1 if there is a limit, else all are rendered."""
        if self.max_data_tokens not in (None, -1):
            return self.max_data_tokens - 1
        epoch = range(-(-len(self.mixture) // self.num_examples))
        return max((len(ids) - 1 for k in epoch for ids, _ in self._rows(k)[0]), default=1)

    def longest_of(self, step: int) -> int:
        """Input slots of the longest conversation of one step."""
        return max((len(ids) - 1 for ids, _ in self._rows(step)[0]), default=1)

    def _plan_of(self, rows: list[Row]) -> Plan:
        return plan(
            [len(ids) - 1 for ids, _ in rows],
            self.batching,
            device_batch_size=self.device_batch_size,
            device_batch_tokens=self.device_batch_tokens,
            static_shapes=self.static_shapes,
        )

    def _batches_of(self, laid: Plan, rows: list[Row]) -> list[Batch]:
        return batches_of(laid, rows, self.tokenizer.special("assistant_end"), self.num_examples)

    def _rows(self, step: int) -> tuple[list[Row], list[str], list[str]]:
        """The step's conversations, rendered, what was skipped or cut and why, and where the others are from."""
        if step < 0:
            raise IndexError(f"Steps count from 0, got {step}.")
        rows, left_out, names = [], [], []
        for k in range(step * self.num_examples, (step + 1) * self.num_examples):
            try:
                conversation = self.mixture[k % len(self.mixture)]
                row = render_conversation(conversation, self.tokenizer)
            except ValueError as error:
                if self.on_bad_row == "error":
                    raise
                left_out.append(f"{error} Skipped.")
                continue
            where = conversation.get("where", f"conversation {k}")
            kept = fit(row, self.max_data_tokens, self.overlong, where)
            if kept is not row:
                done = "skipped" if kept is None else "cut"
                left_out.append(f"{where}: {done}, {len(row[0])} tokens are more than {self.max_data_tokens}")
            if kept is not None:
                rows.append(kept)
                names.append(where)
        return rows, left_out, names


def _totals(plans: list[Plan], rows: list[Row]) -> Totals:
    """Counts of a step from every rank's plan."""
    return Totals(
        num_tokens=sum(sum(mask[1:]) for _, mask in rows),
        real_tokens=sum(plan.real_tokens for plan in plans),
        slots=sum(plan.slots for plan in plans),
        micro_batches=sum(len(plan.micro_batches) for plan in plans),
        imbalance=imbalance([plan.real_tokens for plan in plans]),
    )


def sft_data_generator(
    dataset: Rows, tokenizer: Tokenizer, batch_size: int, device: str = "cpu", max_data_tokens: int | None = None
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
