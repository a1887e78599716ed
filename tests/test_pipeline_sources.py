"""What a run may be given in place of text and of a module's path."""

import json
from unittest import mock

import numpy as np
import pytest

import glossator as gl
from glossator.cli_settings import settings
from glossator.coders import load_coder
from glossator.config import RunConfig
from glossator.errors import InputError
from glossator.harvest import bos_for, refuse_misfit
from glossator.runs import Run
from glossator.subjects import load_subject
from tiny_runs import HOOKPOINT, command


@pytest.fixture(scope="module")
def subject(world):
    return load_subject(world.subject, HOOKPOINT, dtype="float32")


def test_tokens_are_harvested_like_the_text_that_they_were(world, subject, tmp_path):
    texts = [json.loads(line)["text"] for line in world.corpus.read_text().splitlines()]
    end = subject.tokenizer.token_to_id("[unk]")
    ids = [np.array([*subject.tokenizer.encode(text).ids, end]) for text in texts]
    np.save(tmp_path / "tokens.npy", np.concatenate(ids))
    base = ["--subject", world.subject, "--coder", world.coder, "--dtype", "float32"]
    options = [*base, "--corpus", tmp_path / "tokens.npy"]
    out = tmp_path / "run"
    assert command("harvest", *options, "--separator", end, "--out", out).code == 0
    with Run.open(out) as run:
        assert run.stages()["corpus"]["documents"] == len(texts)
        assert run.notes()[0].startswith("all rows have") is False
        positions, _ = run.index.postings(3)
        tokens, _, _ = run.index.contexts(positions // np.uint64(run.index.context_length))
        found = tokens[np.arange(len(positions)), positions % np.uint64(run.index.context_length)]
        assert len(found) > 100
        assert {int(token) for token in found} == {subject.tokenizer.token_to_id("hit3")}
    done = command("harvest", *options, "--out", tmp_path / "line")
    assert done.code == 0
    assert "the corpus does not say where a document ends" in done.words
    twice = command("harvest", *options, "--corpus", "stdlib", "--out", tmp_path / "two")
    assert "of tokens there can be one source alone" in twice.error


def test_a_coder_is_known_by_any_name_of_its_place(world, subject):
    coder = load_coder(world.coder)
    for name in ("layers.0", "blocks.0.hook_resid_post", "layers.0.output"):
        refuse_misfit(subject, coder.at(name))
    for name in ("blocks.0.hook_resid_pre", "layers.0:in", "layers.1", "nowhere"):
        with pytest.raises(InputError, match=f"reads at `{name}`"):
            refuse_misfit(subject, coder.at(name))


def test_a_bos_is_put_where_the_coder_was_trained_with_one(world, subject):
    coder = load_coder(world.coder)
    assert bos_for(subject, coder) is None
    coder.declared["prepend_bos"] = True
    assert bos_for(subject, coder) == subject.bos == 1


def test_layers_are_spread_as_asked_and_the_index_is_the_same_run():
    config = settings(
        RunConfig(),
        {"subject__device_map": "auto", "subject__max_memory": ["0=20GiB", "cpu=60GiB"]},
    )
    assert config.subject.spread() == {
        "device_map": "auto",
        "max_memory": {0: "20GiB", "cpu": "60GiB"},
    }
    assert config.data() == RunConfig().data()


def test_a_run_loads_its_subject_spread_as_asked(world, tmp_path):
    asked = {}

    def loaded(*_, **options):
        asked.update(options)
        raise InputError("enough")

    subject = {"name": str(world.subject), "max_memory": {"0": 7}}
    config = gl.load_config(world.settings(tmp_path / "run.toml", subject=subject))
    with (
        mock.patch("glossator.subjects.load_subject", loaded),
        Run.create(config, tmp_path / "run") as run,
        pytest.raises(InputError, match="enough"),
    ):
        gl.pipeline.harvest_stage(run)
    assert asked["max_memory"] == {0: 7}
