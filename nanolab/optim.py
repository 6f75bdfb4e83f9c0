"""Step 7, the part that moves weights: Muon for matrices, AdamW for embedding and head, and their schedules."""

import torch

from nanolab.gpt import GPT

REFERENCE_WIDTH = 768  # nanochat tuned AdamW's learning rates at this n_embd
ADAM_BETAS = (0.8, 0.95)
ADAM_EPS = 1e-10
WARMDOWN_FROM = 0.8  # base and mid: constant learning rate up to here, then linearly to 0
MOMENTUM_START, MOMENTUM_END, MOMENTUM_STEPS = 0.85, 0.95, 300  # Muon's ramp in base and mid


def make_optimizers(
    model: GPT,
    unembedding_lr: float,
    embedding_lr: float,
    matrix_lr: float,
    weight_decay: float = 0.0,
    init_lr_frac: float = 1.0,
) -> list[torch.optim.Optimizer]:
    """[AdamW for head and embedding, Muon for the blocks' matrices], each group with its `initial_lr`.

    AdamW's learning rates are scaled by (n_embd / 768)^-1/2; Muon's is not, since its updates are orthogonal and so
    already sized to the matrix. `weight_decay` is AdamW's. Source: karpathy/nanochat, nanochat/gpt.py.

    >>> [type(o).__name__ for o in make_optimizers(model, 0.004, 0.2, 0.02)]      # doctest: +SKIP
    ['AdamW', 'Muon']
    """
    scale = (model.config.n_embd / REFERENCE_WIDTH) ** -0.5
    groups = [
        {"params": [model.lm_head.weight], "lr": unembedding_lr * scale * init_lr_frac},
        {"params": [model.transformer.wte.weight], "lr": embedding_lr * scale * init_lr_frac},
    ]
    adamw = torch.optim.AdamW(groups, betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=weight_decay, fused=True)
    muon = torch.optim.Muon(
        list(model.transformer.h.parameters()),
        lr=matrix_lr * init_lr_frac,
        momentum=MOMENTUM_END,
        weight_decay=0.0,
        adjust_lr_fn="original",  # times sqrt(max(1, rows / columns)), Keller Jordan's and nanochat's rule
    )
    for optimizer in (adamw, muon):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [adamw, muon]


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


def set_rates(optimizers: list[torch.optim.Optimizer], lr_multiplier: float, momentum: float | None):
    """Set every learning rate to its `initial_lr` times the multiplier, and Muon's momentum unless None."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_multiplier
            if momentum is not None and isinstance(optimizer, torch.optim.Muon):
                group["momentum"] = momentum
