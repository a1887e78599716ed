"""Builds killed at any instant go on from what is on disk and end in the same bytes."""

import random
from collections import Counter

import pytest

from index_reference import folder_bytes, scratch_folders
from killed_builds import Builds, committed

KILLS = 200
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
