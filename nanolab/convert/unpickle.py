"""Pickled files of others, read without running anything that lies in them.

A pickle is a program: it may ask for any function of any package and call it. Two kinds of file are read here:

`read_encoding`  a pickled `tiktoken.Encoding`. First its opcodes are looked at, none of them run: only those that plain
                 data need pass. Then an Unpickler runs it that knows one class, and gives in its place a stand-in that
                 keeps its state and does nothing with it.
`read_tensors`   what `torch.save` wrote, through torch's own restricted unpickler (`weights_only`), after a look at the
                 zip archive around it and at what its table of tensors asks for.

Both refuse in a ValueError that names what was asked for. Sizes are bounded first, so that a small file cannot fill
the memory either.
"""

import io
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch

ENCODING = ("tiktoken.core", "Encoding")  # the one class a pickled encoding needs
LARGEST_ENCODING = 16 * 2**20  # bytes: 65,536 tokens take about one million
LARGEST_INDEX = 16 * 2**20  # bytes of data.pkl, the table of tensors in a torch file: 1,000 tensors take 0.2 million
MOST_TUPLES = 100  # a pickled encoding has none; very deep ones would overflow the stack when they are hashed
MOST_TUPLES_OF_TENSORS = 20_000  # five a tensor
MAX_DETAIL = 200  # letters of another library's message that are passed on

# What a table of tensors asks for. torch's unpickler knows more, a bytearray of any length among it.
NUMBERS = ("Float", "BFloat16", "Half", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
TENSOR_MAKERS = frozenset(f"torch.{numbers}Storage" for numbers in NUMBERS) | {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}

ASKING = frozenset({"GLOBAL", "INST", "STACK_GLOBAL"})  # opcodes with which a pickle asks for something by name
TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
# All that plain data of the pickle protocols 3 to 5 need, but floats and integers beyond 31 bits, of which no rank is
# one (and of which a million can be chosen that all fall into one slot of a dict).
PLAIN = TUPLES | {
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("BININT", "BININT1", "BININT2"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_TUPLE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"),
}
BROKEN = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    ImportError,
    MemoryError,
    OSError,
)  # what unpicklers raise for files that are damaged


class Refused(ValueError):
    """A file asks for more than its kind needs."""


class EncodingParts(NamedTuple):
    """What makes a tiktoken.Encoding: how text is cut, the rank of each token, the ids of special tokens."""

    pattern: str
    ranks: dict[bytes, int]
    special_tokens: dict[str, int]


class StandIn:
    """Takes the place of `tiktoken.Encoding` while a pickle is read: keeps its state, does nothing with it."""

    def __setstate__(self, state: object) -> None:
        self.state = state


class EncodingUnpickler(pickle.Unpickler):
    """An Unpickler for plain data and `tiktoken.Encoding`, for which it gives a StandIn; Refused for all else."""

    def find_class(self, module: str, name: str) -> type[StandIn]:
        """The stand-in, if that is what is asked for."""
        _admit(module, name)
        return StandIn


def read_encoding(path: Path) -> EncodingParts:
    """The parts of a pickled `tiktoken.Encoding`, without running anything that lies in the file.

    Raises ValueError, naming the file and what was asked for, for everything else; FileNotFoundError if there is none.

    >>> read_encoding(Path("tokenizer.pkl")).special_tokens["<|bos|>"]                   # doctest: +SKIP
    65527
    """
    data = _read_bounded(path, LARGEST_ENCODING, "a pickled tokenizer")
    try:
        _look_at_opcodes(data)
        found = EncodingUnpickler(io.BytesIO(data)).load()
        state = found.state if isinstance(found, StandIn) else None
    except Refused as error:
        raise ValueError(f"{path} was refused, and nothing of it was run: {error}.") from None
    except BROKEN as error:
        raise ValueError(f"{path} is damaged, or no pickled tiktoken.Encoding: {_detail(error)}.") from None
    return _parts(state, path)


def read_tensors(path: Path) -> object:
    """What `torch.save` wrote into a file: tensors, mapped into memory, and plain data. Runs no code.

    Raises ValueError, naming the file and what was asked for, for anything else; FileNotFoundError if there is none.

    >>> read_tensors(Path("token_bytes.pt")).dtype                                       # doctest: +SKIP
    torch.int32
    """
    try:
        _look_at_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Refused as error:
        raise ValueError(f"{path} was refused, and nothing of it was run: {error}.") from None
    except pickle.UnpicklingError:  # its text says how to load the file without safety
        raise ValueError(f"{path} was refused, and nothing of it was run: it holds more than tensors.") from None
    except (*BROKEN, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged, or no file of torch.save: {_detail(error)}.") from None


def _admit(module: str, name: str):
    if (module, name) != ENCODING:
        raise Refused(f"it asks for {f'{module}.{name}'[:MAX_DETAIL]!r}, and a pickled tokenizer needs tiktoken only")


def _look_at_opcodes(data: bytes):
    """Refuse a pickle for opcodes that no encoding needs, or sizes that its length does not bear out; runs none."""
    texts, tuples = ["?", "?"], 0  # the last two texts: what STACK_GLOBAL asks for
    for opcode, argument, position in pickletools.genops(data):
        name = opcode.name
        if name in ASKING:
            _admit(*(texts if name == "STACK_GLOBAL" else argument.split(" ", 1)))
            continue
        tuples += name in TUPLES
        if name not in PLAIN or tuples > MOST_TUPLES:
            raise Refused(f"it has the opcode {name} at byte {position:,}, which no pickled tokenizer needs there")
        if name == "LONG_BINPUT" and argument > position:  # the Unpickler makes room for as many objects
            raise Refused(f"it numbers an object {argument:,} at byte {position:,}")
        if isinstance(argument, str):
            texts = [texts[1], argument]


def _parts(state: object, path: Path) -> EncodingParts:
    if isinstance(state, str):
        raise ValueError(
            f"{path} names tiktoken's encoding {state[:MAX_DETAIL]!r} and holds none of its tokens; nanolab reads "
            "tokenizers that were trained by nanochat."
        )
    kinds = {"name": str, "pat_str": str, "mergeable_ranks": dict, "special_tokens": dict}
    if not isinstance(state, dict) or set(state) != set(kinds):
        raise ValueError(f"{path} is damaged, or no pickled tiktoken.Encoding: its state has other parts.")
    ranks, special_tokens = state["mergeable_ranks"], state["special_tokens"]
    sound = all(type(state[name]) is kind for name, kind in kinds.items())
    if not sound or not _ids_of(bytes, ranks) or not _ids_of(str, special_tokens):
        raise ValueError(f"{path} is damaged, or no pickled tiktoken.Encoding: a part of it is of another kind.")
    return EncodingParts(state["pat_str"], ranks, special_tokens)


def _ids_of(kind: type, table: dict) -> bool:
    return all(type(key) is kind and type(value) is int for key, value in table.items())


def _read_bounded(path: Path, limit: int, what: str) -> bytes:
    _refuse_no_file(path)
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} is larger than {limit / 2**20:.0f} MiB, which {what} never is.")
    return data


def _look_at_archive(path: Path):
    """Raise ValueError unless a file is a whole zip archive as torch.save writes it: stored, not compressed."""
    _refuse_no_file(path)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        tables = [entry for entry in entries if entry.filename.lower().endswith(".pkl")]
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            raise ValueError("its parts are compressed, as torch.save never does it")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its parts are said to be larger than the file")
        if any(entry.file_size > LARGEST_INDEX for entry in tables):
            raise ValueError("its table of tensors is far too large")
        if damaged := archive.testzip():
            raise ValueError(f"its part {damaged[:MAX_DETAIL]!r} is not what was saved")
        for entry in tables:
            _look_at_table(archive.read(entry))


def _look_at_table(data: bytes):
    """Refuse a table of tensors that asks for anything but tensors; runs nothing of it."""
    tuples = 0
    for opcode, argument, position in pickletools.genops(data):
        tuples += opcode.name in TUPLES
        if opcode.name in ASKING:
            asked = "something" if opcode.name == "STACK_GLOBAL" else argument.replace(" ", ".", 1)[:MAX_DETAIL]
            if asked not in TENSOR_MAKERS:
                raise Refused(f"it asks for {asked!r}, and a file of tensors needs tensors only")
        if opcode.name.startswith("EXT") or tuples > MOST_TUPLES_OF_TENSORS:
            raise Refused(f"it has the opcode {opcode.name} at byte {position:,}, which no file of tensors needs there")


def _refuse_no_file(path: Path):
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")


def _detail(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:MAX_DETAIL].rstrip(".") if text else type(error).__name__
