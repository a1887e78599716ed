"""Tokens become the text that they came from."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from glossator.errors import InputError
from glossator.text import TokenText
from tiny_models import KINDS, tokenizer

TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from("the for  \n\té中文字😀👩‍👧🏽ß«\u200d\u0301�"),
        st.characters(exclude_categories=("Cs",)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(TEXTS, st.sampled_from(KINDS))
@example("a 👩‍👧🏽 family, 東京タワー 🗼 at 5 o'clock.\n", "byte-level")
@example("👩‍👧🏽東京", "byte-fallback")
def test_pieces_join_to_what_the_tokenizer_decodes(text, kind):
    made = tokenizer(kind)
    ids = made.encode(text, add_special_tokens=False).ids
    pieces = TokenText(made).pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == made.decode(ids, skip_special_tokens=False)
    if kind == "byte-level":
        assert "".join(pieces) == text


@settings(deadline=None)
@given(TEXTS, st.sampled_from(("byte-level", "byte-fallback")))
def test_valid_text_never_shows_a_replacement_character(text, kind):
    text = text.replace("\ufffd", "")
    pieces = TokenText(tokenizer(kind)).pieces(tokenizer(kind).encode(text).ids)
    assert "\ufffd" not in "".join(pieces)


@settings(deadline=None)
@given(TEXTS, st.data())
def test_a_slice_of_tokens_decodes_as_the_tokenizer_does(text, data):
    made = tokenizer("byte-level")
    ids = made.encode(text).ids
    begin = data.draw(st.integers(0, len(ids)))
    end = data.draw(st.integers(begin, len(ids)))
    pieces = TokenText(made).pieces(np.array(ids[begin:end], np.uint32))
    assert "".join(pieces) == made.decode(ids[begin:end])


@settings(deadline=None)
@given(TEXTS, st.sampled_from(("byte-level", "byte-fallback")))
def test_groups_are_the_tokens_that_share_a_character(text, kind):
    made = tokenizer(kind)
    ids = made.encode(text, add_special_tokens=False).ids
    groups = TokenText(made).groups(ids)
    assert all(group <= at and groups[group] == group for at, group in enumerate(groups))
    if kind == "byte-level":
        sizes = [len(made.id_to_token(token)) for token in ids]
        inside = set()
        at = 0
        for character in text:
            length = len(character.encode())
            inside |= set(range(at + 1, at + length))
            at += length
        starts = np.cumsum([0, *sizes])[:-1]
        for number, start in enumerate(starts.tolist()):
            assert (groups[number] == number) == (start not in inside)


def test_a_split_character_stands_whole_at_its_first_token():
    made = tokenizer("byte-level")
    ids = made.encode("a😀b").ids
    text = TokenText(made)
    assert len(ids) == 6
    assert text.pieces(ids) == ["a", "😀", "", "", "", "b"]
    assert text.groups(ids) == [0, 1, 1, 1, 1, 5]


def test_wordpieces_join_without_spaces_inside_words():
    made = tokenizer("wordpiece")
    encoding = made.encode("the whole, world")
    pieces = TokenText(made).pieces(encoding.ids)
    assert "".join(pieces) == "[CLS] the whole, world [SEP]"


def test_names_are_printable_and_show_spaces_line_ends_and_half_characters():
    made = tokenizer("byte-level")
    text = TokenText(made)
    assert text.name(made.token_to_id("Ġthe")) == "␣the"
    assert text.name(made.token_to_id("Ċ")) == "⏎"
    assert text.name(made.token_to_id("â")) == "\\xe2"
    assert text.name(made.token_to_id("<|end|>")) == "<|end|>"
    assert text.name(9_999) == "<9999>"
    fallback = tokenizer("byte-fallback")
    assert TokenText(fallback).name(fallback.token_to_id("<0xE2>")) == "\\xe2"
    assert TokenText(fallback).name(fallback.token_to_id("▁")) == "␣"
    for kind in KINDS:
        made = tokenizer(kind)
        names = TokenText(made).names(range(made.get_vocab_size()))
        assert all(name and name.isprintable() for name in names)


def test_ids_beyond_the_vocabulary_have_no_text():
    made = tokenizer("byte-level")
    ids = [*made.encode("the").ids, 9_999]
    assert "".join(TokenText(made).pieces(ids)) == "the" == made.decode(ids)


def test_a_tokenizer_without_decoder_joins_by_spaces():
    made = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    assert "".join(TokenText(made).pieces([0, 1, 0])) == "a b a" == made.decode([0, 1, 0])


def test_what_is_no_known_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        TokenText.open(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"not a tokenizer\.json"):
        TokenText.open(tmp_path / "tokenizer.json")
    odd = Tokenizer(models.BPE())
    odd.decoder = decoders.CTC()
    odd.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="decoder `CTC`"):
        TokenText.open(tmp_path / "tokenizer.json")
    tokenizer("byte-level").save(str(tmp_path / "tokenizer.json"))
    assert TokenText.open(tmp_path / "tokenizer.json").pieces([]) == []
