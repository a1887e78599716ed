"""Bad input: code 2, one line that names file, field and remedy, and nothing half-written."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tiny_runs import DEAD, HOOKPOINT, LIVE, WIDTH, command, save_coder


def refused(*arguments, out, code=2):
    """The line with which `demo` refuses; a run directory that is left can be mended or used."""
    done = command("demo", *arguments, "--out", out)
    assert done.code == code, (done.out, done.err)
    assert "Traceback" not in done.err
    assert not done.out
    half = [path for path in out.rglob("*") if ".tmp" in path.name or ".partial" in path.name]
    assert not half
    return done


def data(world, **changes):
    """The options of a tiny run with some of them changed; None leaves one out."""
    options = {
        "--subject": world.subject,
        "--hookpoint": HOOKPOINT,
        "--corpus": world.corpus,
        "--coder": world.coder,
    }
    options |= {f"--{name}": value for name, value in changes.items()}
    return [each for pair in options.items() if pair[1] is not None for each in pair]


def at_once(done):
    """The line of a command that refused before it did anything."""
    assert done.stages_before == []
    return done.error


# --- corpus ------------------------------------------------------------------------------------


def test_a_corpus_that_is_not_there(world, tmp_path):
    out = tmp_path / "run"
    missing = tmp_path / "missing.txt"
    done = refused(*data(world, corpus=missing), out=out)
    assert at_once(done).startswith(f"corpus `{missing}`: no such file; give a path, `stdlib`")
    mended = command("demo", *data(world), "--out", out)
    assert mended.code == 0, mended.err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "no document with any text"),
        ("blank.txt", b" \n\t\n", "no document with any text"),
        ("empty.jsonl", b"", "no document with any text"),
        ("blanks.jsonl", b'{"text": ""}\n{"text": "  "}\n', "no document with any text"),
        ("binary.txt", b"word1 \0 word2", "holds NUL bytes"),
        ("broken.jsonl", b'{"text": "word1"}\n{"text": \n', "broken.jsonl:2`: not JSON"),
        ("list.jsonl", b'["word1"]\n', "list.jsonl:1`: the line is no JSON object"),
        ("number.jsonl", b'{"text": 3}\n', "field `text` is int, not text"),
        ("column.jsonl", b'{"body": "word1"}\n', "no field `text`; there are `body`: name one"),
        ("broken.parquet", b"PAR1 no", "not readable as Parquet"),
    ],
)
def test_a_corpus_without_text(name, content, said, world, tmp_path):
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "run"
    done = refused(*data(world, corpus=tmp_path / name), out=out)
    assert said in done.error
    assert name in done.error
    assert not (out / "contexts").exists()
    assert not (out / "index").exists()


def test_a_table_without_the_column(world, tmp_path):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"title": ["a"], "body": ["word1 word2"]}), path)
    done = refused(*data(world, corpus=path, column="text"), out=tmp_path / "run")
    assert f"corpus `{path}`: no field `text`; there are `title`, `body`" in done.error


def test_an_empty_folder_of_texts(world, tmp_path):
    (tmp_path / "texts").mkdir()
    done = refused(*data(world, corpus=tmp_path / "texts"), out=tmp_path / "run")
    assert "the folder holds no file of .txt" in at_once(done)


def test_a_corpus_of_one_word_trains_nothing(world, tmp_path):
    (tmp_path / "one.txt").write_text("word1")
    out = tmp_path / "run"
    done = refused(*data(world, corpus=tmp_path / "one.txt", coder=None), out=out)
    assert "training needs two contexts with text" in done.error


def test_a_corpus_on_which_no_latent_is_active(world, tmp_path):
    coder = save_coder(tmp_path / "coder" / HOOKPOINT, [torch.ones(WIDTH)] * 4, bias=-1e6)
    out = tmp_path / "run"
    done = refused(*data(world, coder=coder), out=out)
    assert "no latent is active, and no convention tried explains it" in done.error
    options = (*data(world, coder=coder), "--no-gate")
    done = refused(*options, out=out)
    assert "no latent of coder" in done.error
    assert str(coder) in done.error
    assert "was it trained on another module" in done.error
    again = command("demo", *options, "--out", out)
    assert (again.code, again.error) == (2, done.error)


def test_a_corpus_too_small_for_any_latent_ends_well_and_says_so(world, tmp_path):
    (tmp_path / "small.txt").write_text("hit1 word1 " * 40)
    options = (*data(world, corpus=tmp_path / "small.txt"), "--no-gate")
    done = command("demo", *options, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "0 live, 0 rare, 1 dense" in done.words or "0 live, 1 rare" in done.words
    assert "explained by rules 0 of 0 live" in done.words
    assert "rules: none" in done.words


# --- subject and coder -------------------------------------------------------------------------


def test_a_subject_of_another_width_than_the_coder(world, tmp_path):
    coder = save_coder(tmp_path / "coder" / HOOKPOINT, [torch.ones(40)] * 4)
    out = tmp_path / "run"
    done = refused(*data(world, coder=coder), out=out)
    line = at_once(done)
    assert f"has width {WIDTH} at `{HOOKPOINT}`, but coder" in line
    assert "reads 40" in line
    assert not (out / "contexts").exists()
    assert command("demo", *data(world), "--out", out).code == 0


def test_a_hookpoint_that_does_not_exist_has_neighbours(world, tmp_path):
    out = tmp_path / "run"
    done = refused(*data(world, hookpoint="model.layer.0", coder=None), out=out)
    line = at_once(done)
    assert "hookpoint `model.layer.0`: LlamaForCausalLM has no such module" in line
    assert "`model.layers.0`" in line
    assert command("demo", *data(world), "--out", out).code == 0


def test_a_hookpoint_that_is_not_the_coders(world, tmp_path):
    done = refused(*data(world, hookpoint="model.layers.1"), out=tmp_path / "run")
    assert "trained at `model.layers.0` and does not read `model.layers.1`" in at_once(done)


@pytest.mark.parametrize("name", ["nobody/nothing", "./nowhere"])
def test_a_subject_that_is_not_there(name, world, tmp_path):
    done = refused(*data(world, subject=name, coder=None, hookpoint=None), out=tmp_path / "run")
    assert at_once(done).startswith(f"subject `{name}`: ")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"{}"),
        ("config.json", b'{"model_type": "unheard-of"}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", None),
        ("model.safetensors", None),
    ],
)
def test_a_damaged_subject(name, content, world, tmp_path):
    subject = shutil.copytree(world.subject, tmp_path / "llama")
    if content is None:
        (subject / name).unlink()
    else:
        (subject / name).write_bytes(content)
    done = refused(*data(world, subject=subject), out=tmp_path / "run")
    assert at_once(done).startswith(f"subject `{subject}`: ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"intermediate_size": 96}, "(and 5 more) is not of the shape that its `config.json` says"),
        ({"num_hidden_layers": 3}, "(and 8 more) is missing from its files"),
    ],
)
def test_a_subject_with_weights_drawn_at_random(change, said, world, tmp_path):
    subject = shutil.copytree(world.subject, tmp_path / "llama")
    config = json.loads((subject / "config.json").read_text())
    (subject / "config.json").write_text(json.dumps(config | change))
    done = refused(*data(world, subject=subject), out=tmp_path / "run")
    assert at_once(done).startswith(f"subject `{subject}`: weight `model.layers.")
    assert said in done.error


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cfg.json", None, "cfg.json"),
        ("cfg.json", b"{", "not JSON"),
        ("cfg.json", b'{"activation": "gelu", "k": 4}', "`gelu`"),
        ("cfg.json", b'{"k": 400, "num_latents": 16}', "k = 400 of 16 latents"),
        ("sae.safetensors", None, "no such file"),
        ("sae.safetensors", b"no", "not readable as safetensors"),
    ],
)
def test_a_damaged_coder(name, content, said, world, tmp_path):
    coder = shutil.copytree(world.coder, tmp_path / HOOKPOINT)
    if content is None:
        (coder / name).unlink()
    else:
        (coder / name).write_bytes(content)
    done = refused(*data(world, coder=coder), out=tmp_path / "run")
    assert said in at_once(done)
    assert str(coder) in done.error


def test_a_coder_that_is_not_there(world, tmp_path):
    done = refused(*data(world, coder=tmp_path / "none"), out=tmp_path / "run")
    assert str(tmp_path / "none") in at_once(done)


# --- settings and folders ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[corpus]\ntoken = 3\n", "field `corpus.token`"),
        ("[nothing]\n", "field `nothing`"),
        ("[judge]\nkey = 'sk-1'\n", "field `judge.key`"),
        ("[coder]\nk = 'four'\n", "field `coder.k`"),
        ("[coder\n", "not TOML"),
        ("\xff", "not TOML"),
    ],
)
def test_settings_that_are_none(text, said, tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode("latin-1"))
    done = command("run", path, "--out", tmp_path / "run")
    assert done.code == 2
    assert done.error.startswith(f"{path}: ")
    assert said in done.error
    assert not (tmp_path / "run").exists()


def test_settings_that_are_not_there(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        done = command("run", path, "--out", tmp_path / "run")
        assert done.code == 2
        assert done.error.startswith(f"{path}: cannot be read")


def test_a_run_directory_that_is_a_file_or_anothers(world, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    for out, said in ((file, "is a file"), (folder, "not a run and not empty")):
        done = command("demo", *data(world), "--out", out)
        assert done.code == 2
        assert f"{out}: {said}" in at_once(done)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "thesis.tex"]


def test_commands_on_what_is_no_run(tmp_path):
    for name in ("explain", "score", "atlas", "inspect"):
        done = command(name, tmp_path / "none")
        assert done.code == 2
        assert f"{tmp_path / 'none'}: no run here" in done.error
    done = command("export", "tables", tmp_path, tmp_path / "out")
    assert done.code == 2
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    assert command("demo", *data(world), "--out", out).code == 0
    return out


def test_an_export_to_a_file_or_a_foreign_folder(finished, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    for out, said in ((file, "is there already"), (folder, "is there"), ("/proc/x", "cannot")):
        done = command("export", "tables", finished, out)
        assert done.code == 2
        assert said in at_once(done)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped])
@pytest.mark.parametrize(
    "pattern",
    ["manifest.json", "segments/*/lists.bin", "segments/*/offsets.u64", "text/*/tokens.u*"],
)
def test_a_damaged_index_is_named(pattern, damage, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run")
    (path,) = (out / "index").glob(pattern)
    path.write_bytes(damage(path.read_bytes()))
    done = command("atlas", out, "--latents", "1,2")
    assert done.code == 2
    assert f"`{path.name}` of the index `{out / 'index'}`" in done.error


def test_a_missing_tokenizer_is_named(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run")
    (out / "tokenizer.json").unlink()
    (out / "atlas.html").unlink()
    done = command("atlas", out)
    assert done.code == 2
    assert "tokenizer.json" in done.error


def test_the_world_is_what_these_tests_take_it_for(finished):
    assert f"{LIVE} live" in command("inspect", finished).words
    assert DEAD > 0
