"""A quote is verbatim or it is none: no blank more or less, and none that joins two passages."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from glossator.explain.quotes import find_quote, find_quotes, plain_text
from glossator.explain.views import Passage
from glossator.shown import Shown


def passage(pieces, active=(), starts=()):
    n = len(pieces)
    shown = Shown(tuple(pieces), tuple(range(n)), tuple(i in starts for i in range(n)), (True,) * n)
    return Passage(shown, np.array([float(i in active) for i in range(n)], np.float32))


pieces = st.lists(st.text("ab <>\\¶⏎␍\n\r\t  é東😀שא", min_size=1, max_size=4), min_size=1)


@given(pieces, st.data())
def test_the_text_can_be_read_back_from_what_is_shown(texts, data):
    places = st.sets(st.integers(0, len(texts) - 1))
    one = passage(texts, data.draw(places), data.draw(places))
    assert plain_text(one.shown.render(one.marks(0.3))) == "".join(texts)


@given(pieces, st.data())
def test_any_stretch_with_a_mark_is_found_as_it_stands_and_as_it_is_shown(texts, data):
    active = data.draw(st.sets(st.integers(0, len(texts) - 1), min_size=1))
    one = passage(texts, active)
    whole = "".join(texts)
    begin = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(begin + 1, min(len(whole), begin + 100)))
    quote = whole[begin:end]
    found = find_quote(quote, [one])
    bare = quote.strip()
    marked = [c for i, piece in enumerate(texts) for c in [i in active] * len(piece)]
    if found is not None:
        here = whole[found.begin : found.end]
        assert here in (bare, plain_text(quote).strip())
        assert any(marked[found.begin : found.end])
        assert plain_text(found.line) == here
    elif sum(not c.isspace() for c in bare) >= 3:
        # It is there, so only the lack of a mark can have struck it out, wherever it stands.
        for at in range(len(whole)):
            if whole.startswith(bare, at):
                assert not any(marked[at : at + len(bare)])
    line = one.shown.render(one.marks(0.3))
    if len(plain_text(line)) <= 160 and sum(not c.isspace() for c in whole.strip()) >= 3:
        shown = find_quote(line, [one])
        stripped = plain_text(line).strip()
        inside = whole.find(stripped)
        if any(marked[inside : inside + len(stripped)]):
            assert shown is not None


def test_a_quote_with_another_blank_is_none():
    moon = passage([" he", " was", " over", " the", " moon", "\n", " Next"], {2, 3, 4})
    other = passage([" the", " cow", " jumped"], {1})
    there = [
        "over the moon",
        " over the moon ",
        "was <<over the moon>>",
        "moon⏎ Next",
        "moon\n Next",
    ]
    for quote in there:
        assert find_quote(quote, [moon]) is not None, quote
    forged = [
        "over  the moon",
        "over\tthe moon",
        "over\u00a0the moon",
        "over\u2009the moon",
        "over the\u200b moon",
        "over the moon\r\n Next",
        "Over the moon",
        "over the m00n",
        "moon Next",
        "Next the cow",  # joins two passages
        "over the moon … Next",
        "he",
        " ",
        "",
        "\n",
        "⏎⏎⏎",
        "<<>><<>>",
        "he was",  # silent
    ]
    for quote in forged:
        assert find_quote(quote, [moon, other]) is None, quote


def test_marks_are_those_of_the_passage_whatever_the_quote_marks():
    moon = passage([" he", " was", " over", " the", " moon"], {2})
    for quote in ["was <<over the moon>>", "<<was>> over the moon", "was over the moon"]:
        assert find_quote(quote, [moon]).line == "was <<over>> the moon"


def test_text_that_holds_our_signs_can_be_quoted_either_way():
    code = passage(["cout", " <<", " x", " >>", " y"], {1})
    assert code.shown.render([1]) == "cout <<\\<\\<>> x \\>\\> y"
    for quote in ["cout << x", "cout \\<\\< x", "cout <<\\<\\<>> x"]:
        assert find_quote(quote, [code]).line == "cout <<\\<\\<>> x"


def test_a_quote_counts_once_and_a_very_long_one_not_at_all():
    moon = passage([" he", " was", " over", " the", " moon"], {2})
    assert len(find_quotes(["was over", "over the moon", "was over"], [moon])) == 1
    long = passage([f" w{i}" for i in range(60)], {5})
    assert find_quote(long.shown.text, [long]) is None
