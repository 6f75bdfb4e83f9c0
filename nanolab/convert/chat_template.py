r"""Beside the line: render.py's rendering as a Jinja template, for tokenizers of transformers.

A template makes one text, and only then does the tokenizer look for control tokens in it. So "<|assistant_end|>" said
by a user would end the turn, which our rendering never lets happen. The template and the tokenizer therefore agree on
marks of two characters, written by the template and taken out by the tokenizer:

    <|  in data         ->  < HIDE |      no control token is spelled any more; HIDE vanishes before the merges
    MARK in data        ->  KEEP          which becomes MARK again, so that data that holds marks keeps them
    text, text (parts)  ->  text JOIN text    both parts are encoded for themselves; JOIN vanishes as well

MARK is U+FDD0, a noncharacter: Unicode reserves it for use inside programs, no text that is exchanged holds it. The
one thing that this cannot carry: data with U+FDD0 U+FDD3, JOIN itself, loses these two characters.

What the model is trained to say stands between `{% generation %}` marks. transformers finds a block's last token by
its last character, and of a character of several tokens only the first: so every block has to end with a control token
or with ASCII. It does wherever a reply or a call ends; the template refuses the one other case, a text part that ends
otherwise directly before a python_output part.
"""

MARK = "\ufdd0"
HIDE, KEEP, JOIN = f"{MARK}\ufdd1", f"{MARK}\ufdd2", f"{MARK}\ufdd3"
KEPT = (
    f"(?<={MARK})\ufdd2"  # what the tokenizer takes out of KEEP: the data's own character keeps its place in the text
)

CHAT_TEMPLATE = r"""
{#- nanolab's rendering of a conversation; what the model is trained to say stands between generation marks. -#}
{#- Data never becomes a control token: see the README beside this file. -#}
{%- macro plain(text) -%}
  {{- text.replace('\ufdd0', '\ufdd0\ufdd2').replace('<|', '<\ufdd0\ufdd1|') -}}
{%- endmacro -%}
{%- macro joined(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- elif content is undefined or content is mapping or content is not iterable -%}
    {{- raise_exception('The content is neither a text nor a list of parts.') -}}
  {%- else -%}
    {%- for part in content -%}
      {%- if part is not mapping or part['type'] != 'text' or part['text'] is not string -%}
        {{- raise_exception('A system or user message holds a part that is not {"type": "text", "text": ...}.') -}}
      {%- endif -%}
      {{- part['text'] -}}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set turns = messages -%}
{%- if add_generation_prompt and turns and turns[-1]['role'] == 'assistant' -%}
  {%- set turns = turns[:-1] -%}
{%- endif -%}
{%- if not turns -%}
  {{- raise_exception('There are no messages.') -}}
{%- endif -%}
{%- set before = '' -%}
{%- if turns[0]['role'] == 'system' -%}
  {%- if turns|length < 2 or turns[1]['role'] != 'user' -%}
    {{- raise_exception('A system message must be followed by a user message, which it joins.') -}}
  {%- endif -%}
  {%- set before = joined(turns[0]['content']) ~ '\n\n' -%}
  {%- set turns = turns[1:] -%}
{%- endif -%}
{{- '<|bos|>' -}}
{%- for message in turns -%}
  {%- if message['role'] != ('assistant' if loop.index0 is odd else 'user') -%}
    {{- raise_exception('Expected an optional system message first, then user and assistant in turn.') -}}
  {%- endif -%}
  {%- set content = message['content'] -%}
  {%- if message['role'] == 'user' -%}
    {{- '<|user_start|>' ~ plain((before if loop.first else '') ~ joined(content)) ~ '<|user_end|>' -}}
  {%- else -%}
    {{- '<|assistant_start|>' -}}
    {%- set reply = namespace(said='', text='') -%}
    {%- if content is string -%}
      {%- set reply.said = plain(content) -%}
    {%- elif content is undefined or content is mapping or content is not iterable -%}
      {{- raise_exception('The content is neither a text nor a list of parts.') -}}
    {%- else -%}
      {%- for part in content -%}
        {%- if part is not mapping or part['type'] not in ['text', 'python', 'python_output']
            or part['text'] is not string -%}
          {{- raise_exception('A part is not {"type", "text"} with type in text, python, python_output.') -}}
        {%- endif -%}
        {%- if part['type'] == 'text' and part['text'] -%}
          {%- set reply.said = reply.said ~ ('\ufdd0\ufdd3' if reply.text else '') ~ plain(part['text']) -%}
          {%- set reply.text = part['text'] -%}
        {%- elif part['type'] == 'python' -%}
          {%- set reply.said = reply.said ~ '<|python_start|>' ~ plain(part['text']) ~ '<|python_end|>' -%}
          {%- set reply.text = '' -%}
        {%- elif part['type'] == 'python_output' -%}
          {%- if reply.text and reply.text[-1] > '\x7f' -%}
            {{- raise_exception('A python_output part follows a text that ends in a character beyond ASCII, whose '
                'tokens cannot all be marked. Put the python part between them, or end the text with a space.') -}}
          {%- endif -%}
          {%- if reply.said -%}
            {%- generation -%}{{- reply.said -}}{%- endgeneration -%}
          {%- endif -%}
          {{- '<|output_start|>' ~ plain(part['text']) ~ '<|output_end|>' -}}
          {%- set reply.said = '' -%}
          {%- set reply.text = '' -%}
        {%- endif -%}
      {%- endfor -%}
    {%- endif -%}
    {%- generation -%}{{- reply.said ~ '<|assistant_end|>' -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant_start|>' -}}
{%- endif -%}
""".strip()
