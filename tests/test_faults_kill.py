"""A run killed, interrupted, shut out or out of room: one line, and nothing done is lost."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from glossator.records import TABLES
from glossator.runs import Run
from judge_servers import ChatServer
from tiny_runs import command, knowing, started

KILLS = 10


def bytes_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def result_of(folder):
    """All that a run amounts to; the ledger counts attempts, so it is no part of it."""
    with Run.open(folder) as run:
        tables = {name: run.table(name) for name in TABLES if name != "ledger"}
    names = ("index", "contexts")
    files = ("atlas.html", "neighbours.parquet", "types.parquet", "types.svg")
    return (
        {name: bytes_of(folder / name) for name in names},
        tables,
        {name: (folder / name).read_bytes() for name in files},
    )


def assert_same(one, other):
    for left, right in zip(result_of(one), result_of(other), strict=True):
        if isinstance(left, dict):
            assert left.keys() == right.keys()
            for name in left:
                assert left[name] == right[name], name
        else:
            assert left == right


@pytest.fixture(scope="module")
def server():
    with ChatServer(knowing(0.9, 0.8)) as server:
        yield server


@pytest.fixture(scope="module")
def settings(world, server, tmp_path_factory):
    """Every stage that there is: a coder that is trained, rules, a judge."""
    return world.settings(
        tmp_path_factory.mktemp("settings") / "run.toml",
        trained=True,
        judge={"url": server.url, "max_latents": 2},
    )


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory):
    """A run that nothing befell, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with started("--version", into=folder) as process:  # The first one waits for imports.
        process.wait()
    begun = time.monotonic()
    environment = {"GLOSSATOR_CACHE": str(folder / "cache")}
    with started(
        "run", settings, "--out", folder / "run", into=folder, environment=environment
    ) as process:
        done = process.wait()
    assert done.code == 0, done.err
    assert done.stages == [
        *("corpus", "forward", "train", "harvest", "neighbours", "scramble"),
        *("rules", "explain", "check", "score", "atlas"),
    ]
    return folder / "run", time.monotonic() - begun


def test_a_run_killed_at_any_instant_ends_in_the_same_bytes_and_rows(
    settings, undisturbed, tmp_path
):
    whole, seconds = undisturbed
    draw = random.Random(7)
    environment = {"GLOSSATOR_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "run"
    kills = 0
    for attempt in range(4 * KILLS):
        with started(
            "run", settings, "--out", out, into=tmp_path, environment=environment
        ) as process:
            process.wait_at_most(draw.uniform(0.0, seconds))
            if process.running:
                process.kill()
                kills += 1
            else:
                assert process.wait().code == 0, process.err
                assert_same(out, whole)
                out = tmp_path / f"run{attempt}"
        if kills == KILLS:
            break
    with started("run", settings, "--out", out, into=tmp_path, environment=environment) as process:
        done = process.wait()
    assert done.code == 0, done.err
    assert_same(out, whole)
    assert not [path for path in out.rglob("*") if path.name.endswith((".tmp", ".partial"))]
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("stage", ["train", "harvest", "score"])
def test_an_interrupt_is_one_line_and_code_130_and_the_run_goes_on(
    stage, settings, undisturbed, tmp_path
):
    whole, _ = undisturbed
    environment = {"GLOSSATOR_CACHE": str(tmp_path / "cache")}
    arguments = ("run", settings, "--out", tmp_path / "run")
    before = {"forward": "corpus", "train": "forward", "harvest": "train", "score": "explain"}[
        stage
    ]
    said = re.compile(rf'"stage": "{before}".*"finished": true')
    with started(*arguments, into=tmp_path, environment=environment) as process:
        process.wait_for(said)
        process.signal(signal.SIGINT)
        done = process.wait()
    assert done.code == 130, done.err
    assert done.error == "interrupted; run the same command again to go on"
    with started(*arguments, into=tmp_path, environment=environment) as process:
        done = process.wait()
    assert done.code == 0, done.err
    assert_same(tmp_path / "run", whole)


def test_a_second_process_is_refused_and_the_first_goes_on(settings, undisturbed, tmp_path):
    whole, _ = undisturbed
    environment = {"GLOSSATOR_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "run"
    with started("run", settings, "--out", out, into=tmp_path, environment=environment) as process:
        process.wait_for(re.compile('"stage": "corpus"'))
        process.signal(signal.SIGSTOP)
        for arguments in (("run", settings, "--out", out), ("explain", out), ("atlas", out)):
            done = command(*arguments)
            assert done.code == 2
            assert done.error == (
                f"{out}: another process is writing to this run; "
                "wait for it or choose another directory"
            )
            assert done.err.count("\n") == 1
        assert command("inspect", out).code == 0
        process.signal(signal.SIGCONT)
        done = process.wait()
    assert done.code == 0, done.err
    assert_same(out, whole)


def test_a_full_disk_is_one_line_wherever_it_strikes_and_the_run_goes_on(
    settings, undisturbed, tmp_path
):
    # No file may grow beyond a limit: writing fails as on a full disk, later each time.
    whole, _ = undisturbed
    environment = {"GLOSSATOR_CACHE": str(tmp_path / "cache")}
    arguments = ("run", settings, "--out", tmp_path / "run")
    hidden = 4 * 48 * 18_048
    limits = [4_096, 40_000, 80_000, 140_000, hidden - 1]
    struck = set()
    for limit in limits:
        with started(
            *arguments, into=tmp_path, environment=environment, file_size=limit
        ) as process:
            done = process.wait()
        assert done.code == 2, (limit, done.err)
        assert re.search("too large|full|I/O error|written|opened", done.error), done.error
        struck.add(done.error.partition(": ")[0])
    assert len(struck) >= 3, struck
    with started(*arguments, into=tmp_path, environment=environment) as process:
        done = process.wait()
    assert done.code == 0, done.err
    assert_same(tmp_path / "run", whole)


def test_nothing_is_left_of_an_export_to_a_full_disk(undisturbed, tmp_path):
    whole, _ = undisturbed
    arguments = ("export", "tables", whole, tmp_path / "tables")
    with started(*arguments, into=tmp_path, file_size=40_000) as process:
        done = process.wait()
    assert done.code == 2
    assert re.search(r"tables.*: cannot be written \(.*File too large", done.error)
    assert not [path for path in tmp_path.iterdir() if "tables" in path.name]
    assert command(*arguments).code == 0


def test_a_document_longer_than_memory_is_read_in_pieces(world, tmp_path):
    draw = random.Random(0)
    words = "".join(f"word{draw.randrange(200)} " for _ in range(2_000))
    text = tmp_path / "long.txt"
    with text.open("w") as file:
        for _ in range(50_000_000 // len(words)):
            file.write(words)  # One line of 50 MB.
    short = tmp_path / "short.txt"
    short.write_text(words * 40)
    arguments = ["--subject", world.subject, "--hookpoint", "model.layers.0"]
    peaks = {}
    for source in (short, text):
        out = tmp_path / source.stem
        with started(
            *("harvest", *arguments, "--coder", world.coder, "--no-gate"),
            *("--corpus", source, "--tokens", "20000", "--out", out),
            into=tmp_path,
        ) as process:
            done = process.wait()
        # No latent of the coder stands for these words; the corpus was read and packed before.
        assert done.code == 2
        assert "no latent of coder" in done.error
        with Run.open(out) as run:
            facts = run.stages()["corpus"]
        assert 15_000 < facts["tokens"] <= 20_000
        peaks[source.stem] = facts["peak_bytes"]
    assert peaks["long"] - peaks["short"] < 64 * 2**20


def test_a_folder_that_cannot_be_made_is_named():
    for out in (Path("/proc/none/run"), Path("/dev/null/run"), Path("/" + "x" * 300)):
        done = command("demo", "--out", out)
        assert done.code == 2
        assert str(out)[:200] in done.error
        assert not os.path.lexists("/" + "x" * 300)
