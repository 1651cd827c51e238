"""The exception tree: every class has a kind of its own, and is drawn where it is defined."""

from __future__ import annotations

import pickle

import pytest

from idfzarr import errors
from idfzarr.errors import IdfzarrError, UnknownName, closest

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, IdfzarrError)
]


def test_there_are_classes() -> None:
    assert len(CLASSES) > 20


def test_every_kind_is_stable_and_its_own() -> None:
    kinds = [cls.kind for cls in CLASSES]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_is_exported_and_drawn(cls: type[IdfzarrError]) -> None:
    assert cls.__name__ in errors.__all__
    assert errors.__doc__ is not None
    assert cls.__name__ in errors.__doc__
    assert cls.exit_code in (1, 2, 3)


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_cross_processes(cls: type[IdfzarrError]) -> None:
    error = pickle.loads(pickle.dumps(cls("a sentence")))
    assert type(error) is cls
    assert str(error) == "a sentence"


def test_unknown_name_prints_a_sentence_not_a_repr() -> None:
    assert str(UnknownName("no type 'x'")) == "no type 'x'"


def test_closest_names_what_is_near_and_nothing_else() -> None:
    assert closest("ch1_atuo", ["ch1_auto", "zzz"]) == "; nearest: 'ch1_auto'"
    assert closest("ch1_auto", ["zzz"]) == ""
