"""Beside the line: torch.compile at the call site. The model knows nothing of it.

    compiled = CompiledGPT(model)
    compiled.warm_up(possible_shapes("packed", 2048, longest), "packed", dtype, most_documents=32)    # minutes, once
    train(model, ..., forward=compiled)                                     # on steps of 32 conversations
    compiled.recompilations                                                 # 0, or the batches were not static

A compiled kernel is made for one shape of its inputs. So batches come in a few static shapes (layout.py), every one of
them is compiled before the first step, and what is compiled after that is counted. What is compiled is one block, once
a shape, for all blocks of the model: depth 20 compiles as fast as depth 4. The element by element work of the loss is
compiled once, for all sizes.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial

import torch

from nanolab.batch import IGNORE_INDEX, Batch, border_table_size
from nanolab.gpt import GPT, run_block
from nanolab.loss import reduce_tile
from nanolab.runtime import autocast

MOST_GRAPHS = 64  # torch gives a function up after so many shapes; its own limit is 8


def compiler_problem(device: torch.device) -> str | None:
    """Why torch.compile does not work here, in one line; None if it does. Compiles a small function to find out.

    Without this a missing compiler shows inside the first training step, as pages of another program's errors.
    """

    def probe(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() + 1).sum()

    try:
        torch.compile(probe, dynamic=False)(torch.ones(64, device=device, requires_grad=True)).backward()
    except Exception as error:  # whatever stops it, a missing g++ or an old driver, is the answer to the question
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"{type(error).__name__}: {first_line[:200]}"
    return None


class CompiledGPT:
    """A model's forward pass with compiled blocks; called as the model is. The weights stay the model's own.

    >>> compiled = CompiledGPT(model)      # doctest: +SKIP
    >>> compiled(batch.inputs, batch.targets, loss_reduction="sum", borders=batch.borders)      # doctest: +SKIP
    tensor(16831.2, grad_fn=...)
    """

    def __init__(self, model: GPT):
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
        self.model = model
        self.warm_shapes: list[tuple[int, int]] = []
        self.warm_seconds = 0.0
        self._run_block = torch.compile(run_block, dynamic=False, fullgraph=True)
        self._reduce_tile = torch.compile(reduce_tile, dynamic=True, fullgraph=True)
        self._graphs_when_warm = _graphs()

    def __call__(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor | None = None,
        loss_reduction: str = "mean",
        borders: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `GPT.forward`."""
        return self.calling(self.model)(inputs, targets, loss_reduction, borders)

    def calling(self, wrapped: torch.nn.Module) -> Callable[..., torch.Tensor]:
        """The same for the model in a wrapping, such as DistributedDataParallel."""
        return partial(wrapped, run_block=self._run_block, reduce_tile=self._reduce_tile)

    @property
    def recompilations(self) -> int:
        """Graphs compiled by this process since the warm-up."""
        return _graphs() - self._graphs_when_warm

    def warm_up(
        self,
        shapes: Iterable[tuple[int, int]],
        batching: str,
        dtype: str,
        say: Callable[[str], None] = print,
        most_documents: int | None = None,
    ) -> None:
        """Compile forward and backward for every shape (B, T), with batches of nothing; leaves no gradient behind.

        `most_documents`: conversations of a step, as the batches' tables of borders were made for.
        """
        began = time.perf_counter()
        shapes = sorted(shapes, key=lambda shape: shape[0] * shape[1])
        say(f"Compiling for {len(shapes)} shapes: {', '.join(f'{height} x {width}' for height, width in shapes)} ...")
        self.model.train()
        for shape in shapes:
            self._compile_for(_empty_batch(shape, batching, shape[0] * shape[1], most_documents), dtype)
        self._compile_for(_empty_batch(shapes[0], batching, 1, most_documents), dtype)  # 1: a size of its own for torch
        self.model.zero_grad(set_to_none=True)
        self.warm_shapes, self.warm_seconds = shapes, time.perf_counter() - began
        self._graphs_when_warm = _graphs()
        say(f"Compiled in {self.warm_seconds:.0f} s")

    def _compile_for(self, batch: Batch, dtype: str):
        batch = batch.to(self.model.device)
        with autocast(self.model.device, dtype):
            loss = self(batch.inputs, batch.targets, loss_reduction="sum", borders=batch.borders)
        loss.backward()


def _graphs() -> int:
    """Graphs that this process has compiled."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def _empty_batch(shape: tuple[int, int], batching: str, num_tokens: int, most_documents: int | None) -> Batch:
    """A batch of the shape and kind that training will see, of id 0 only, with `num_tokens` targets."""
    inputs = torch.zeros(shape, dtype=torch.long)
    targets = torch.full(shape, IGNORE_INDEX)
    targets.view(-1)[:num_tokens] = 0
    borders = None
    if batching == "packed":
        table_size = border_table_size(shape[1], documents=1, most_documents=most_documents)
        borders = torch.full((table_size,), shape[1], dtype=torch.int32)
        borders[0] = 0
    return Batch(inputs, targets, real_tokens=inputs.numel(), borders=borders)
