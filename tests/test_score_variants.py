"""Fuzzing with altered text: what is marked, what is true of it, and what is left out."""

from __future__ import annotations

import re
import sys
from collections import Counter

import numpy as np
import pytest
import torch
import transformers

import tiny_models
from glossator.errors import InputError
from glossator.sampling import NegativePlan, SamplingPlan
from glossator.score import score
from glossator.score.masked import MaskedModel
from glossator.score.variants import ContextScorer, SynonymsScorer, word_of
from glossator.shown import Shown
from planted import PlantedJudge, planted_explanations, planted_index

PLAN = SamplingPlan(per_decile=5, negatives=(NegativePlan(n=5),))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", latents=8)


def source(planted, *, needs_neighbour=False):
    """Reads texts as the planted latents do: active on their words."""
    _, text = planted

    def activations(texts, latent):
        found = []
        for each in texts:
            ids = text.tokenizer.encode(each.split(), is_pretokenized=True).ids
            values = np.zeros(len(ids), np.float32)
            words = each.split()
            for at, word in enumerate(words):
                if re.fullmatch(rf"hit{latent}d\d+", word):
                    near = at + 1 < len(words) and words[at + 1] == f"by{latent}"
                    values[at] = 1.0 if near or not needs_neighbour else 0.0
            found.append((np.array(ids, np.uint32), values))
        return found

    return activations


def proposing(*words):
    """A filler that proposes the same words for every hole."""
    return lambda texts, n: [[list(words)[:n] for piece in text if piece is None] for text in texts]


def scored(planted, name, filler, judge=None, **needs):
    index, text = planted
    judge = judge or PlantedJudge(lambda description, line: 0.9)
    needs = {"activations": source(planted), "text": text, "filler": filler, **needs}
    result = score(
        index,
        planted_explanations([0, 1]),
        judge=judge,
        text=text,
        plan=PLAN,
        scorers=(name,),
        needs=needs,
    )
    return result, judge.asked


def test_a_synonym_that_silences_the_latent_is_marked_wrongly(planted):
    # The first word keeps the latent active, so that it is no counterexample.
    result, asked = scored(planted, "fuzzing_synonyms", proposing("hit0d4", "hit1d4", "word7"))
    rows = result.verdicts.to_pylist()
    assert Counter(row["truth"] for row in rows) == {True: 50, False: 50}
    examples = {row["example_id"]: row for row in result.examples.to_pylist()}
    for row in rows:
        example = examples[row["example_id"]]
        latent = example["latent"]
        if row["truth"]:
            assert example["activating"]
            assert len(row["marks"]) == 1
        else:
            assert example["kind"] == "altered"
            assert max(example["activations"]) == 0
            assert f"hit{latent}d" not in example["text"]
            assert f"by{latent}" in example["text"]
            assert example["text"].split()[row["marks"][0]] == f"hit{1 - latent}d4"
    marked = Counter(re.findall(r"<<(.*?)>>", prompt.user)[0][:4] for prompt in asked)
    assert set(marked) == {"hit0", "hit1"}
    assert all(len(re.findall("<<", prompt.user)) == 1 for prompt in asked)


def test_windows_without_a_silencing_synonym_are_left_out_and_counted(planted):
    result, _ = scored(planted, "fuzzing_synonyms", proposing("hit0d4", "hit0d5"))
    of = {row["latent"]: row for row in result.shortfalls.to_pylist() if "syn" in row["what"]}
    assert (of[0]["wanted"], of[0]["found"]) == (50, 25)
    assert 1 not in of


def test_a_window_that_is_silent_when_read_alone_proves_nothing(planted):
    silent = lambda texts, latent: [  # noqa: E731
        (tokens, np.zeros_like(values)) for tokens, values in source(planted)(texts, latent)
    ]
    for name in ("fuzzing_synonyms", "fuzzing_context"):
        result, _ = scored(planted, name, proposing("word7", "word8"), activations=silent)
        assert all(result.verdicts["truth"].to_pylist())
        assert len(result.verdicts) == 50


@pytest.mark.parametrize("needs_neighbour", [False, True])
def test_with_another_context_the_marks_are_right_if_the_latent_is_still_active(
    planted, needs_neighbour
):
    reads = source(planted, needs_neighbour=needs_neighbour)
    result, _ = scored(planted, "fuzzing_context", proposing("word7", "word8"), activations=reads)
    examples = {row["example_id"]: row for row in result.examples.to_pylist()}
    altered = [
        (row, examples[row["example_id"]])
        for row in result.verdicts.to_pylist()
        if examples[row["example_id"]]["kind"] == "altered"
    ]
    assert len(altered) == 50
    for row, example in altered:
        words = example["text"].split()
        latent = example["latent"]
        assert words.count("word7") + words.count("word8") >= 5
        assert re.fullmatch(rf"hit{latent}d\d+", words[row["marks"][0]])
        assert row["truth"] == example["activating"] == (max(example["activations"]) > 0)
    truths = Counter(row["truth"] for row, _ in altered)
    assert truths[True] > 0
    assert (truths[False] > 5) == needs_neighbour


def test_the_same_call_again_alters_the_same_and_asks_nothing(planted):
    filler = proposing("word7", "word8")
    first, _ = scored(planted, "fuzzing_context", filler)
    index, text = planted
    judge = PlantedJudge(lambda *_: 0.1)
    needs = {"activations": source(planted), "text": text, "filler": filler}
    again = score(
        index,
        planted_explanations([0, 1]),
        judge=judge,
        text=text,
        plan=PLAN,
        scorers=("fuzzing_context",),
        needs=needs,
        stored=first.verdicts,
    )
    assert judge.asked == []
    assert again.scores.equals(first.scores)


def shown(pieces, heads=None, starts=None):
    n = len(pieces)
    return Shown(tuple(pieces), tuple(heads or range(n)), tuple(starts or [False] * n), (True,) * n)


@pytest.mark.parametrize(
    ("pieces", "at", "word"),
    [
        ([" the", " river", " rose"], 1, (1,)),
        ([" the", " riv", "er", "s", " rose"], 2, (1, 2, 3)),
        ([" the", " riv", "er", ".", " Rose"], 1, (1, 2)),
        (["The", " river"], 0, (0,)),
        ([" a", " (", "river", ")"], 2, (2,)),
        ([" a", " 1990", " b"], 1, None),
        ([" a", ".", " b"], 1, None),
        (["a", "\n", "b"], 1, None),
        (["a", "", " b"], 1, None),
    ],
)
def test_a_word_is_found_whole_around_its_token(pieces, at, word):
    assert word_of(shown(pieces), at) == word


def test_a_word_does_not_run_over_the_beginning_of_a_document():
    assert word_of(shown([" end", "Start"], starts=[False, True]), 0) is None


# --- the masked model


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_models.tokenizer("wordpiece"),
        mask_token="[MASK]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def test_a_masked_model_gives_whole_words_for_each_hole(masked):
    fill = MaskedModel(str(masked))
    texts = [["if the ", None, " is true"], ["a ", None, " and ", None], ["no hole"]]
    found = fill(texts, 3)
    assert [len(holes) for holes in found] == [1, 2, 0]
    for words in found[0] + found[1]:
        assert 0 < len(words) <= 3
        assert all(word.isalpha() for word in words)
    assert found == fill(texts, 3)


def test_a_text_that_holds_the_mask_itself_gets_no_words(masked):
    assert MaskedModel(str(masked))([["the [MASK] of ", None]], 3) == [[[]]]


def test_what_is_missing_for_a_masked_model_is_said_in_one_line(tmp_path, planted, monkeypatch):
    with pytest.raises(InputError, match=r"masked model `.*none`: cannot be loaded") as info:
        MaskedModel(str(tmp_path / "none"))([["a", None]], 1)
    assert "\n" not in str(info.value)
    monkeypatch.setattr(sys.modules[MaskedModel.__module__], "find_spec", lambda name: None)
    _, text = planted
    for kind in (SynonymsScorer, ContextScorer):
        with pytest.raises(InputError, match=r"pip install glossator\[models\]"):
            scored(planted, kind.name, None)
    with pytest.raises(InputError, match="scorer `fuzzing_context`: needs `activations`, `text`"):
        score(planted[0], [], judge=None, text=text, scorers=("fuzzing_context",))
