"""Base text in many files: read when reached, in their order, with the steps that one list of documents would give."""

import http.server
import itertools
import json
import pickle
import sys
import threading
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanolab import jobs
from nanolab.checkpoint import find_checkpoint
from nanolab.jobs import run, start, train_tokenizer
from nanolab.settings import BaseConfig, TokenizerConfig, check_settings
from nanolab.stream import StreamDataset, TextIds
from nanolab.tasks import DataUnavailable, hub, load_text
from nanolab.tasks.base import DataError, RowError
from nanolab.tasks.rows import load_rows
from nanolab.tasks.text import ROWS_A_SHARD, Text, TextShards

WORDS = ["the cat", "", "sat on the mat", "é 你好", "a", "x y z " * 9, "12 345", "\n\n", "who?", "no"]
TEXTS = [f"{word} {k}" for k, word in enumerate(WORDS * 3)]
PARTS = [TEXTS[:12], [], TEXTS[12:13], TEXTS[13:]]  # one of the files has no rows


def quiet(_line: str):
    pass


def write_parquet(path: Path, texts: list, rows_a_group: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"other": pa.array(range(len(texts))), "text": pa.array(texts, pa.string())})
    pq.write_table(table, path, row_group_size=rows_a_group)
    return path


def write_jsonl(path: Path, texts: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def shards_in(folder: Path, parts: list[list] = PARTS) -> TextShards:
    """The parts as files of both kinds, in turn."""
    for k, texts in enumerate(parts):
        (write_jsonl if k % 2 else write_parquet)(folder / f"part_{k}.{'jsonl' if k % 2 else 'parquet'}", texts)
    return TextShards([str(path) for path in sorted(folder.iterdir())], Path)


def stream_of(documents, tokenizer, num_threads: int = 1, **options) -> StreamDataset:
    return StreamDataset(documents, TextIds(tokenizer, num_threads), 8, 1, 64, **options)


def assert_same_step(ours, theirs):
    assert len(ours.batches) == len(theirs.batches)
    for mine, other in zip(ours.batches, theirs.batches, strict=True):
        assert torch.equal(mine.inputs, other.inputs) and torch.equal(mine.targets, other.targets)
    assert ours.left_out == theirs.left_out


# --- documents -------------------------------------------------------------------------------------------------------


def test_documents_of_several_files_come_in_the_order_of_the_files(tmp_path):
    shards = shards_in(tmp_path)
    assert [row["text"] for row in shards] == TEXTS == shards["text"]
    places = [row["where"] for row in shards]
    assert places[:2] == ["text part_0.parquet row 0", "text part_0.parquet row 1"]
    assert places[12:14] == ["text part_2.parquet row 0", "text part_3.jsonl row 0"]


def test_a_number_names_a_shard_and_a_row_whatever_was_read_before(tmp_path):
    shards = shards_in(tmp_path)
    for number, row in ((3, 16), (0, 7), (2, 0), (3, 0), (0, 0)):
        assert shards[number * ROWS_A_SHARD + row]["text"] == PARTS[number][row]
    for index in (12, ROWS_A_SHARD, 4 * ROWS_A_SHARD, -1):
        with pytest.raises(IndexError, match=f"no document has the number {index}"):
            shards[index]


def test_a_stretch_is_a_row_group_and_goes_on_with_the_next_file_that_has_rows(tmp_path):
    shards = shards_in(tmp_path)
    assert shards.stretch(0) == range(3) and shards.stretch(4) == range(4, 6)
    assert shards.stretch(12) == range(2 * ROWS_A_SHARD, 2 * ROWS_A_SHARD + 1)  # over the empty one
    assert shards.stretch(3 * ROWS_A_SHARD + 5) == range(3 * ROWS_A_SHARD + 5, 3 * ROWS_A_SHARD + 17)
    assert not shards.stretch(3 * ROWS_A_SHARD + 17)


def test_lines_of_json_are_read_a_thousand_at_a_time(tmp_path):
    texts = [str(k) for k in range(2_500)]
    shards = TextShards([str(write_jsonl(tmp_path / "a.jsonl", texts))], Path)
    assert [len(shards.stretch(k)) for k in (0, 1_000, 2_499, 999)] == [1_000, 1_000, 1, 1]
    assert [row["text"] for row in shards] == texts


def test_one_row_group_and_one_file_are_held(tmp_path, monkeypatch):
    opened, read = [], []
    shards = shards_in(tmp_path)
    fetch, groups = shards.fetch, pq.ParquetFile.read_row_group
    shards.fetch = lambda name: opened.append(Path(name).name) or fetch(name)
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda file, g, **options: read.append((g, options)) or groups(file, g, **options),
    )
    taken = list(itertools.islice(shards, 5))
    assert len(taken) == 5 and opened == ["part_0.parquet"]
    assert read == [(g, {"columns": ["text"], "use_threads": False}) for g in (0, 1)]
    list(shards)
    assert opened[1:] == ["part_1.jsonl", "part_2.parquet", "part_3.jsonl"]


def test_a_copy_for_another_process_leaves_open_files_behind(tmp_path):
    shards = shards_in(tmp_path)
    first = next(iter(shards))
    assert next(iter(pickle.loads(pickle.dumps(shards)))) == first


def test_damaged_files_and_rows_are_named(tmp_path):
    bad = write_parquet(tmp_path / "a" / "1.parquet", TEXTS)
    bad.write_bytes(b"PAR1 and nothing more PAR1")
    with pytest.raises(DataError, match=r"1.parquet cannot be read as parquet \("):
        list(TextShards([str(bad)], Path))
    pq.write_table(pa.table({"texts": ["a"]}), bad)
    with pytest.raises(DataError, match="1.parquet: there is no column 'text', its columns are texts"):
        list(TextShards([str(bad)], Path))
    pq.write_table(pa.table({"text": [3]}), bad)
    with pytest.raises(DataError, match="'text' holds int64, not text"):
        list(TextShards([str(bad)], Path))
    rows = TextShards([str(write_parquet(bad, ["a", None, "b"]))], Path)
    with pytest.raises(RowError, match=r"^text 1.parquet row 1: 'text' is null, not text"):
        list(rows)
    lines = write_jsonl(tmp_path / "a" / "2.jsonl", ["a", 5, "b"])
    with pytest.raises(RowError, match=r"^text 2.jsonl row 1: line 2: 'text' is a whole number \(5\), not text"):
        list(TextShards([str(lines)], Path))
    lines.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match="2.jsonl line 2: not JSON"):
        list(TextShards([str(lines)], Path))


# --- what load_text gives --------------------------------------------------------------------------------------------


def test_a_directory_has_one_file_or_a_folder_of_them(tmp_path):
    one, several = tmp_path / "one", tmp_path / "several"
    write_parquet(one / "pretrain_text" / "train.parquet", TEXTS)
    for name, texts in (("b.jsonl", ["3"]), ("a.parquet", ["1", "2"]), ("c.txt", ["no"])):
        (write_parquet if name == "a.parquet" else write_jsonl)(several / "pretrain_text" / "train" / name, texts)
    whole = load_text("train", one)
    assert isinstance(whole, Text) and whole["text"] == load_rows("pretrain_text", None, "train", one)["text"]
    assert (whole.described(), whole.counts()) == ("30 documents", {"text": 30})
    found = load_text("train", several)
    size = sum((several / "pretrain_text" / "train" / name).stat().st_size for name in ("a.parquet", "b.jsonl"))
    assert (found["text"], found.counts()) == (["1", "2", "3"], {"text files": 2, "bytes": size})
    assert found.described() == "2 files, read when reached"
    write_jsonl(several / "pretrain_text" / "train.jsonl", ["4"])
    with pytest.raises(ValueError, match="train.jsonl and 2 files in .*train are both there; take one"):
        load_text("train", several)
    with pytest.raises(FileNotFoundError, match="No file for this split"):
        load_text("validation", several)


def test_the_number_of_the_hubs_files_is_checked():
    assert load_text("train", "hub", 3).names == ["shard_00000.parquet", "shard_00001.parquet", "shard_00002.parquet"]
    every = load_text("train", "hub", -1)
    assert len(every.names) == 1_822 and every.names[-1] == "shard_01821.parquet"  # the next is for validation
    with pytest.raises(ValueError, match="num_shards must be 1 to 1,822, or -1 for all of them, got 1,823"):
        load_text("train", "hub", 1_823)
    with pytest.raises(ValueError, match="num_shards must be 1 or more, or -1, got 0"):
        check_settings(BaseConfig(num_shards=0))


# --- streams of shards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_stream_of_shards_is_the_stream_of_their_documents_also_around_the_end(tmp_path, byte_tokenizer, num_threads):
    plain = StreamDataset(
        [{"text": text} for text in TEXTS], lambda row: [256, *byte_tokenizer.encode(row["text"])], 8, 1, 64
    )
    stream = stream_of(shards_in(tmp_path), byte_tokenizer, num_threads)
    epoch = plain.count_tokens()
    assert stream.count_tokens() == epoch and epoch < 12 * 64
    for step in range(24):
        assert_same_step(stream[step], plain[step])


def test_a_stream_of_shards_opens_a_file_when_it_is_reached(tmp_path, byte_tokenizer):
    shards, opened = shards_in(tmp_path), []
    shards.fetch = lambda name: opened.append(Path(name).name) or Path(name)
    stream = stream_of(shards, byte_tokenizer)
    stream[0]
    assert opened == ["part_0.parquet"]
    steps = next(step for step in range(1, 20) if stream[step] and opened.count("part_0.parquet") == 2)
    assert opened == ["part_0.parquet", "part_1.jsonl", "part_2.parquet", "part_3.jsonl", "part_0.parquet"]
    assert steps == stream.count_tokens() // 64


def test_going_on_from_a_place_opens_no_file_before_it(tmp_path, byte_tokenizer):
    shards, opened = shards_in(tmp_path), []
    whole = stream_of(shards, byte_tokenizer)
    steps = [whole[k] for k in range(20)]
    last = next(k for k in range(20) if steps[k].place[0] // ROWS_A_SHARD == 3)
    shards.fetch = lambda name: opened.append(Path(name).name) or Path(name)
    again = stream_of(pickle.loads(pickle.dumps(shards_in(tmp_path))), byte_tokenizer)
    again.documents.fetch = shards.fetch
    again.start_at(*steps[last].place)
    assert_same_step(again[last + 1], steps[last + 1])
    assert opened == ["part_3.jsonl"]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_worker_processes_give_the_same_steps_of_shards_that_were_open_already(tmp_path, byte_tokenizer, num_workers):
    whole = stream_of(shards_in(tmp_path), byte_tokenizer)
    stream = stream_of(shards_in(tmp_path), byte_tokenizer, 2)
    stream[3]
    loader = torch.utils.data.DataLoader(stream, batch_size=None, sampler=range(4, 24), num_workers=num_workers)
    for number, step in enumerate(loader, 4):
        assert_same_step(step, whole[number])
        assert step.place == whole[number].place


@pytest.mark.parametrize("num_workers", [0, 2])
def test_going_on_after_each_of_twelve_steps_gives_the_same_steps_from_any_number_of_workers(
    tmp_path, byte_tokenizer, num_workers
):
    options = {"num_threads": 2, "on_bad_row": "skip"}
    parts = [PARTS[0], ["a", None, "b"], PARTS[3]]
    whole = stream_of(shards_in(tmp_path, parts), byte_tokenizer, **options)
    assert whole.count_tokens() < 8 * 64
    steps = [whole[step] for step in range(12)]
    assert sum(len(step.left_out) for step in steps) == 2  # the bad row, in two epochs
    for stopped in range(11):
        again = stream_of(shards_in(tmp_path, parts), byte_tokenizer, **options)
        again.start_at(*steps[stopped].place)
        sampler = range(stopped + 1, 12)
        loader = torch.utils.data.DataLoader(again, batch_size=None, sampler=sampler, num_workers=num_workers)
        for number, step in enumerate(loader, stopped + 1):
            assert_same_step(step, steps[number])
            assert step.place == steps[number].place


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([*WORDS, None, "\ud800"]), max_size=9), min_size=1, max_size=4), st.data())
def test_going_on_from_any_step_gives_the_steps_of_one_that_was_never_stopped(
    tmp_path_factory, byte_tokenizer, parts, data
):
    """With rows that are no text, skipped: null, or half of a surrogate pair, which only lines of JSON can hold."""
    folder = tmp_path_factory.mktemp("parts")
    names = [str(write_jsonl(folder / f"{k}.jsonl", texts)) for k, texts in enumerate(parts)]

    def stream(num_threads):
        return stream_of(TextShards(names, Path), byte_tokenizer, num_threads, on_bad_row="skip")

    if not any(text not in (None, "\ud800") for texts in parts for text in texts):
        with pytest.raises(ValueError, match="There are no documents|None of the .* documents can be read"):
            stream(1)[0]
        return
    whole = stream(1)
    steps = [whole[k] for k in range(8)]
    stopped = data.draw(st.integers(0, 6))
    again = stream(2)
    again.start_at(*steps[stopped].place)
    for step in range(stopped + 1, 8):
        assert_same_step(again[step], steps[step])
        assert again[step].place == steps[step].place
    assert_same_step(again[0], steps[0])  # and back, before the place


def is_interrupted(line: int, work) -> bool:
    """Whether there is a `line`-th line of the stream's code in some work; a Ctrl-C comes just before it."""
    count = itertools.count(1)

    def trace(frame, event, _value):
        if not frame.f_code.co_filename.endswith(
            ("nanolab/batch.py", "nanolab/tasks/text.py", "nanolab/tasks/shards.py")
        ):
            return None
        if event == "line" and next(count) == line:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interrupt_at_any_line_spoils_no_step_after_it(tmp_path, byte_tokenizer):
    parts = [TEXTS[:4], TEXTS[4:7], TEXTS[7:9]]
    whole = stream_of(shards_in(tmp_path, parts), byte_tokenizer)
    expected = [whole[step] for step in range(4)]
    for line in itertools.count(1, 5):  # loops come by each line often enough
        stream = stream_of(shards_in(tmp_path, parts), byte_tokenizer)
        if not is_interrupted(line, lambda stream=stream: [stream[0], stream[1], stream[2]]):
            break
        for step in (2, 3, 0):
            assert_same_step(stream[step], expected[step])
    assert line > 300


def test_files_without_any_document_end_in_words(tmp_path, byte_tokenizer):
    with pytest.raises(ValueError, match="There are no documents"):
        stream_of(shards_in(tmp_path, [[], []]), byte_tokenizer)[0]


# --- the hub ---------------------------------------------------------------------------------------------------------


class Hub:
    """A stand-in for the hub on this machine: serves files of texts, and counts what was asked for."""

    def __init__(self, folder: Path):
        self.folder, self.asked, self.gone = folder, [], set()
        members = {"do_GET": lambda request: self._get(request), "log_message": lambda *_: None}
        handler = type("Handler", (http.server.BaseHTTPRequestHandler,), members)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _get(self, request):
        name = request.path.rpartition("/")[2]
        self.asked.append(name)
        if request.path != f"/datasets/karpathy/fineweb-edu-100b-shuffle/resolve/main/{name}" or name in self.gone:
            return request.send_error(503)
        content = (self.folder / name).read_bytes()
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


@pytest.fixture
def hub_here(tmp_path, monkeypatch):
    """A hub with three files to train on and one for validation."""
    folder = tmp_path / "hub"
    for k in range(3):
        write_parquet(folder / f"shard_{k:05d}.parquet", [f"{text} of shard {k}" for text in TEXTS])
    served = Hub(folder)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", served.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "RETRY_AFTER", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield served
    served.server.shutdown()
    served.server.server_close()


def soon(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_the_hubs_files_are_fetched_one_ahead_and_kept(hub_here, cache):
    shards = load_text("train", "hub", 3)
    assert hub_here.asked == []
    rows = iter(shards)
    assert next(rows)["where"] == "text shard_00000.parquet row 0"
    soon(lambda: len(hub_here.asked) == 2)
    assert hub_here.asked == ["shard_00000.parquet", "shard_00001.parquet"]
    assert len(list(rows)) == 3 * len(TEXTS) - 1
    assert sorted(hub_here.asked) == [f"shard_0000{k}.parquet" for k in range(3)]
    assert len(list(load_text("train", "hub", 3))) == 3 * len(TEXTS) and len(hub_here.asked) == 3
    kept = sorted(path.name for path in (cache / "hub" / "pretrain_text").glob("*.parquet"))
    assert kept == [f"shard_0000{k}.parquet" for k in range(3)]


def test_processes_that_want_the_same_file_download_it_once(hub_here):
    threads = [threading.Thread(target=hub.fetch_text_shard, args=("shard_00002.parquet",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub_here.asked == ["shard_00002.parquet"]


def test_a_file_that_does_not_come_is_asked_for_again_and_then_named(hub_here):
    hub_here.gone = {"shard_00001.parquet"}
    shards = load_text("train", "hub", 3)
    rows = iter(shards)
    for _ in TEXTS:  # all of the first file
        next(rows)
    with pytest.raises(DataUnavailable, match=r"shard_00001.parquet could not be loaded: HTTP Error 503"):
        next(rows)
    assert hub_here.asked.count("shard_00001.parquet") == 4  # twice ahead, twice when it was needed
    hub_here.gone = set()
    assert shards[shards.stretch(ROWS_A_SHARD)[0]]["text"] == f"{TEXTS[0]} of shard 1"


def test_a_page_instead_of_a_file_is_not_kept(hub_here, cache):
    (hub_here.folder / "shard_00000.parquet").write_text("<html>Please log in</html>")
    with pytest.raises(DataUnavailable, match=r"shard_00000.parquet .*no parquet file; it begins with b'<html>"):
        list(load_text("train", "hub"))
    assert not list((cache / "hub" / "pretrain_text").glob("*.parquet"))


def test_offline_only_what_was_fetched_is_there(hub_here, monkeypatch):
    list(load_text("train", "hub", 1))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    shards = load_text("train", "hub", 2)
    with pytest.raises(DataUnavailable, match="shard_00001.parquet could not be loaded: HF_HUB_OFFLINE is set"):
        list(shards)
    assert hub_here.asked == ["shard_00000.parquet"]


def test_an_error_about_a_file_is_the_same_behind_a_process():
    error = DataUnavailable("shard_00001.parquet", OSError("away"))
    assert str(pickle.loads(pickle.dumps(error))) == str(error) and "\n" in str(error)


@pytest.fixture
def base_on_the_hub(hub_here, monkeypatch):
    """A tokenizer of the hub's text, and settings of a small run that reads all three files."""
    monkeypatch.setattr(jobs.vocabulary, "load_words", lambda split, data: [])
    read = jobs.stages.load_text

    def train_of_the_hub(split, data, *how, **more):
        return read(split, "toy" if split == "validation" else data, *how, **more)

    monkeypatch.setattr(jobs.stages, "load_text", train_of_the_hub)
    monkeypatch.setattr(jobs.vocabulary, "load_text", train_of_the_hub)
    train_tokenizer(TokenizerConfig(data="hub", vocab_size=300, max_chars=500), quiet)
    assert hub_here.asked == ["shard_00000.parquet"]  # and not what comes after it
    sizes = {"max_seq_len": 16, "device_batch_size": 2, "total_batch_size": 32, "eval_tokens": 128, "eval_every": -1}
    return BaseConfig(data="hub", num_shards=3, depth=1, model_tag="d1", num_iterations=40, device_type="cpu", **sizes)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_whose_next_file_does_not_come_is_saved_and_goes_on_to_the_bit(hub_here, base_on_the_hub, num_workers):
    config = base_on_the_hub
    hub_here.gone, found = {"shard_00002.parquet"}, []
    job = start(BaseConfig(**{**vars(config), "num_workers": num_workers}), quiet)
    with pytest.raises(DataUnavailable, match=r"shard_00002.parquet could not be loaded: HTTP Error 503") as raised:
        for report in run(job, quiet):
            found.append(report.loss)
    assert "Traceback" not in str(raised.value)
    assert 15 < len(found) < 40 and find_checkpoint("base", "d1").name == f"step_{len(found):06d}"
    hub_here.gone = set()
    resumed = start(BaseConfig(**{**vars(config), "num_workers": num_workers, "resume": "latest"}), quiet)
    found += [report.loss for report in run(resumed, quiet)]
    whole = start(BaseConfig(**{**vars(config), "save": False}), quiet)
    assert found == [report.loss for report in run(whole, quiet)]
    with pytest.raises(ValueError, match="num_shards was 3, is 2"):
        start(BaseConfig(**{**vars(config), "num_shards": 2, "resume": "latest"}), quiet)
