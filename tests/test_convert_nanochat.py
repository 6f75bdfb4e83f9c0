"""nanochat folders become ours: same logits, same ids, nothing of them is run, and what is wrong is said in words."""

import builtins
import copyreg
import functools
import importlib
import io
import json
import operator
import os
import pickle
import pickletools
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import tiktoken
import torch

from nanolab import jobs
from nanolab.checkpoint import load_checkpoint
from nanolab.convert import (
    config_from_transformers,
    hub,
    hub_folder,
    read_nanochat,
    save_imported,
    transformers_settings,
    transformers_weights,
    unpickle,
    weights_from_transformers,
)
from nanolab.convert.names import model_from_weights
from nanolab.convert.unpickle import read_encoding, read_tensors
from nanolab.gpt import GPT, GPTConfig
from nanolab.settings import SFTConfig
from nanolab.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer
from tests.conftest import BYTES, random_model

STEP = 650


def encoding_of(tokenizer: Tokenizer, pattern: str = SPLIT_PATTERN, **changes) -> tiktoken.Encoding:
    """What nanochat pickles."""
    parts = {
        "pat_str": pattern,
        "mergeable_ranks": {token: rank for rank, token in enumerate(tokenizer.token_bytes)},
        "special_tokens": dict(tokenizer.special_ids),
    }
    return tiktoken.Encoding(name="rustbpe", **{**parts, **changes})


def bytes_as_nanochat_counts(tokenizer: Tokenizer) -> torch.Tensor:
    """scripts/tok_train.py of November 2025: the bytes of each token's text, special tokens 0."""
    encoding = encoding_of(tokenizer)
    texts = [encoding.decode([token]) for token in range(encoding.n_vocab)]
    return torch.tensor([0 if t in SPECIAL_TOKENS else len(t.encode()) for t in texts], dtype=torch.int32)


def write_model(folder: Path, weights: dict, config: dict, step: int = STEP):
    torch.save(weights, folder / f"model_{step:06d}.pt")
    meta = {"step": step, "val_loss": 1.25, "model_config": config}
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta, indent=2))


def write_folder(folder: Path, model: GPT, tokenizer: Tokenizer, dtypes=("float32", "float32"), prefix="") -> Path:
    """A folder as nanochat writes it; `dtypes` of the embedding and of the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    embedding, rest = (getattr(torch, name) for name in dtypes)
    weights = {
        prefix + name: weight.to(embedding if "wte" in name else rest) for name, weight in model.state_dict().items()
    }
    write_model(folder, weights, dict(vars(model.config)))
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(encoding_of(tokenizer)))
    torch.save(bytes_as_nanochat_counts(tokenizer), folder / "token_bytes.pt")
    return folder


@pytest.fixture
def folder(tmp_path, tiny_model, small_tokenizer) -> Path:
    return write_folder(tmp_path / "d2", tiny_model, small_tokenizer)


def transformers_of(folder: Path):
    """transformers' model with a folder's weights, renamed by hand."""
    from transformers import NanoChatConfig, NanoChatForCausalLM

    shape = json.loads((folder / f"meta_{STEP:06d}.json").read_text())["model_config"]
    theirs = NanoChatForCausalLM(
        NanoChatConfig(
            vocab_size=shape["vocab_size"],
            hidden_size=shape["n_embd"],
            intermediate_size=4 * shape["n_embd"],
            num_hidden_layers=shape["n_layer"],
            num_attention_heads=shape["n_head"],
            num_key_value_heads=shape["n_kv_head"],
            max_position_embeddings=512,
        )
    )
    saved = torch.load(folder / f"model_{STEP:06d}.pt", weights_only=True)
    saved = {name.removeprefix("_orig_mod."): weight.float() for name, weight in saved.items()}
    named = {"lm_head.weight": saved["lm_head.weight"], "model.embed_tokens.weight": saved["transformer.wte.weight"]}
    parts = {"attn.c_q": "self_attn.q_proj", "attn.c_k": "self_attn.k_proj", "attn.c_v": "self_attn.v_proj"}
    parts |= {"attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for layer in range(shape["n_layer"]):
        for ours, part in parts.items():
            named[f"model.layers.{layer}.{part}.weight"] = saved[f"transformer.h.{layer}.{ours}.weight"]
    theirs.load_state_dict(named)
    return theirs.eval()


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("dtypes", [("float32",) * 2, ("bfloat16",) * 2, ("bfloat16", "float32")])
def test_logits_equal_those_of_transformers_with_the_same_weights(dtypes, prefix, tmp_path, small_tokenizer):
    folder = write_folder(
        tmp_path / "d4", random_model(small_tokenizer.vocab_size, depth=4), small_tokenizer, dtypes, prefix
    )
    model = read_nanochat(folder).model
    inputs = torch.randint(0, small_tokenizer.vocab_size, (2, 150), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = model(inputs), transformers_of(folder)(inputs).logits
    assert ours.std() > 0.1  # not all the same, or the comparison would say nothing
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert not model.training and {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_shared_key_heads_come_through(tmp_path, small_tokenizer):
    config = GPTConfig(sequence_len=64, vocab_size=320, n_layer=1, n_head=4, n_kv_head=2, n_embd=256)
    folder = write_folder(tmp_path / "x", GPT(config), small_tokenizer)
    assert read_nanochat(folder).model.config == config


def test_the_tokenizer_is_nanochats_id_by_id(folder, small_tokenizer):
    theirs, ours = encoding_of(small_tokenizer), read_nanochat(folder).tokenizer
    rng = random.Random(0)
    texts = ["".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(1, 0xD800)])) for _ in range(40))]
    texts += [
        "the cat number 12345 sat\n\n  on the mat",
        "<|assistant_end|>",
        " \r\n \t x",
        "don't 're 'LL",
        "e\u0301 🌍",
    ]
    for text in texts * 20:
        assert ours.encode(text) == theirs.encode_ordinary(text)
        rng.shuffle(texts)
    for name in SPECIAL_TOKENS:
        assert ours.special(name) == theirs.encode_single_token(name)
    assert ours.fingerprint == small_tokenizer.fingerprint and ours.vocab_size == theirs.n_vocab


def test_the_numbers_are_the_models_own_and_outlive_the_file(folder, tiny_model):
    model = read_nanochat(folder).model
    (folder / "model_000650.pt").write_bytes(bytes(100))
    for (name, ours), (_, theirs) in zip(model.named_parameters(), tiny_model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.requires_grad, name


def test_the_highest_step_is_read_unless_one_is_named(folder, tiny_model, small_tokenizer):
    other = random_model(small_tokenizer.vocab_size, seed=7)
    write_model(folder, other.state_dict(), dict(vars(other.config)), step=1_000_000)
    (folder / "optim_001000000_rank0.pt").write_bytes(b"never read")
    assert torch.equal(read_nanochat(folder).model.lm_head.weight, other.lm_head.weight)
    assert read_nanochat(folder, step=-1).meta["step"] == 1_000_000
    assert torch.equal(read_nanochat(folder, step=STEP).model.lm_head.weight, tiny_model.lm_head.weight)
    with pytest.raises(FileNotFoundError, match=r"There is no file .*meta_000007\.json"):
        read_nanochat(folder, step=7)


def test_a_tokenizer_that_lies_elsewhere_is_named(tmp_path, tiny_model, small_tokenizer):
    folder = write_folder(tmp_path / "chatsft_checkpoints" / "d2", tiny_model, small_tokenizer)
    beside = tmp_path / "tokenizer"  # as in nanochat's own tree
    beside.mkdir()
    for name in ("tokenizer.pkl", "token_bytes.pt"):
        (folder / name).rename(beside / name)
    with pytest.raises(FileNotFoundError, match=f"no tokenizer.pkl in .*Name it: tokenizer='{beside}'"):
        read_nanochat(folder)
    assert read_nanochat(folder, tokenizer=beside).tokenizer.fingerprint == small_tokenizer.fingerprint
    assert read_nanochat(folder, tokenizer=str(beside / "tokenizer.pkl")).tokenizer.vocab_size == 320


def test_an_imported_checkpoint_is_saved_and_loaded_bit_by_bit_with_its_origin(folder, tiny_model):
    path = save_imported(read_nanochat(folder), "mid", "d2")
    model, tokenizer, meta, found = load_checkpoint("mid", "d2")
    assert found == path and path.name == "step_000650" and meta["step"] == STEP
    assert all(map(torch.equal, model.parameters(), tiny_model.parameters()))
    assert meta["provenance"]["source"] == "nanochat folder d2" == meta["provenance"]["data"]
    digests = meta["provenance"]["files"]
    assert sorted(digests) == ["meta_000650.json", "model_000650.pt", "tokenizer.pkl"]
    sum_by_tool = subprocess.run(["sha256sum", folder / "model_000650.pt"], capture_output=True, text=True)
    assert digests["model_000650.pt"] == f"sha256:{sum_by_tool.stdout.split()[0]}"
    assert meta["nanochat"]["val_loss"] == 1.25 and meta["provenance"]["dtypes"] == ["float32"]


def test_an_import_is_repeated_but_replaces_no_checkpoint_of_another_origin(folder, small_tokenizer):
    imported = read_nanochat(folder)
    assert save_imported(imported, "sft", "d2") == save_imported(imported, "sft", "d2")
    other = imported._replace(meta={**imported.meta, "provenance": {"files": {}}})
    with pytest.raises(ValueError, match="step_000650 is a checkpoint of another origin"):
        save_imported(other, "sft", "d2")
    for tag in ("", "../d2", ".d2"):
        with pytest.raises(ValueError, match="model_tag"):
            save_imported(imported, "sft", tag)
    with pytest.raises(ValueError, match="Unknown stage 'rl'"):
        save_imported(imported, "rl", "d2")


def test_sft_starts_from_an_imported_checkpoint(folder, monkeypatch):
    monkeypatch.setenv("NANOLAB_DATA", "toy")
    save_imported(read_nanochat(folder), "mid", "d2")
    settings = {"num_iterations": 2, "target_examples_per_step": 4, "device_batch_size": 2, "eval_every": -1}
    said = []
    config = SFTConfig(source="mid", data="toy", eval_metrics_every=-1, eval_metrics_max_problems=2, **settings)
    reports = list(jobs.run(jobs.start(config, say=said.append), say=said.append))
    assert len(reports) == 2 and all(report.loss > 0 for report in reports)
    assert any("trained on nanochat folder d2, vocabulary 320" in line for line in said)
    assert load_checkpoint("sft").meta["provenance"]["parent"] == {"stage": "mid", "model_tag": "d2", "step": STEP}


# What a pickle may ask for. Each `__reduce__` would make a file if it were called.


def payloads(ran: Path) -> dict[str, tuple]:
    """Name of the global that is asked for -> what `__reduce__` returns."""
    code = f"open({str(ran)!r}, 'w').close()"
    return {
        f"{os.system.__module__}.system": (os.system, (f"touch {ran}",)),
        "builtins.eval": (eval, (code,)),
        "builtins.exec": (exec, (code,)),
        "builtins.open": (open, (str(ran), "w")),
        "builtins.getattr": (getattr, (Path(ran), "touch")),
        "builtins.__import__": (builtins.__import__, ("antigravity",)),
        "importlib.import_module": (importlib.import_module, ("this",)),
        "functools.partial": (functools.partial, (open, str(ran), "w")),
        "subprocess.Popen": (subprocess.Popen, (["touch", str(ran)],)),
        "subprocess.check_output": (subprocess.check_output, (["touch", str(ran)],)),
        "operator.methodcaller": (operator.methodcaller, ("touch",)),
        "copyreg._reconstructor": (copyreg._reconstructor, (Path, object, None)),
        "_pickle.loads": (pickle.loads, (pickle.dumps(1),)),
        "torch.serialization.load": (torch.load, (str(ran), "cpu")),
        "io.StringIO": (io.StringIO, ("harmless, and not needed all the same",)),
    }


class Evil:
    """An object that is pickled as a call."""

    def __init__(self, call: tuple):
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call


NAMES = sorted(payloads(Path("x")))
RUN_FOR_REAL = ("system", "eval", "exec", "open", "check_output")


def pickled(state: object, monkeypatch, protocol: int = 4) -> bytes:
    """A tiktoken.Encoding pickled with another state than its own."""
    with monkeypatch.context() as patch:
        patch.setattr(tiktoken.Encoding, "__getstate__", lambda self: state)
        return pickle.dumps(encoding_of(Tokenizer(BYTES)), protocol)


def test_the_payloads_would_make_their_file(tmp_path):
    ran = tmp_path / "ran"
    for name, (function, arguments) in payloads(ran).items():
        if name.split(".")[1] in RUN_FOR_REAL:
            function(*arguments)
            assert ran.exists(), name
            ran.unlink()


@pytest.mark.parametrize("name", NAMES)
def test_a_malicious_tokenizer_is_refused_by_name_and_nothing_runs(name, folder, small_tokenizer, monkeypatch):
    ran = folder / "ran"
    evil = Evil(payloads(ran)[name])
    state = encoding_of(small_tokenizer).__getstate__()
    ranks, special = state["mergeable_ranks"], state["special_tokens"]
    states = [
        evil,
        [evil],
        {**state, "name": evil},
        {**state, "pat_str": evil},
        {**state, "mergeable_ranks": evil},
        {**state, "mergeable_ranks": {**ranks, b"x": evil}},
        {**state, "mergeable_ranks": {evil: 0, **ranks}},
        {**state, "special_tokens": {**special, "<|bos|>": evil}},
        {**state, "more": {"deep": [[(evil,)]]}},
    ]
    files = [pickle.dumps(evil, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    files += [pickle.dumps([encoding_of(small_tokenizer), evil])]
    files += [pickled(each, monkeypatch, protocol) for each in states for protocol in (3, 4, 5)]
    told = rf"tokenizer.pkl was refused, and nothing of it was run: it asks for '[\w.]+\.{name.split('.')[-1]}',"
    for data in files:  # the module's name depends on the protocol: builtins is __builtin__ up to the second
        (folder / "tokenizer.pkl").write_bytes(data)
        with pytest.raises(ValueError, match=told):
            read_nanochat(folder)
        assert not ran.exists()


@pytest.mark.parametrize("name", NAMES)
def test_each_of_two_guards_is_enough_by_itself(name, folder, tiny_model, small_tokenizer, monkeypatch):
    ran = folder / "ran"
    evil = Evil(payloads(ran)[name])
    state = {**encoding_of(small_tokenizer).__getstate__(), "pat_str": evil}
    (folder / "tokenizer.pkl").write_bytes(data := pickled(state, monkeypatch))
    with pytest.raises(unpickle.Refused, match=name.split(".")[-1]):
        unpickle._look_at_opcodes(data)
    monkeypatch.setattr(unpickle, "_look_at_opcodes", lambda data: None)
    monkeypatch.setattr(unpickle, "_look_at_table", lambda data: None)
    with pytest.raises(ValueError, match=rf"refused, and nothing of it was run.*{name.split('.')[-1]}"):
        read_encoding(folder / "tokenizer.pkl")
    torch.save({**tiny_model.state_dict(), "x": evil}, folder / "model_000650.pt")
    with pytest.raises(ValueError, match="refused, and nothing of it was run: it holds more than tensors"):
        read_tensors(folder / "model_000650.pt")
    assert not ran.exists()


def by_hand(module: str, name: str) -> bytes:
    r"""STACK_GLOBAL of two short texts, then a call without arguments.

    >>> by_hand("os", "abort")
    b'\x80\x04\x8c\x02os\x8c\x05abort\x93)R.'
    """
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + texts + b"\x93)R."


@pytest.mark.parametrize(
    "module, name",
    [
        ("tiktoken.core", "functools.partial"),
        ("tiktoken.core", "Encoding.__init__.__globals__"),
        ("tiktoken.core", "Encoding.__setstate__"),
        ("tiktoken", "Encoding"),
        ("tiktoken", "get_encoding"),
        ("tiktoken.load", "read_file"),
        ("nanolab.convert.unpickle", "StandIn"),
        ("builtins", "object"),
    ],
)
def test_what_lies_beside_the_one_class_is_refused(module, name, folder):
    (folder / "tokenizer.pkl").write_bytes(by_hand(module, name))
    with pytest.raises(ValueError, match=f"asks for '{module}.{name}'"):
        read_nanochat(folder)


ENCODING = b"\x8c\x0dtiktoken.core\x8c\x08Encoding\x93"  # STACK_GLOBAL of the admitted class


@pytest.mark.parametrize(
    "data, told",
    [
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94" + ENCODING + b"0h\x00h\x01\x93.", "asks for"),  # by memo
        (b"(ios\nsystem\n.", "'os.system'"),  # INST
        (b"cos\nsystem\n.", "'os.system'"),
        (b"c__builtin__\neval\n.", "'__builtin__.eval'"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"Pname\n.", "opcode PERSID"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"\x80\x04" + ENCODING + b"\x8c\x01x\x85R.", "damaged"),  # Encoding("x")
        (b"\x80\x04" + ENCODING + b"\x8c\x01xb.", "damaged"),  # BUILD on the class itself
        (b"\x80\x04" + ENCODING + b".", "no pickled tiktoken.Encoding"),
        (b"\x80\x04" + ENCODING + b")\x81.", "damaged"),  # without a state
        (b"\x80\x04" + ENCODING + b")\x81\x8c\x04gpt2b.", "names tiktoken's encoding 'gpt2'"),  # would be fetched
        (b"\x80\x04" + ENCODING + b")\x81}b.", "its state has other parts"),
        (b"\x80\x04N.", "no pickled tiktoken.Encoding"),
        (b"\x80\x04Nr\xff\xff\xff\x7f.", "numbers an object 2,147,483,647"),  # would make room for two billion
        (b"\x80\x05\x96\xff\xff\xff\xff\x7f\x00\x00\x00.", "damaged"),  # a bytearray of half a terabyte
        (b"\x80\x04)" + b"\x85" * 10_000_000 + b"}s.", "opcode TUPLE1"),  # hashing it would overflow the stack
        (b"\x80\x04" + b"]" * 17_000_000, "larger than 16 MiB"),
        (b"\x80\x04\x8a\x09" + bytes(9) + b".", "opcode LONG1"),
    ],
)
def test_hand_written_pickles_are_refused_without_harm(data, told, folder):
    (folder / "tokenizer.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=told) as refused:
        read_nanochat(folder)
    assert "tokenizer.pkl" in str(refused.value) and len(str(refused.value)) < 600


def test_a_registered_extension_code_opens_no_door(folder, monkeypatch):
    ran = folder / "ran"
    copyreg.add_extension(os.system.__module__, "system", 240)
    try:
        evil = pickle.dumps(Evil((os.system, (f"touch {ran}",))), 4)
        assert any(opcode.name == "EXT1" for opcode, *_ in pickletools.genops(evil))
        (folder / "tokenizer.pkl").write_bytes(evil)
        with pytest.raises(ValueError, match="opcode EXT1"):
            read_nanochat(folder)
    finally:
        copyreg.remove_extension(os.system.__module__, "system", 240)
    assert not ran.exists()


def evil_tables(weights: dict, evil: Evil) -> list:
    state = OrderedDict(weights)
    state._metadata = OrderedDict(deep=[evil])
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.kept = evil
    return [
        evil,
        [weights, evil],
        {**weights, "lm_head.weight": evil},
        {evil: torch.zeros(1), **weights},
        {**weights, "more": {"deep": [(evil,)]}},
        {**weights, "transformer.wte.weight": parameter},
        state,
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", ["model_000650.pt", "token_bytes.pt"])
def test_a_malicious_file_of_tensors_is_refused_by_name_and_nothing_runs(name, file, folder, tiny_model):
    ran = folder / "ran"
    asked = rf"'[\w.]+\.({name.split('.')[-1]}|_rebuild_parameter_with_state)', "  # the second holds the first
    told = f"{file} was refused, and nothing of it was run: it asks for {asked}"
    for table in evil_tables(tiny_model.state_dict(), Evil(payloads(ran)[name])):
        torch.save(table, folder / file)
        with pytest.raises(ValueError, match=told):
            read_nanochat(folder)
        assert not ran.exists()


@pytest.mark.parametrize("file", ["model_000650.pt", "token_bytes.pt"])
def test_a_pickle_in_place_of_a_file_of_tensors_is_refused_and_nothing_runs(file, folder):
    ran = folder / "ran"
    evil = Evil((os.system, (f"touch {ran}",)))
    torch.save({"x": evil}, folder / file, _use_new_zipfile_serialization=False)
    old = (folder / file).read_bytes()
    for data in (old, *(pickle.dumps(evil, protocol) for protocol in range(5))):
        (folder / file).write_bytes(data)
        with pytest.raises(ValueError, match=f"{file} is damaged, or no file of torch.save"):
            read_nanochat(folder)
        assert not ran.exists()


def zipped(path: Path, parts: dict[str, bytes], method: int = zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def test_archives_that_would_fill_the_memory_are_refused(folder):
    file = folder / "model_000650.pt"
    zipped(file, {"x/data.pkl": bytes(50_000_000), "x/version": b"3"}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        read_nanochat(folder)
    zipped(file, {"x/data.pkl": bytes(20_000_000), "x/version": b"3"})
    with pytest.raises(ValueError, match="table of tensors is far too large"):
        read_nanochat(folder)
    torch.save({"lm_head.weight": torch.zeros(1).expand(10**6, 10**6)}, file)
    with pytest.raises(ValueError, match="smaller than the weights it names"):
        read_nanochat(folder)
    torch.save([Evil((bytearray, (10**15,)))], file)  # torch would make it
    with pytest.raises(ValueError, match=r"refused.*asks for '\w+.bytearray'"):
        read_nanochat(folder)
    storage, size, stride = torch.zeros(1).untyped_storage(), (10**6, 10**6), (10**6, 1)
    tensor = Evil(
        (
            torch._utils._rebuild_tensor_v2,
            (
                torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True),
                0,
                size,
                stride,
                False,
                OrderedDict(),
            ),
        )
    )
    torch.save({"lm_head.weight": tensor}, file)
    with pytest.raises(ValueError, match="damaged|smaller than the weights it names"):
        read_nanochat(folder)


def nested_tuples(depth: int) -> bytes:
    return b"\x80\x02})" + b"\x85" * depth + b"Ns."


def test_tuples_so_deep_that_hashing_them_would_end_the_process_are_refused(folder):
    zipped(
        folder / "model_000650.pt",
        {"x/data.pkl": nested_tuples(1_000_000), "x/version": b"3", "x/byteorder": b"little"},
    )
    with pytest.raises(ValueError, match="refused.*opcode TUPLE1 at byte"):
        read_nanochat(folder)


def test_tensors_of_other_kinds_are_refused(folder, tiny_model):
    weights = tiny_model.state_dict()
    for odd in (3, [1], None, "text"):
        write_model(folder, {**weights, "lm_head.weight": odd}, dict(vars(tiny_model.config)))
        with pytest.raises(ValueError, match="something else than plain tensors under lm_head.weight"):
            read_nanochat(folder)
    sparse, empty = torch.zeros(2, 2).to_sparse(), torch.empty(320, 128, device="meta")
    for odd, maker in ((sparse, "sparse_tensor"), (empty, "meta_tensor_no_storage")):
        write_model(folder, {**weights, "lm_head.weight": odd}, dict(vars(tiny_model.config)))
        with pytest.raises(ValueError, match=f"refused.*asks for 'torch._utils._rebuild_{maker}'"):
            read_nanochat(folder)
    write_model(folder, {**weights, "lm_head.weight": torch.zeros(320, 128).double()}, dict(vars(tiny_model.config)))
    with pytest.raises(ValueError, match="not float32, bfloat16 or float16: lm_head.weight"):
        read_nanochat(folder)


def todays_weights(weights: dict) -> dict:
    """With the parts that karpathy/nanochat's model has in 2026."""
    zeros = torch.zeros(2)
    more = {"resid_lambdas": zeros, "x0_lambdas": zeros, "smear_gate.weight": zeros, "smear_lambda": zeros}
    more |= {"backout_lambda": zeros, "value_embeds.1.weight": zeros, "transformer.h.1.attn.ve_gate.weight": zeros}
    return {**weights, **more}


def test_todays_architecture_is_named_and_refused(folder, tiny_model):
    weights, config = tiny_model.state_dict(), dict(vars(tiny_model.config))
    write_model(folder, weights, {**config, "window_pattern": "L"})
    with pytest.raises(ValueError, match=r"later nanochat: its model has sliding windows \(window_pattern L\)\. nano"):
        read_nanochat(folder)
    write_model(folder, {**weights, "x0_lambdas": torch.zeros(2)}, config)
    with pytest.raises(ValueError, match=r"its model has scales of the first embedding \(x0_lambdas\)\. nano"):
        read_nanochat(folder)
    write_model(folder, todays_weights(weights), {**config, "window_pattern": "SSSL"})
    with pytest.raises(ValueError, match="later nanochat") as refused:
        read_nanochat(folder)
    told = str(refused.value)
    for part in (
        "sliding windows (window_pattern SSSL)",
        "value embeddings (value_embeds.1.weight)",
        "gates of value embeddings (transformer.h.1.attn.ve_gate.weight)",
        "smear (smear_gate.weight)",
        "backout (backout_lambda)",
        "scales of the residual stream (resid_lambdas)",
        "scales of the first embedding (x0_lambdas)",
        "nanolab reads nanochat's checkpoints of November 2025",
    ):
        assert part in told


def test_rows_that_pad_the_vocabulary_are_cut_off(tmp_path, byte_tokenizer):
    model = random_model(byte_tokenizer.vocab_size)  # 265 tokens, which December 2025 makes 320 rows
    folder = write_folder(tmp_path / "d2", model, byte_tokenizer)
    weights = model.state_dict()
    for name in ("transformer.wte.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.full((55, 128), 9.0)])
    write_model(folder, weights, dict(vars(model.config)))
    read = read_nanochat(folder).model
    assert all(map(torch.equal, read.parameters(), model.parameters()))


def without(table: dict, *names: str) -> dict:
    return {name: value for name, value in table.items() if name not in names}


def test_missing_extra_and_misshapen_weights_are_named_in_one_error(folder, tiny_model):
    weights, config = tiny_model.state_dict(), dict(vars(tiny_model.config))
    changed = without(weights, "transformer.h.0.attn.c_q.weight", "transformer.h.1.mlp.c_fc.weight")
    changed |= {"lm_head.bias": torch.zeros(320), "transformer.h.1.attn.c_k.weight": torch.zeros(3, 4)}
    write_model(folder, changed, config)
    with pytest.raises(ValueError, match="model_000650.pt does not hold the model") as refused:
        read_nanochat(folder)
    assert str(refused.value).endswith(
        "missing: transformer.h.0.attn.c_q.weight, transformer.h.1.mlp.c_fc.weight; not the model's: lm_head.bias; "
        "of another shape: transformer.h.1.attn.c_k.weight (3, 4) instead of (128, 128)."
    )
    write_model(folder, {name + "x": weight for name, weight in weights.items()}, config)
    with pytest.raises(ValueError, match=r"transformer.h.0.attn.c_v.weight, ... \(14 in all\); not the model's"):
        read_nanochat(folder)
    write_model(folder, {**weights, "_orig_mod.lm_head.weight": weights["lm_head.weight"].clone()}, config)
    with pytest.raises(ValueError, match="weights twice, with and without _orig_mod."):
        read_nanochat(folder)


def test_names_in_a_foreign_file_write_nothing_but_themselves_on_the_screen(folder, tiny_model, small_tokenizer):
    wild = "a\nb\x1b[2J" + "x" * 1000
    write_model(folder, {**tiny_model.state_dict(), wild: torch.zeros(1)}, dict(vars(tiny_model.config)))
    write_encoding(folder / "..", encoding_of(small_tokenizer, special_tokens={wild: 311}))
    write_model(tmp := folder.parent, tiny_model.state_dict(), {**vars(tiny_model.config), wild: 1})
    for place, tokenizer in ((folder, None), (folder, tmp), (tmp, None)):
        with pytest.raises(ValueError) as refused:
            read_nanochat(place, tokenizer=tokenizer)
        assert str(refused.value).isprintable() and r"a\nb\x1b[2J" in str(refused.value)
        assert len(str(refused.value)) < 700


def test_weights_without_any_layer_are_refused_at_once_however_many_the_settings_claim(folder, tiny_model):
    weights = {"model.embed.weight": torch.zeros(2, 2)}
    write_model(folder, weights, {**vars(tiny_model.config), "n_layer": 10**9})
    with pytest.raises(ValueError, match="n_layer 1000000000, its weights have 0; they are: model.embed.weight"):
        read_nanochat(folder)


@pytest.mark.parametrize("value", [0, -1, 3, 10**9, 10**18, "4", None, [1], 2.5, True])
@pytest.mark.parametrize("key", ["n_layer", "n_embd", "n_head", "n_kv_head", "vocab_size", "sequence_len"])
def test_a_changed_shape_in_the_metadata_never_hangs_or_fills_memory(key, value, folder, tiny_model):
    config = {**vars(tiny_model.config), key: value}
    write_model(folder, tiny_model.state_dict(), config)
    if key == "sequence_len" and type(value) is int and value > 0:  # says how it was trained, and shapes nothing
        assert read_nanochat(folder).model.config.sequence_len == value
        return
    told = {"n_kv_head": "n_head|n_kv_head|c_k.weight", "vocab_size": "vocab_size|tokens, the model"}.get(key, key)
    with pytest.raises(ValueError, match=told):
        read_nanochat(folder)


def test_settings_that_are_missing_or_unknown_are_named(folder, tiny_model):
    config = dict(vars(tiny_model.config))
    write_model(folder, tiny_model.state_dict(), {**without(config, "n_head"), "rope_base": 1})
    with pytest.raises(ValueError, match="missing: n_head; unknown: rope_base"):
        read_nanochat(folder)
    for meta in ("{", "[]", "{}", '{"model_config": 3}', "[" * 100_000, "", "\ufeff", " " * 2**21):
        (folder / "meta_000650.json").write_text(meta)
        with pytest.raises(ValueError, match="meta_000650.json is damaged, or not nanochat's"):
            read_nanochat(folder)


def test_another_folder_says_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        read_nanochat(tmp_path / "nowhere")
    (tmp_path / "config.json").touch()
    with pytest.raises(FileNotFoundError, match=r"No nanochat checkpoint .*; there is: config.json\."):
        read_nanochat(tmp_path)


def write_encoding(folder: Path, encoding: tiktoken.Encoding):
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(encoding))


def test_a_tokenizer_that_ours_cannot_be_is_refused_in_words(folder, small_tokenizer):
    ids, first = small_tokenizer.special_ids, len(small_tokenizer.token_bytes)
    ranks = {token: rank for rank, token in enumerate(small_tokenizer.token_bytes)}
    others = {
        "missing: <|output_end|>; unknown: none": {"special_tokens": without(ids, "<|output_end|>")},
        r"missing: none; unknown: <\|pad\|>": {"special_tokens": {**ids, "<|pad|>": 320}},
        "do not have the ids 311 to 319 in nanochat's order": {
            "special_tokens": {name: first + k for k, name in enumerate(reversed(SPECIAL_TOKENS))}
        },
        "not each of the 256 bytes": {"mergeable_ranks": {**without(ranks, b"a"), b"zzz": ranks[b"a"]}},
        "the ranks are not 0 to 310": {"mergeable_ranks": {**ranks, b"a": 9_999}},
        "another pattern than nanochat's": {"pat_str": r"\w+|\s+|[^\w\s]+"},
    }
    for told, change in others.items():
        write_encoding(folder, encoding_of(small_tokenizer, **change))
        with pytest.raises(ValueError, match=f"tokenizer.pkl.*{told}"):
            read_nanochat(folder)
    write_encoding(folder, encoding_of(Tokenizer(BYTES)))
    with pytest.raises(ValueError, match="has 265 tokens, the model 320: they do not belong together"):
        read_nanochat(folder)


@pytest.mark.parametrize("digits", [1, 3])
def test_digits_in_other_groups_are_kept_as_they_are(digits, folder, small_tokenizer):
    pattern = SPLIT_PATTERN.replace("{1,2}", f"{{1,{digits}}}")
    theirs = encoding_of(small_tokenizer, pattern)
    write_encoding(folder, theirs)
    ours = read_nanochat(folder).tokenizer
    assert ours.pattern == pattern and ours.encode("12345 cats 678") == theirs.encode_ordinary("12345 cats 678")


def test_the_bytes_of_each_token_are_compared_with_either_way_to_count(folder, small_tokenizer):
    table = folder / "token_bytes.pt"
    as_2026 = torch.tensor(small_tokenizer.num_bytes(), dtype=torch.int32)
    assert not torch.equal(as_2026, read_tensors(table))  # a lone byte from 128 on counted as three
    torch.save(as_2026, table)
    assert read_nanochat(folder).tokenizer.vocab_size == 320
    as_2026[100] += 1
    torch.save(as_2026, table)
    with pytest.raises(ValueError, match="token_bytes.pt counts other bytes"):
        read_nanochat(folder)
    for odd in (as_2026[:-1], as_2026.float(), [1, 2]):
        torch.save(odd, table)
        with pytest.raises(ValueError, match="token_bytes.pt is not a table of 320 whole numbers"):
            read_nanochat(folder)
    table.unlink()
    assert read_nanochat(folder).tokenizer.vocab_size == 320


def damaged(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return rng.choice(
        [
            data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :],
            data[:place],
            data[:place] + rng.randbytes(rng.randint(1, 40)) + data[place:],
            data[:place] + bytes(min(200, len(data) - place)) + data[place + 200 :],
            rng.randbytes(rng.randint(0, 400)),
            b"",
        ]
    )


def test_four_hundred_damaged_files_each_give_one_clear_error_or_the_same_model(tmp_path, byte_tokenizer):
    model = GPT(GPTConfig(64, byte_tokenizer.vocab_size, 1, 1, 1, 8))
    folder = write_folder(tmp_path / "x", model, byte_tokenizer)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    rng, errors = random.Random(0), 0
    for _ in range(400):
        name = rng.choice(sorted(whole))
        (folder / name).write_bytes(damaged(whole[name], rng))
        try:
            read = read_nanochat(folder)
            assert all(map(torch.equal, read.model.parameters(), model.parameters()))
            same = {n: v for n, v in vars(read.model.config).items() if n != "sequence_len"}
            assert same.items() <= vars(model.config).items()
        except ValueError as error:
            assert name in str(error) and "\n" not in str(error) and len(str(error)) < 900
            errors += 1
        (folder / name).write_bytes(whole[name])
    assert errors > 300


def test_reading_a_real_sized_vocabulary_takes_seconds_at_most(tmp_path):
    rng = random.Random(0)
    tokens = BYTES + [b"%c%d" % (97 + k % 26, k) for k in range(65_527 - 256)]
    file = tmp_path / "tokenizer.pkl"
    write_encoding(tmp_path, encoding_of(Tokenizer(tokens)))
    parts = read_encoding(file)
    assert len(parts.ranks) == 65_527 and all(parts.ranks[tokens[k]] == k for k in rng.sample(range(65_527), 100))


# Names and settings, both ways.


def test_weights_go_to_transformers_names_and_back_bit_by_bit(tiny_model):
    weights = tiny_model.state_dict()
    there = transformers_weights(weights)
    back = weights_from_transformers(there)
    assert list(back) == list(weights) and not set(there) & set(weights) - {"lm_head.weight"}
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    again = model_from_weights(tiny_model.config, back, "here")
    assert all(map(torch.equal, again.parameters(), tiny_model.parameters()))


def test_a_model_is_made_of_weights_without_the_compilers_imports():
    code = """
import sys
from nanolab.convert.names import model_from_weights
from nanolab.gpt import GPT, GPTConfig
model = GPT(config := GPTConfig.from_depth(2, 300))
assert model_from_weights(config, model.state_dict(), "here").lm_head.weight.device.type == "cpu"
assert "sympy" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_settings_go_to_transformers_and_back(tiny_model):
    from transformers import NanoChatConfig

    for config in (tiny_model.config, GPTConfig(64, 300, 3, 4, 2, 256)):
        settings = NanoChatConfig(**transformers_settings(config), max_position_embeddings=64).to_dict()
        assert config_from_transformers(json.loads(json.dumps(settings))) == config


@pytest.mark.parametrize(
    "change, told",
    [
        ({"model_type": "llama"}, "model_type .* is 'llama'"),
        ({"hidden_act": "silu"}, "hidden_act .activation. is 'silu'"),
        ({"attention_bias": True}, "attention_bias .biases in attention. is True"),
        ({"qkv_bias": True}, "qkv_bias"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings .head tied"),
        ({"final_logit_softcapping": 20.0}, "final_logit_softcapping .* is 20.0; nanolab's model has 15.0"),
        ({"final_logit_softcapping": None}, "final_logit_softcapping .* is None"),
        ({"rope_parameters": {"rope_theta": 100_000.0, "rope_type": "default"}}, "rope_theta .* is 100000.0"),
        ({"rope_parameters": {"rope_theta": 10_000.0, "rope_type": "yarn"}}, "rope_type .* is 'yarn'"),
        ({"rope_parameters": 3}, "rope_parameters is 3"),
        ({"rope_theta": 500_000}, "rope_theta .* is 500000"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        ({"intermediate_size": 700}, "intermediate_size is 700; nanolab's model has 1024"),
        ({"head_dim": 64}, "head_dim is 64"),
        ({"rms_norm_eps": 0.1}, "rms_norm_eps is 0.1"),
        ({"layer_types": ["sliding_attention"]}, "layer_types"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"hidden_size": "256"}, "n_embd must be a whole number"),
        ({"num_key_value_heads": 3}, "n_kv_head"),
    ],
)
def test_settings_that_our_model_has_not_are_named(change, told):
    settings = transformers_settings(GPTConfig.from_depth(4, 300))
    with pytest.raises(ValueError, match=told):
        config_from_transformers({**settings, **change})
    with pytest.raises(ValueError, match="no vocab_size among the settings"):
        config_from_transformers(without(settings, "vocab_size"))


# The hub.


def test_without_the_hub_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    with pytest.raises(FileNotFoundError, match="the hub cannot be reached.*Download its files by hand.*nanochat-d32/"):
        hub_folder("karpathy/nanochat-d32")
    for name in ("nanochat-d32", "a/b/c", "../x", "https://huggingface.co/a/b", ""):
        with pytest.raises(ValueError, match="no model's name on the hub"):
            hub_folder(name)


def test_what_the_hub_answers_is_passed_on_in_one_line(monkeypatch):
    def refuse(*_, **__):
        raise OSError("401 Client Error\nand a page of text")

    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(FileNotFoundError, match=r"\(OSError: 401 Client Error\)") as told:
        hub_folder("karpathy/nanochat-d32")
    assert "\n" not in str(told.value)


def test_an_earlier_download_is_read_without_the_hub(cache, monkeypatch, tiny_model, small_tokenizer):
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    place = cache / "hub" / "models--karpathy--nanochat-d2"
    write_folder(place / "snapshots" / "abc123", tiny_model, small_tokenizer)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc123")
    folder = hub_folder("karpathy/nanochat-d2")
    assert folder == place / "snapshots" / "abc123"
    source = read_nanochat(folder).meta["provenance"]["source"]
    assert source == "nanochat folder karpathy/nanochat-d2 at abc123"


def test_only_files_that_are_read_are_fetched(monkeypatch, tmp_path):
    from fnmatch import fnmatch

    asked = {}
    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **how: asked.update(how, name=name) or str(tmp_path))
    assert hub_folder("karpathy/nanochat-d32") == tmp_path and asked["name"] == "karpathy/nanochat-d32"
    wanted = ["model_000650.pt", "meta_000650.json", "tokenizer.pkl", "token_bytes.pt", "model.safetensors"]
    wanted += ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "config.json"]
    others = ["optim_000650_rank0.pt", "pytorch_model.bin", "train.py", "model.gguf"]
    taken = [f for f in wanted + others if any(fnmatch(f, pattern) for pattern in asked["allow_patterns"])]
    assert taken == wanted and not asked["local_files_only"]
