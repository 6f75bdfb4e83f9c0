"""nanolab: supervised fine-tuning of small chat models, one step at a time.

The straight line. Each step is one value, made by one function, in one module:

    1  a row becomes a conversation            task[i]                                  tasks/
    2  text becomes ids                        tokenizer.encode(text)                   tokenizer.py
    3  a conversation becomes ids and mask     render_conversation(conversation, ...)   render.py
    4  conversations become batches            lay_out(rows), sft_data_generator(...)   batch.py, stream.py
    5  inputs become hidden states, logits     GPT                                      gpt.py, attention.py
    6  targets become a loss                   supervised_cross_entropy(...)            loss.py
    7  a loss becomes better weights           train(...)                               train.py, optim.py
    8  weights become files                    save_checkpoint, load_checkpoint         checkpoint.py
    9  files become someone to talk to         Engine, evaluate                         engine.py, tools.py, evaluate.py

Beside the line: `settings.py` (one flat dataclass a job), `layout.py` (how a step is shared out over micro-batches),
`compiled.py` (torch.compile at the call site), `ranks.py` and `meeting.py` (processes that train together),
`sharded.py` (and share the weights), `launch.py`, `launched.py`, `torchrun.py` and `rank_errors.py` (start and watch
them from a notebook), `full_run.py` and `forecast.py` (all stages), `runtime.py` (device, dtype, seeds), `flops.py`
(useful arithmetic), `paths.py` (where files go), `jobs/` (puts the steps together: tokenizer, base, mid, sft),
`trackers.py` and `runs.py` (what runs leave behind), `grades.py` (several tasks side by side), `convert/` (nanochat and
transformers, in and out), `show/` (what notebooks draw), `course.py` (runs the notebooks), `cli.py` (`python -m nanolab
...`). Imports point from later steps to earlier ones, never back.

Symbols, the same everywhere: B rows of a batch, T positions of a row, V tokens of the vocabulary, C = n_embd width,
H heads, D width of a head; ids are lists of int, mask is 1 where the model is trained to say the token.
"""

__version__ = "0.1.0"
