"""What the notebooks draw says the right thing, safely, in few bytes."""

import doctest
import re
from types import SimpleNamespace

import pandas as pd
import pytest

from nanolab import show
from nanolab.layout import plan
from nanolab.show import batches, curves, live, page, palette, plans, tokens, values
from nanolab.show.batches import categories
from nanolab.show.page import style_sheet
from nanolab.show.palette import DARK_CHIPS, LIGHT_CHIPS, SERIES, contrast, ink_on
from nanolab.show.tokens import readable_bytes, roles_of

SPECIALS = ["bos", "user_start", "user_end", "assistant_start", "assistant_end"]
SPECIALS += ["python_start", "python_end", "output_start", "output_end"]
BOS, USER, USER_END, ASSISTANT, END, PYTHON, PYTHON_END, OUTPUT, OUTPUT_END = range(256, 265)


class ByteTokenizer:
    """Ids are bytes; the special tokens follow from 256."""

    special_ids = {f"<|{name}|>": 256 + k for k, name in enumerate(SPECIALS)}

    def decode_bytes(self, ids):
        return bytes(ids)


class FakeTensor:
    """Has what show uses of a tensor: tolist."""

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values


class Notebook:
    """Stands in for IPython.display.display: keeps what is on the page and counts what was sent."""

    def __init__(self):
        self.outputs, self.sent = [], 0

    def display(self, bundle, raw, display_id, metadata=None):
        assert raw and display_id
        assert "image/png" not in bundle or metadata["image/png"]["alt"].startswith("Picture.")
        self.outputs.append(bundle)
        self.sent += 1
        place = len(self.outputs) - 1
        return SimpleNamespace(update=lambda bundle, raw, metadata=None: self._replace(place, bundle))

    def _replace(self, place, bundle):
        self.outputs[place] = bundle
        self.sent += 1


@pytest.fixture
def tokenizer():
    return ByteTokenizer()


@pytest.fixture
def notebook(monkeypatch):
    page = Notebook()
    monkeypatch.setattr(live, "display", page.display)
    return page


def conversation_ids(user="hi", reply="yo"):
    """ids and mask of one exchange, by hand."""
    question = [BOS, USER, *user.encode(), USER_END, ASSISTANT]
    answer = [*reply.encode(), END]
    return question + answer, [0] * len(question) + [1] * len(answer)


def report(step, loss=2.0, metrics=None):
    numbers = {"lr_multiplier": 1.0, "num_tokens": 50, "real_tokens": 100, "slots": 120, "seconds": 0.5}
    return SimpleNamespace(step=step, loss=loss, metrics=metrics or {}, **numbers)


def ticking(seconds_per_call):
    """A clock that moves on by as much at every look."""
    now = [0.0]

    def clock():
        now[0] += seconds_per_call
        return now[0]

    return clock


def without_tags(html):
    return re.sub(r"<style>.*?</style>|<[^>]*>", "", html, flags=re.S)


# Colours


@pytest.mark.parametrize("chips", [LIGHT_CHIPS, DARK_CHIPS], ids=["light", "dark"])
def test_every_chip_can_be_read(chips):
    assert all(contrast(*chip) >= 4.5 for chip in chips.values())


def test_labels_on_every_bar_of_a_mixture_can_be_read():
    assert all(contrast(ink_on(colour), colour) >= 4.5 for colour in SERIES)


def test_contrast_of_black_on_white_is_21_and_does_not_depend_on_order():
    assert contrast("#000000", "#FFFFFF") == contrast("#FFFFFF", "#000000") == 21


def test_every_rule_of_the_style_sheet_stays_inside_nanolab_views():
    selectors = re.findall(r"([^{}]+)\{", style_sheet())
    assert selectors
    assert all(".nl-" in part for selector in selectors for part in selector.split(","))


# Tokens


def test_supervised_tokens_are_underlined_and_ignored_ones_are_not(tokenizer):
    html = show.token_view([104, 105], [0, 1], tokenizer).data
    assert re.search(r'<span class="nl-c" title="[^"]*">h</span>', html)
    assert re.search(r'<u title="[^"]*">i</u>', html)


def test_special_tokens_are_bold_and_underlined_only_when_supervised(tokenizer):
    html = show.token_view([BOS, END], [0, 1], tokenizer).data
    assert re.search(r'<span class="nl-c nl-s" title="[^"]*"><b>&lt;\|bos\|&gt;</b></span>', html)
    assert re.search(r'<u class="nl-s" title="[^"]*"><b>&lt;\|assistant_end\|&gt;</b></u>', html)


def test_text_that_spells_a_special_token_is_not_bold(tokenizer):
    html = show.token_view(list(b"<|bos|>"), [0] * 7, tokenizer).data
    assert "<b>" not in html


def test_hovering_tells_position_id_role_mask_and_text(tokenizer):
    html = show.token_view(*conversation_ids(), tokenizer).data
    assert 'title="2 · id 104 · user, ignored · &#x27;h&#x27;"' in html
    assert 'title="6 · id 121 · assistant, supervised · &#x27;y&#x27;"' in html


def test_the_legend_counts_supervised_tokens_also_beyond_what_is_drawn(tokenizer):
    ids, mask = [97] * 97, [1] * 42 + [0] * 55
    html = show.token_view(ids, mask, tokenizer, max_tokens=10).data
    assert "42 of 97 tokens supervised, 43 %" in html
    assert "87 more of 97 tokens left out" in html
    assert html.count(">a</u>") == 10


def test_nothing_is_said_to_be_left_out_when_all_tokens_are_drawn(tokenizer):
    assert "left out" not in show.token_view([97] * 5, [0] * 5, tokenizer, max_tokens=5).data


def test_spaces_newlines_and_broken_characters_are_visible(tokenizer):
    html = show.token_view([32, 10, 0xE2, 9], [0] * 4, tokenizer).data
    shown = re.findall(r'<span class="nl-c" title="[^"]*">(.*?)</span>(<br>)?', html)
    assert shown == [("<i>·</i>", ""), ("↵", "<br>"), ("⟨e2⟩", ""), ("⇥", "")]


def test_bytes_that_break_inside_a_character_keep_their_whole_characters():
    assert readable_bytes("a€é".encode()[2:-1]) == "⟨82⟩⟨ac⟩⟨c3⟩"
    assert readable_bytes("a€".encode()[:-1]) == "a⟨e2 82⟩"


def test_roles_follow_the_special_tokens(tokenizer):
    ids = [BOS, USER, 97, USER_END, ASSISTANT, 97, PYTHON, 49, PYTHON_END, OUTPUT, 49, OUTPUT_END, 97, END]
    expected = ["", "user", "user", "user", "assistant", "assistant", "python", "python", "python"]
    assert roles_of(ids, tokenizer) == expected + ["python output"] * 3 + ["assistant"] * 2


def test_a_mask_of_another_length_is_refused(tokenizer):
    with pytest.raises(ValueError, match="3 ids but 2 mask values"):
        show.token_view([97, 97, 97], [0, 1], tokenizer)


def test_tensors_are_drawn_as_lists_are(tokenizer):
    ids, mask = conversation_ids()
    assert show.token_view(FakeTensor(ids), FakeTensor(mask), tokenizer).data == (
        show.token_view(ids, mask, tokenizer).data
    )


def test_five_hundred_tokens_stay_below_80_kilobytes(tokenizer):
    ids, mask = conversation_ids(user='<"&' * 80, reply="\n 'x" * 62)
    assert len(ids) > 490
    assert len(show.token_view(ids, mask, tokenizer).data.encode()) < 80_000


# Safety

SCRIPT = "<script>alert('x')</script>"


def test_no_text_becomes_markup_anywhere(tokenizer):
    ids, mask = conversation_ids(user=SCRIPT, reply=SCRIPT)
    parts = [{"type": kind, "text": SCRIPT} for kind in ("text", "python", "python_output")]
    messages = [{"role": "user", "content": SCRIPT}, {"role": "assistant", "content": parts}]
    views = [
        show.token_view(ids, mask, tokenizer, title=SCRIPT),
        show.batch_view([ids[:-1]], [ids[1:]], tokenizer, max_columns=200),
        show.conversation_view({"messages": messages, "where": SCRIPT}),
        show.transcript([("user", SCRIPT)], title=SCRIPT),
        show.before_after_table({SCRIPT: {SCRIPT: 0.5}}, {SCRIPT: 0.2}, title=SCRIPT),
    ]
    for view in views:
        assert "<script" not in view._repr_html_()
        assert "http" not in view._repr_html_()


# Conversations


def test_a_conversation_shows_its_messages_in_order_and_its_tool_calls_as_code():
    parts = [
        {"type": "text", "text": "Let me see. "},
        {"type": "python", "text": "6*7"},
        {"type": "python_output", "text": "42"},
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "6 times 7?"},
        {"role": "assistant", "content": parts},
    ]
    html = show.conversation_view({"messages": messages, "where": "toy row 3"}).data
    assert without_tags(html) == (
        "toy row 3systemBe brief.user6 times 7?assistantLet me see. python call6*7python output42"
    )
    assert '<code class="nl-tool"><small>python call</small>6*7</code>' in html


def test_a_transcript_of_pairs_equals_the_same_conversation():
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    pairs = show.transcript([("user", "Hi"), ("assistant", "Hello")])
    assert pairs.data == show.transcript({"messages": messages}).data


@pytest.mark.parametrize(
    "message", [{"role": "tool", "content": "x"}, {"role": "user", "content": [{"type": "image"}]}]
)
def test_an_unknown_role_or_part_is_named(message):
    with pytest.raises(ValueError, match="'tool'|'image'"):
        show.conversation_view({"messages": [message]})


# Batches: the row [1, 2, END] of ids, shifted, in a batch of five columns padded with END

INPUTS = [[1, 2, END, END, END], [1, END, 3, 4, 5]]
TARGETS = [[-1, END, -1, -1, -1], [-1, -1, 4, 5, END]]


def test_padding_starts_after_the_last_real_input():
    assert show.real_row_lengths(INPUTS, TARGETS, pad_id=END).tolist() == [2, 5]


def test_a_row_of_nothing_but_padding_has_length_0():
    assert show.real_row_lengths([[END, END]], [[-1, -1]], pad_id=END).tolist() == [0]


def test_an_input_that_looks_like_padding_but_has_a_target_is_real():
    assert show.real_row_lengths([[1, END, END]], [[-1, 7, -1]], pad_id=END).tolist() == [2]


def test_each_position_is_supervised_context_or_padding():
    letters = [[kind[0] for kind in row] for row in categories(INPUTS, TARGETS, pad_id=END).tolist()]
    assert ["".join(row) for row in letters] == ["csppp", "ccsss"]


def test_known_lengths_win_over_the_padding_id():
    assert categories(INPUTS, TARGETS, pad_id=END, real_lengths=[4, 5])[0].tolist() == (
        ["context", "supervised", "context", "context", "padding"]
    )


def test_without_padding_id_and_lengths_nothing_is_called_padding():
    assert "padding" not in categories(INPUTS, TARGETS)


def test_lengths_for_another_number_of_rows_are_refused():
    with pytest.raises(ValueError, match="2 rows"):
        categories(INPUTS, TARGETS, real_lengths=[1, 2, 3])


def test_a_batch_map_gives_the_shares_in_its_legend():
    ax = show.batch_map(FakeTensor(INPUTS), FakeTensor(TARGETS), pad_id=END, title="$5").axes[0]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["supervised 40 % (4)", "context 30 % (3)", "padding 30 % (3)"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xlim()) == ("position", "row", (0, 5))


def test_a_batch_map_draws_into_the_axes_it_is_given():
    ax = show.batch_map(INPUTS, TARGETS).axes[0]
    assert show.batch_map(INPUTS, TARGETS, ax=ax) is ax.figure


def test_a_batch_view_puts_each_target_beneath_its_input(tokenizer):
    ids, mask = conversation_ids("h", "y")
    inputs, targets = ids[:-1], [id if learns else -1 for id, learns in zip(ids[1:], mask[1:], strict=True)]
    html = show.batch_view([inputs + [END]], [targets + [-1]], tokenizer).data
    pairs = re.findall(r'<span class="nl-pair">(.*?)</span>(?=<span class="nl-pair">|<div)', html)
    assert [without_tags(pair) for pair in pairs] == [
        "&lt;|bos|&gt;–",
        "&lt;|user_start|&gt;–",
        "h–",
        "&lt;|user_end|&gt;–",
        "&lt;|assistant_start|&gt;y",
        "y&lt;|assistant_end|&gt;",
        "pad–",
    ]


def test_a_batch_view_counts_what_it_leaves_out(tokenizer):
    inputs, targets = [[97] * 172 + [END] * 700], [[98] * 172 + [-1] * 700]
    assert "… 812 more, 700 of them padding" in show.batch_view(inputs, targets, tokenizer).data


def test_a_batch_view_draws_the_rows_asked_for(tokenizer):
    html = show.batch_view([[97]] * 9, [[98]] * 9, tokenizer, rows=[7, 2]).data
    assert re.findall(r"<b>row (\d)</b>", html) == ["7", "2"]
    assert "2 of 9 rows" in html


def test_inputs_and_targets_become_a_table_of_tokens(tokenizer):
    table = show.inputs_targets_table([ASSISTANT, 32, 10], [-1, 10, END], tokenizer)
    assert table.to_dict("list") == {
        "position": [0, 1, 2],
        "input": [ASSISTANT, 32, 10],
        "input_token": ["<|assistant_start|>", "·", "↵"],
        "target": [-1, 10, END],
        "target_token": ["–", "↵", "<|assistant_end|>"],
        "learns": [False, True, True],
    }


def test_the_table_shows_one_row_only(tokenizer):
    with pytest.raises(ValueError, match="one row, but got 2"):
        show.inputs_targets_table(INPUTS, TARGETS, tokenizer)


def test_inputs_and_targets_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        show.batch_map([[1, 2]], [[1, 2, 3]])


# Plans of four conversations: two rows, or eight slots, a micro-batch

LENGTHS = [5, 2, 3, 6]
TWO_ROWS, EIGHT_SLOTS = {"device_batch_size": 2}, {"device_batch_tokens": 8}


def bars_of(ax):
    """(beginning, width, middle of the row) of each bar of a plan, from top to bottom and from left to right."""
    bars = [bar for container in ax.containers for bar in container]
    found = [(bar.get_x(), bar.get_width(), round(bar.get_y() + bar.get_height() / 2, 2)) for bar in bars]
    return sorted(found, key=lambda bar: (bar[2], bar[0]))


def test_blocks_of_padded_rows_stand_below_each_other_and_padding_fills_them():
    laid = plan(LENGTHS, "padded", **TWO_ROWS)
    assert [[tuple(block) for block in plans.blocks(part, LENGTHS)] for part in laid.micro_batches] == [
        [(0, 0, 0, 5), (1, 1, 0, 2), (None, 1, 2, 3)],
        [(2, 0, 0, 3), (3, 1, 0, 6), (None, 0, 3, 3)],
    ]


def test_blocks_of_a_flat_row_stand_end_to_end_and_padding_comes_last():
    (micro_batch,) = plan([5, 2, 4], "packed", device_batch_tokens=12, static_shapes=True).micro_batches
    blocks = [tuple(block) for block in plans.blocks(micro_batch, [5, 2, 4], flat=True)]
    assert blocks == [(0, 0, 0, 5), (2, 0, 5, 4), (1, 0, 9, 2), (None, 0, 11, 1)]


def test_blocks_fill_every_slot_of_a_plan_once():
    for batching in ("padded", "bucketed", "packed"):
        for micro_batch in plan(LENGTHS, batching, static_shapes=True).micro_batches:
            drawn = list(plans.blocks(micro_batch, LENGTHS, flat=batching == "packed"))
            slots = [(block.row, block.start + k) for block in drawn for k in range(block.length)]
            height, width = micro_batch.shape
            assert sorted(slots) == [(row, slot) for row in range(height) for slot in range(width)]


@pytest.mark.parametrize("lengths", [[5, 2, 3, 7], [5, 2]])
def test_lengths_of_another_plan_are_refused(lengths):
    with pytest.raises(ValueError, match="pass the lengths of the plan"):
        show.plan_map(plan(LENGTHS), lengths)


def test_a_plan_map_has_a_band_for_each_micro_batch_and_a_block_for_each_conversation():
    ax = show.plan_map(plan(LENGTHS, "packed", **EIGHT_SLOTS), LENGTHS).axes[0]
    assert bars_of(ax) == [(0, 6, 0.5), (6, 2, 0.5), (0, 5, 2.2), (5, 3, 2.2)]
    assert [text.get_text() for text in ax.texts] == ["3", "1", "0", "2"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1 x 8", "1 x 8"]
    assert ax.get_title(loc="left") == "packed: 2 micro-batches, 16 slots, 0 % padding"


def test_a_plan_map_hatches_padding():
    ax = show.plan_map(plan(LENGTHS, "padded", **TWO_ROWS), LENGTHS, title="$5").axes[0]
    hatched = [bar for container in ax.containers for bar in container if bar.get_hatch()]
    assert [(bar.get_x(), bar.get_width()) for bar in hatched] == [(2, 3), (3, 3)]
    assert ax.get_title(loc="left") == "$5: 2 micro-batches, 22 slots, 27 % padding"


def test_a_plan_map_draws_into_the_axes_it_is_given_and_an_empty_plan_is_drawn_empty():
    ax = show.plan_map(plan([]), []).axes[0]
    assert ax.get_title(loc="left") == "padded: 0 micro-batches, 0 slots, 0 % padding"
    assert show.plan_map(plan(LENGTHS), LENGTHS, ax=ax) is ax.figure


def test_several_plans_are_drawn_on_one_scale_of_slots():
    ways = {"padded": plan(LENGTHS, "padded", **TWO_ROWS), "packed": plan(LENGTHS, "packed", **EIGHT_SLOTS)}
    picture = show.plan_maps(ways, LENGTHS)
    assert [ax.get_xlim() for ax in picture.axes] == [(0, 8), (0, 8)]
    assert [ax.get_title(loc="left").split(":")[0] for ax in picture.axes] == ["padded", "packed"]


def test_a_plan_of_hundreds_of_conversations_has_no_numbers_and_no_labels_that_overlap():
    lengths = [20 + k % 90 for k in range(256)]
    picture = show.plan_map(plan(lengths), lengths)
    assert not picture.axes[0].texts and not picture.axes[0].get_yticklabels()
    assert picture.get_size_inches()[1] <= plans.HEIGHTS[1]
    assert len(picture.png()) < 60_000


def test_who_sees_whom_leaves_zeros_blank_and_draws_the_inner_borders():
    influence = [[1, 0, 0], [0.001, 1, 0], [0, 0, 1]]
    picture = show.who_sees_whom({"one": influence, "other": influence}, borders=FakeTensor([0, 2, 3, 3]))
    ax = picture.axes[0]
    assert [ax.get_title(loc="left") for ax in picture.axes] == ["one", "other"]
    assert ax.images[0].get_array().mask.tolist() == [[False, True, True], [False, False, True], [True, True, False]]
    assert [line.get_xdata()[0] for line in ax.lines[1::2]] == [1.5]


def test_who_sees_whom_refuses_an_array_that_does_not_fit_the_borders():
    with pytest.raises(ValueError, match=r"one: the row has 4 slots, its influences the shape \(3, 3\)"):
        show.who_sees_whom({"one": [[1, 0, 0]] * 3}, borders=[0, 2, 4])


# Mixtures


def test_lengths_get_a_strip_per_task_with_median_and_share_beyond_the_cutoff():
    picture = show.length_histogram({"short": [10, 20, 30], "long": [100, 2000, 3000, 4000]}, cutoff=1024)
    assert [ax.get_ylabel() for ax in picture.axes] == ["short", "long"]
    assert [ax.texts[0].get_text() for ax in picture.axes] == [
        "3 rows\nmedian 20\n0 % beyond",
        "4 rows\nmedian 2,500\n75 % beyond",
    ]
    assert [ax.get_xscale() for ax in picture.axes] == ["log", "log"]


def test_mixture_bars_are_shares_that_fill_each_bar():
    table = pd.DataFrame({"task": ["a", "b"], "rows": [3, 1], "tokens": [100, 300], "supervised_tokens": [50, 50]})
    ax = show.mixture_bars(table).axes[0]
    widths = [[bar.get_width() for bar in bars] for bars in ax.containers]
    assert widths == [[0.75, 0.25, 0.5], [0.25, 0.75, 0.5]]
    assert [bars.get_label() for bars in ax.containers] == ["a", "b"]


def test_mixture_bars_name_a_missing_column():
    with pytest.raises(KeyError, match="supervised_tokens"):
        show.mixture_bars(pd.DataFrame({"task": ["a"], "rows": [1], "tokens": [1]}))


# Curves


def test_the_frame_has_a_row_per_report_and_a_column_per_metric():
    curve = show.LiveCurve(total=3, live=False)
    for one in (report(0, 3.0), report(1, 2.0, {"val_loss": 2.5}), report(2, None)):
        curve.update(one)
    assert curve.frame["loss"].tolist()[:2] == [3.0, 2.0]
    assert curve.frame["loss"].isna().tolist() == [False, False, True]  # no supervised token, no loss
    assert curve.frame["val_loss"].dropna().tolist() == [2.5]
    assert curve.frame["real_tokens"].tolist() == [100, 100, 100]


@pytest.mark.parametrize("total", [1, 3, 10, 11, 95, 1000])
def test_a_run_that_nobody_watches_prints_at_most_ten_lines_the_last_at_the_end(total, capsys):
    with show.LiveCurve(total=total, live=False) as curve:
        for step in range(total):
            curve.update(report(step))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == min(total, 10)
    assert lines[-1].startswith(f"step {total:,} of {total:,} · loss 2.000 · 200 tokens/s")


def test_a_resumed_run_does_not_print_the_lines_it_missed(capsys):
    curve = show.LiveCurve(total=100, live=False)
    for step in range(50, 60):
        curve.update(report(step))
    assert [line.split(" · ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "step 51 of 100",
        "step 60 of 100",
    ]


def test_a_live_curve_redraws_one_picture_in_place(notebook):
    with show.LiveCurve(total=100, live=True, every=0.0, clock=ticking(1.0)) as curve:
        for step in range(100):
            curve.update(report(step))
    assert len(notebook.outputs) == 1
    assert notebook.sent == 6  # a drawing takes one tick of this clock, then the curve rests for 20
    assert notebook.outputs[0]["text/plain"].startswith("step 100 of 100")


def test_a_live_curve_waits_between_drawings(notebook):
    curve = show.LiveCurve(total=10, live=True, every=1000.0, clock=ticking(0.01))
    for step in range(10):
        curve.update(report(step))
    assert notebook.sent == 1
    curve.close()
    curve.close()
    assert notebook.sent == 2  # the first and the final one


def test_the_saved_picture_is_small_even_for_a_long_noisy_run():
    curve = show.LiveCurve(total=5000, title="SFT at $5 a run", live=False, clock=ticking(0.1))
    for step in range(5000):
        metrics = {"val_loss": 2.0, "arc_easy_acc": 0.3} if step % 250 == 0 else None
        curve.update(report(step, 2.0 + (step * 7919 % 1000) / 1000, metrics))
    png = curve.figure().png()
    assert png.startswith(b"\x89PNG")
    assert len(png) < 45_000  # 60 kB once encoded in a notebook


def test_the_caption_tells_progress_speed_and_time_left():
    curve = show.LiveCurve(total=100, live=False, clock=ticking(2.0))
    for step in range(11):
        curve.update(report(step, 1.5, {"val_loss": 1.25} if step == 4 else None))
    assert curve.caption() == (
        "step 11 of 100 · loss 1.500 · 200 tokens/s · 0:20 so far · about 2:58 left · val_loss 1.250 (step 4)"
    )


def test_printed_lines_tell_a_metric_once(capsys):
    curve = show.LiveCurve(total=10, live=False)
    for step in range(10):
        curve.update(report(step, 2.0, {"val_loss": 6.9 - step} if step in (0, 4) else None))
    told = [line.partition(" · val_loss ")[2] for line in capsys.readouterr().out.splitlines()]
    assert told == ["6.900", "", "", "", "2.900", "", "", "", "", ""]


def test_an_evaluation_behind_the_last_step_is_told_and_drawn_and_is_no_step(capsys):
    curve = show.LiveCurve(total=3, live=False)
    for step in range(3):
        curve.update(report(step, 2.0, {"val_loss": 6.9} if step == 0 else None))
    assert curve.caption().endswith("val_loss 6.900 (step 0)")
    capsys.readouterr()
    curve.update({"step": 3, "val_loss": 1.4})
    assert capsys.readouterr().out == curve.caption() + "\n"
    assert curve.caption().startswith("step 3 of 3 · loss 2.000") and curve.caption().endswith(" · val_loss 1.400")
    (marks,) = [line for line in curve.figure().axes[0].lines if line.get_label() == "val_loss"]
    assert marks.get_xydata().tolist() == [[0, 6.9], [3, 1.4]] and marks.get_linestyle() == "None"  # two make no curve
    assert curve.frame["step"].tolist() == [0, 1, 2]


def test_progress_passes_every_report_through_and_closes_after_a_break(notebook):
    reports = [report(step) for step in range(10)]
    assert list(show.progress(iter(reports), total=10, live=True, every=1000)) == reports
    watched = show.progress(iter(reports), total=10, live=True, every=1000)
    for one in watched:
        if one.step == 4:
            break
    watched.close()
    assert [output["text/plain"].split(" · ")[0] for output in notebook.outputs] == [
        "step 10 of 10",
        "step 5 of 10",
    ]


def test_a_run_without_reports_leaves_nothing(notebook):
    assert list(show.progress(iter([]), total=10, live=True)) == []
    assert notebook.outputs == []


@pytest.mark.parametrize("variable", ["PAPERMILL", "CI"])
def test_nobody_watches_a_kernel_under_papermill_or_ci(variable, monkeypatch):
    for name in live.UNWATCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(live, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    assert live.someone_watches()
    monkeypatch.setenv(variable, "1")
    assert not live.someone_watches()


def test_nobody_watches_plain_python():
    assert not live.someone_watches()


def test_loss_curves_name_each_run_with_its_last_value():
    frames = {
        "padded": pd.DataFrame({"step": [0, 1], "loss": [2.0, 2.0]}),
        "packed": pd.DataFrame({"step": [0, 1], "loss": [1.0, 1.0]}),
    }
    ax = show.loss_curves(frames).axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["padded: 2.000", "packed: 1.000"]


def test_loss_curves_name_the_run_that_lacks_a_column():
    with pytest.raises(KeyError, match="padded"):
        show.loss_curves({"padded": pd.DataFrame({"step": [0]})})


def test_smoothing_does_not_start_at_zero():
    assert show.smooth(pd.Series([4.0, 4.0, 4.0])).tolist() == [4.0, 4.0, 4.0]


# Results


def test_before_and_after_shows_accuracy_chance_and_change():
    results = {"mid": {"ARC": 0.25, "GSM8K": 0.1}, "sft": {"ARC": 0.35, "GSM8K": 0.05, "MMLU": 0.3}}
    html = show.before_after_table(results, chance={"ARC": 0.25}).data
    rows = [without_tags(row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    assert rows == [
        "taskmidsftchange",
        "ARC25.0 %35.0 %+10.0 points",
        "GSM8K10.0 %5.0 %−5.0 points",
        "MMLU–30.0 %–",
    ]
    assert html.count('class="nl-chance" style="left:25.0%"') == 2


def test_an_accuracy_in_percent_is_refused():
    with pytest.raises(ValueError, match="ARC has the accuracy 35"):
        show.before_after_table({"sft": {"ARC": 35}})


# Documentation

EXAMPLES = [
    values.as_list,
    values.as_pair,
    values.percent,
    palette.luminance,
    palette.contrast,
    palette.ink_on,
]
EXAMPLES += [tokens.readable_bytes, tokens.visible, batches.real_row_lengths, batches.categories, page.view]
EXAMPLES += [curves.smooth, live.clock_time, live.tokens_per_second, live.last_metrics, live.wrap_facts]
EXAMPLES += [plans.blocks]


@pytest.mark.parametrize("function", EXAMPLES, ids=lambda function: function.__name__)
def test_the_example_in_the_docstring_is_true(function):
    (example,) = doctest.DocTestFinder(recurse=False).find(function, globs=function.__globals__)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


# Notebooks


def test_figures_show_themselves_once_and_stay_out_of_pyplot():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    picture = show.batch_map(INPUTS, TARGETS)
    assert picture._repr_png_()[0].startswith(b"\x89PNG")
    assert pyplot.get_fignums() == before


def test_a_picture_says_in_words_what_it_shows():
    frame = pd.DataFrame({"step": [0, 1], "loss": [2.0, 1.0]})
    png, about = show.loss_curves({"SFT": frame}, "Training loss")._repr_png_()
    assert png.startswith(b"\x89PNG") and about["alt"].startswith("Picture. Training loss: step across")
    from IPython.core.formatters import DisplayFormatter

    data, metadata = DisplayFormatter().format(show.batch_map(INPUTS, TARGETS, title="A batch"))
    assert metadata["image/png"]["alt"] == "Picture. A batch: position across, row upwards" and "image/png" in data


def test_no_style_rule_is_broken_in_the_middle_of_a_value():
    ids, mask = [65, 66], [0, 1]
    sheet = show.token_view(ids, mask, ByteTokenizer()).data.split("</style>")[0]
    assert "border-bottom:2px solid transparent" in sheet
    assert "pxsolid" not in sheet


def test_several_batches_are_drawn_below_each_other_on_one_scale():
    wide = ([[1, 2, 3, 4]], [[-1, 3, 4, 5]])
    narrow = ([[1, 9], [1, 2]], [[9, -1], [-1, 5]])
    figure = show.batch_maps([wide, narrow], pad_id=9, title="two")
    assert [ax.get_xlim() for ax in figure.axes] == [(0, 4), (0, 4)]
    assert [ax.get_ylabel() for ax in figure.axes] == ["batch 0", "batch 1"]
