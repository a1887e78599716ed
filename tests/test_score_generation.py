"""Generation: texts of the judge, read by the subject and the coder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from glossator.coders import SparseCoder
from glossator.corpus import Corpus, Document, pack
from glossator.encode import TopK
from glossator.harvest import harvest, subject_activations
from glossator.judges.base import Answer, Failure
from glossator.records import TABLES
from glossator.score.generation import GenerationOptions, GenerationScorer, texts_of
from glossator.subjects import load_subject
from planted import planted_index
from scorer_parts import asked, lost, materials_of
from tiny_models import prose, save_bert, save_llama


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", latents=6)


def by_word(texts, latent):
    """A subject whose latent i is active on the word `hit<i>`, by the word's place."""
    found = []
    for text in texts:
        words = text.split()
        values = [float(at + 1) if word == f"hit{latent}" else 0.0 for at, word in enumerate(words)]
        found.append((np.arange(len(words), dtype=np.uint32), np.array(values, np.float32)))
    return found


def writing(texts):
    return lambda job: Answer(json.dumps(texts))


def scorer(n=4, **options):
    return GenerationScorer(GenerationOptions(texts=n), by_word, **options)


def test_each_text_is_judged_by_the_latents_own_activations(planted):
    texts = ["a hit2 b", "hit2", "hit3 only", "nothing of it"]
    made = scorer()
    verdicts = asked(made, materials_of(planted, [2]), writing(texts))
    assert [v.answer for v in verdicts] == [True, True, False, False]
    assert [v.value for v in verdicts] == [(2.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.0, 0.0)]
    assert all(v.truth and v.failure is None and v.p_yes is None for v in verdicts)
    rows = made.made
    assert rows.schema == TABLES["examples"]
    assert rows["text"].to_pylist() == texts
    assert rows["example_id"].to_pylist() == [v.example_id for v in verdicts]
    assert rows["activations"].to_pylist()[0] == [0.0, 2.0, 0.0]
    assert rows["activating"].to_pylist() == [True, True, False, False]
    assert set(rows["kind"].to_pylist()) == {"generated"}
    assert rows["latent"].to_pylist() == [2] * 4


def test_texts_are_kept_before_the_verdicts_are_given_back(planted):
    kept = []

    class FullError(Exception):
        pass

    def keep(rows):
        kept.append(rows)
        raise FullError

    with pytest.raises(FullError):
        asked(scorer(keep=keep), materials_of(planted, [2]), writing(["a", "b", "c", "d"]))
    assert [rows.num_rows for rows in kept] == [4]


def test_a_text_that_repeats_another_is_missing(planted):
    made = scorer()
    texts = ["hit0 again", "other", " Hit0  again", "hit0 twice"]
    verdicts = asked(made, materials_of(planted, [0]), writing(texts))
    assert [v.answer for v in verdicts] == [True, False, None, True]
    assert verdicts[2].failure == "malformed: text 2 repeats text 0"
    assert made.made.num_rows == 3


def test_a_failed_request_is_missing_whole(planted):
    for answer in (lost, writing(["one"]), writing([1, 2, 3, 4]), lambda job: Answer("no JSON")):
        made = scorer()
        verdicts = asked(made, materials_of(planted, [0]), answer)
        assert len(verdicts) == 4
        assert all(v.failure and v.answer is None and v.value is None for v in verdicts)
        assert made.made.num_rows == 0


def test_the_request_asks_for_so_many_texts(planted):
    (material,) = materials_of(planted, [0])
    (request,) = scorer(7).requests(material, material.explanations[0], "protocol")
    (job,) = request.jobs
    assert job.schema["minItems"] == job.schema["maxItems"] == len(request.items) == 7
    assert "Write 7 short texts" in job.prompt.system
    assert job.prompt.user == "Description: latent 0"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("[]", "0 texts in place of 2"),
        ('["a", ""]', "no array of texts"),
        ('{"a": 1}', "no array of texts"),
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_list_of_texts_is_malformed(answer, why):
    found = texts_of(answer, 2)
    assert isinstance(found, Failure)
    assert why in found.message


def test_fenced_and_broken_lines_of_json_are_read():
    assert texts_of('```json\n["a\nb", "c"]\n```', 2) == ("a\nb", "c")


# --- the subject ----------------------------------------------------------------------------------


def coder_of(subject):
    made = torch.Generator().manual_seed(0)
    width = subject.width
    return SparseCoder(
        encoder_weight=torch.randn(64, width, generator=made),
        encoder_bias=torch.zeros(64),
        decoder=torch.randn(64, width, generator=made),
        decoder_bias=torch.zeros(width),
        rule=TopK(5),
        hookpoint=subject.hookpoint,
    )


@pytest.fixture(scope="module", params=["causal", "encoder"])
def subject(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "causal":
        return load_subject(save_llama(folder), "model.layers.1", dtype="float32", device="cpu")
    return load_subject(save_bert(folder), "encoder.layer.0", dtype="float32", device="cpu")


def test_texts_are_read_as_the_corpus_was(subject, tmp_path):
    """One document a context: what the index holds of it is what the function gives."""
    coder = coder_of(subject)
    lone = subject_activations(subject, coder, context_length=64)
    text = prose(3, 12)
    prefix = "" if not subject.causal else "\n"
    document = Document.of("one", prefix + text)
    contexts = pack(
        Corpus("memory", lambda tally: iter([document])), subject.tokenizer, context_length=64
    ).store(tmp_path / "contexts")
    index = harvest(subject, coder, contexts, tmp_path / "index")
    others = [prose(4, 30), "short"]
    for latent in range(64):
        tokens, values = lone([others[0], text, others[1]], latent)[1]
        positions, activations = index.postings(latent)
        assert len(tokens) == len(values) == index.n_tokens
        np.testing.assert_array_equal(np.flatnonzero(values) + 1, positions)
        np.testing.assert_allclose(values[values > 0], activations, rtol=1 / 31)


def test_a_long_text_is_cut_and_a_first_token_counts(subject):
    coder = coder_of(subject)
    lone = subject_activations(subject, coder, context_length=16)
    (found,) = lone([prose(5, 200)], 0)
    assert len(found[0]) in (14, 15)
    active = [latent for latent in range(64) if lone(["assert"], latent)[0][1][0] > 0]
    assert len(active) == 5
    assert lone([], 0) == []
