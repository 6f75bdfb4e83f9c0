import pytest
import torch
import torch.nn.functional as F

from nanolab.attention import KVCache
from nanolab.convert import transformers_settings, transformers_weights
from nanolab.gpt import GPT, LOGIT_SOFTCAP, GPTConfig
from nanolab.loss import softcapped, supervised_cross_entropy
from tests.conftest import random_model


def as_transformers(model: GPT):
    """The same weights in transformers' NanoChatForCausalLM."""
    from transformers import NanoChatConfig, NanoChatForCausalLM

    settings = transformers_settings(model.config)
    theirs = NanoChatForCausalLM(NanoChatConfig(**settings, max_position_embeddings=512))
    weights = transformers_weights(model.state_dict())
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected and not [name for name in missing if "rotary" not in name]
    return theirs.eval()


@pytest.mark.parametrize("depth", [2, 4])
def test_logits_equal_those_of_transformers_nanochat(depth):
    model = random_model(vocab_size=300, depth=depth)
    inputs = torch.randint(0, 300, (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = model(inputs), as_transformers(model)(inputs).logits
    assert ours.std() > 0.1  # not all the same, or the comparison would say nothing
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_new_model_says_every_token_with_the_same_probability():
    model = GPT(GPTConfig.from_depth(2, 300))
    loss = model(torch.randint(0, 300, (2, 9)), torch.randint(0, 300, (2, 9)))
    assert loss.item() == pytest.approx(torch.tensor(300.0).log().item(), abs=1e-6)


def test_depth_sizes_the_model():
    config = GPTConfig.from_depth(4, 65_536)
    assert (config.n_embd, config.n_head, config.n_layer) == (256, 2, 4)
    assert (GPTConfig.from_depth(20, 65_536).n_embd, GPTConfig.from_depth(20, 65_536).n_head) == (1280, 10)
    numbers = GPT(config).num_parameters()
    assert numbers["head"] == numbers["embedding"] == 256 * 65_536
    assert numbers["matrices"] == 4 * 12 * 256 * 256
    with pytest.raises(ValueError, match="depth"):
        GPTConfig.from_depth(0, 100)


def test_parameters_carry_nanochats_names():
    names = [name for name, _ in GPT(GPTConfig.from_depth(1, 300)).named_parameters()]
    block = [
        f"transformer.h.0.{x}.weight"
        for x in ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert names == ["transformer.wte.weight", *block, "lm_head.weight"]


def test_the_future_and_the_padding_change_nothing_before_them():
    model = random_model(300)
    inputs = torch.randint(0, 300, (1, 20))
    padded = torch.cat([inputs, torch.full((1, 7), 5)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(padded)[:, :20], model(inputs), rtol=0, atol=1e-5)


def test_longer_inputs_than_the_trained_length_work():
    model = random_model(300)  # sequence_len 64
    with torch.no_grad():
        assert model(torch.randint(0, 300, (1, 1000))).isfinite().all()


def test_grouped_key_heads_share_keys():
    torch.manual_seed(0)
    config = GPTConfig(sequence_len=64, vocab_size=300, n_layer=1, n_head=4, n_kv_head=2, n_embd=256)
    model = GPT(config)
    assert model.transformer.h[0].attn.c_k.weight.shape == (128, 256)
    assert model(torch.randint(0, 300, (1, 8))).shape == (1, 8, 300)


def test_logits_through_the_cache_equal_those_without():
    model = random_model(300)
    inputs = torch.randint(0, 300, (2, 12))
    cache = KVCache(2, (2, 1, 16, 128), "cpu", torch.float32)
    pieces = []
    with torch.no_grad():
        for start, stop in ((0, 5), (5, 6), (6, 12)):
            window = cache.window(0, 2, start, stop - start)
            pieces.append(model.logits(model.hidden(inputs[:, start:stop], cache=window)))
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(inputs), rtol=0, atol=1e-5)


def plain_loss(model, inputs, targets, reduction):
    logits = model(inputs)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_and_gradient_equal_the_plain_formula_over_all_positions(reduction):
    model = random_model(300)
    inputs, targets = torch.randint(0, 300, (3, 11)), torch.randint(0, 300, (3, 11))
    targets[torch.rand(3, 11) < 0.6] = -1
    losses, gradients = [], []
    for loss in (
        model(inputs, targets, loss_reduction=reduction),
        plain_loss(model, inputs, targets, reduction),
    ):
        model.zero_grad()
        loss.backward()
        losses.append(loss.item())
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for ours, plain in zip(*gradients, strict=True):
        assert (ours - plain).norm() <= 1e-5 * plain.norm()


def test_nothing_supervised_gives_zero_loss_and_zero_gradient():
    model = random_model(300)
    inputs = torch.randint(0, 300, (2, 5))
    loss = model(inputs, torch.full((2, 5), -1))
    loss.backward()
    assert loss.item() == 0.0
    assert all(weight.grad is None or weight.grad.abs().max() == 0 for weight in model.parameters())


def test_softcap_bounds_the_logits_and_an_even_guess_costs_log_v():
    assert softcapped(torch.tensor([1e6, -1e6]), LOGIT_SOFTCAP).tolist() == [15.0, -15.0]
    loss = supervised_cross_entropy(torch.zeros(1, 2, 4), torch.zeros(8, 4), torch.tensor([[3, -1]]), 15.0)
    assert loss.exp().item() == pytest.approx(8.0)


def test_unknown_reduction_is_refused():
    model = random_model(300)
    with pytest.raises(ValueError, match="loss_reduction"):
        model(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long), loss_reduction="none")
