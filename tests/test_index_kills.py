"""Builds killed at any instant go on from what is on disk and end in the same bytes."""

import random
import shutil
from collections import Counter

import numpy as np
import pytest

from glossator.index import Index
from index_reference import folder_bytes, scratch_folders
from killed_builds import Builds, committed

KILLS = 200
COMPACT_KILLS = 40
IN_A_ROW = 6


@pytest.fixture
def scratch():
    with scratch_folders() as folders:
        yield folders


def test_builds_killed_at_any_instant_resume_to_the_same_bytes(scratch):
    draw = random.Random(0)
    kills, phases, unfinished, spilled, apart = 0, Counter(), 0, 0, 0
    with Builds() as builds:
        path = scratch()
        builds.run(path)
        whole = folder_bytes(path)
        seconds = max(builds.run(scratch(), threads=n)["seconds"] for n in (1, 2))
        while kills < KILLS:
            path = scratch()
            before = None
            for _ in range(IN_A_ROW):
                options = {
                    "threads": draw.choice([1, 2]),
                    "jump": draw.random() < 0.7,
                    "way": draw.choice([0, 1]),
                    "durable": draw.random() < 0.5,
                }
                done = builds.run(path, draw.uniform(0, seconds), **options)
                assert not done["failed"], done
                for text in done["said"]:
                    if text.startswith("next ") and before is not None:
                        spilled += int(text[5:]) > min(before)
                before = None
                if not done["killed"]:
                    break
                kills += 1
                phases[done["said"][-1].partition(" ")[0] if done["said"] else "fork"] += 1
                unfinished += any(path.rglob("*.tmp"))
                if all((path / name / "manifest.json").exists() for name in "ab"):
                    before = committed(path)
                    apart += before[0] != before[1]
            done = builds.run(path)
            assert not done["failed"], done
            assert folder_bytes(path) == whole
    # Every part of a build was struck: what was spilled, what was half written, and one of two
    # hookpoints before the other.
    assert {"open", "add", "finish"} <= phases.keys(), phases
    assert (spilled > 5, unfinished > 5, apart > 5) == (True, True, True), (spilled, unfinished)


def test_compacting_killed_at_any_instant_is_done_by_the_next(scratch):
    draw = random.Random(0)
    kills, between = 0, 0
    with Builds() as builds:
        whole, steps = scratch(), scratch()
        builds.run(whole)
        # Finished in the middle of segments, and gone on with.
        for until in (9, 14, 23, 30, 2**63):
            assert not builds.run(steps, until=until, jump=True)["failed"]
        copy = scratch()
        shutil.copytree(steps, copy)
        seconds = builds.run(copy, compact=True)["seconds"]
        assert folder_bytes(copy) == folder_bytes(whole)
        before = {name: spoken(steps / name) for name in "ab"}
        while kills < COMPACT_KILLS:
            path = scratch()
            shutil.copytree(steps, path)
            for _ in range(IN_A_ROW):
                durable = draw.random() < 0.5
                done = builds.run(path, draw.uniform(0, seconds), compact=True, durable=durable)
                assert not done["failed"], done
                assert {name: spoken(path / name) for name in "ab"} == before
                if not done["killed"]:
                    break
                kills += 1
                between += folder_bytes(path) not in (folder_bytes(steps), folder_bytes(whole))
            assert not builds.run(path, compact=True)["failed"]
            assert folder_bytes(path) == folder_bytes(whole)
    assert between > COMPACT_KILLS // 4


def spoken(path):
    """What a whole index says of its postings and its text."""
    index = Index.open(path)
    index.verify()
    contexts = index.first_context + np.arange(index.n_contexts)
    arrays = [*index.postings(0), *index.postings(index.n_latents - 1), *index.contexts(contexts)]
    return [array.tobytes() for array in arrays]
