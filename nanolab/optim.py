"""Step 7, the part that moves weights: Muon for matrices, AdamW for embedding and head, and their schedules."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.distributed as dist

from nanolab.gpt import GPT
from nanolab.sharded import gathered, is_sharded, local, on_whole_matrices, part_of

REFERENCE_WIDTH = 768  # nanochat tuned AdamW's learning rates at this n_embd
ADAM_BETAS = (0.8, 0.95)
ADAM_EPS = 1e-10
MUON_EPS = 1e-7  # torch's; keeps the norm of a zero gradient from dividing by zero
WARMDOWN_FROM = 0.8  # base and mid: constant learning rate up to here, then linearly to 0
MOMENTUM_START, MOMENTUM_END, MOMENTUM_STEPS = 0.85, 0.95, 300  # Muon's ramp in base and mid


class Muon(torch.optim.Muon):
    """torch.optim.Muon, with matrices of equal shape orthogonalized as one batch, in a dtype of one's choice.

    torch's works one matrix at a time and always in bfloat16, which a processor without bfloat16 instructions
    multiplies a hundred times slower than float32 (see LOG.md). Settings and state are torch's (`momentum_buffer` of
    each weight), and so is the result: to the bit for bfloat16 matrices of their own shape, up to rounding otherwise.
    Of sharded weights each rank keeps the momentum of its rows, and orthogonalizes its share of the whole matrices.

    Args:
        params, **settings: as of torch.optim.Muon, but for nesterov, eps and adjust_lr_fn, which are its defaults.
        dtype: of the orthogonalization's products.

    >>> weight = torch.nn.Parameter(torch.eye(2))
    >>> weight.grad = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> Muon([weight], lr=0.1, momentum=0.0, weight_decay=0.0).step()
    >>> weight.detach().round(decimals=1)      # an orthogonal step of about lr, whatever the gradient's size
    tensor([[ 1.0000, -0.1000],
            [-0.1000,  1.0000]])
    """

    def __init__(self, params: Iterable[torch.Tensor], dtype: torch.dtype = torch.float32, **settings: float):
        refused = [name for name in ("nesterov", "eps", "adjust_lr_fn") if name in settings]
        if refused:
            raise ValueError(f"This Muon is torch's with its defaults of {', '.join(refused)}; they cannot be set.")
        super().__init__(params, **settings)
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for shape, weights in by_shape.items():
                self._move(shape, weights, group)

    def _move(self, shape: torch.Size, weights: list[torch.Tensor], group: dict):
        momentum, lr = group["momentum"], group["lr"]
        averages = [local(self._momentum_buffer(weight)) for weight in weights]
        gradients = [local(weight.grad) for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, averages, momentum)  # Nesterov: where the average will be
        how = {"dtype": self.dtype, "coefficients": group["ns_coefficients"], "steps": group["ns_steps"]}
        matrices = torch.stack(ahead).to(self.dtype)  # of sharded weights, this rank's rows
        updates = on_whole_matrices(partial(orthogonalized, **how), matrices, weights[0])
        taller = max(1, shape[0] / shape[1]) ** 0.5  # Keller Jordan's and nanochat's rule
        moved = [local(weight) for weight in weights]
        torch._foreach_mul_(moved, 1 - lr * group["weight_decay"])
        torch._foreach_add_(moved, list(updates.to(moved[0].dtype).unbind()), alpha=-lr * taller)

    def _momentum_buffer(self, weight: torch.Tensor) -> torch.Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]


def orthogonalized(
    matrices: torch.Tensor, dtype: torch.dtype, coefficients: tuple[float, float, float], steps: int
) -> torch.Tensor:
    """(K, m, n) matrices with all their singular values brought near 1, in `dtype`; by Newton-Schulz iteration.

    Source: Keller Jordan, kellerjordan.github.io/posts/muon; the same arithmetic as torch.optim.Muon's.

    >>> matrices = orthogonalized(torch.randn(3, 8, 4), torch.float32, (3.4445, -4.775, 2.0315), 5)
    >>> singular = torch.linalg.svdvals(matrices)
    >>> bool(((singular > 0.5) & (singular < 1.5)).all())
    True
    """
    a, b, c = coefficients
    x = matrices.to(dtype)
    tall = x.size(1) > x.size(2)
    if tall:
        x = x.mT  # the smaller side first: its (m, m) products are the cheaper ones
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=MUON_EPS)
    for _ in range(steps):
        gram = x @ x.mT  # (K, m, m)
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x.mT if tall else x


def make_optimizers(
    model: GPT,
    unembedding_lr: float,
    embedding_lr: float,
    matrix_lr: float,
    weight_decay: float = 0.0,
    init_lr_frac: float = 1.0,
    dtype: str = "float32",
    share_muon: bool = False,
) -> list[torch.optim.Optimizer]:
    """[AdamW for head and embedding, Muon for the blocks' matrices], each group with its `initial_lr`.

    AdamW's learning rates are scaled by (n_embd / 768)^-1/2; Muon's is not, since its updates are orthogonal and so
    already sized to the matrix. `weight_decay` is AdamW's; `dtype` is that of Muon's products. `share_muon`: each rank
    orthogonalizes and keeps the momentum of its share of the matrices, and tells the others the new weights
    (ZeRO stage 1, arXiv:1910.02054). AdamW is not shared: it costs less than the telling. Source: karpathy/nanochat,
    nanochat/gpt.py.

    >>> [type(o).__name__ for o in make_optimizers(model, 0.004, 0.2, 0.02)]      # doctest: +SKIP
    ['AdamW', 'Muon']
    """
    scale = (model.config.n_embd / REFERENCE_WIDTH) ** -0.5
    groups = [
        {"params": [model.lm_head.weight], "lr": unembedding_lr * scale * init_lr_frac},
        {"params": [model.transformer.wte.weight], "lr": embedding_lr * scale * init_lr_frac},
    ]
    adamw = torch.optim.AdamW(groups, betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=weight_decay, fused=True)
    muon = (_shared(Muon) if share_muon else Muon)(
        list(model.transformer.h.parameters()),
        dtype=getattr(torch, dtype),
        lr=matrix_lr * init_lr_frac,
        momentum=MOMENTUM_END,
        weight_decay=0.0,
    )
    for optimizer in (adamw, muon):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [adamw, muon]


def _shared(optimizer_class: type) -> Callable[..., torch.optim.Optimizer]:
    """The optimizer with its work and its state shared by all ranks."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # takes seconds, and one rank does not need it

    return partial(ZeroRedundancyOptimizer, optimizer_class=optimizer_class)


def linear_to_zero(step: int, num_iterations: int) -> float:
    """SFT's learning-rate multiplier: 1 at step 0, falling linearly towards 0 after the last step.

    >>> [linear_to_zero(s, 4) for s in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    return 1.0 - step / num_iterations


def constant_then_linear(step: int, num_iterations: int) -> float:
    """Base's and mid's multiplier: 1 for four fifths of the steps, then linearly down over the last fifth.

    >>> [round(constant_then_linear(s, 10), 2) for s in (0, 8, 9)]
    [1.0, 1.0, 0.5]
    """
    progress = step / num_iterations
    return 1.0 if progress <= WARMDOWN_FROM else (1.0 - progress) / (1.0 - WARMDOWN_FROM)


def muon_momentum(step: int) -> float:
    """Muon's momentum in base and mid training: from 0.85 to 0.95 over 300 steps.

    >>> muon_momentum(0), muon_momentum(300)
    (0.85, 0.95)
    """
    done = min(step / MOMENTUM_STEPS, 1.0)
    return (1 - done) * MOMENTUM_START + done * MOMENTUM_END


def set_rates(optimizers: list[torch.optim.Optimizer], lr_multiplier: float, momentum: float | None) -> None:
    """Set every learning rate to its `initial_lr` times the multiplier, and Muon's momentum unless None."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_multiplier
            if momentum is not None and "momentum" in group:
                group["momentum"] = momentum


def momentum_of(optimizers: list[torch.optim.Optimizer]) -> float:
    """Muon's momentum now; 0 without a Muon."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    return next((group["momentum"] for group in groups if "momentum" in group), 0.0)


def states(optimizers: list[torch.optim.Optimizer]) -> list[dict]:
    """What a checkpoint keeps of the optimizers, the same for any number of ranks; all ranks must call it.

    Rank 0 gets it whole. The others do too, except for the optimizers whose work or weights are shared: these give {}
    there. What is shared is gathered weight after weight, onto rank 0's processor.
    """
    found = []
    for optimizer in optimizers:
        if hasattr(optimizer, "consolidate_state_dict"):  # what _shared makes
            found.append(_collected_state(optimizer, keep=dist.get_rank() == 0))
        elif any(is_sharded(weight) for weight in optimizer.state):
            found.append(_gathered_state(optimizer.state_dict(), keep=dist.get_rank() == 0))
        else:
            found.append(optimizer.state_dict())
    return found


def _gathered_state(state: dict, keep: bool) -> dict:
    of_weights = {number: gathered(values, keep, "cpu") for number, values in state["state"].items()}
    return {**state, "state": of_weights} if keep else {}


def _collected_state(optimizer: torch.optim.Optimizer, keep: bool) -> dict:
    """The state of a shared Muon, each momentum from the rank that keeps it.

    Not by the optimizer's own consolidate_state_dict: it takes two minutes for 1 GB (torch.ByteTensor of a bytearray).
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    mine, numbers = optimizer.optim.state, [None] * dist.get_world_size()
    dist.all_gather_object(numbers, [number for number, weight in enumerate(weights) if weight in mine])
    of_weights = {}
    for number, rank in sorted((number, rank) for rank, kept in enumerate(numbers) for number in kept):
        weight = weights[number]
        momentum = mine[weight]["momentum_buffer"] if weight in mine else torch.empty_like(weight)
        dist.broadcast(momentum, src=rank)
        if keep:
            of_weights[number] = {"momentum_buffer": momentum.to("cpu")}
    groups = torch.optim.Optimizer.state_dict(optimizer)["param_groups"]
    return {"state": of_weights, "param_groups": groups} if keep else {}


def load_states(optimizers: list[torch.optim.Optimizer], kept: list[dict]) -> None:
    """Give optimizers what `states` had found, whatever the number of ranks then and now, sharded or not.

    >>> load_states(optimizers, torch.load(path, weights_only=True)["optimizers"])        # doctest: +SKIP
    """
    for optimizer, state in zip(optimizers, kept, strict=True):
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        cut = {
            number: {name: part_of(value, weights[number]) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": cut})
