"""A conversation as people read it: one bubble per message, tool calls and their outputs as code."""

from collections.abc import Iterable
from html import escape

from IPython.display import HTML

from nanolab.show.page import view

PART_NAMES = {"python": "python call", "python_output": "python output"}
ROLES = ("system", "user", "assistant")

# JupyterLab has a rule of two classes that makes the background of code grey; three win over it.
BUBBLES = """
.nl-turn{margin:0 0 8px;padding:7px 12px 8px;border-radius:10px;width:fit-content;max-width:82%;
  min-width:120px;box-sizing:border-box;border:1px solid rgba(128,128,128,.35);white-space:normal}
.nl-turn b{display:block;font-size:11px;letter-spacing:.04em;margin-bottom:2px}
.nl-text{white-space:pre-wrap;overflow-wrap:anywhere}
.nl-system{max-width:100%;width:auto;border-style:dashed;background:rgba(128,128,128,.08)}
.nl-user{margin-left:auto;background:var(--nl-context);color:var(--nl-context-ink)}
.nl-assistant{background:rgba(128,128,128,.08)}
.nl-view .nl-turn code.nl-tool{display:inline-block;max-width:100%;box-sizing:border-box;margin:3px 2px 3px 0;
  padding:2px 8px;border-radius:5px;vertical-align:middle;white-space:pre-wrap;overflow-wrap:anywhere;
  font:12.5px/1.5 var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace);
  color:var(--nl-code-ink);background:var(--nl-code)}
.nl-tool small{font-size:10px;opacity:.85;margin-right:6px}
.nl-view .nl-turn code.nl-output{color:var(--nl-padding-ink);background:var(--nl-padding)}
"""


def conversation_view(conversation: dict, title: str | None = None) -> HTML:
    """Draw a conversation as chat bubbles; python calls and their outputs as code chips.

    The title defaults to the conversation's "where" (the data-set row it came from). Raises ValueError for
    a role or a part type that a conversation cannot have.

    >>> conversation_view({"messages": [{"role": "user", "content": "Hi"}]})
    """
    bubbles = "".join(_bubble(message) for message in conversation["messages"])
    return view(bubbles, title or conversation.get("where"), BUBBLES)


def transcript(turns: dict | Iterable[tuple[str, str]], title: str | None = None) -> HTML:
    """Draw a chat, given as a conversation or as (role, text) pairs.

    >>> transcript([("user", "How many r in strawberry?"), ("assistant", "Three.")])
    """
    if isinstance(turns, dict):
        return conversation_view(turns, title)
    return conversation_view({"messages": [{"role": role, "content": text} for role, text in turns]}, title)


def _bubble(message: dict) -> str:
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise ValueError(f"a message has the role {role!r}, but a conversation only knows {', '.join(ROLES)}")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return f'<div class="nl-turn nl-{role}"><b>{role}</b>{"".join(map(_part, parts))}</div>'


def _part(part: dict) -> str:
    kind = part["type"]
    if kind == "text":
        return f'<span class="nl-text">{escape(part["text"])}</span>'
    if kind not in PART_NAMES:
        raise ValueError(f"a message has a part of type {kind!r}, but parts are text, {', '.join(PART_NAMES)}")
    output, name = " nl-output" if kind == "python_output" else "", PART_NAMES[kind]
    return f'<code class="nl-tool{output}"><small>{name}</small>{escape(part["text"])}</code>'
