"""Where a job's steps come from."""

import os
from collections.abc import Callable

from nanolab.batch import StepDataset
from nanolab.jobs.job import Say
from nanolab.layout import possible_shapes
from nanolab.ranks import Ranks, local_world_size
from nanolab.render import render_conversation
from nanolab.settings import BaseConfig, MidConfig, SFTConfig
from nanolab.stream import StreamDataset
from nanolab.tasks import TaskMixture
from nanolab.tokenizer import Tokenizer

MOST_THREADS = 8  # that encode text in one process


def encoding_threads() -> int:
    """How many threads a process has for encoding text: its share of the machine's cores, and no more than 8."""
    can_tell = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1
    return max(1, min(MOST_THREADS, cores // local_world_size()))


def conversation_ids(tokenizer: Tokenizer, conversation: dict) -> list[int]:
    """A conversation as a stream takes it; a function of the module, so that worker processes can be handed it."""
    return render_conversation(conversation, tokenizer)[0]


def stream_maker(config: BaseConfig | MidConfig, encode: Callable, ranks: Ranks) -> Callable[[object], StreamDataset]:
    """A function from documents to this rank's share of their stream; `encode`: a document's ids."""
    return lambda documents: StreamDataset(
        documents,
        encode,
        config.max_seq_len,
        config.device_batch_size,
        config.total_batch_size,
        getattr(config, "on_bad_row", "error"),  # base training has plain text, which is never malformed
        ranks.rank,
        ranks.world_size,
    )


def step_dataset(
    mixture: TaskMixture,
    tokenizer: Tokenizer,
    num_examples: int,
    config: SFTConfig,
    ranks: Ranks,
    static_shapes: bool = False,
) -> StepDataset:
    """This rank's share of steps of `num_examples` conversations, laid out as the settings say."""
    return StepDataset(
        mixture,
        tokenizer,
        num_examples,
        config.device_batch_size,
        config.max_data_tokens,
        config.overlong,
        config.batching,
        on_bad_row=config.on_bad_row,
        device_batch_tokens=config.device_batch_tokens,
        static_shapes=static_shapes,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )


def sft_shapes(steps: StepDataset, say: Say) -> tuple[tuple[int, int], ...]:
    """Every shape (B, T) that the steps can have."""
    if steps.max_data_tokens in (None, -1):
        say(f"Looking for the longest of {len(steps.mixture):,} conversations, since max_data_tokens sets no limit ...")
    shapes = possible_shapes(
        steps.batching, steps.device_batch_tokens, steps.longest(), device_batch_size=steps.device_batch_size
    )
    return tuple(shapes)
