"""Beside the line: this process among those that train together, started by torchrun.

    with joined() as ranks:                        # Ranks(rank=0, world_size=1) without torchrun
        job = start(config, ranks=ranks)

Every rank computes the same plan of a step and takes its own share of it; the gradients are added up in one reduction
by torch's DistributedDataParallel. Everything else that ranks must agree on (to stop, what is measured, what is
graded) is a few numbers, and goes over a second, slower group of processes (`control`, gloo on the processor), so
that no GPU has to wait for it.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import psutil
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nanolab.gpt import GPT
from nanolab.meeting import NOTHING_EARLIER, Earlier, alone_earlier, meet
from nanolab.runtime import pick_device
from nanolab.sharded import shard

NCCL_REASON = "Last error:"  # what NCCL's messages have before it is the place in torch's source and a general kind
MAX_DETAIL = 200  # letters of another library's message that are passed on
LAUNCHED_BY = "NANOLAB_LAUNCHED_BY"  # environment variable: who has started the ranks, "<process>:<when it began>"
SAME_START = 1.0  # seconds by which two accounts of a process's start may differ
Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many. All methods must be called by all ranks, in the same order.

    >>> Ranks().gather("a"), Ranks().any(False), Ranks().leads
    (['a'], False, True)
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among those of the same machine: which GPU is its own
    control: dist.ProcessGroup | None = field(default=None, repr=False)
    earlier: Earlier = NOTHING_EARLIER  # starts of the same torchrun

    @property
    def leads(self) -> bool:
        """Whether this is the rank that prints, writes and saves for all."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it holds on at least one rank."""
        return self.sum(int(flag)) > 0

    def sum(self, number: float) -> float:
        """The sum over ranks, added in float64."""
        if self.world_size == 1:
            return number
        total = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return total.item()

    def same(self, value: Value) -> Value:
        """Rank 0's value, on every rank."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def replica(self, model: torch.nn.Module) -> DistributedDataParallel | None:
        """The model wrapped so that a backward pass adds up gradients over ranks; None for a single rank."""
        if self.world_size == 1:
            return None
        self.gather(None)  # they have read rows and weights, each for as long as it took: the patience of NCCL is short
        device = next(model.parameters()).device
        replica = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,  # gradients exist once, if they are not forgotten: see train.py
        )
        replica.register_comm_hook(None, _summed)
        return replica

    def shard(self, model: GPT, device: torch.device) -> None:
        """Share the weights out among the ranks, in place, each rank's part on its device: see sharded.py.

        Instead of `replica`: then forward and backward passes of the model itself are of all ranks at once.
        """
        from torch.distributed.device_mesh import init_device_mesh  # slow, and needed for this only

        self.gather(None)  # as above
        shard(model, init_device_mesh(device.type, (self.world_size,)))


def _summed(_state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Gradients of all ranks added up; left alone, DistributedDataParallel would give their mean."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


ALONE = Ranks()


def started_by_torchrun() -> bool:
    """Whether torchrun has started this process, and told it its rank."""
    return dist.is_torchelastic_launched() or {"RANK", "WORLD_SIZE"} <= set(os.environ)


@contextmanager
def joined(device_type: str = "", parent: int | None = None) -> Iterator[Ranks]:
    """Join the processes that torchrun has started, and leave them at the end; without torchrun there is one rank.

    `device_type`: as of `pick_device`; CUDA means nccl and a GPU for each local rank, a processor gloo. Raises
    ValueError where there are fewer GPUs than local ranks, or on MPS, which knows no ranks, also where it would only be
    picked; and LostContact if another rank disappears. `parent` is who has started this process, if that was asked
    earlier than now: a rank whose torchrun is gone does not wait for the others.
    """
    if not started_by_torchrun() or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks(earlier=alone_earlier())
        return
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    picked = pick_device(device_type, local_rank).type
    if picked == "mps":
        raise ValueError("MPS trains in one process only: start it without torchrun, or with device_type cpu.")
    on_cuda = picked == "cuda"
    if on_cuda and local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"Local rank {local_rank} has no GPU of its own: this machine has {torch.cuda.device_count()}. "
            "Start as many processes a machine as it has GPUs (--nproc-per-node)."
        )
    if on_cuda:
        torch.cuda.set_device(local_rank)
    try:
        control, earlier = meet("nccl" if on_cuda else "gloo", parent or os.getppid())
    except dist.DistError as error:
        raise LostContact(f"The other ranks did not come ({_reason(error)}).") from error
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), local_rank, control, earlier)
    try:
        yield ranks
    except RuntimeError as error:
        if _is_lost_contact(error):
            told = f"Another rank is gone, so rank {ranks.rank} stops too ({_reason(error)})."
            if _is_nccls(error):
                told = f"Rank {ranks.rank} has lost contact with the others, or NCCL failed: {_reason(error)}"
            raise LostContact(told) from error
        raise
    dist.destroy_process_group()  # not after an error: it might wait for ranks that are gone


class LostContact(RuntimeError):
    """Another rank is gone or cannot go on: what went wrong stands in its own message. Or else NCCL has failed."""


def _reason(error: Exception) -> str:
    """The line of another library's message that says most: its first, or what stands behind NCCL's "Last error:"."""
    text = str(error).strip()
    last = text.partition(NCCL_REASON)[2].strip() if _is_nccls(error) else ""
    return (last or text).partition("\n")[0][:MAX_DETAIL]


def _is_nccls(error: Exception) -> bool:
    """Whether NCCL has failed: it may want the others, or a larger /dev/shm, memory, a GPU for each rank."""
    return isinstance(error, dist.DistBackendError) and "NCCL" in str(error)


def _is_lost_contact(error: RuntimeError) -> bool:
    """Whether a collective operation has failed, mostly for want of the others; gloo says so in the text only."""
    return not isinstance(error, LostContact) and (isinstance(error, dist.DistError) or "gloo" in str(error))


def record_error(error: BaseException) -> None:
    """Leave an error where torchrun looks for the reason of a failed rank; nothing without torchrun."""
    if dist.is_torchelastic_launched():
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler  # only under torchrun

        get_error_handler().record_exception(error)


def local_world_size() -> int:
    """How many ranks there are on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def this_process() -> str:
    """This process as LAUNCHED_BY names it: with the time of its start, since numbers are given out again."""
    return f"{os.getpid()}:{psutil.Process().create_time()}"


def launcher_is_gone() -> bool:
    """Whether the torchrun of a notebook has started this process and does not run any more; looked up once a second.

    >>> launcher_is_gone()
    False
    """
    launcher = os.environ.get(LAUNCHED_BY, "")
    return bool(launcher) and _looked_up(launcher, int(time.monotonic()))


@lru_cache(maxsize=1)
def _looked_up(process: str, _second: int) -> bool:
    return is_gone(process)


def is_gone(process: str) -> bool:
    """Whether a process, named as by `this_process`, has ended; one that only waits to be buried has.

    >>> is_gone(this_process())
    False
    """
    pid, began = process.split(":")
    try:
        found = psutil.Process(int(pid))
        return found.status() == psutil.STATUS_ZOMBIE or abs(found.create_time() - float(began)) > SAME_START
    except psutil.NoSuchProcess:
        return True
