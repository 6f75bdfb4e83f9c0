"""Beside the line: what a full run will take, known before it starts, and what it took.

forecasts = forecast(full, tokenizer)               # steps, tokens, memory of a rank, arithmetic of each stage
in_words(forecasts, *rate(full, forecasts))         # the same as a table, with hours
measured(full, forecasts, rate)                     # afterwards: beside what was forecast
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd
import torch

from nanolab.batch import Batch, Step
from nanolab.checkpoint import find_checkpoint, read_meta
from nanolab.flops import data_sheet, useful_operations
from nanolab.full_run import CARDS, FullRun
from nanolab.gpt import GPT, GPTConfig
from nanolab.memory import STREAM, Load, MemoryEstimate, RunSizes, estimate_memory
from nanolab.optim import make_optimizers
from nanolab.paths import cache_dir
from nanolab.render import render_conversation
from nanolab.runs import read_run
from nanolab.runtime import pick_device, pick_dtype
from nanolab.show.live import clock_time
from nanolab.tasks import load_text, mid_mixture, sft_mixture
from nanolab.tasks.text import TextShards
from nanolab.tokenizer import Tokenizer
from nanolab.trackers import SETTINGS, read_json
from nanolab.train import train

GiB = 2**30
OFTEN = 4  # times through the same text after which more of them teach much less than new text: arXiv:2305.16264
SAMPLE = 256  # rows whose lengths stand for those of all
# What is planned for, of a card: neither CUDA's own memory, nor nccl's, nor gaps between tensors are estimated.
HEADROOM = 0.9
# Of a card's peak arithmetic: nanochat's run1000.sh reports 0.51 for a d32 on H100s, by a count that has the attention
# of all pairs; ours has half of them. Not measured for this code.
SHARE_OF_PEAK = 0.4
CHARS_A_SHARD = 250e6  # of the hub's base text, by nanochat's count


@dataclass(frozen=True)
class Forecast:
    """What a stage will do and take. Lengths are those of a sample of rows."""

    stage: str
    shape: GPTConfig
    steps: int
    tokens: float  # a step
    passes: float  # over the rows that there are
    micro_batches: float  # of a rank, a step
    operations: float  # of the whole stage on all ranks
    memory: MemoryEstimate  # of a rank

    def seconds(self, rate: float, ranks: int) -> float:
        """Seconds of training steps, if each rank does `rate` operations a second."""
        return self.operations / (rate * ranks)


def forecast(full: FullRun, tokenizer: Tokenizer) -> list[Forecast]:
    """A forecast for each stage. Loads the rows, and renders a sample of them; no model is made.

    >>> [f.steps for f in forecast(FullRun(), tokenizer)]                                 # doctest: +SKIP
    [30, 15, 15]
    """
    return [_of_sft(full, tokenizer) if stage == "sft" else _of_stream(full, stage, tokenizer) for stage in full.names]


def _of_stream(full: FullRun, stage: str, tokenizer: Tokenizer) -> Forecast:
    shape = model_shape(full, tokenizer)
    if stage == "base":
        there = _tokens_of_text(full, tokenizer)
    else:
        rows = mid_mixture(data=full.data)
        lengths = [len(ids) for ids, _ in _rendered(rows, tokenizer)]
        there = len(rows) * sum(lengths) / len(lengths)
    steps = getattr(full, f"{stage}_iterations")
    if steps == -1 and stage == "base":
        steps = full.config("base").target_param_data_ratio * num_weights(shape) // full.total_batch_size
    elif steps == -1:
        steps = max(1, int(there // full.total_batch_size))
    rows_a_step = full.total_batch_size // full.max_seq_len
    sizes = RunSizes(STREAM, full.max_seq_len, full.device_batch_size)
    return Forecast(
        stage,
        shape,
        steps,
        tokens=full.total_batch_size,
        passes=steps * full.total_batch_size / there,
        micro_batches=rows_a_step / full.device_batch_size / full.ranks,
        operations=steps * _operations(shape, [full.max_seq_len] * rows_a_step, full.total_batch_size),
        memory=_memory(full, shape, sizes),
    )


def _tokens_of_text(full: FullRun, tokenizer: Tokenizer) -> float:
    """About how many tokens of base text there are; nan for a folder of several files, which nobody has counted."""
    rows = load_text("train", data=full.data, num_shards=full.num_shards, ahead=False)
    texts = [row["text"] for row in islice(iter(rows), SAMPLE)]
    tokens = sum(1 + len(tokenizer.encode(text)) for text in texts)
    if not isinstance(rows, TextShards):
        return len(rows) * tokens / len(texts)
    return len(rows.names) * CHARS_A_SHARD * tokens / sum(map(len, texts)) if full.data == "hub" else math.nan


def _of_sft(full: FullRun, tokenizer: Tokenizer) -> Forecast:
    shape, mixture = model_shape(full, tokenizer), sft_mixture(data=full.data)
    sample, most = _rendered(mixture, tokenizer), full.max_data_tokens
    rows = [(ids, mask) for ids, mask in sample if most == -1 or len(ids) <= most]
    if not rows:
        raise ValueError(
            f"max_data_tokens={most} leaves no conversation to train on: the shortest of the first {len(sample)} has "
            f"{min(len(ids) for ids, _ in sample):,} tokens. Set it higher, or to -1."
        )
    lengths, supervised = [len(ids) - 1 for ids, _ in rows], sum(sum(mask[1:]) for _, mask in rows)
    steps = full.sft_iterations if full.sft_iterations != -1 else len(mixture) // full.target_examples_per_step
    a_step = full.target_examples_per_step / len(sample)  # those that are skipped count, too
    tokens = sum(lengths) * a_step
    sizes = RunSizes(
        full.batching,
        max(lengths) if most == -1 else most - 1,
        full.config("sft").device_batch_size,
        full.device_batch_tokens,
        supervised / sum(lengths),
    )
    return Forecast(
        "sft",
        shape,
        steps,
        tokens,
        passes=steps * full.target_examples_per_step / len(mixture),
        micro_batches=max(1.0, tokens / full.ranks / sizes.loads()[0].slots),
        operations=steps * a_step * _operations(shape, lengths, supervised),
        memory=_memory(full, shape, sizes),
    )


def _rendered(rows: Sequence[dict], tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """The first rows of a mixture, which is shuffled."""
    return [render_conversation(rows[i], tokenizer) for i in range(min(SAMPLE, len(rows)))]


def _memory(full: FullRun, shape: GPTConfig, sizes: RunSizes) -> MemoryEstimate:
    device_type, dtype = how_computed(full)
    shards = full.ranks if full.shard_weights else 1
    return estimate_memory(shape, sizes.loads(), dtype=dtype, device_type=device_type, shards=shards)


def how_computed(full: FullRun) -> tuple[str, str]:
    """Device type and dtype of the products: of the named card, else of this machine."""
    if full.card:
        return "cuda", "bfloat16" if full.dtype == "auto" else full.dtype
    device = pick_device(full.device_type)
    return device.type, pick_dtype(full.dtype, device)[0]


def model_shape(full: FullRun, tokenizer: Tokenizer) -> GPTConfig:
    """The shape of the model: of the base stage's settings, or of the checkpoint that the first stage starts from."""
    if full.names[0] == "base":
        return GPTConfig.from_depth(full.depth, tokenizer.vocab_size, full.max_seq_len)
    return GPTConfig(**read_meta(find_checkpoint(full.parent(full.names[0]), full.model_tag))["model_config"])


def num_weights(shape: GPTConfig) -> int:
    """Embedding, head and the blocks' matrices (as many key heads as heads).

    >>> num_weights(GPTConfig.from_depth(20, 65_536))
    560988160
    """
    C = shape.n_embd
    return 2 * shape.vocab_size * C + 12 * shape.n_layer * C**2


def _operations(shape: GPTConfig, lengths: Sequence[int], supervised: float) -> float:
    """What rows of these lengths cannot do without, see flops.useful_operations."""
    return useful_operations(shape, sum(lengths), supervised, sum(L * (L + 1) // 2 for L in lengths))


def rate(full: FullRun, forecasts: Sequence[Forecast]) -> tuple[float | None, str]:
    """(operations a second of one rank, where that number comes from); None where neither is known.

    Of a named card a share of its peak; on a processor a few steps of random tokens are measured, with as many threads
    as a rank will have.
    """
    if full.card:
        peak = data_sheet(full.card)
        return SHARE_OF_PEAK * peak.operations, f"{SHARE_OF_PEAK:.0%} of {peak}; not measured"
    if how_computed(full)[0] != "cpu":
        return None, "no time is forecast: name the card, a key of full_run.CARDS"
    threads, before = (1 if full.nproc > 1 else torch.get_num_threads()), torch.get_num_threads()
    torch.set_num_threads(threads)
    measured = measured_rate(forecasts[0].shape, 1_024, how_computed(full)[1])
    torch.set_num_threads(before)
    crowded = max(1.0, full.nproc * threads / (os.cpu_count() or 1))
    words = f"{measured / 1e9:,.0f} GFLOP/s a process, measured here in three steps of random tokens"
    return measured / crowded, words + (f"; {crowded:.1f} processes share a core" if crowded > 1 else "")


def measured_rate(shape: GPTConfig, slots: int, dtype: str) -> float:
    """Useful operations a second of whole training steps on the processor; the first of three is not counted."""
    model = GPT(shape)
    ids = torch.randint(shape.vocab_size, (1, slots + 1))
    step = Step([Batch(ids[:, :-1], ids[:, 1:], real_tokens=slots)])
    optimizers = make_optimizers(model, 0.004, 0.2, 0.02, dtype=dtype)
    seconds = [report.seconds for report in train(model, optimizers, [step] * 3, lambda _: (0.0, None), dtype=dtype)]
    return _operations(shape, [slots], slots) / min(seconds[1:])


def in_words(forecasts: Sequence[Forecast], rate: float | None, ranks: int) -> pd.DataFrame:
    """The forecasts as a table, one row a stage."""
    rows = {}
    for each in forecasts:
        rows[each.stage] = {
            "steps": f"{each.steps:,}",
            "tokens a step": f"{each.tokens:,.0f}",
            "tokens": f"{each.tokens * each.steps:,.0f}",
            "times through the rows": "unknown" if math.isnan(each.passes) else f"{each.passes:.3g}",
            "micro-batches a step and rank": f"{each.micro_batches:.3g}",
            "GiB a rank": f"{each.memory.total / GiB:.2f}",
            "operations": f"{each.operations:.2e}",
            "training": clock_time(each.seconds(rate, ranks)) if rate else "unknown",
        }
    return pd.DataFrame(rows).T


def remarks(forecasts: Sequence[Forecast]) -> list[str]:
    """What somebody who pays for a run should know before it starts, a sentence each; none if nothing is amiss."""
    return [
        f"{each.stage}: the rows are gone through {each.passes:.0f} times. Beyond {OFTEN} times, new rows would teach "
        "much more: take a folder with more of them (data), or fewer steps."
        for each in forecasts
        if each.passes > OFTEN
    ]


def planned_steps(run_dir: Path, forecast: int) -> int:
    """How many steps a run has, once it has begun; what was forecast before that."""
    return read_json(run_dir / SETTINGS).get("num_iterations", forecast)


def measured(full: FullRun, forecasts: Sequence[Forecast], rate: float | None) -> pd.DataFrame:
    """What the stages have taken, from their metrics, beside what was forecast: seconds of training steps.

    `operations/s` is the useful arithmetic of one rank; with a named card it also stands as a share of its peak.
    """
    rows = {}
    for each in forecasts:
        steps = read_run(cache_dir() / "runs" / f"{each.stage}_{full.model_tag}")[0].dropna(subset=["seconds"])
        seconds = steps["seconds"].sum()
        reached = each.operations / each.steps * len(steps) / seconds / full.ranks
        rows[each.stage] = {
            "steps": f"{len(steps):,}",
            "seconds": f"{seconds:,.1f}",
            "forecast": f"{each.seconds(rate, full.ranks):,.1f}" if rate else "unknown",
            "tokens/s": f"{steps['real_tokens'].sum() / seconds:,.0f}",
            "operations/s a rank": f"{reached:.2e}",
        }
        if full.card:
            rows[each.stage]["of the peak"] = f"{reached / data_sheet(full.card).operations:.1%}"
    return pd.DataFrame(rows).T


def fits_card(full: FullRun, each: Forecast) -> bool:
    """Whether a rank's memory is within nine tenths of the named card's; True where none is named."""
    return not full.card or each.memory.total <= HEADROOM * CARDS[full.card] * GiB


def largest_load(full: FullRun, stage: str) -> list[Load]:
    """The largest micro-batches that a stage can have if its conversations are no longer than `max_data_tokens` or, if
    there is no limit, than its budget of slots."""
    if stage != "sft":
        return RunSizes(STREAM, full.max_seq_len, full.device_batch_size).loads()
    longest = full.device_batch_tokens if full.max_data_tokens == -1 else full.max_data_tokens - 1
    return RunSizes(full.batching, longest, full.config("sft").device_batch_size, full.device_batch_tokens).loads()
