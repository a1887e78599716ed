"""What a language model is shown: every mark is a mark, signs of the text are told from ours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from byte_texts import byte_index
from glossator.index import NO_DOCUMENT
from glossator.sampling import ExplainPlan, SamplingPlan
from glossator.score.marks import right_marks, silent_signs
from glossator.score.questions import Window
from glossator.shown import Shown, example_rows, show, show_windows
from glossator.text import TokenText
from index_reference import corpus

HIDDEN = {"⏎": "\n", "␍": "\r"}


def parsed(line: str) -> tuple[str, list[bool], list[int]]:
    """The text, which of its characters are marked, and where documents begin."""
    text, marked, starts, inside, at = "", [], [], False, 0
    while at < len(line):
        if line[at] == "\\" and line[at + 1 : at + 2] in tuple("\\<>¶⏎␍"):
            character, at = line[at + 1], at + 2
        elif not inside and line.startswith("<<", at):
            inside, at = True, at + 2
            continue
        elif inside and line.startswith(">>", at):
            inside, at = False, at + 2
            continue
        elif line[at] == "¶":
            starts.append(len(text))
            at += 1
            continue
        else:
            character, at = HIDDEN.get(line[at], line[at]), at + 1
        text += character
        marked.append(inside)
    assert not inside
    return text, marked, starts


def plain(pieces, starts=()):
    n = len(pieces)
    return Shown(tuple(pieces), tuple(range(n)), tuple(i in starts for i in range(n)), (True,) * n)


pieces = st.lists(st.text("a <>\\¶⏎␍\n\r", min_size=1, max_size=4), min_size=1, max_size=12)


@given(pieces, st.data())
def test_text_marks_and_document_starts_can_be_read_back_from_the_line(texts, data):
    places = st.sets(st.integers(0, len(texts) - 1))
    marks, starts = data.draw(places), data.draw(places)
    line = plain(texts, starts).render(marks)
    assert "\n" not in line
    assert "\r" not in line
    text, marked, begun = parsed(line)
    assert text == "".join(texts)
    offsets = np.cumsum([0, *map(len, texts)])
    assert begun == sorted(offsets[i] for i in starts)
    for number, piece in enumerate(texts):
        for place, character in enumerate(piece):
            seen = marked[offsets[number] + place]
            if number not in marks:
                assert not seen
            elif piece.strip(" ") and character != " ":
                assert seen


def test_runs_join_spaces_stand_outside_and_documents_break_runs():
    shown = plain([" he", " was", " over", " the", " moon", "\n", " Next"], starts=(6,))
    assert shown.render((2, 3, 4)) == " he was <<over the moon>>⏎¶ Next"
    assert shown.render((4, 5, 6)) == " he was over the <<moon⏎>>¶ <<Next>>"
    assert shown.render(()) == " he was over the moon⏎¶ Next"


def test_delimiters_in_the_text_are_escaped():
    assert plain(["a", "<<", "b", ">>"]).render() == "a\\<\\<b\\>\\>"
    assert plain(["<", "x", ">"]).render((0, 2)) == "<<\\<>>x<<\\>>>"
    assert plain(["a < b > c"]).render() == "a < b > c"
    assert plain(["C:\\dir", "\\", "<<"]).render() == "C:\\dir\\\\\\<\\<"


def test_a_character_of_several_tokens_is_marked_whole():
    shown = Shown((" ", "😀", "", "", "!"), (0, 1, 1, 1, 4), (False,) * 5, (True,) * 5)
    assert shown.whole([2]) == (1, 2, 3)
    assert shown.render([3]) == " <<😀>>!"


def test_characters_at_the_edge_of_a_window_are_whole_and_padding_is_not_shown(tmp_path):
    texts = [f"{'x' * 6}東京 n{i % 10}" for i in range(20)]  # 東 takes bytes 6 to 8: over the edge
    active = [(row, offset) for row in range(20) for offset in (6, 9)]
    index, text = byte_index(tmp_path / "index", texts, active)
    plan = SamplingPlan(explain=ExplainPlan(n=40), per_decile=2)
    examples = index.sample([0], plan)
    rows = example_rows(examples, index, text, "hook").to_pylist()
    assert len(rows) > 20
    for row in rows:
        assert "\ufffd" not in row["text"]
        number = row["context"]
        if row["start"] == 0:
            assert row["text"] == "xxxxxx東"
        else:
            assert row["text"] == f"東京 n{number % 10}"
    assert len({row["example_id"] for row in rows}) == len(rows)
    for shown, activations in zip(show(examples, index, text), examples.activations, strict=True):
        line = shown.render(np.flatnonzero(activations).tolist())
        assert "<<東>>" in line or "<<京>>" in line


def window(activations, *, live=None, heads=None, pieces=None, example_id="w", decile=1):
    n = len(activations)
    shown = Shown(
        tuple(pieces or [f" t{i}" for i in range(n)]),
        tuple(heads or range(n)),
        (False,) * n,
        tuple(live or [True] * n),
    )
    return Window(example_id, decile, shown, np.array(activations, np.float32))


@pytest.mark.parametrize("first_context", [0, 7])
def test_windows_named_by_their_positions_are_shown_as_drawn_ones_are(tmp_path, first_context):
    plain = corpus(30, windows=4, first_context=first_context)
    # Documents of a context and a half, and padding at the end of some.
    plain.documents = (np.arange(plain.tokens.size, dtype=np.uint64) // 24).reshape(30, -1)
    plain.mask[::4, -3:] = False
    plain.documents[::4, -3:] = NO_DOCUMENT
    index = plain.index(tmp_path / "index")
    words = {f"w{token}": token for token in range(50_000)}
    text = TokenText(Tokenizer(models.WordLevel(words, "w0")))
    plan = SamplingPlan(explain=ExplainPlan(n=400), per_decile=40)
    examples = index.sample(range(plain.n_latents), plan)
    assert len(np.unique(examples.start)) > 20
    assert examples.document_start.any()
    assert show_windows(examples.start, index, text) == show(examples, index, text)
    assert show_windows([], index, text) == []


def test_wrong_marks_stand_where_the_latent_is_exactly_silent():
    one = window([0, 1e-8, 1, 0, 0.2, 0], live=[False, True, True, True, True, True])
    assert silent_signs(one) == [3, 5]
    assert right_marks(one, 0.1) == (2, 4)
    split = window([0, 0, 1, 0], heads=[0, 1, 1, 3], pieces=["a", "é", "", "b"])
    assert silent_signs(split) == [0, 3]
    assert right_marks(split, 0.3) == (1, 2)
