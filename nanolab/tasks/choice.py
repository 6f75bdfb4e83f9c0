"""Multiple choice: the prompt, the conversation, and the grade."""

from collections.abc import Sequence

from nanolab.tasks.base import Task


def choice_prompt(question: str, letters: Sequence[str], choices: Sequence[str]) -> str:
    r"""Return the question and its choices as one user message.

    The wording is that of nanochat's `tasks/common.py` (render_mc), which checkpoints have been trained on.
    Two details matter to small models:
    - The letter follows its choice. What has just been read when the letter comes is the choice it stands
      for, so the two bind more easily than if the letter came first.
    - No space before the letter. "=A" is cut into "=" and "A", and that "A" is the very id of the reply "A";
      " A" would be another token, which the model would have to learn to link with it.

        >>> choice_prompt("Is 1+1 2?", ["A", "B"], ["yes", "no"])[:43]
        'Multiple Choice question: Is 1+1 2?\n- yes=A'
    """
    lines = [f"Multiple Choice question: {question}"]
    lines += [f"- {choice}={letter}" for letter, choice in zip(letters, choices, strict=True)]
    return "\n".join(lines) + "\n\nRespond only with the letter of the correct answer."


def choice_conversation(question: str, letters: Sequence[str], choices: Sequence[str], answer: str) -> dict:
    """Return the conversation of a multiple-choice row; `answer` is one of `letters`.

    Raises ValueError if letters and choices differ in number, or the answer is not among the letters.

        >>> choice_conversation("What is 1+1?", ["A", "B"], ["2", "3"], "A")["messages"][1]
        {'role': 'assistant', 'content': 'A'}
    """
    if len(letters) != len(choices):
        raise ValueError(f"{len(choices)} choices but {len(letters)} letters ({', '.join(letters)})")
    if answer not in letters:
        raise ValueError(f"the answer {answer!r} is not among the letters {', '.join(letters)}")
    user = {"role": "user", "content": choice_prompt(question, letters, choices)}
    return {"messages": [user, {"role": "assistant", "content": answer}], "letters": list(letters)}


class ChoiceTask(Task):
    """A task whose reply is one letter out of conversation["letters"]."""

    eval_type = "categorical"

    def evaluate(self, conversation: dict, reply: str) -> bool:
        """Return whether the reply is the right letter and nothing else; outer white space is forgiven."""
        return reply.strip() == conversation["messages"][-1]["content"]
