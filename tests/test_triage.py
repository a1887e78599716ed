"""Triage: what cannot be explained is set apart, and says why."""

import numpy as np
import pytest

from glossator.errors import InputError
from glossator.index import document_sides
from glossator.triage import STATUSES, triage
from index_reference import corpus

CONTEXTS = 40
EXPLAIN, SCORE = (np.flatnonzero(document_sides(np.arange(CONTEXTS)) == side) for side in (0, 1))


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Contexts of two windows of four tokens, each of one document of its own."""
    plain = corpus(CONTEXTS, n_latents=7)
    plain.dense[:] = 0
    few = [*EXPLAIN[:6], *SCORE[:6]]
    plain.dense[few, ::4, 1] = 1  # both windows of six documents a side
    plain.dense[:, :, 2] = 1  # everywhere
    plain.dense[[*EXPLAIN[:6], *SCORE[:2]], ::4, 3] = 1
    plain.dense[[*EXPLAIN[:2], *SCORE[:6]], ::4, 4] = 1
    plain.dense[[*EXPLAIN[:9], *SCORE[:6]], 0, 5] = 1  # one window of each
    plain.dense[EXPLAIN[0], 0, 6] = 1
    return plain.index(tmp_path_factory.mktemp("triage") / "index")


def test_each_status_has_its_reason(index):
    kinds = triage(index, min_windows=8, min_documents=6)
    found = dict(enumerate(zip(kinds["status"], kinds["reason"], strict=True)))
    assert set(kinds["status"]) == set(STATUSES)
    assert found == {
        0: ("dead", "not active on any of this corpus's 320 tokens"),
        1: ("live", ""),
        2: ("dense", "active on 100.0% of tokens, more than 10%"),
        3: ("rare", "active in 4 eligible windows of the score side; the plan needs 8"),
        4: ("rare", "active in 4 windows of the explain side; the plan needs 8"),
        5: ("rare", "active in 6 eligible windows of the score side; the plan needs 8"),
        6: ("rare", "active in 1 windows of the explain side; the plan needs 8"),
    }


def test_too_few_documents_are_rare_too(index):
    kinds = triage(index, min_windows=8, min_documents=7)
    assert kinds["status"][1] == "rare"
    assert kinds["reason"][1] == "active in 6 documents of the explain side; the plan needs 7"
    kinds = triage(index, min_windows=4, min_documents=3)
    assert kinds["reason"][3] == "active in 2 documents of the score side; the plan needs 3"
    assert kinds["reason"][4] == "active in 2 documents of the explain side; the plan needs 3"


def test_columns_are_those_of_the_index(index):
    kinds, summary = triage(index, min_windows=0, min_documents=0), index.summary()
    for name in ("count", "windows", "windows_scoring", "documents"):
        np.testing.assert_array_equal(kinds[name], summary[name])
    np.testing.assert_allclose(kinds["density"], summary["count"] / index.n_tokens)
    assert {len(column) for column in kinds.values()} == {index.n_latents}


def test_nothing_is_asked_for_where_the_bounds_are_zero(index):
    kinds = triage(index, min_windows=0, min_documents=0, dense=1.0)
    assert set(kinds["status"][1:]) == {"live"}
    assert kinds["status"][0] == "dead"


def test_an_empty_index_has_only_dead_latents(tmp_path):
    kinds = triage(corpus(0).index(tmp_path / "index"), min_windows=1, min_documents=1)
    assert set(kinds["status"]) == {"dead"}
    assert set(kinds["density"]) == {0.0}


@pytest.mark.parametrize("name", ["min_windows", "min_documents", "dense"])
def test_a_negative_bound_is_refused_by_name(index, name):
    with pytest.raises(InputError, match=rf"`{name}` is -1"):
        triage(index, **{"min_windows": 1, "min_documents": 1, name: -1})
