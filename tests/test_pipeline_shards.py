"""Shards that are harvested apart are one run once they are joined."""

from glossator.records import TABLES
from glossator.runs import Run
from tiny_runs import command


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_joined_shards_have_the_bytes_of_one_build(world, tmp_path):
    whole, joined = tmp_path / "whole", tmp_path / "joined"
    assert command("harvest", *world.options, "--out", whole).code == 0
    parts = [tmp_path / f"part{number}" for number in range(3)]
    for number in (2, 0):
        done = command("harvest", *world.options, "--out", parts[number], "--shard", f"{number}/3")
        assert done.code == 0, done.err
    missing = command("join", parts[2], parts[0], "--out", joined)
    assert "of 3 shards these are missing: 1" in missing.error
    options = (*world.options, "--out", parts[1], "--shard", "1/3")
    assert command("harvest", *options).code == 0
    done = command("join", *parts, "--out", joined)
    assert done.code == 0, done.err
    assert files_of(joined / "index") == files_of(whole / "index")
    with Run.open(whole) as one, Run.open(joined) as other:
        assert all(one.table(name) == other.table(name) for name in TABLES)
        assert one.config.data() == other.config.data()


def test_shards_of_a_coder_that_each_would_train_are_refused(world, tmp_path):
    done = command("harvest", *world.data, "--out", tmp_path / "part", "--shard", "0/2")
    assert "--shard: needs --coder" in done.error
