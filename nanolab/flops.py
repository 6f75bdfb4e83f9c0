"""Beside the line: how much arithmetic a step cannot do without, and how fast the device could do it at best.

    mfu = useful_operations(config, report.real_tokens, report.num_tokens, report.pairs) / report.seconds / peak

Model FLOPs utilization, the field's measure of speed across machines (PaLM, arXiv:2204.02311, appendix B), here on real
tokens only: what is computed for padding, or for logits that nobody learns from, does not count as useful.
"""

import re
import time
from typing import NamedTuple

import torch

from nanolab.gpt import GPTConfig
from nanolab.runtime import DTYPES, synchronize

# Dense bfloat16 products, operations a second, from NVIDIA's data sheets (without sparsity); a name's first match.
CARDS = {
    "B200": 2250e12,
    "GH200": 989.4e12,
    "H200 NVL": 835e12,
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
    "RTX 3090 Ti": 80e12,
    "RTX 3090": 71e12,
}
LESS = re.compile(r"Laptop|\bMIG\b|-\d+[A-Z]$|4090 D")  # in the name of what is not the whole card
PRODUCT_SIZE = {"cpu": 1_024, "mps": 4_096, "cuda": 8_192}  # sides of the matrices of a measured product


class Peak(NamedTuple):
    """The most that a device can do, in operations (multiplications plus additions) a second, and who says so."""

    operations: float
    source: str

    def __str__(self) -> str:
        giga = self.operations / 1e9
        rate = f"{giga / 1e3:,.0f} TFLOP/s" if giga >= 1e5 else f"{giga:,.0f} GFLOP/s"
        return f"{rate}, {self.source}"


def useful_operations(config: GPTConfig, real_tokens: int, num_tokens: int, pairs: int) -> float:
    """The arithmetic that a step cannot do without, forward and backward: multiplications plus additions.

        6 * matrices * real tokens + 6 * V * C * supervised tokens + 12 * n_layer * C * pairs

    matrices: weights of the blocks. pairs: of a position and one it may look at, L (L + 1) / 2 of a conversation of L
    slots. Norms, rotary, softmax and optimizers are not counted. A gradient costs twice its forward pass.

    >>> useful_operations(GPTConfig.from_depth(4, 65_536), 100, 50, 5050) / 1e9
    6.982656
    """
    C, heads, kv_heads = config.n_embd, config.n_head, config.n_kv_head
    of_layer = (2 + 2 * kv_heads / heads) * C**2 + 8 * C**2  # queries, output; keys, values; the MLP's two
    return (
        6 * config.n_layer * of_layer * real_tokens
        + 6 * config.vocab_size * C * num_tokens
        + 12 * config.n_layer * C * pairs
    )


def peak_of(device: torch.device, dtype: str) -> Peak:
    """The device's best rate of matrix products: of a known card the data sheet's for bfloat16, else measured.

    Measuring takes some hundredths of a second on a processor. float32 is measured on every card: what it can do
    depends on whether TF32 is allowed.
    """
    if device.type == "cuda" and dtype == "bfloat16" and (known := data_sheet(torch.cuda.get_device_name(device))):
        return known
    size = PRODUCT_SIZE[device.type]
    return Peak(matrix_rate(device, dtype, size), f"measured with a product of {size:,} x {size:,} matrices")


def data_sheet(name: str) -> Peak | None:
    """The peak of a card whose name has one of `CARDS` in it as a word, in bfloat16; None for others.

    What is less than the whole card may have its name, and is among the others: a laptop's, a part of one, a 4090 D.

    >>> print(data_sheet("NVIDIA H100 80GB HBM3"))
    989 TFLOP/s, the data sheet's of H100
    """
    card = next((card for card in CARDS if re.search(rf"\b{card}\b", name)), None)
    return None if card is None or LESS.search(name) else Peak(CARDS[card], f"the data sheet's of {card}")


def matrix_rate(device: torch.device, dtype: str, size: int, repeats: int = 3) -> float:
    """Operations a second of the fastest of a few products of (size, size) matrices."""
    # Random numbers: a GPU that multiplies ones takes less power, and may run faster than it ever will in training.
    numbers = torch.Generator(device).manual_seed(0)
    a = torch.randn(size, size, dtype=DTYPES[dtype], device=device, generator=numbers)
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        synchronize(device)
        began = time.perf_counter()
        a @ a
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds[1:])
