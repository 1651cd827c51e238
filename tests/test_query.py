"""Conditions on objects: the same as pandas gives, and nothing of Python can be reached."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.analysis.query import LONGEST_QUERY, QueryError, select

RNG = np.random.default_rng(3)
N = 200
FRAME = pd.DataFrame(
    {
        "object": np.arange(N) * 3,
        "mag": np.where(RNG.random(N) < 0.1, np.nan, RNG.uniform(15, 25, N)),
        "score": RNG.normal(0, 5, N),
        "flags": RNG.integers(0, 60, N).astype("uint16"),
        "isolated": RNG.random(N) < 0.5,
        "kind": RNG.choice(["star", "galaxy", "ch1+ch2"], N),
        "odd name": RNG.normal(size=N),
    }
)


@pytest.mark.parametrize(
    "text",
    [
        "mag < 20",
        "18 < mag <= 20",
        "mag < 20 and score > 1 or isolated",
        "not isolated",
        "(mag < 20) & ~isolated | (score >= 3)",
        "object in [3, 9, 600]",
        "object not in (3, 9)",
        "kind == 'star'",
        "kind != 'star' and kind in ['galaxy', 'nova']",
        "mag - score / 2 > 10",
        "score ** 2 + 1 > 5 * 2",
        "object % 2 == 0",
        "-score > 2",
        "flags == 8 or flags >= 50",
        "`odd name` > 0 and score > 0",
        "mag != 18",
        "isolated == True",
    ],
)
def test_it_selects_what_pandas_selects(text):
    expected = FRAME.eval(text, engine="python").to_numpy()
    found = select(FRAME, text)
    assert found.dtype == bool
    assert 0 < expected.sum() < N or text == "mag != 18"
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log10(flags + 1) > 1", np.log10(FRAME["flags"] + 1) > 1),
        ("sqrt(score) > 1", FRAME.score > 1),
        ("abs(score) > 5", FRAME.score.abs() > 5),
        ("isnan(mag)", FRAME.mag.isna()),
        ("isfinite(mag) and exp(score) < 1", FRAME.mag.notna() & (FRAME.score < 0)),
        ('contains(kind, "ch2")', FRAME.kind == "ch1+ch2"),
        ("", np.ones(N, bool)),
        ("1 < 2", np.ones(N, bool)),
    ],
)
def test_functions(text, expected):
    np.testing.assert_array_equal(select(FRAME, text), np.asarray(expected))


@pytest.mark.parametrize(
    ("text", "sentence", "position"),
    [
        ("scoer > 5", "no column 'scoer'; nearest: 'score'", 0),
        ("mag < 20 and  scroe > 1", "no column 'scroe'", 14),
        ("   scoer > 5", "no column 'scoer'", 3),
        ("score = 5", "to compare write ==", 6),
        ("score >", "cannot be read as a condition", None),
        ("mag", "is a number and no condition", None),
        ("kind", "is a text and no condition", None),
        ("score > 5 & mag > 2", "use brackets", 8),
        ("kind > 3", "'kind' is a text, not a number", 0),
        ("kind == 3", "a text cannot be compared with a number", 0),
        ("object in 3", "after 'in' stands a list", 10),
        ("lgo10(score) > 1", "no function 'lgo10'; nearest: 'log10'", 0),
        ("abs(score, 1) > 2", "takes one number", 0),
        ("score is None", "things are compared by", 0),
        ("score[0] > 1", "may not stand in a condition", 0),
        ("(" * 500 + "1" + ")" * 500, "brackets", None),
        ("-" * 300 + "1 > 0", "too many parts", None),
        ("x" * (LONGEST_QUERY + 1), "at most 2000 characters", None),
    ],
)
def test_an_error_says_what_and_where(text, sentence, position):
    with pytest.raises(QueryError, match=r".") as caught:
        select(FRAME, text)
    assert sentence in str(caught.value)
    if position is not None:
        assert caught.value.position == position


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "score.__class__",
        "().__class__.__bases__[0].__subclasses__()",
        "(lambda: 1)() > 0",
        "[x for x in score] == 1",
        "open('/etc/passwd') == 1",
        "eval('1') > 0",
        "score.values.tofile('x') == 1",
        "(y := 3) > 2",
        "f'{score}' == '1'",
        "@score > 1",
        "score if 1 else 2",
        "abs(*score) > 1",
        "abs(**{}) > 1",
        "`__class__` > 1",
        "print > 1",
        "b'1' == kind",
        "1j > 0",
        "... == 1",
    ],
)
def test_python_cannot_be_reached(text):
    with pytest.raises(QueryError, match=r"."):
        select(FRAME, text)


def test_a_power_of_powers_ends_at_once():
    assert not select(FRAME, "9**9**9**9 < 1").any()


@given(st.text(max_size=80))
def test_any_text_is_a_condition_or_refused(text):
    try:
        found = select(FRAME, text)
    except QueryError:
        return
    assert found.shape == (N,)
