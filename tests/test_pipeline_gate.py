"""A run measures the coder that it is given before it harvests, and says what it saw."""

from dataclasses import replace

import torch

from glossator.coders import load_coder, sparsify
from glossator.conventions import meant_places
from glossator.corpus import Corpus, Document, pack
from glossator.harvest import live_states
from glossator.runs import Run
from glossator.subjects import load_subject
from tiny_runs import HOOKPOINT, command


def gate_of(folder):
    with Run.open(folder) as run:
        return run.stages()["gate"], run.notes()


def harvested(world, coder, out, *options):
    return command("harvest", *world.data, "--coder", coder, "--out", out, *options)


def test_a_coder_that_is_read_as_it_was_made_is_measured_and_recorded(world, tmp_path):
    assert harvested(world, world.coder, tmp_path / "run").code == 0
    facts, notes = gate_of(tmp_path / "run")
    assert facts["verdict"] == "warns"  # a coder of twelve words of two hundred explains little
    assert 0.1 < facts["figures"]["l0"] < 0.2
    assert facts["figures"]["rows"] == 2_048
    assert "input" in {trial["convention"] for trial in facts["trials"]}
    assert facts["line"] in notes


def test_a_convention_read_wrongly_is_refused_until_told_to_go_on(world, tmp_path):
    coder = load_coder(world.coder)
    wrong = tmp_path / "coder" / HOOKPOINT
    wrong.mkdir(parents=True)
    sparsify.fill(replace(coder, decoder=coder.decoder * 60), wrong)
    out = tmp_path / "run"
    done = harvested(world, wrong, out)
    assert done.code == 2
    assert "% of variance unexplained" in done.error
    assert "--no-gate" in done.error
    facts, _ = gate_of(out)
    assert facts["verdict"] == "misread"
    assert not (out / "index").exists()
    assert harvested(world, wrong, out).error == done.error
    assert harvested(world, wrong, out, "--no-gate").code == 0
    facts, notes = gate_of(out)
    assert facts["reason"] == "--no-gate"
    assert "the coder was not checked on real text: --no-gate" in notes
    assert any(note.startswith("an earlier check refused it: ") for note in notes)


def test_a_corpus_of_too_few_tokens_is_recorded_as_not_checked(world, tmp_path):
    (tmp_path / "small.txt").write_text("hit1 word1 " * 20)
    corpus = ["--corpus", tmp_path / "small.txt"]
    options = ["--subject", world.subject, *corpus, "--dtype", "float32"]
    done = command("harvest", *options, "--coder", world.coder, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    facts, _ = gate_of(tmp_path / "run")
    assert facts["reason"] == "the corpus has 39 tokens; the check needs 64"


def test_states_of_several_places_are_those_of_the_tokens_that_count(world):
    subject = load_subject(world.subject, HOOKPOINT, dtype="float32")
    documents = [Document.of(f"{n}", f"word{n} hit{n % 9} " * 20) for n in range(60)]
    contexts = pack(
        Corpus("memory", lambda tally: iter(documents)), subject.tokenizer, context_length=32
    )
    found = live_states(subject, contexts, ["layers.0:in", "layers.1.mlp"], n=500)
    tokens = torch.cat([torch.from_numpy(b.tokens[b.mask].astype(int)) for b in contexts.batches()])
    vectors = subject.model.get_input_embeddings().weight[tokens[:500]]
    torch.testing.assert_close(found["layers.0:in"], vectors)
    assert found["layers.1.mlp"].shape == vectors.shape


def test_places_that_may_be_meant_are_the_other_side_both_ends_of_a_norm_and_the_files_own(world):
    subject = load_subject(world.subject, HOOKPOINT, dtype="float32")
    coder = load_coder(world.coder)
    norm, mlp = "model.layers.0.post_attention_layernorm", "model.layers.0.mlp"
    ends = {f"{norm}:in", f"{norm}:normalized", f"{mlp}:in"}

    def meant(*known, **declared):
        return set(meant_places(subject, replace(coder, declared=declared), known))

    assert meant(HOOKPOINT) == {f"{HOOKPOINT}:in"}
    assert meant(HOOKPOINT, hook_name="blocks.1.hook_resid_post") - meant(HOOKPOINT) == {
        "model.layers.1"
    }
    assert meant(HOOKPOINT, hook_name="of.another.model") == meant(HOOKPOINT)
    assert meant(f"{mlp}:in", mlp) == ends - {f"{mlp}:in"}
    assert meant(norm) == ends
    for end in ends - {f"{mlp}:in"}:
        assert meant(end) == ends - {end} | {norm}
