"""A run directory: made once, explains itself, binds itself to its data when it has read some."""

from __future__ import annotations

import time

import pytest

from glossator.config import RunConfig, load_config
from glossator.errors import InputError, RunLockedError
from glossator.runs import STAGES, Run
from tiny_runs import command


def _config(**sections):
    return RunConfig.model_validate(sections)


def test_a_new_run_holds_its_resolved_settings_and_an_empty_database(tmp_path):
    config = _config(seed=3)
    with Run.create(config, tmp_path / "deep" / "run") as run:
        assert run.stages() == {}
        assert run.description() == {}
        assert run.table("scores").num_rows == 0
    assert load_config(tmp_path / "deep" / "run" / "config.toml") == config
    with Run.open(tmp_path / "deep" / "run") as run:
        assert run.config == config


def test_a_file_or_a_foreign_folder_is_no_run_and_stays_as_it_was(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="is a file; name a directory"):
        Run.create(RunConfig(), file)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"not a run and not empty \(`thesis\.tex`\)"):
        Run.create(RunConfig(), folder)
    with pytest.raises(InputError, match="no run here"):
        Run.open(folder)
    assert file.read_text() == "mine"
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path):
    with Run.create(RunConfig(), tmp_path):
        with pytest.raises(RunLockedError, match="another process is writing"):
            Run.create(RunConfig(), tmp_path)
        with Run.open(tmp_path) as reader:
            assert reader.stages() == {}
    Run.create(RunConfig(), tmp_path).close()


def test_until_something_was_read_every_setting_may_be_mended(tmp_path):
    Run.create(_config(corpus={"source": ["typo.txt"]}), tmp_path).close()
    Run.create(_config(corpus={"source": ["right.txt"]}), tmp_path).close()
    (tmp_path / "contexts").mkdir()
    with pytest.raises(InputError, match=r"over other data \(`corpus\.source`, `seed` differ\)"):
        Run.create(_config(corpus={"source": ["other.txt"]}, seed=1), tmp_path)
    assert load_config(tmp_path / "config.toml").corpus.source == ("right.txt",)
    again = _config(corpus={"source": ["right.txt"]}, judge={"url": "local"}, max_failed=0.5)
    with Run.create(again, tmp_path) as run, pytest.raises(InputError, match="over other data"):
        run.configure(_config(seed=9))


def test_what_a_killed_process_was_writing_is_swept_away(tmp_path):
    Run.create(RunConfig(), tmp_path).close()
    (tmp_path / ".contexts.abc").mkdir()
    (tmp_path / ".contexts.abc" / "tokens.u32").write_text("half")
    (tmp_path / "config.toml.tmp").write_text("half")
    (tmp_path / ".atlas.html.tmp").write_text("half")
    Run.create(RunConfig(), tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} <= {"config.toml", "run.db", "run.lock"}


def test_a_stage_is_done_with_the_settings_that_it_depends_on(tmp_path):
    with Run.create(RunConfig(), tmp_path) as run:
        for name in ("harvest", "explain"):
            with run.stage(name):
                pass
        run.store.add("explanations", [])
        assert run.done("harvest")
        assert run.done("explain")
        assert not run.done("score")
        run.config = _config(judge={"url": "local"})
        assert run.done("harvest")
        assert not run.done("explain")
        run.config = _config(seed=1)
        assert not run.done("harvest")


def test_scores_are_done_only_for_the_explanations_that_there_are(tmp_path):
    with Run.create(RunConfig(), tmp_path) as run:
        with run.stage("score"):
            pass
        assert run.done("score")
        row = {"explanation_id": "a", "hookpoint": "h", "latent": 0, "explainer": "x", "text": "y"}
        run.store.add("explanations", [row])
        assert not run.done("score")


def test_a_stage_that_breaks_off_is_not_done_but_its_time_counts(tmp_path):
    with Run.create(RunConfig(), tmp_path) as run:

        def broken_off():
            with run.stage("subject") as facts:
                facts["seen"] = True
                time.sleep(0.02)
                raise KeyError

        for _ in range(2):
            with pytest.raises(KeyError):
                broken_off()
        assert not run.done("subject")
        assert run.stages()["subject"]["seconds"] >= 0.04
        assert run.stages()["subject"]["seen"]
        with run.stage("subject") as facts:
            facts["again"] = True
        assert not run.done("subject")


def test_seconds_of_a_stage_within_a_stage_count_once(tmp_path):
    with Run.create(RunConfig(), tmp_path) as run:
        with run.stage("coder"):
            time.sleep(0.02)
            with run.stage("forward"):
                time.sleep(0.2)
        stages = run.stages()
        assert list(stages) == ["forward", "coder"]
        assert stages["forward"]["seconds"] >= 0.2
        assert 0.02 <= stages["coder"]["seconds"] < 0.2
        assert all(facts["peak_bytes"] > 2**20 for facts in stages.values())


@pytest.mark.parametrize("stage", [None, *STAGES])
def test_a_run_that_broke_off_in_any_stage_can_be_inspected(stage, tmp_path):
    with Run.create(RunConfig(), tmp_path / "run") as run:
        if stage is not None:
            with pytest.raises(ZeroDivisionError), run.stage(stage):
                raise ZeroDivisionError
    done = command("inspect", tmp_path / "run")
    assert done.code == 0
    assert done.err == ""


def test_square_brackets_in_a_path_are_no_markup(tmp_path):
    out = tmp_path / "a[/b]c"
    Run.create(RunConfig(), out).close()
    done = command("inspect", out)
    assert done.code == 0
    assert "a[/b]c" in done.out.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("name", ["config.toml", "run.db"])
def test_a_damaged_file_of_a_run_is_named(name, tmp_path):
    Run.create(RunConfig(), tmp_path).close()
    (tmp_path / "contexts").mkdir()
    (tmp_path / name).write_bytes(b"\x00garbage" * 100)
    for arguments in (["inspect", tmp_path], ["demo", "--out", tmp_path, "--corpus", tmp_path]):
        done = command(*arguments)
        assert done.code == 2
        assert name in done.error


def test_commands_on_a_run_without_an_index_name_what_to_do_first(tmp_path):
    Run.create(RunConfig(), tmp_path).close()
    for name in ("explain", "score", "atlas"):
        done = command(name, tmp_path)
        assert done.code == 2
        assert "stage `harvest` is not done; run `glossator harvest`" in done.error
