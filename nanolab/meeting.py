"""Beside the line: how the processes of one start by torchrun find each other, and no others.

torchrun starts all ranks again after one has failed, and, where machines may come and go (its c10d rendezvous), also
when one does. Its store survives that, with what the ranks before had written there, and every machine counts its own
restarts only. So the ranks first agree on a name that no other start has; what they write from then on is under it.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple
from uuid import uuid4

import psutil
import torch.distributed as dist

POLL = 0.05  # seconds between two looks at the store
PATIENCE = timedelta(minutes=30)  # with ranks that have not come
# Ranks meet over gloo before they compute together: whoever waits longer on a GPU waits for one that has died since.
NCCL_TIMEOUT = timedelta(minutes=5)
CONTROL_TIMEOUT = timedelta(hours=2)  # a rank that waits for others to grade or to save is not lost


class Earlier(NamedTuple):
    """What was before this start: how many starts of the same torchrun, and when the first of them began."""

    starts: int
    began: float  # in seconds, as time.time()


NOTHING_EARLIER = Earlier(0, 0.0)


def alone_earlier() -> Earlier:
    """The same for a process that meets nobody: what its own torchrun says, if there is one."""
    starts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    return Earlier(starts, _parent_began()) if starts else NOTHING_EARLIER


def _parent_began() -> float:
    parent = os.getppid() or os.getpid()  # 0: this process is a container's first, and as old as its start
    return psutil.Process(parent).create_time()


def meet(backend: str, parent: int) -> tuple[dist.ProcessGroup, Earlier]:
    """Make the group of all ranks of this start, and a second one, gloo on the processor, which is returned.

    The process ends if it is no child of `parent`, which is torchrun, any more. Raises dist.DistError if some ranks do
    not come.
    """
    with _not_without(parent):
        store, rank, world_size = next(dist.rendezvous("env://"))
        store = dist.PrefixStore("nanolab", store)
        store.add("starts", int(rank == 0))
        with common_name(store, rank, world_size) as name:
            patience = {"timeout": NCCL_TIMEOUT} if backend == "nccl" else {}
            own_part = dist.PrefixStore(name, store)
            dist.init_process_group(backend, store=own_part, rank=rank, world_size=world_size, **patience)
            control = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
        began = float(store.compare_set("began", "", str(_parent_began())))  # whoever comes first
        return control, Earlier(store.add("starts", 0) - 1, began)


@contextmanager
def common_name(store: dist.Store, rank: int, world_size: int) -> Iterator[str]:
    """A name that all ranks of this start have in common and that no other start has, to be used while entered.

    Every rank but 0 leaves a word that nobody else has, and waits for an answer to it. Rank 0 answers whatever words
    there are, again and again: those of earlier starts too, to which nobody listens any more.
    Raises dist.DistStoreError if rank 0 does not answer.

    >>> with common_name(dist.HashStore(), rank=0, world_size=1) as name:
    ...     len(name)
    32
    """
    word = uuid4().hex
    if rank > 0:
        store.set(f"word of {rank}", word)
        store.wait([f"answer to {word}"], PATIENCE)
        yield store.get(f"answer to {word}").decode()
        return
    left = threading.Event()
    # A store of its own: the thread could not use one in which the main thread waits.
    answering = threading.Thread(target=_answer, args=(store.clone(), word, world_size, left), daemon=True)
    answering.start()
    try:
        yield word
    finally:
        left.set()
        answering.join()


def _answer(store: dist.Store, name: str, world_size: int, left: threading.Event):
    while not left.wait(POLL):
        for rank in range(1, world_size):
            if store.check([f"word of {rank}"]):
                store.set(f"answer to {store.get(f'word of {rank}').decode()}", name)


@contextmanager
def _not_without(parent: int) -> Iterator[None]:
    """While entered, this process ends if its parent does: alone it would wait half an hour for the other ranks."""
    met = threading.Event()

    def watch():
        while not met.wait(1.0):
            if os.getppid() != parent:
                os._exit(128 + signal.SIGTERM)  # nothing is done yet, and the main thread waits inside a library

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        met.set()
