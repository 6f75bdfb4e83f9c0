"""Every public name of the package says in a sentence what it is, and in annotations what it takes and gives."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

import nanolab

MODULES = [found.name for found in pkgutil.walk_packages(nanolab.__path__, "nanolab.") if "__main__" not in found.name]
NO_VALUE = ("__init__",)  # what returns nothing by definition


def public_callables(module: str) -> Iterator[tuple[str, Callable]]:
    """(dotted name, function) of each function that a module defines, and of each class: methods and constructors."""
    there = importlib.import_module(module)
    for name, value in vars(there).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module:
            continue
        if inspect.isclass(value):
            yield name, value
            yield from methods(value, name)
        elif callable(value) and getattr(value, "__name__", "<lambda>") != "<lambda>":
            yield name, value


def methods(owner: type, name: str) -> Iterator[tuple[str, Callable]]:
    """(dotted name, function) of each public method, property and written constructor in a class's own body."""
    for key, value in vars(owner).items():
        if key.startswith("_") and key != "__init__":
            continue
        function = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
        if inspect.isfunction(function) and function.__module__ == owner.__module__ and not made_by_dataclass(function):
            yield f"{name}.{key}", function


def made_by_dataclass(function: Callable) -> bool:
    """Whether a constructor was not written: its parameters are the fields, whose annotations make them."""
    return inspect.unwrap(function).__code__.co_filename == "<string>"


def is_documented(name: str, value: Callable, module: str) -> bool:
    """Whether there is a docstring; a method may have that of the method it overrides, a constructor its class's."""
    made = inspect.isclass(value) and (value.__doc__ or "").startswith(f"{name}(")  # by dataclass or NamedTuple
    if name.endswith(".__init__") or (value.__doc__ and not made):
        return True
    owner, _, key = name.rpartition(".")
    above = getattr(importlib.import_module(module), owner).__mro__[1:] if owner else ()
    return any(key in vars(one) and vars(one)[key].__doc__ for one in above if one.__module__.startswith("nanolab"))


def unannotated(name: str, function: Callable) -> list[str]:
    """The parameters without an annotation, and "return" if what is given back has none."""
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    missing = [p.name for p in parameters if p.annotation is inspect.Parameter.empty]
    if signature.return_annotation is inspect.Signature.empty and not name.endswith(NO_VALUE):
        missing.append("return")
    return missing


def faults(module: str) -> dict[str, list[str]]:
    """Public name -> what it lacks."""
    found = {}
    for name, value in public_callables(module):
        lacks = [] if is_documented(name, value, module) else ["a docstring"]
        lacks += [] if inspect.isclass(value) else unannotated(name, value)
        if lacks:
            found[name] = lacks
    return found


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented_and_annotated(module):
    assert importlib.import_module(module).__doc__
    assert faults(module) == {}


def test_the_walk_finds_what_it_should():
    assert len(MODULES) > 90 and "nanolab.tasks.toy.facts" in MODULES
    names = dict(public_callables("nanolab.tasks.gsm8k"))
    of_class = {f"GSM8K.{method}" for method in ("__init__", "num_examples", "get_example", "evaluate")}
    assert set(names) == {"GSM8K", "answer_parts"} | of_class
    names = dict(public_callables("nanolab.layout"))
    assert {"plan", "Plan", "Plan.padding", "MicroBatch.slots"} <= set(names) and "Plan.__init__" not in names


@dataclass
class Undescribed:
    size: int


class Bare:
    def __init__(self, size):
        self.size = size

    def grow(self, by: int, *others, **more):
        return self.size + by


def test_what_lacks_something_is_told():
    assert unannotated("Bare.__init__", Bare.__init__) == ["size"]
    assert unannotated("Bare.grow", Bare.grow) == ["others", "more", "return"]
    assert not is_documented("Bare.grow", Bare.grow, __name__) and not is_documented("Bare", Bare, __name__)
    assert not is_documented("Undescribed", Undescribed, __name__)
