"""Step 7: a loss becomes better weights. One loop for base, mid and SFT.

    for report in train(model, optimizers, steps, schedule):
        print(report.line())

The loop is a generator: it yields one report a step and does nothing between two of them, so a notebook can step, look,
change something, and go on. It knows no files, no data sets and no settings; `jobs/` puts those together.

One denominator a step: the gradient is that of (sum of the loss over supervised tokens) / (supervised tokens of the
whole step), whatever the micro-batches and whatever the number of ranks: each takes its share of the step, and their
gradients are added up once, behind the last micro-batch. nanochat's mean of micro-batch means is
`loss_average="micro_batch"`.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch

from nanolab.batch import IGNORE_INDEX, Batch, Step, Totals
from nanolab.optim import momentum_of, set_rates
from nanolab.ranks import ALONE, Ranks
from nanolab.runtime import autocast, synchronize
from nanolab.settings import BaseConfig, MidConfig, SFTConfig, TokenizerConfig
from nanolab.sharded import is_sharded

__all__ = ["BaseConfig", "MidConfig", "Report", "SFTConfig", "TokenizerConfig", "backward", "train"]

FIRST_FEW = 5  # conversations named in an error
Schedule = Callable[[int], tuple[float, float | None]]  # step -> learning-rate multiplier, Muon momentum (None: leave)


@dataclass
class Report:
    """What one optimizer step did, on all ranks together."""

    step: int
    loss: float | None  # nats a supervised token; None if there was none, and then no weight moved
    lr_multiplier: float
    muon_momentum: float
    num_tokens: int  # supervised tokens
    real_tokens: int  # tokens of conversations, supervised or not
    slots: int  # positions computed, padding included
    seconds: float  # from asking for the step's batches to moved weights
    micro_batches: int = 0
    num_conversations: int = 0  # 0 where rows are cut from a stream (base, mid)
    left_out: list[str] = field(default_factory=list)  # conversations skipped or cut, and why
    grad_norm: float | None = None  # before clipping; measured only where the gradient is clipped
    pairs: int = 0  # of a position and one that it may look at: the size of attention's work
    mfu: float | None = None  # useful arithmetic a second over the devices' peak, see flops.py; jobs measure it
    imbalance: float = 1.0  # real tokens of the rank that had most, over the mean of ranks
    metrics: dict[str, float] = field(default_factory=dict)  # evaluations made just before this step's update

    @property
    def padding(self) -> float:
        """Share of the slots that held padding."""
        return 1 - self.real_tokens / self.slots if self.slots else 0.0

    def line(self, num_iterations: int) -> str:
        """The step in one line, in the manner of nanochat's scripts."""
        loss = "none (no supervised token)" if self.loss is None else f"{self.loss:.3f}"
        return (
            f"Step {self.step:05d}/{num_iterations:05d} | Training loss: {loss} | lrm: {self.lr_multiplier:.3f} | "
            f"num_tokens: {self.num_tokens:,}"
        )


def train(
    model: torch.nn.Module,
    optimizers: list[torch.optim.Optimizer],
    steps: Iterable[Step],
    schedule: Schedule,
    first_step: int = 0,
    loss_average: str = "step",
    grad_clip: float = 0.0,
    dtype: str = "float32",
    forward: Callable[..., torch.Tensor] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
    replica: Callable[..., torch.Tensor] | None = None,
) -> Iterator[Report]:
    """Train on one Step after another, yielding a Report after each.

    Args:
        steps: what `StepDataset` or `StreamDataset` give, in order, the first being step `first_step`.
        schedule: step -> (learning-rate multiplier, Muon momentum or None to leave it).
        loss_average: "step" or "micro_batch", see `backward`.
        grad_clip: largest norm of the gradient of all weights together; 0 = no clipping.
        dtype: of the matrix products; weights stay float32.
        forward: what is called for a loss instead of `model`, e.g. a `CompiledGPT` of it.
        should_stop: asked before every micro-batch; if so, the step is abandoned before any weight moves, and the
            training ends without a report of it. Of several ranks, one that is to stop stops all, in the same step.
        ranks, replica: with several ranks, which one this is, and `forward` as `ranks.replica` wraps it; no replica if
            the ranks share the model's weights (`ranks.shard`).

    Raises FloatingPointError, before any weight moves, when the loss or the gradient is not finite; it names the step
    and its conversations. An error that breaks off the moving of the weights itself has an attribute `half_moved`, one
    that `steps` raises has `unprepared`: the other ranks then end without a report, before any weight moves.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    # A replica's gradients stay where it adds them up: forgotten, they would be made a second time beside that place.
    # (They are there twice in the first two steps: torch rearranges that place once, before the second sum.)
    clear = partial(model.zero_grad, set_to_none=replica is None)
    steps = iter(steps)
    for number in itertools.count(first_step):
        began = time.perf_counter()
        step = _taken(steps, ranks, replica)
        if step is None:
            return
        multiplier, momentum = schedule(number)
        set_rates(optimizers, multiplier, momentum)
        model.train()
        clear()  # what a step that was broken off has left
        try:
            loss = backward(
                forward or model,
                step.batches,
                loss_average,
                dtype,
                weights[0].device,
                should_stop,
                totals=step.totals,
                ranks=ranks,
                replica=replica,
            )
        except Abandoned:
            clear()
            return
        if loss is not None and not math.isfinite(loss):
            raise _not_finite(model, number, f"the loss is {loss}", step)
        grad_norm = None
        if loss is not None:
            norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
            norm = norm.full_tensor() if is_sharded(norm) else norm
            if not math.isfinite(norm.item()):
                raise _not_finite(model, number, f"the gradient's norm is {norm.item()}", step)
            if grad_clip > 0:
                torch.nn.utils.clip_grads_with_norm_(weights, grad_clip, norm)
                grad_norm = norm.item()
            _move(optimizers)
        clear()
        synchronize(weights[0].device)
        totals = step.totals
        yield Report(
            step=number,
            loss=loss,
            lr_multiplier=multiplier,
            muon_momentum=momentum_of(optimizers),
            num_tokens=totals.num_tokens,
            real_tokens=totals.real_tokens,
            slots=totals.slots,
            seconds=time.perf_counter() - began,
            micro_batches=totals.micro_batches,
            num_conversations=step.num_conversations,
            left_out=step.left_out,
            grad_norm=grad_norm,
            pairs=step.pairs,
            imbalance=totals.imbalance,
        )


def _taken(steps: Iterator[Step], ranks: Ranks, replica: Callable[..., torch.Tensor] | None) -> Step | None:
    """The next step, None behind the last. A rank that cannot have it answers what the others ask in `backward`."""
    try:
        return next(steps, None)
    except Exception as error:
        error.unprepared = True  # for whoever would tell the others why
        if replica is None:
            ranks.gather(None)
        else:
            ranks.any(True)
        raise


def _move(optimizers: list[torch.optim.Optimizer]):
    try:
        for optimizer in optimizers:
            optimizer.step()
    except BaseException as error:
        error.half_moved = True  # for whoever would save the weights
        raise


def _not_finite(model: torch.nn.Module, number: int, what: str, step: Step) -> FloatingPointError:
    """The error that ends a run whose numbers have left the scale; the weights are those of the step before."""
    model.zero_grad(set_to_none=True)
    more = f" and {len(step.rows) - FIRST_FEW} more" if len(step.rows) > FIRST_FEW else ""
    rows = f" Its conversations: {', '.join(step.rows[:FIRST_FEW])}{more}." if step.rows else ""
    return FloatingPointError(
        f"Step {number}: {what}. No weight was moved by this step.{rows} Smaller learning rates may help; checkpoints "
        "of earlier steps are good."
    )


class Abandoned(Exception):
    """A step was given up before its last micro-batch, on request or because another rank could not prepare it."""


def backward(
    model: Callable[..., torch.Tensor],
    batches: list[Batch],
    loss_average: str = "step",
    dtype: str = "float32",
    device: torch.device | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    totals: Totals | None = None,
    ranks: Ranks = ALONE,
    replica: Callable[..., torch.Tensor] | None = None,
) -> float | None:
    """Add the gradient of a step's loss to the weights; return the loss (nats a supervised token), or None.

    "step": sum over supervised tokens of all micro-batches / their number. Every token weighs the same.
    "micro_batch": the mean over micro-batches of each one's mean, as in nanochat: a token in a micro-batch with few
    supervised tokens weighs more. None, and no gradient, when nothing in the step is supervised. `device`: where the
    batches go, by default where the model is. Raises Abandoned between micro-batches if `should_stop()`.

    Of several ranks each gives its own batches, `totals` of the whole step, and the `replica` of the model: its last
    micro-batch goes through that, which adds up the gradients of all. The gradient and the loss are those of the whole
    step, on every rank, and Abandoned is raised on all or on none. Without a replica the model's weights are shared:
    each of its passes is of all ranks, so those with fewer micro-batches have empty ones at the end.
    """
    totals = totals or Step(batches).totals
    counts = [batch.num_tokens for batch in batches]
    if loss_average == "step":
        divisors = [totals.num_tokens] * len(batches)
    elif loss_average == "micro_batch":
        divisors = [max(count, 1) * totals.micro_batches for count in counts]
    else:
        raise ValueError(f'loss_average must be "step" or "micro_batch", got {loss_average!r}.')
    device = device or next(model.parameters()).device
    todo = [(batch, divisor) for batch, divisor in zip(batches, divisors, strict=True) if batch.num_tokens]
    if replica is None and ranks.world_size > 1:
        numbers = ranks.gather(len(todo))
        if None in numbers:  # of a rank that could not prepare its part: see _taken
            raise Abandoned
        todo += [(_nothing(), 1)] * (max(numbers) - len(todo))
    if totals.num_tokens == 0:
        if replica is not None and _stops(should_stop(), True, ranks):
            raise Abandoned
        return None
    if replica is not None and not todo:
        todo = [(batches[0], 1)]  # a gradient of zeros: the others wait for this rank's part of the sum
    total = torch.zeros((), device=device)
    for number, (batch, divisor) in enumerate(todo, 1):
        last = number == len(todo)
        if _stops(should_stop(), last, ranks):
            raise Abandoned
        batch = batch.to(device)
        # Not replica.no_sync(): the replica's forward passes may wait for other ranks, who have fewer micro-batches.
        forward = replica if last and replica is not None else model
        with autocast(device, dtype):
            loss = forward(batch.inputs, batch.targets, loss_reduction="sum", borders=batch.borders)
        loss = loss / divisor
        loss.backward()
        total += loss.detach()
    return ranks.sum(total.item())


def _nothing() -> Batch:
    """A micro-batch of one position without a target, whose gradient is zeros."""
    return Batch(torch.zeros(1, 1, dtype=torch.long), torch.full((1, 1), IGNORE_INDEX), real_tokens=0)


def _stops(asked: bool, last: bool, ranks: Ranks) -> bool:
    """Whether the step is abandoned here: of several ranks, when they all stand before their last micro-batch."""
    if ranks.world_size == 1:
        return asked
    return last and ranks.any(asked)
