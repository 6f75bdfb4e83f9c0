"""How a step's conversations are shared out over micro-batches: arithmetic on lengths, before there are tensors.

    four conversations a b c d of 5 2 3 6 tokens, device_batch_size 2, device_batch_tokens 8 (a point is padding)

    padded    aaaaa  ccc...     in order, device_batch_size rows, as wide as the longest     2 micro-batches, 22 slots
              bb...  dddddd
    bucketed  dddddd  aaaaa  bb.     sorted, rows x width <= device_batch_tokens             3 micro-batches, 17 slots
                             ccc
    packed    ddddddbb  aaaaaccc     end to end in flat rows of device_batch_tokens          2 micro-batches, 16 slots

A plan is a value: print it, plot it, compare two of them, before a step is trained. The gradient is the same whatever
the plan (see batch.py), so the plan is a question of speed and memory only.

Static shapes are for compiled models, which want few shapes: widths are halves of device_batch_tokens, and doubles of
it up to the longest conversation. `possible_shapes` lists them before training.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

BATCHINGS = ("padded", "bucketed", "packed")
SMALLEST_SHARE = 8  # the shortest static packed row is device_batch_tokens / 8
NARROWEST = 128  # slots; static padded rows are not halved further, since most conversations are longer
PRINTED_SHAPES = 12  # a printed plan shows no more shapes than that


@dataclass(frozen=True)
class MicroBatch:
    """The conversations that one forward pass computes together, and the shape (B, T) of the pass."""

    rows: tuple[int, ...]  # which conversations: indices into the lengths that were planned
    shape: tuple[int, int]
    real_tokens: int  # slots that hold a conversation's token

    @property
    def slots(self) -> int:
        """Positions computed, padding included: B * T."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Plan:
    """A step's micro-batches. `print(plan)` shows its shapes and what they waste."""

    batching: str
    micro_batches: tuple[MicroBatch, ...]
    static_shapes: bool = False

    @property
    def num_rows(self) -> int:
        """Conversations in the plan; those with nothing to feed are not in it."""
        return sum(len(micro_batch.rows) for micro_batch in self.micro_batches)

    @property
    def slots(self) -> int:
        """Positions computed in the step, padding included."""
        return sum(micro_batch.slots for micro_batch in self.micro_batches)

    @property
    def real_tokens(self) -> int:
        """Slots that hold a conversation's token."""
        return sum(micro_batch.real_tokens for micro_batch in self.micro_batches)

    @property
    def padding(self) -> float:
        """Share of the slots that hold padding, 0 ... 1; 0 where there are no slots."""
        return 1 - self.real_tokens / self.slots if self.slots else 0.0

    @property
    def shapes(self) -> Counter:
        """How many micro-batches have each shape (B, T)."""
        return Counter(micro_batch.shape for micro_batch in self.micro_batches)

    def __str__(self) -> str:
        lines = [
            f"{self.batching}: {len(self.micro_batches):,} micro-batches, {self.num_rows:,} conversations, "
            f"{self.real_tokens:,} real tokens in {self.slots:,} slots, {self.padding:.1%} padding"
        ]
        shapes = sorted(self.shapes, key=lambda shape: (-shape[1], shape[0]))
        if shapes:
            lines.append(f"{'B x T':>12}{'micro-batches':>15}{'conversations':>15}{'padding':>9}")
        lines.extend(self._line(shape) for shape in shapes[:PRINTED_SHAPES])
        if len(shapes) > PRINTED_SHAPES:
            lines.append(f"{'...':>12} {len(shapes) - PRINTED_SHAPES} more shapes")
        return "\n".join(lines)

    def _line(self, shape: tuple[int, int]) -> str:
        part = Plan(self.batching, tuple(m for m in self.micro_batches if m.shape == shape))
        size = f"{shape[0]} x {shape[1]:,}"
        return f"{size:>12}{len(part.micro_batches):>15,}{part.num_rows:>15,}{part.padding:>9.1%}"


def plan(
    lengths: Sequence[int],
    batching: str = "padded",
    *,
    device_batch_size: int = 4,
    device_batch_tokens: int = 2048,
    static_shapes: bool = False,
) -> Plan:
    """Share conversations out over micro-batches; the same lengths always give the same plan.

    Args:
        lengths: input slots of each conversation, len(ids) - 1. One with no slot (nothing to feed) is left out.
        batching: "padded", "bucketed" or "packed", see the top of this file.
        device_batch_size: rows of a "padded" micro-batch.
        device_batch_tokens: most slots of a "bucketed" or "packed" micro-batch, unless one conversation alone has more.
        static_shapes: take only the shapes of `possible_shapes`; what is missing is filled with padding.

    Raises ValueError for an unknown batching, or sizes below 1.

    >>> [m.rows for m in plan([5, 2, 3, 6], "packed", device_batch_tokens=8).micro_batches]
    [(3, 1), (0, 2)]
    """
    check_batching(batching, device_batch_size, device_batch_tokens)
    indices = [i for i, length in enumerate(lengths) if length > 0]
    budget, sizes = device_batch_tokens, static_sizes(batching, device_batch_tokens, max(lengths, default=0))
    if batching == "padded":
        groups = [indices[i : i + device_batch_size] for i in range(0, len(indices), device_batch_size)]
    elif batching == "bucketed":
        groups = _full(lengths, indices, budget, sizes) if static_shapes else _fewest_slots(lengths, indices, budget)
    else:
        groups = _of_sizes(lengths, indices, budget, sizes) if static_shapes else best_fit(lengths, indices, budget)

    micro_batches = []
    for group in groups:
        of_group = [lengths[i] for i in group]
        height, width = (1, sum(of_group)) if batching == "packed" else (len(group), max(of_group))
        if static_shapes:
            width = round_up(width, sizes)
            height = static_rows(batching, width, device_batch_size, device_batch_tokens)
        micro_batches.append(MicroBatch(tuple(group), (height, width), sum(of_group)))
    return Plan(batching, tuple(micro_batches), static_shapes)


def share_out(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Deal conversations to ranks so that all have about as many tokens: rank -> its indices, in their order.

    The longest first, each to the rank that has least so far (Graham, Bounds on multiprocessing timing anomalies, 1969:
    never more than a third over the best there is). One rank takes all as they come.

    >>> share_out([5, 2, 3, 6], world_size=2)
    [[1, 3], [0, 2]]
    """
    if world_size < 1:
        raise ValueError(f"world_size must be 1 or more, got {world_size}.")
    shares, totals = [[] for _ in range(world_size)], [(0, rank) for rank in range(world_size)]  # a heap
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        total, rank = heappop(totals)
        shares[rank].append(i)
        heappush(totals, (total + lengths[i], rank))
    return [sorted(share) for share in shares]


def imbalance(tokens: Sequence[int]) -> float:
    """How much longer ranks wait than they would with equal shares: most tokens of a rank over the mean; 1 is even.

    >>> imbalance([8, 8, 12, 4])
    1.5
    """
    return max(tokens) * len(tokens) / sum(tokens) if sum(tokens) else 1.0


def check_batching(batching: str, device_batch_size: int = 4, device_batch_tokens: int = 2048) -> None:
    """Raise ValueError if these are not settings of a plan.

    >>> check_batching("sorted")
    Traceback (most recent call last):
    ValueError: Unknown batching 'sorted'. There are: 'padded', 'bucketed', 'packed'.
    """
    if batching not in BATCHINGS:
        raise ValueError(f"Unknown batching {batching!r}. There are: {', '.join(map(repr, BATCHINGS))}.")
    if device_batch_size < 1:
        raise ValueError(f"device_batch_size must be 1 or more, got {device_batch_size}.")
    if device_batch_tokens < 1:
        raise ValueError(f"device_batch_tokens must be 1 or more, got {device_batch_tokens}.")


def static_sizes(batching: str, device_batch_tokens: int, longest: int = 0) -> list[int]:
    """The widths T of static shapes: halves of device_batch_tokens, and doubles of it until `longest` fits.

    Packed rows go down to an eighth. Sixteenths would leave 1.6 % padding instead of 2.3 % (SFT mixture, 32
    conversations a step, 2,048 slots), but with one more shape, and 5.0 micro-batches a step instead of 4.5. Other
    rows go down to 128 slots or a little less.

    >>> static_sizes("packed", 1024, longest=3000)
    [128, 256, 512, 1024, 2048, 4096]
    """
    smallest = device_batch_tokens // SMALLEST_SHARE if batching == "packed" else NARROWEST
    sizes = [device_batch_tokens]
    while sizes[0] > max(1, smallest):
        sizes.insert(0, sizes[0] // 2)
    while sizes[-1] < longest:
        sizes.append(2 * sizes[-1])
    return sizes


def static_rows(batching: str, width: int, device_batch_size: int = 4, device_batch_tokens: int = 2048) -> int:
    """The rows B of the static shape of this width: the budget's share, or what the layout prescribes.

    >>> static_rows("bucketed", 256, device_batch_tokens=1024)
    4
    """
    rows = {"padded": device_batch_size, "bucketed": max(1, device_batch_tokens // width), "packed": 1}
    return rows[batching]


def possible_shapes(
    batching: str, device_batch_tokens: int, longest: int, device_batch_size: int = 4
) -> list[tuple[int, int]]:
    """Every shape (B, T) that a plan with static shapes can have if no conversation has more than `longest` slots.

    >>> possible_shapes("bucketed", 1024, longest=2000)
    [(8, 128), (4, 256), (2, 512), (1, 1024), (1, 2048)]
    """
    check_batching(batching, device_batch_size, device_batch_tokens)
    sizes = static_sizes(batching, device_batch_tokens, longest)
    if batching != "packed":
        sizes = sizes[: bisect_left(sizes, longest) + 1]  # wider ones hold no conversation
    return [(static_rows(batching, size, device_batch_size, device_batch_tokens), size) for size in sizes]


def round_up(size: int, sizes: Sequence[int]) -> int:
    """The smallest of the sorted `sizes` that holds `size`.

    >>> round_up(130, [128, 256, 512])
    256
    """
    return sizes[bisect_left(sizes, size)]


def best_fit(lengths: Sequence[int], indices: list[int], budget: int, room: Sequence[int] = ()) -> list[list[int]]:
    """Best-fit decreasing: each document, longest first, into the bin with the least room that still holds it.

    `room` is the free slots of bins to start with; these come first in the result, and may stay empty. A document that
    no bin holds opens one of `budget` slots, or, if it is longer, one of its own length. O(n log n) comparisons.

    >>> best_fit([5, 2, 3, 6], [0, 1, 2, 3], budget=8)
    [[3, 1], [0, 2]]
    """
    bins = [[] for _ in room]
    free_bins = sorted((free, k) for k, free in enumerate(room))
    for i in sorted(indices, key=lambda i: (-lengths[i], i)):
        place = bisect_left(free_bins, (lengths[i], 0))
        if place < len(free_bins):
            free, k = free_bins.pop(place)
        else:
            free, k = max(budget, lengths[i]), len(bins)
            bins.append([])
        bins[k].append(i)
        if free > lengths[i]:
            insort(free_bins, (free - lengths[i], k))
    return bins


def _of_sizes(lengths: Sequence[int], indices: list[int], budget: int, sizes: list[int]) -> list[list[int]]:
    """Groups of documents for static flat rows, in few slots.

    A document over the budget gets a row of the size it is rounded up to, and what it leaves free is there for the
    others: it would be computed anyway. These go into whole budgets or, from the start, into as many slots as they
    need, rounded up to parts of a budget; the better of the two is taken. (Always parts: 2.5 % padding; always whole:
    4.8 %; the better: 2.3 %. SFT mixture, 32 conversations a step, 2,048 slots.)
    """
    longer = [i for i in indices if lengths[i] > budget]
    others = [i for i in indices if lengths[i] <= budget]
    left = [round_up(lengths[i], sizes) - lengths[i] for i in longer]
    needed = sum(lengths[i] for i in others) - sum(left)

    def groups(room: list[int]) -> list[list[int]]:
        bins = best_fit(lengths, others, budget, room)
        filled = [[longer[k], *group] if k < len(longer) else group for k, group in enumerate(bins)]
        return _join_halves(lengths, [group for group in filled if group], budget, sizes)

    def slots(groups: list[list[int]]) -> int:
        return sum(round_up(sum(lengths[i] for i in group), sizes) for group in groups)

    return min(groups(left + _parts(needed, budget, sizes)), groups(left), key=lambda found: (slots(found), len(found)))


def _parts(needed: int, budget: int, sizes: list[int]) -> list[int]:
    """Static sizes up to the budget that sum to `needed` slots or little more: from large to small."""
    parts, chosen = sizes[: bisect_right(sizes, budget)], []
    while needed > 0:
        chosen.append(parts[max(0, bisect_right(parts, needed) - 1)])
        needed -= chosen[-1]
    return chosen


def _join_halves(lengths: Sequence[int], groups: list[list[int]], budget: int, sizes: list[int]) -> list[list[int]]:
    """Two rows of the same part of a budget become one of twice the size: as many slots in fewer micro-batches."""
    whole, parts = [], {}  # parts: size -> the one group that has it
    for group in groups:
        size = round_up(sum(lengths[i] for i in group), sizes)
        while size in parts:
            group = parts.pop(size) + group
            size = round_up(sum(lengths[i] for i in group), sizes)
        if 2 * size <= budget:
            parts[size] = group
        else:
            whole.append(group)
    return whole + list(parts.values())


def _fewest_slots(lengths: Sequence[int], indices: list[int], budget: int) -> list[list[int]]:
    """Groups of neighbours in length under the budget: the fewest groups there can be and, of those, the fewest slots.

    The best division of the first j conversations, by length, is a last group i ... j - 1 after the best division of
    the first i. Filling rows greedily gives as many groups, but wastes 7.0 % instead of 6.1 % of the slots (SFT
    mixture, 32 conversations a step, 1,024 slots).
    """
    order = sorted(indices, key=lambda i: (lengths[i], i))
    groups, slots, starts = [0], [0], []  # of the best division of the first 0, 1, 2, ... conversations
    for j, i in enumerate(order, 1):
        earliest = max(0, j - max(1, budget // lengths[i]))
        latest = min(j, bisect_right(groups, groups[earliest]))  # beyond it there would be one group more

        def cost(start: int, end: int = j, width: int = lengths[i]) -> int:
            return slots[start] + (end - start) * width

        starts.append(min(range(earliest, latest), key=cost))
        groups.append(groups[earliest] + 1)
        slots.append(cost(starts[-1]))
    ends = [len(order)]
    while ends[-1] > 0:
        ends.append(starts[ends[-1] - 1])
    return [order[start:end] for end, start in zip(ends, ends[1:], strict=False)]  # widest first


def _full(lengths: Sequence[int], indices: list[int], budget: int, sizes: list[int]) -> list[list[int]]:
    """Groups that fill static shapes: the longest conversation sets the width, the next longest fill its rows."""
    order = sorted(indices, key=lambda i: (-lengths[i], i))
    groups, start = [], 0
    while start < len(order):
        rows = static_rows("bucketed", round_up(lengths[order[start]], sizes), device_batch_tokens=budget)
        groups.append(order[start : start + rows])
        start += rows
    return groups
