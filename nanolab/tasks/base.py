"""What a task is, and how tasks are mixed.

A task is a list of conversations, read one at a time, and (if it can be graded) a rule that judges a reply.

    conversation   {"messages": [...], "where": "GSM8K main/train row 17", ...}
    message        {"role": "system" | "user" | "assistant", "content": str or list of parts}
    part           {"type": "text" | "python" | "python_output", "text": str}
    reply          the text that a model says

`start`, `stop` and `step` make a task a light view of its rows: nothing is copied, rows are counted as
`list[start:stop:step]` would count them.
"""

import operator
import random
from collections.abc import Collection, Iterable, Sequence

# nanochat's seed, for the rows of a data set and for the order of a mixture: the same rows in the same order.
SHUFFLE_SEED = 42
PART_TYPES = ("text", "python", "python_output")


class DataError(ValueError):
    """A file or a row of a data set that is not what it should be; the message says which, what and what to do."""


class RowError(DataError):
    """One row that cannot become a conversation; the message begins with where it is. It can be skipped."""


def check_one_of(what: str, value: object, options: Collection) -> None:
    """Raise a ValueError that lists the options unless `value` is one of them.

    >>> check_one_of("GSM8K split", "dev", ("train", "test"))
    Traceback (most recent call last):
    ValueError: GSM8K split 'dev' does not exist; choose one of: train, test
    """
    if value not in options:
        raise ValueError(f"{what} {value!r} does not exist; choose one of: {', '.join(options)}")


class Task:
    """A sequence of conversations; subclasses say how many rows exist and what row `index` is.

    A subclass sets `name`, `eval_type` and (if it has several) `part`, the subset and split as said in
    messages, and defines `num_examples()` and `get_example(index)`.

        >>> task = GSM8K("main", "train", data="toy", start=10, stop=20)
        >>> len(task), task[0]["where"]
        (10, 'GSM8K main/train row 10')

    A row that cannot become a conversation raises RowError, a ValueError, when it is read, and names itself likewise.
    """

    name = "task"
    part = ""
    # "categorical": pick one of conversation["letters"]; "generative": judge a text; None: there is no grade.
    eval_type: str | None = None

    def __init__(self, start: int = 0, stop: int | None = None, step: int = 1):
        check_view(start, stop, step)
        self.start, self.stop, self.step = start, stop, step

    def num_examples(self) -> int:
        """Return how many rows exist before `start`, `stop` and `step` are applied."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many rows it has")

    def get_example(self, index: int) -> dict:
        """Return row `index` (0 ... num_examples() - 1) as a conversation; ValueError says what is wrong with it."""
        raise NotImplementedError(f"{type(self).__name__} does not say what a row is")

    def evaluate(self, conversation: dict, reply: str) -> bool:
        """Return whether `reply` is a right answer to `conversation`; tasks without a grade raise."""
        raise NotImplementedError(f"{self.name} has no grade: its replies cannot be right or wrong")

    def where(self, index: int) -> str:
        """Return the words that name row `index` in messages."""
        return " ".join(filter(None, (self.name, self.part, f"row {index}")))

    @property
    def rows(self) -> range:
        """The row numbers this view shows, as a range clamped to the rows that exist."""
        return range(self.num_examples())[self.start : self.stop : self.step]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        index = row_number(self.rows, index, self.name)
        try:
            conversation = self.get_example(index)
        except RowError:  # of a mixture: the task below has said which row it is
            raise
        except ValueError as error:
            raise RowError(f"{self.where(index)}: {error}") from None
        # A mixture hands out rows that already say where they are from: the inner words are the useful ones.
        return {**conversation, "where": conversation.get("where") or self.where(index)}


def check_view(start: int, stop: int | None, step: int) -> None:
    """Raise a ValueError in words unless start >= 0, step >= 1 and stop is None or >= start."""
    if start < 0:
        raise ValueError(f"start={start} is negative; a task is counted from its first row, 0")
    if step < 1:
        raise ValueError(f"step={step} must be 1 or more")
    if stop is not None and stop < start:
        raise ValueError(f"stop={stop} lies before start={start}")


def row_number(rows: range, index: int, name: str) -> int:
    """Return the row that `index` means in `rows` (a range); negative counts from the end, as in a list.

    IndexError beyond either end: this is also what ends a `for` loop over a task.

        >>> row_number(range(10, 20), -1, "GSM8K")
        19
    """
    if isinstance(index, slice):
        raise TypeError(f"{name} takes one row number; for a range of rows make it with start=, stop=, step=")
    try:
        return rows[operator.index(index)]
    except IndexError:
        raise IndexError(f"{name} has {len(rows)} rows; row {index} does not exist") from None


class TaskMixture(Task):
    """The rows of several tasks, mixed once and for all by a shuffle with a fixed seed.

    `index_map[i]` is the (task number, row) of the mixture's row `i`. The order depends on nothing but the
    lengths (nanochat's `tasks/common.py` makes the same one), so anything with `len` and `[]` can be mixed.
    To show a task twice as often, list it twice.

        >>> mixture = TaskMixture(["ab", "cde"])
        >>> mixture.index_map
        [(1, 1), (0, 1), (1, 0), (1, 2), (0, 0)]
    """

    name = "mixture"

    def __init__(self, tasks: Iterable[Sequence | Task], start: int = 0, stop: int | None = None, step: int = 1):
        super().__init__(start, stop, step)
        self.tasks = list(tasks)
        self.index_map = [(number, row) for number, task in enumerate(self.tasks) for row in range(len(task))]
        random.Random(SHUFFLE_SEED).shuffle(self.index_map)

    def num_examples(self) -> int:
        return len(self.index_map)

    def get_example(self, index: int) -> dict:
        number, row = self.index_map[index]
        return self.tasks[number][row]
