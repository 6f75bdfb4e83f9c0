"""What CUDA's autocast does differently from a processor's, found without a GPU: tensors without numbers (FakeTensor),
which know only their shape, dtype and device."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.varlen import varlen_attn
from torch.utils._python_dispatch import TorchDispatchMode

from nanolab import attention
from nanolab.engine import sample
from nanolab.gpt import Block, GPTConfig

TAKEN = inspect.signature(varlen_attn).parameters
if "window_size" not in TAKEN or "enable_gqa" not in TAKEN:
    pytest.skip("varlen attention of an older torch, on which autocast leaves norms alone", allow_module_level=True)

T = 512  # slots of a flat row
CONFIGS = [GPTConfig.from_depth(4, 300), GPTConfig(64, 300, n_layer=1, n_head=4, n_kv_head=2, n_embd=512)]


@contextmanager
def fake_cuda_with_autocast() -> Iterator[None]:
    """Tensors on a GPU that is not there, bfloat16 products. (torch.autocast itself sees that there is none.)"""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():  # a gradient would ask the GPU for its streams
        dtype = torch.get_autocast_dtype("cuda")
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.set_autocast_dtype("cuda", dtype)
            torch.clear_autocast_cache()


class Made(TorchDispatchMode):
    """Notes the dtypes of all results of shape (1, T, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.width, self.dtypes = width, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.shape == (1, T, self.width):
            self.dtypes.add(result.dtype)
        return result


def on_fake_cuda(module: torch.nn.Module) -> torch.nn.Module:
    """The module with weights that have no numbers."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            setattr(part, name, torch.nn.Parameter(torch.empty(weight.shape, device="cuda"), requires_grad=False))
    return module


def forward(config: GPTConfig, borders: bool, width: int = 0) -> tuple[torch.Tensor, set[torch.dtype]]:
    """What a block makes of a flat row of two documents or, without borders, of a padded one; dtypes of that width."""
    with torch.device("meta"):
        block = Block(config, 0)
    with fake_cuda_with_autocast(), torch.device("cuda"), Made(width) as made:
        on_fake_cuda(block)
        x, angles = torch.empty(1, T, config.n_embd), torch.empty(1, 1, T, config.n_embd // config.n_head // 2)
        table = torch.empty(3, dtype=torch.int32) if borders else None
        return block(x, angles, angles, None, table), made.dtypes


@pytest.mark.parametrize("config", CONFIGS, ids=["d4", "fewer heads of keys"])
def test_packed_rows_reach_varlen_attention_in_bfloat16(config, monkeypatch):
    seen = []

    def noted(q, k, v, *table, **how):
        seen.append((q.dtype, k.dtype, v.dtype))
        return varlen_attn(q, k, v, *table, **how)

    monkeypatch.setattr(attention, "varlen_attn", noted)
    monkeypatch.setattr(attention, "VARLEN_GROUPS", True)
    y, _ = forward(config, borders=True)
    assert seen == [(torch.bfloat16,) * 3]
    assert y.shape == (1, T, config.n_embd) and y.dtype == torch.float32 and y.device.type == "cuda"


def test_a_torch_whose_varlen_attention_knows_no_groups_gets_every_head(monkeypatch):
    seen = []

    def noted(q, k, v, *table, **how):
        seen.append((q.shape, k.shape, v.shape, how))
        return varlen_attn(q, k, v, *table, **how)

    monkeypatch.setattr(attention, "varlen_attn", noted)
    monkeypatch.setattr(attention, "VARLEN_GROUPS", False)
    y, _ = forward(CONFIGS[1], borders=True)
    assert seen == [((T, 4, 128),) * 3 + (attention.VARLEN_CAUSAL,)]
    assert y.shape == (1, T, 512)


def test_nothing_as_wide_as_the_mlp_is_made_in_float32():
    config = GPTConfig.from_depth(4, 300)
    y, dtypes = forward(config, borders=False, width=4 * config.n_embd)
    assert dtypes == {torch.bfloat16}


def test_a_token_is_drawn_on_the_processor_where_cuda_may_not_add_up_in_any_order(monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    with fake_cuda_with_autocast():
        ids = sample(torch.empty(2, 300, device="cuda"), 1.0, top_k=None, draws=[0.1, 0.9])
    assert ids.device.type == "cpu" and ids.shape == (2,)
