"""Answers are paid once: a finished run replays bit for bit with no judge at all."""

import pytest

from glossator.records import TABLES
from glossator.runs import Run
from judge_servers import ChatServer, Reply
from tiny_runs import command, knowing


def tables_of(out):
    with Run.open(out) as run:
        return {name: run.table(name) for name in TABLES if name != "ledger"}


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    with ChatServer(knowing(0.9, 0.8)) as server:
        done = command("demo", *world.options, "--out", out, "--judge", server.url)
        assert done.code == 0, done.err
        asked = len(server.asked)
    return out, asked


def test_a_finished_run_replays_bit_for_bit_without_a_judge(finished, tmp_path):
    out, _ = finished
    again = tmp_path / "again"
    answers = out / "answers.db"
    # The server is gone; settings that name it do no harm.
    done = command("run", out / "config.toml", "--out", again, "--replay", "--answers", answers)
    assert done.code == 0, done.err
    assert tables_of(again) == tables_of(out)
    assert tables_of(again)["verdicts"].num_rows > 0
    with Run.open(again) as run:
        assert sum(row["requests"] for row in run.table("ledger").to_pylist()) == 0


def test_what_was_answered_is_not_sent_again_to_anybody(world, finished, tmp_path):
    out, asked = finished
    assert asked > 50
    with ChatServer(lambda request: Reply(status=500)) as server:
        arguments = ("--judge", server.url, "--answers", out / "answers.db")
        done = command("demo", *world.options, "--out", tmp_path / "run", *arguments)
        assert done.code == 0, done.err
        assert not server.asked
    assert tables_of(tmp_path / "run") == tables_of(out)


def test_an_answer_that_is_not_there_is_named(world, finished, tmp_path):
    out, _ = finished
    arguments = ("run", out / "config.toml", "--replay")
    known = ("--answers", out / "answers.db")
    done = command(*arguments, *known, "--out", tmp_path / "run", "--seed", "1")
    assert done.code == 2
    assert "answers.db" in done.error
    assert "latent" in done.error
    missing = tmp_path / "nowhere.db"
    done = command(*arguments, "--answers", missing, "--out", tmp_path / "other")
    assert done.code == 2
    assert f"{missing}: there are no answers to replay" in done.error
    assert not missing.exists()
