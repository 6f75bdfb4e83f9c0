import pytest
import torch

from nanolab import runtime

CPU = torch.device("cpu")


def test_precision_is_what_was_asked_for_or_what_the_hardware_has(monkeypatch):
    assert runtime.pick_dtype("float32", CPU) == ("float32", "asked for")
    monkeypatch.setattr(runtime, "bfloat16_instructions", lambda: "avx512_bf16")
    monkeypatch.setattr(runtime, "product_seconds", {torch.float32: 0.3, torch.bfloat16: 0.2}.get)
    reason = "this processor has avx512_bf16; products measured 1.5 times as fast as in float32"
    assert runtime.pick_dtype("auto", CPU) == ("bfloat16", reason)
    monkeypatch.setattr(runtime, "product_seconds", {torch.float32: 0.2, torch.bfloat16: 0.2}.get)
    assert runtime.pick_dtype("auto", CPU)[0] == "float32"  # it has them, and they gain nothing
    monkeypatch.setattr(runtime, "bfloat16_instructions", lambda: "")
    assert runtime.pick_dtype("auto", CPU)[0] == "float32"
    capabilities = {"H100": (9, 0), "A100": (8, 0), "T4": (7, 5)}
    found = {}
    for card, capability in capabilities.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device, capability=capability: capability)
        found[card] = runtime.pick_dtype("auto", torch.device("cuda"))[0]
    assert found == {"H100": "bfloat16", "A100": "bfloat16", "T4": "float32"}
    assert runtime.pick_dtype("auto", torch.device("mps"))[0] == "float32"
    with pytest.raises(ValueError, match="dtype 'fp8' is unknown"):
        runtime.pick_dtype("fp8", CPU)


def test_a_product_is_timed_in_seconds():
    assert 0 < runtime.product_seconds(torch.float32, size=8, repeats=2) < 1


def test_instructions_are_read_from_torch(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": False}, raising=False)
    assert runtime.bfloat16_instructions() == "avx512_bf16"
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert runtime.bfloat16_instructions() == ""


def test_a_device_that_is_not_there_is_refused_by_name():
    assert runtime.pick_device("cpu") == CPU
    with pytest.raises(ValueError, match="'tpu' is not available on this machine; it has: .*cpu"):
        runtime.pick_device("tpu")


def test_a_whole_session_can_be_kept_on_the_processor(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.pick_device().type == "mps"
    monkeypatch.setenv("NANOLAB_DEVICE", "cpu")
    assert runtime.pick_device() == CPU and runtime.pick_device("mps").type == "mps"
    monkeypatch.setenv("NANOLAB_DEVICE", "tpu")
    with pytest.raises(ValueError, match="NANOLAB_DEVICE 'tpu' is not available"):
        runtime.pick_device()


def test_autocast_changes_the_products_and_not_the_weights():
    a = torch.ones(4, 4)
    with runtime.autocast(CPU, "bfloat16"):
        assert (a @ a).dtype == torch.bfloat16
    with runtime.autocast(CPU, "float32"):
        assert (a @ a).dtype == torch.float32


def test_versions_name_the_packages_that_decide_the_numbers():
    assert {"torch", "tiktoken", "rustbpe", "datasets", "nanolab"} <= set(runtime.versions())
