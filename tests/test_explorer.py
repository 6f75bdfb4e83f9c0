"""The row explorer leafs, chooses and toggles without a browser, and shows what is wrong with a row."""

import doctest

import pytest

from nanolab import show
from nanolab.render import render_conversation
from nanolab.show import explorer
from nanolab.show.explorer import RowExplorer, conversation_text, named_tasks
from nanolab.tasks import GSM8K, SimpleSpelling, Task, TaskMixture
from tests.test_show import without_tags

WIDGET = "application/vnd.jupyter.widget-view+json"


class Sayings(Task):
    """Rows with one exchange each; a row that is an exception is raised when it is read."""

    name = "Sayings"

    def __init__(self, rows, name="Sayings"):
        super().__init__()
        self.saying, self.name = rows, name

    def num_examples(self):
        return len(self.saying)

    def get_example(self, index):
        row = self.saying[index]
        if isinstance(row, Exception):
            raise row
        return row if isinstance(row, dict) else exchange(row)


def exchange(text):
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"{text}!"}]}


def page_text(rows):
    return without_tags(rows.page.value)


def test_next_and_previous_leaf_and_are_disabled_at_the_ends(byte_tokenizer):
    rows = RowExplorer(Sayings(["ah", "be", "see"]), byte_tokenizer)
    assert rows.previous_button.disabled and not rows.next_button.disabled
    assert "Sayings row 0userahassistantah!" in page_text(rows)
    rows.next_button.click()
    assert "Sayings row 1userbeassistantbe!" in page_text(rows) and rows.number.value == 1
    rows.next_button.click()
    assert "row 2" in page_text(rows) and rows.next_button.disabled and not rows.previous_button.disabled
    rows.next_button.click()  # as a click that was under way when the button was disabled
    assert rows.number.value == 2
    rows.previous_button.click()
    assert "row 1" in page_text(rows)


def test_the_number_box_goes_to_a_row_and_not_beyond_the_last(byte_tokenizer):
    rows = RowExplorer(Sayings(["ah", "be", "see"]), byte_tokenizer)
    rows.number.value = 2
    assert "see!" in page_text(rows) and rows.conversation["where"] == "Sayings row 2"
    rows.number.value = 99
    assert rows.number.value == 2
    assert rows.count.value == "of 3 (from 0)"


def test_the_toggle_shows_tokens_with_the_mask_of_training(byte_tokenizer):
    rows = RowExplorer(Sayings(["ah"]), byte_tokenizer)
    assert "assistant_end" not in rows.page.value
    rows.way.value = "tokens"
    ids, mask = render_conversation(exchange("ah"), byte_tokenizer)
    assert show.token_view(ids, mask, byte_tokenizer, title="Sayings row 0").data in rows.page.value
    assert "4 of 10 tokens supervised, 40 %" in page_text(rows)
    rows.way.value = "chat"
    assert page_text(rows).endswith("10 tokens, 4 of them supervised, 40 %")


def test_the_dropdown_is_there_for_several_tasks_and_begins_each_at_its_first_row(byte_tokenizer):
    rows = RowExplorer([Sayings(["ah", "be"], "A"), Sayings(["see"], "B")], byte_tokenizer)
    assert rows.task in rows.widget.children and rows.task.options == ("A", "B")
    rows.next_button.click()
    rows.task.value = "B"
    assert "B row 0usersee" in page_text(rows) and rows.number.value == rows.number.max == 0
    assert rows.previous_button.disabled and rows.next_button.disabled and rows.count.value == "of 1 (from 0)"
    rows.task.value = "A"
    assert "A row 0" in page_text(rows) and rows.number.max == 1 and not rows.next_button.disabled
    assert rows.task not in RowExplorer(Sayings(["ah"]), byte_tokenizer).widget.children


def test_a_mixture_of_built_in_rows_can_be_leafed_through(byte_tokenizer):
    mixture = TaskMixture([GSM8K("main", "train", data="toy", stop=3), SimpleSpelling(3, data="toy")])
    rows = RowExplorer([mixture, *mixture.tasks], byte_tokenizer)
    assert rows.task.options == ("mixture", "GSM8K main/train", "SimpleSpelling train")
    seen = [page_text(rows)]
    while not rows.next_button.disabled:
        rows.next_button.click()
        seen.append(page_text(rows))
    assert len(set(seen)) == 6
    assert sum("GSM8K main/train row" in text for text in seen) == 3


def test_tasks_of_the_same_name_are_numbered_and_a_dict_names_them_itself():
    one, other, third = Sayings(["ah"]), Sayings(["be"]), Sayings(["see"])
    assert list(named_tasks([one, other, third])) == ["Sayings", "Sayings (2)", "Sayings (3)"]
    assert named_tasks({"mine": one, "yours": other}) == {"mine": one, "yours": other}
    assert named_tasks(one) == {"Sayings": one}


@pytest.mark.parametrize("way", ["chat", "tokens"])
def test_a_malformed_row_shows_the_words_of_its_error_and_the_row_and_leafing_goes_on(way, byte_tokenizer):
    wrong = {"messages": [{"role": "assistant", "content": "<b>first</b>"}]}
    rows = RowExplorer(Sayings([wrong, ValueError("no <question>"), "fine"]), byte_tokenizer, way=way)
    assert "RenderError: Sayings row 0, turn 1: the role is" in page_text(rows).replace("&#x27;", "'")
    assert "&lt;b&gt;first&lt;/b&gt;" in rows.page.value and "<b>first" not in rows.page.value
    rows.next_button.click()
    assert "RowError: Sayings row 1: no &lt;question&gt;" in page_text(rows)
    rows.next_button.click()
    assert "fine" in page_text(rows) and "Error" not in page_text(rows)


def test_a_long_malformed_row_is_cut(byte_tokenizer):
    rows = RowExplorer(Sayings([{"messages": [{"role": "nobody", "content": "x " * 5_000}]}]), byte_tokenizer)
    assert len(page_text(rows)) < 3_000 and "more letters" in page_text(rows)


def test_an_error_that_is_no_value_error_is_told_too(byte_tokenizer):
    rows = RowExplorer(Sayings([KeyError("answer")]), byte_tokenizer)
    assert "KeyError: &#x27;answer&#x27;" in page_text(rows)
    assert rows.text() == "KeyError: 'answer'"


def test_a_row_over_the_limit_says_so_and_is_shown_all_the_same(byte_tokenizer):
    rows = RowExplorer(Sayings(["ah", "a long one"]), byte_tokenizer, max_data_tokens=10)
    assert "more than" not in page_text(rows)
    rows.next_button.click()
    assert "ValueError: Sayings row 1: 26 tokens are more than max_data_tokens 10." in page_text(rows)
    assert "a long one!" in page_text(rows)


def test_an_empty_task_says_that_it_has_no_rows(byte_tokenizer):
    rows = RowExplorer(Sayings([]), byte_tokenizer)
    assert "Sayings has no rows." in page_text(rows)
    assert rows.previous_button.disabled and rows.next_button.disabled


def test_where_nobody_watches_the_chosen_row_is_html_and_text(byte_tokenizer):
    rows = RowExplorer(Sayings(["ah", "be"]), byte_tokenizer, number=1)
    bundle = rows._repr_mimebundle_()
    assert WIDGET not in bundle
    assert bundle["text/plain"] == "Sayings row 1\nuser: be\nassistant: be!"
    assert without_tags(bundle["text/html"]).endswith(
        "Sayings, row 1 of 2 (from 0): run this cell in a notebook to leaf through the others"
    )
    rows.way.value = "tokens"
    assert rows._repr_mimebundle_()["text/plain"].endswith("<|assistant_start|>be!<|assistant_end|>")


def test_it_is_a_widget_where_somebody_watches(byte_tokenizer, monkeypatch):
    rows = RowExplorer(Sayings(["ah"]), byte_tokenizer)
    monkeypatch.setattr(explorer, "someone_watches", lambda: True)
    bundle = rows._repr_mimebundle_()
    assert bundle[WIDGET]["model_id"] == rows.widget.model_id
    assert bundle["text/plain"].startswith("Sayings row 0")  # for viewers without widgets


def test_calculator_calls_are_readable_as_plain_text():
    parts = [("text", "So "), ("python", "3*4"), ("python_output", "12"), ("text", "12.")]
    content = [{"type": kind, "text": text} for kind, text in parts]
    assert (
        conversation_text({"messages": [{"role": "assistant", "content": content}]})
        == "assistant: So [python 3*4 = 12]12."
    )


@pytest.mark.parametrize(
    ("tasks", "options", "words"),
    [
        ([], {}, "There is no task to look at"),
        ({}, {}, "There is no task to look at"),
        (Sayings(["ah"]), {"way": "ids"}, "Unknown way 'ids' to show a row. There are: 'chat', 'tokens'."),
        (Sayings(["ah"]), {"number": 1}, "row 1 does not exist"),
        (Sayings(["ah"]), {"number": -1}, "row -1 does not exist"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_words(tasks, options, words, byte_tokenizer):
    with pytest.raises(ValueError, match=words):
        RowExplorer(tasks, byte_tokenizer, **options)


def test_the_examples_in_the_docstrings_are_true(byte_tokenizer):
    names = {"GSM8K": GSM8K, "tokenizer": byte_tokenizer}
    assert doctest.testmod(explorer, extraglobs=names).failed == 0
