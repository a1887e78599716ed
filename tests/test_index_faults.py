"""Killed, truncated, flipped: an index is complete, resumable or named as damaged; never wrong."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from glossator.errors import CorruptIndexError, GlossatorError
from glossator.index import Index, IndexWriter
from glossator.sampling import SamplingPlan
from index_reference import corpus, folder_bytes

PROGRAM = textwrap.dedent(
    """
    import json, sys
    import numpy as np
    from glossator.index import IndexWriter
    given = np.load(sys.argv[2])
    parameters = json.loads(sys.argv[3])
    print("ready", flush=True)
    with IndexWriter(sys.argv[1], **parameters) as writer:
        for at in range(len(given["tokens"])):
            writer.add(*(given[name][at : at + 1] for name in NAMES))
    """
)


def start(path, arrays, parameters):
    program = f"NAMES = ['tokens', 'latents', 'activations', 'documents']\n{PROGRAM}"
    command = [sys.executable, "-c", program, str(path), str(arrays), json.dumps(parameters)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


def test_a_build_killed_at_any_instant_resumes_to_the_same_bytes(tmp_path):
    plain = corpus(50, segment_contexts=2)
    latents, activations = plain.topk()
    arrays = tmp_path / "given.npz"
    text = {"tokens": plain.tokens, "documents": plain.documents}
    np.savez(arrays, **text, latents=latents, activations=activations)
    began = time.perf_counter()
    plain.build(tmp_path / "whole", batches=[1])
    seconds = time.perf_counter() - began
    whole = folder_bytes(tmp_path / "whole")
    rng, unfinished = np.random.default_rng(0), 0
    for turn in range(3):
        path = tmp_path / str(turn)
        for _ in range(5):
            with start(path, arrays, plain.parameters) as child:
                time.sleep(rng.uniform(0, seconds / 2))
                child.send_signal(signal.SIGKILL)
            if (path / "manifest.json").exists():
                index = Index.open(path, unfinished=True)
                index.verify()
                unfinished += not index.complete
                for latent in range(plain.n_latents):
                    positions, _ = plain.postings(latent)
                    there = positions < index.n_contexts * index.context_length
                    np.testing.assert_array_equal(index.postings(latent)[0], positions[there])
        plain.build(path, batches=[5, 2])
        assert folder_bytes(path) == whole
    assert unfinished > 0


def test_the_jump_to_the_first_uncommitted_context_ends_in_the_same_bytes(tmp_path):
    plain = corpus(8, first_context=5)
    whole = folder_bytes(plain.build(tmp_path / "whole"))
    latents, activations = plain.topk()
    writer = IndexWriter(tmp_path / "index", **plain.parameters)
    writer.add(plain.tokens[:6], latents[:6], activations[:6], plain.documents[:6])
    assert writer.next_context == 11
    writer.abandon()
    with IndexWriter(tmp_path / "index", **plain.parameters) as writer:
        assert writer.next_context == 9  # segments end at 6 and 9
        at = writer.next_context - 5
        writer.add(
            plain.tokens[at:], latents[at:], activations[at:], plain.documents[at:], context=9
        )
    assert folder_bytes(tmp_path / "index") == whole


def test_an_error_in_the_block_keeps_what_is_committed(tmp_path):
    plain = corpus(8)
    whole = folder_bytes(plain.build(tmp_path / "whole"))
    latents, activations = plain.topk()

    def fail():
        with IndexWriter(tmp_path / "index", **plain.parameters) as writer:
            writer.add(plain.tokens[:7], latents[:7], activations[:7], plain.documents[:7])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert Index.open(tmp_path / "index", unfinished=True).n_contexts == 6
    assert folder_bytes(plain.build(tmp_path / "index")) == whole


def test_what_was_never_committed_is_removed_and_foreign_files_stay(tmp_path):
    plain = corpus(8)
    path = plain.build(tmp_path / "index")
    whole = folder_bytes(path)
    segments = path / "segments"
    shutil.copytree(segments / f"{0:020}", segments / f"{9:020}")
    shutil.copytree(segments / f"{0:020}", segments / f"{9:020}.tmp")
    (path / "manifest.json.tmp").write_text("{")
    plain.build(path)
    assert folder_bytes(path) == whole
    (segments / "notes").mkdir()
    plain.build(path)
    assert (segments / "notes").is_dir()


def test_a_full_disk_is_one_clear_line_and_the_build_goes_on_later(tmp_path):
    resource = pytest.importorskip("resource", reason="POSIX limits a file's size, nothing else")
    plain = corpus(40, segment_contexts=20, windows=8, n_latents=20)
    whole = folder_bytes(plain.build(tmp_path / "whole"))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, old[1]))
        with pytest.raises(GlossatorError, match=r"cannot write `.*`: File too large"):
            plain.build(tmp_path / "index")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list((tmp_path / "index" / "segments").iterdir())
    assert folder_bytes(plain.build(tmp_path / "index")) == whole


def answers(path):
    """All that an index says."""
    index = Index.open(path)
    examples = index.sample(np.arange(index.n_latents), SamplingPlan(), seed=3)
    said = [index.counts(), index.deciles(), index.sides(), index.eligible()]
    said += [array for latent in range(index.n_latents) for array in index.postings(latent)]
    said += list(index.contexts(np.arange(index.n_contexts)))
    said += list(index.summary().values())
    said += [examples.start, examples.tokens, examples.activations, examples.mask]
    return [*(array.tobytes() for array in said), index.attributes, index.split_seed]


def answers_or_error(path):
    try:
        return answers(path)
    except GlossatorError as error:
        return error


def damaged_copies(tmp_path, plain):
    path = plain.build(tmp_path / "index")
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != "lock":
            yield path, file, file.read_bytes()


def test_a_flipped_byte_never_gives_another_answer(tmp_path):
    plain = corpus(7, windows=8)
    expected = None
    rng = np.random.default_rng(0)
    damaged = 0
    for path, file, content in damaged_copies(tmp_path, plain):
        expected = expected or answers(path)
        for at in rng.choice(len(content), size=min(len(content), 25), replace=False):
            changed = bytearray(content)
            changed[at] ^= 1 << rng.integers(8)
            file.write_bytes(changed)
            said = answers_or_error(path)
            if isinstance(said, GlossatorError):
                damaged += 1
                if file.name != "manifest.json":
                    assert isinstance(said, CorruptIndexError)
                    segment = int(file.parent.name)
                    assert f"segment {segment}, file `{file.name}`" in str(said)
            else:
                assert said == expected, f"{file} at {at}"
            if file.name not in ("manifest.json", "hashes.u64"):
                with pytest.raises(CorruptIndexError, match=f"file `{file.name}`"):
                    Index.open(path).verify()
        file.write_bytes(content)
    assert damaged > 300
    assert answers(path) == expected


def test_a_truncated_or_missing_file_is_named(tmp_path):
    plain = corpus(7, windows=8)
    for path, file, content in damaged_copies(tmp_path, plain):
        for size in {0, 1, len(content) // 2, len(content.rstrip(b"\n")) - 1}:
            file.write_bytes(content[:size])
            with pytest.raises(CorruptIndexError, match=file.name):
                Index.open(path)
        file.write_bytes(content + b"\0")
        with pytest.raises(CorruptIndexError, match=file.name):
            Index.open(path)
        file.unlink()
        name = "there is no index" if file.name == "manifest.json" else file.name
        with pytest.raises(GlossatorError, match=name):
            Index.open(path)
        file.write_bytes(content)


def test_a_damaged_index_is_not_gone_on_with(tmp_path):
    plain = corpus(7)
    path = plain.build(tmp_path / "index")
    hashes = path / "segments" / f"{3:020}" / "hashes.u64"
    content = hashes.read_bytes()
    hashes.write_bytes(bytes(8) + content[8:])
    with pytest.raises(CorruptIndexError, match=r"segment 3, file `hashes\.u64`"):
        plain.build(path)
