"""The useful arithmetic of a step against torch's own count, and the peak it is compared with."""

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nanolab import flops
from nanolab.batch import lay_out
from nanolab.course import recipe
from nanolab.flops import CARDS, Peak, matrix_rate, peak_of, useful_operations
from nanolab.gpt import GPT, LOGIT_SOFTCAP, GPTConfig
from nanolab.jobs import run, start, train_tokenizer
from nanolab.loss import plain_cross_entropy
from nanolab.settings import TokenizerConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(("n_head", "n_kv_head"), [(4, 4), (4, 2)])
def test_matrices_head_and_attention_cost_what_torch_counts(n_head, n_kv_head):
    config = GPTConfig(64, vocab_size=200, n_layer=3, n_head=n_head, n_kv_head=n_kv_head, n_embd=128)
    model = GPT(config)
    batch = lay_out([([1] * 41, [1] * 41)], pad_id=0)[0]  # 40 slots, every one supervised, nothing padded
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # attention as plain products
        plain_cross_entropy(model.hidden(batch.inputs), model.lm_head.weight, batch.targets, LOGIT_SOFTCAP).backward()
    by_operator = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    products = sum(count for name, count in by_operator.items() if name in ("aten.mm", "aten.addmm"))
    assert products == useful_operations(config, real_tokens=40, num_tokens=40, pairs=0)
    # Plain products compute every pair, also those that causality forbids.
    only_pairs = useful_operations(config, 40, 40, pairs=40 * 40) - products
    assert by_operator["aten.bmm"] == only_pairs


NAMES = {  # as CUDA tells them: the card of the data sheet
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H200 NVL": "H200 NVL",
    "NVIDIA H200": "H200",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA A100-SXM4-80GB": "A100",
    "NVIDIA A10G": "A10G",
    "NVIDIA L40S": "L40S",
    "NVIDIA L40": "L40",
    "NVIDIA L4": "L4",
    "NVIDIA GeForce RTX 3090 Ti": "RTX 3090 Ti",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
}


OTHERS = [
    "NVIDIA RTX A1000",
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 4090 D",
    "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
    "NVIDIA L40S-48Q",
    "NVIDIA GB200",
    "Tesla T4",
]


def test_a_known_card_is_recognised_by_its_name(monkeypatch):
    for name, card in NAMES.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device, name=name: name)
        assert peak_of(torch.device("cuda"), "bfloat16") == Peak(CARDS[card], f"the data sheet's of {card}")
    for name in OTHERS:
        assert flops.data_sheet(name) is None, name


def test_an_unknown_device_is_measured(monkeypatch):
    monkeypatch.setitem(flops.PRODUCT_SIZE, "cpu", 128)
    peak = peak_of(CPU, "float32")
    assert "measured with a product of 128 x 128 matrices" in str(peak)
    rate = matrix_rate(CPU, "float32", 128)
    assert 1e8 < rate < 1e13 and 1e8 < peak.operations < 1e13


def test_a_peak_is_printed_in_the_unit_that_fits():
    assert str(Peak(989.4e12, "so they say")) == "989 TFLOP/s, so they say"
    assert str(Peak(61.2e9, "measured")) == "61 GFLOP/s, measured"


def test_every_line_of_a_runs_metrics_has_its_share_of_the_peak(cache):
    train_tokenizer(TokenizerConfig(data="toy", vocab_size=300, max_chars=20_000), lambda line: None)
    said = []
    small = {"num_iterations": 2, "total_batch_size": 256, "device_batch_size": 1, "eval_tokens": 256}
    job = start(recipe("base", "toy", "d1", **small, save=False), said.append)
    reports = list(run(job, said.append))
    for report in reports:
        assert report.pairs == 256 * 257 // 2
        useful = useful_operations(job.model.config, 256, 256, report.pairs)
        assert report.mfu == pytest.approx(useful / report.seconds / job.peak.operations)
    lines = [json.loads(line) for line in (job.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["mfu"] for line in lines[:2]] == [report.mfu for report in reports]
    assert any(line.startswith("Arithmetic for real tokens: ") and "of the peak" in line for line in said)
