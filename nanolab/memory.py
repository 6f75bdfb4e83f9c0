"""Beside the line: how much memory a training step takes, before it runs, and how much it took.

    sizes = RunSizes("packed", longest=1200, device_batch_tokens=4096)     # the run's largest micro-batches
    estimate = estimate_memory(config, sizes.loads())                      # arithmetic: no tensor is made
    print(estimate)                                                        # about ... MiB at the peak, ...
    print(memory_warning(config, sizes, available_bytes(device)))          # empty, or what to make smaller
    measured = PeakMemory(device)                                          # before the model is made
    ...                                                                    # make the model, train
    measured.peak_bytes()                                                  # what came of it

A step holds different things at different moments, so its peak is the largest of three moments, not the sum of all:

    "end of forward"        what the blocks keep for backward, and a chunk of logits with the head's gradient
    "start of backward"     the same blocks, and the gradients that the last block's MLP passes on; the chunk is gone
    "optimizer step"        no activations any more; all gradients, and Muon's copies of one shape of matrices

Weights and optimizer states are there at all of them, gradients of all weights from the second micro-batch on. (At the
end of backward, when the embedding's gradient is made, there is never more than at one of these.)

Where ranks share the weights (sharded.py) each has its part of weights, gradients and states, and besides, from the
beginning of forward to the end of backward, all of embedding and head, and of two blocks: one at work, the next on its
way. And there is a fourth moment:

    "end of backward"       gradients of all of embedding and head, and the copy of them that is sent to the other ranks

(On a processor the heap's gaps can then be as large as all the rest: see HEAP_TENSOR, and benchmarks/RESULTS.md.)

C, H, V, B, T are as everywhere (n_embd, n_head, vocab_size, rows, slots a row); S = B * T slots, N supervised ones, K
the channels of keys. Counted are training steps without torch.compile; compiled blocks keep less. Not counted: rows of
data, evaluations, and the moment of saving. Measured with torch 2.13 on Linux; what MPS holds is
reasoned, not measured.
"""

import platform
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import psutil
import torch

from nanolab.batch import Batch
from nanolab.gpt import GPTConfig
from nanolab.layout import check_batching
from nanolab.loss import CHUNK_LOGITS, LANES, TILE, in_few_sizes
from nanolab.runtime import DTYPES, KEEPS_GRAPHS

try:
    import resource
except ImportError:  # Windows has none, and is asked through psutil
    resource = None

MiB = 2**20
CPU = torch.device("cpu")
FLOAT = 4  # bytes of a float32
ID = 8  # bytes of an id: inputs and targets are int64
STREAM = "stream"  # rows cut from a stream of tokens (base, mid), besides the layouts of layout.py
NAIVE_COPIES = 2  # arrays (S, V) that plain logits keep for backward: tanh's output and log_softmax's

# What a process on CPU holds that is no tensor. Both were measured (benchmarks/memory.py prints what comes of them).
LIBRARIES = 16 * MiB  # torch's own code and tables, which are only read from disk by the first step
# glibc maps each large tensor by itself and gives it back at once, but takes "large" to be anything over the largest
# one given back so far, up to 32 MiB. Smaller ones share a heap, whose gaps stay: a third of what they hold, at times
# four fifths, for the same step. With MALLOC_MMAP_THRESHOLD_=65536 in the environment there are no gaps, the rest
# agrees within 6 %, and steps take twice as long. (macOS and Windows have other allocators; there it is a guess.)
HEAP_TENSOR = 32 * MiB  # glibc: DEFAULT_MMAP_THRESHOLD_MAX of 64-bit systems
HEAP_GAPS = 1 / 2

END_OF_FORWARD, START_OF_BACKWARD, OPTIMIZER_STEP = "end of forward", "start of backward", "optimizer step"
END_OF_BACKWARD = "end of backward"  # counted only where ranks share the weights
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux only
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # what a container may use
# File names of limit and use, and the line of memory.stat that counts cached files, for both versions of cgroups.
CGROUP_V2 = ("memory.max", "memory.current", "inactive_file")
CGROUP_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


# What a peak is, by device, where it cannot be reset.
UNRESET = {
    "cpu": "The peak is that of the whole process since it began: this system cannot reset it.",
    "mps": "The peak is what Metal has given to torch so far: MPS counts no peak of tensors.",
}


class Load(NamedTuple):
    """What the memory of one micro-batch depends on."""

    B: int
    T: int
    supervised: int  # positions with a target

    @classmethod
    def of(cls, batch: Batch) -> "Load":
        """The load of a batch that is there."""
        return cls(*batch.inputs.shape, batch.num_tokens)

    @property
    def slots(self) -> int:
        """Positions computed: B * T."""
        return self.B * self.T


@dataclass(frozen=True)
class RunSizes:
    """The settings that decide how large a run's micro-batches can get.

    Raises ValueError for an unknown batching, or sizes below 1.

    >>> RunSizes("packed", longest=1200, device_batch_tokens=4096).loads()[0]
    Load(B=1, T=4096, supervised=4096)
    """

    batching: str  # "padded", "bucketed", "packed" as in layout.py; "stream" for base and mid training
    longest: int  # input slots of the longest conversation; max_seq_len of a stream
    device_batch_size: int = 4
    device_batch_tokens: int = 2048
    supervised_share: float = 1.0  # of the slots; all is the most there can be, and right for a stream

    def __post_init__(self) -> None:
        batching = "padded" if self.batching == STREAM else self.batching
        check_batching(batching, self.device_batch_size, self.device_batch_tokens)
        if self.longest < 1 or not 0 <= self.supervised_share <= 1:
            found = f"got {self.longest} and {self.supervised_share}"
            raise ValueError(f"longest must be 1 or more and supervised_share 0 ... 1, {found}.")

    @property
    def setting(self) -> str:
        """The name of the setting that makes micro-batches smaller."""
        return "device_batch_tokens" if self.batching in ("packed", "bucketed") else "device_batch_size"

    def loads(self) -> list[Load]:
        """The largest micro-batches there can be, two of them: gradients are there when the second comes."""
        if self.setting == "device_batch_tokens":  # the budget, or one conversation that has more
            B, T = 1, max(self.device_batch_tokens, self.longest)
        else:
            B, T = self.device_batch_size, self.longest
        return [Load(B, T, round(B * T * self.supervised_share))] * 2


@dataclass(frozen=True, repr=False)
class MemoryEstimate:
    """What a step holds, in bytes by part, at each of its moments; `parts` and `total` are those of the peak."""

    moments: dict[str, dict[str, int]]
    naive_logits_bytes: int  # what plain logits of all slots would keep for backward, for comparison

    @property
    def moment(self) -> str:
        """The name of the moment that holds most."""
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each part at the peak."""
        return self.moments[self.moment]

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {in_mib(size)}" for name, size in self.parts.items() if size >= MiB)
        return f"about {in_mib(self.total)} MiB at the peak, {self.moment} ({parts})"

    __repr__ = __str__  # what a notebook shows where there is no HTML

    def table(self) -> pd.DataFrame:
        """MiB of each part (rows) at each moment (columns); without the parts that are next to nothing in all."""
        sizes = pd.DataFrame(self.moments).fillna(0).div(MiB).round(1)
        return sizes[sizes.gt(0).any(axis=1)]

    def _repr_html_(self) -> str:
        return f"<p>{self}</p>{self.table().to_html()}"


def in_mib(size: float) -> str:
    """Bytes as MiB for people: one digit behind the point only where it matters.

    >>> in_mib(1536 * MiB), in_mib(1.5 * MiB)
    ('1,536', '1.5')
    """
    return f"{size / MiB:,.0f}" if size >= 10 * MiB else f"{size / MiB:.1f}"


def estimate_memory(
    config: GPTConfig, loads: Sequence[Load], *, dtype: str = "float32", device_type: str = "cpu", shards: int = 1
) -> MemoryEstimate:
    """What a training step on these micro-batches, in their order, takes at its peak.

    The measure is bytes above what the process held before the model was made, from the second step on, when the
    optimizers have their states. On CUDA it is bytes of tensors, as torch.cuda.max_memory_allocated counts them.

    Args:
        loads: of a step's batches (`Load.of`), or the largest of a run (`RunSizes.loads`).
        dtype: of the matrix products, "float32" or "bfloat16"; weights are float32.
        shards: how many ranks share the weights (`shard_weights`); the estimate is of one of them.

    Raises ValueError for no loads, or an unknown dtype.

    >>> config = GPTConfig.from_depth(4, 65_536)
    >>> estimate = estimate_memory(config, [Load(1, 2048, 1024)])
    >>> estimate.moment, in_mib(estimate.parts["weights"])
    ('end of forward', '140')
    """
    if not loads:
        raise ValueError("No micro-batch, nothing to estimate: loads is empty.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    how = _How(DTYPES[dtype].itemsize, device_type)
    weights, head = parts_of(weight_sizes(config), shards), [FLOAT * config.vocab_size * config.n_embd]
    always = {"weights": weights, "optimizer states": parts_of(state_sizes(config), shards)}
    always["batches"] = [2 * ID * load.slots for load in loads]
    gradients = {
        END_OF_FORWARD: [[], weights],  # before the first micro-batch's backward, and from the second on
        START_OF_BACKWARD: [head, weights + (head if shards > 1 else [])],  # the head's is there at once
    }
    found = {OPTIMIZER_STEP: [{**always, "gradients": weights, "Muon": muon_sizes(config, how, shards)}]}
    if shards > 1:
        found[END_OF_BACKWARD] = [{**always, "gradients": weights, "gathered": 4 * head}]
    for number, load in enumerate(loads):
        kept = {**always, "activations": kept_sizes(config, load, how)}
        if shards > 1:
            kept["gathered"] = gathered_sizes(config)
        there = {name: choice[min(number, 1)] for name, choice in gradients.items()}
        forward = {**kept, "gradients": there[END_OF_FORWARD], "head": head_sizes(config, load, how)}
        backward = {**kept, "gradients": there[START_OF_BACKWARD], "backward": backward_sizes(config, load, how)}
        found.setdefault(END_OF_FORWARD, []).append(forward)
        found.setdefault(START_OF_BACKWARD, []).append(backward)
    moments = {
        name: max((_summed(sizes, device_type) for sizes in found[name]), key=lambda parts: sum(parts.values()))
        for name in (END_OF_FORWARD, START_OF_BACKWARD, END_OF_BACKWARD, OPTIMIZER_STEP)
        if name in found
    }
    return MemoryEstimate(moments, naive_logits_bytes(config, loads))


def naive_logits_bytes(config: GPTConfig, loads: Sequence[Load]) -> int:
    """What `loss.plain_cross_entropy` would keep for backward: float32 logits of all slots, twice.

    >>> naive_logits_bytes(GPTConfig.from_depth(4, 65_536), [Load(1, 2048, 1024)]) // MiB
    1024
    """
    return max(NAIVE_COPIES * FLOAT * load.slots * config.vocab_size for load in loads)


class _How(NamedTuple):
    product: int  # bytes of a number in matrix products
    device_type: str

    @property
    def casts(self) -> bool:
        """Whether autocast makes copies in another dtype for the products."""
        return self.product != FLOAT


def _summed(sizes: dict[str, list[int]], device_type: str) -> dict[str, int]:
    """Bytes of each part, given those of each of its tensors; on CPU, what the process holds besides."""
    parts = {name: sum(each) for name, each in sizes.items()}
    if device_type == "cpu":
        parts["heap's gaps"] = sum(_gaps(size) for each in sizes.values() for size in each)
        parts["libraries"] = LIBRARIES
    return parts


def _gaps(size: int) -> int:
    """What a tensor adds to the heap's gaps; fades out above HEAP_TENSOR, so that a larger one never counts as less."""
    return int(min(HEAP_GAPS * size, max(0, (1 + HEAP_GAPS) * HEAP_TENSOR - size)))


def matrix_shapes(config: GPTConfig) -> dict[tuple[int, int], int]:
    """How many of the blocks' matrices have each shape.

    >>> matrix_shapes(GPTConfig.from_depth(4, 1024))
    {(256, 256): 16, (1024, 256): 4, (256, 1024): 4}
    """
    C, K = config.n_embd, _key_channels(config)
    found = {}
    for shape in [(C, C)] * 2 + [(K, C)] * 2 + [(4 * C, C), (C, 4 * C)]:  # c_q, c_proj; c_k, c_v; c_fc, c_proj
        found[shape] = found.get(shape, 0) + config.n_layer
    return found


def _key_channels(config: GPTConfig) -> int:
    return config.n_kv_head * (config.n_embd // config.n_head)


def _matrix_sizes(config: GPTConfig) -> list[int]:
    return [FLOAT * m * n for (m, n), count in matrix_shapes(config).items() for _ in range(count)]


def weight_sizes(config: GPTConfig) -> list[int]:
    """Bytes of every weight; of its gradient, too."""
    return [FLOAT * config.vocab_size * config.n_embd] * 2 + _matrix_sizes(config)


def state_sizes(config: GPTConfig) -> list[int]:
    """Bytes of every optimizer state: AdamW has two for embedding and head, Muon one for each matrix."""
    return [FLOAT * config.vocab_size * config.n_embd] * 4 + _matrix_sizes(config)


def parts_of(sizes: Sequence[int], shards: int) -> list[int]:
    """Bytes that the first of so many ranks has of tensors of these sizes; the last may have less.

    >>> parts_of([100, 9], shards=2)
    [50, 5]
    """
    return [-(-size // shards) for size in sizes]


def gathered_sizes(config: GPTConfig) -> list[int]:
    """Bytes of the weights that a rank of several shards gathers for a pass: embedding, head and two blocks."""
    return weight_sizes(config)[:2] + 2 * _matrix_sizes(replace(config, n_layer=1))


def kept_sizes(config: GPTConfig, load: Load, how: _How) -> list[int]:
    """Bytes of every tensor that embedding and blocks keep for backward; ids and head are counted elsewhere."""
    C, S = config.n_embd, load.slots
    ends = [FLOAT * S * C, FLOAT * S] * 2  # inputs of the first norm and the last, and each position's scale
    rotary = [FLOAT * load.T * C // config.n_head // 2] * 2  # cosines and sines: one table for all rows and blocks
    supervised = [S]  # which positions have a target, a byte each
    return ends + rotary + supervised + config.n_layer * _kept_by_block(config, load, how)


def _kept_by_block(config: GPTConfig, load: Load, how: _How) -> list[int]:
    """Bytes of every tensor that one block keeps: 16 C + 3 K numbers a slot, and some of one a head.

    Norms work in float32 whatever the products' dtype. In another dtype, every product keeps its input as a copy of its
    own (the three of query, key and value, too) and a copy of its matrix.
    """
    C, K, H, S = config.n_embd, _key_channels(config), config.n_head, load.slots
    scales = [FLOAT * S] * 2 + [FLOAT * S * H, FLOAT * S * config.n_kv_head]  # 1 / root mean square, of four norms
    norms = [FLOAT * S * width for width in (C, C, K, C)]  # their inputs: stream, query, key, stream
    attention = [how.product * S * width for width in (C, K, K)]  # query, key, value
    mixed = [how.product * S * C, FLOAT * S * H]  # the output, and each row's log of summed exponentials
    if how.device_type == "mps":  # no fused attention with a backward: the (H, T, T) shares stay instead
        mixed = [how.product * S * H * load.T]
    inputs = [how.product * S * width for width in (C, C)]  # of the output's product, and of the MLP's first
    inputs += [how.product * S * C] * (3 if how.casts else 1)  # of query, key and value
    mlp = [how.product * S * 4 * C] * 2  # after relu, and after the square
    copies = [how.product * m * n for (m, n), k in matrix_shapes(config).items() for _ in range(k // config.n_layer)]
    return scales + norms + attention + mixed + inputs + mlp + (copies if how.casts else [])


def head_sizes(config: GPTConfig, load: Load, how: _How) -> list[int]:
    """Bytes of every tensor of `loss.supervised_cross_entropy` while it works on its largest chunk.

    The chunk is as long as any of up to N positions can be, so that more positions never count as less memory: at most
    CHUNK_LOGITS numbers, and LANES - 1 positions more for rounding.
    """
    C, V, N = config.n_embd, config.vocab_size, load.supervised
    if how.device_type in KEEPS_GRAPHS:
        N = min(in_few_sizes(N), load.slots)
    width = min(TILE.get(how.device_type, V), V)  # entries of the vocabulary at a time
    slopes = min(N * V, CHUNK_LOGITS + (LANES - 1) * V)  # n * V
    n = -(-slopes // V)
    sizes = [FLOAT * load.slots * C] + [FLOAT * N * C] * 2  # hidden; selected and its gradient
    sizes += [FLOAT * V * C, FLOAT * slopes]  # the head's gradient
    tile, spare = [FLOAT * width * n, how.product * n * C], [FLOAT * n * C] * 3  # making slopes, using them
    if how.casts:
        copies = [how.product * width * C, how.product * width * n]  # a tile of the head, a product
        following = [how.product * width * C] if width < V else []  # the next tile is made while the last is there
        tile, spare = tile + copies, spare + copies + following
    return sizes + max(tile, spare, key=sum)


def backward_sizes(config: GPTConfig, load: Load, how: _How) -> list[int]:
    """Bytes of what the last block's backward holds while the square passes its gradient on: 12 C numbers a slot.

    That is the gradient that comes (which takes the place of the square), and its product with each of the factors. The
    stream's own gradient takes the place of what the last norm kept. On MPS it can be attention's shares instead.
    """
    C, S = config.n_embd, load.slots
    mlp = [how.product * S * 4 * C] * 3 + [FLOAT * 4 * C * C]  # and the gradient of the MLP's last matrix
    shares = [how.product * S * config.n_head * load.T] * 3
    return max(mlp, shares, key=sum) if how.device_type == "mps" else mlp


def muon_sizes(config: GPTConfig, how: _How, shards: int = 1) -> list[int]:
    """Bytes of what `optim.Muon` holds while it moves the shape of matrices that takes most.

    Two copies in float32 (ahead, and stacked) and, in the products' dtype, the iteration's matrices, what becomes of
    them, and their (K, m, m) products, m being the smaller side. AdamW works in place. Of several shards each does its
    share of the matrices, and holds besides what it sends and what it gets.
    """
    groups = []
    for (m, n), count in matrix_shapes(config).items():
        mine = -(-count // shards)
        matrices, gram = mine * m * n, mine * min(m, n) ** 2
        ahead = parts_of([FLOAT * m * n] * count, shards)
        sent = [how.product * matrices] * 2 if shards > 1 else []
        iteration = [how.product * matrices, how.product * matrices, how.product * gram]
        groups.append(ahead + [FLOAT * matrices, *sent, *iteration])
    return max(groups, key=sum)


def fits(estimate: MemoryEstimate, available: int | None) -> bool:
    """Whether the peak is within what is available; True where that is unknown (None)."""
    return available is None or estimate.total <= available


def memory_warning(
    config: GPTConfig,
    sizes: RunSizes,
    available: int | None,
    *,
    dtype: str = "float32",
    device_type: str = "cpu",
    shards: int = 1,
) -> str:
    """Empty if the run fits into `available` bytes, else what to make smaller and how much: the largest that fits.

    >>> print(memory_warning(GPTConfig.from_depth(4, 1024), RunSizes("packed", 300), available=200 * MiB))
    This run needs about 355 MiB at its peak, and 200 MiB are available. Set device_batch_tokens to 877 or less ...
    """

    def estimated(sizes: RunSizes, config: GPTConfig = config) -> MemoryEstimate:
        return estimate_memory(config, sizes.loads(), dtype=dtype, device_type=device_type, shards=shards)

    def fitting(sizes: RunSizes, config: GPTConfig = config) -> bool:
        return fits(estimated(sizes, config), available)

    if fitting(sizes):
        return ""
    needed = estimated(sizes).total
    problem = f"This run needs about {in_mib(needed)} MiB at its peak, and {in_mib(available)} MiB are available. "
    now = getattr(sizes, sizes.setting)
    if size := largest_that(lambda size: fitting(replace(sizes, **{sizes.setting: size})), now):
        return f"{problem}Set {sizes.setting} to {size:,} or less (it is {now:,}); the gradient stays the same."
    one_row = replace(sizes, **{sizes.setting: 1})
    if slots := largest_that(lambda slots: fitting(replace(one_row, longest=slots)), sizes.longest):
        limit = f"max_seq_len to {slots:,}" if sizes.batching == STREAM else f"max_data_tokens to {slots + 1:,}"
        return f"{problem}Set {limit} or less: a single row of {sizes.longest:,} slots is too long for this memory."
    problem += f"Depth {config.n_layer} does not fit with a single token. "
    slot = replace(one_row, longest=1)
    for depth in range(config.n_layer - 1, 0, -1):
        smaller = _of_depth(depth, config)
        if smaller is not None and fitting(slot, smaller):
            return f"{problem}A model of depth {depth} does."
    return (
        f"{problem}No depth does with {config.vocab_size:,} tokens of vocabulary: take a smaller one, or more memory."
    )


def _of_depth(depth: int, config: GPTConfig) -> GPTConfig | None:
    """The model of that depth with the same vocabulary; None for a depth whose heads do not come out even."""
    try:
        return GPTConfig.from_depth(depth, config.vocab_size, config.sequence_len)
    except ValueError:
        return None


def largest_that(works: Callable[[int], bool], most: int) -> int:
    """The largest number of 1 ... most that works, if all smaller ones do; 0 if none does.

    >>> largest_that(lambda n: n * n < 50, most=100)
    7
    """
    return bisect_left(range(1, most + 1), True, key=lambda n: not works(n))


def available_bytes(device: torch.device) -> int | None:
    """Memory that can still be taken on a device, without what is taken already; None where the system does not say.

    CPU: what the system calls available, or what is left to this process's container if that is less. CUDA: free
    memory of the device, and what torch has in stock. MPS: up to the size that Metal recommends.
    """
    if device.type == "cuda":
        stock = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + stock
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if device.type != "cpu":
        return None
    left = [psutil.virtual_memory().available]
    if OWN_CGROUPS.exists():
        left += cgroup_bytes(CGROUPS, OWN_CGROUPS.read_text(encoding="utf-8"))
    return min(left)


def cgroup_bytes(root: Path, own: str) -> list[int]:
    """What each limit on a Linux process's groups leaves: limit - use, cached files not counted as use.

    Args:
        root: /sys/fs/cgroup. own: the text of /proc/self/cgroup, lines of `number:controllers:path`. A container often
            sees its own group as the root, so the path and all folders above it are looked at, down to the root.

    >>> cgroup_bytes(Path("/nowhere"), "0::/")
    []
    """
    found = []
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, files = (root / "memory", CGROUP_V1) if controllers else (root, CGROUP_V2)
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top) and (folder / files[0]).exists():
                found += _left_in(folder, *files)
    return found


def _left_in(folder: Path, limit: str, use: str, cached: str) -> list[int]:
    allowed = (folder / limit).read_text(encoding="utf-8").strip()
    if allowed == "max":
        return []
    lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
    files = sum(int(line.split()[1]) for line in lines if line.split()[0] == cached)
    return [max(0, int(allowed) - int((folder / use).read_text(encoding="utf-8")) + files)]


class PeakMemory:
    """The most memory held on a device, in bytes above what was held when this was made: make it before the model.

    `reset` lets the peak start again, for a peak of steps only; what was held at the beginning stays the zero. On CPU
    it is resident memory of the whole process, so what else is loaded in between (rows of data) counts too. `note` says
    what the number is where it is not that.

    >>> measured = PeakMemory(torch.device("cpu"))
    >>> ones = torch.ones(16 * MiB)      # 64 MiB
    >>> 64 <= measured.peak_bytes() / MiB < 80
    True
    """

    def __init__(self, device: torch.device):
        self.device, self.note = device, ""
        self.reset()
        self.before = held_bytes(device)

    def reset(self) -> bool:
        """Forget the peak so far; False, and a `note`, where the system cannot."""
        done = reset_peak(self.device)
        if not done:
            self.note = UNRESET[self.device.type]
        return done

    def peak_bytes(self) -> int:
        """The most since `reset`, above what was held at the beginning."""
        return max(0, peak_bytes(self.device) - self.before)


def held_bytes(device: torch.device = CPU) -> int:
    """Memory that is held now: CUDA, bytes of tensors; MPS, what Metal has given to torch; else, the process's."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return psutil.Process().memory_info().rss


def reset_peak(device: torch.device = CPU) -> bool:
    """Let the peak start again from now; False where the system cannot, and the peak is that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if device.type == "mps":
        return False
    try:
        CLEAR_REFS.write_text("5")
    except OSError:  # no /proc, or not allowed
        return False
    return True


def peak_bytes(device: torch.device = CPU) -> int:
    """The most memory held since `reset_peak`, or since the process began where that returned False."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if STATUS.exists():
        line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if resource is None:
        return psutil.Process().memory_info().peak_wset  # Windows
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
