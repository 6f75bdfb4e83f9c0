"""How ranks find those of the same start: on a store that has known other starts."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch.distributed as dist

from nanolab import meeting
from nanolab.meeting import NOTHING_EARLIER, alone_earlier, common_name


def names(store: dist.Store, world_size: int, late: float = 0.0) -> list[str]:
    """What the ranks of one start agree on; the last of them comes `late` seconds after the others."""
    everybody_is_there = threading.Barrier(world_size)

    def one(rank: int) -> str:
        if rank == world_size - 1:
            time.sleep(late)
        with common_name(store, rank, world_size) as name:
            everybody_is_there.wait(30)  # as when the group is made
            return name

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(one, range(world_size)))


def test_all_ranks_of_a_start_have_one_name_and_every_start_has_another():
    store = dist.HashStore()
    starts = [names(store, world_size) for world_size in (3, 3, 2, 4, 1, 2)]
    assert [len(set(start)) for start in starts] == [1] * 6
    assert len({start[0] for start in starts}) == 6


def test_a_rank_that_comes_late_gets_the_name():
    assert len(set(names(dist.HashStore(), 3, late=0.4))) == 1


def test_ranks_of_a_start_that_was_given_up_do_not_disturb_the_next():
    store = dist.HashStore()
    with common_name(store, 0, 3) as given_up:  # rank 0 waits in vain for rank 2; rank 1 is there
        threading.Thread(target=lambda: names_of_rank(store, 1), daemon=True).start()
        time.sleep(0.2)
    again = names(store, 3)
    assert len(set(again)) == 1 and again[0] != given_up


def names_of_rank(store: dist.Store, rank: int):
    with common_name(store, rank, 3):
        pass


def test_a_rank_whose_word_nobody_answers_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(meeting, "PATIENCE", meeting.timedelta(seconds=0.2))
    with pytest.raises(dist.DistError), common_name(dist.HashStore(), 1, 2):
        pass


def test_a_single_process_knows_from_torchrun_whether_it_was_started_before(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert alone_earlier() == NOTHING_EARLIER
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    earlier = alone_earlier()
    assert earlier.starts == 2 and 0 < earlier.began < time.time()


def test_the_first_process_of_a_container_which_has_no_parent_counts_from_its_own_start(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr(os, "getppid", lambda: 0)
    assert alone_earlier() == (1, psutil.Process().create_time())
