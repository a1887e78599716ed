"""Left, cut off, flipped: an index is complete, resumable or named as damaged; never wrong."""

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap

import pytest

from glossator.errors import CorruptIndexError, GlossatorError, InputError
from glossator.index import Index, IndexWriter, compact
from index_answers import answers, data_files, opened, wrong_answers
from index_reference import corpus, folder_bytes, scratch_folders


@pytest.fixture
def scratch():
    with scratch_folders() as folders:
        yield folders


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


def damaged_index(path):
    """An index of two segments, and all that it says."""
    corpus(7, windows=8, segment_contexts=4, first_context=1).build(path, durable=False)
    return answers(Index.open(path))


def segment_of(file):
    return int(file.parent.name)


def test_every_byte_flipped_is_named_and_gives_no_other_answer(scratch):
    draw = random.Random(0)
    path = scratch()
    expected = damaged_index(path)
    turn = 0
    for file in data_files(path):
        content = file.read_bytes()
        for at in range(len(content)):
            turn += 1
            changed = bytearray(content)
            changed[at] ^= 1 << draw.randrange(8)
            file.write_bytes(changed)
            if file.name == "manifest.json":
                check_flipped_manifest(path, bytes(changed), content)
                continue
            with pytest.raises(CorruptIndexError) as caught:
                Index.open(path).verify()
            assert f"segment {segment_of(file)}, file `{file.name}`" in str(caught.value)
            assert wrong_answers(opened(path), expected, turn) == [], f"{file} at {at}"
        file.write_bytes(content)
    assert turn > 3000
    assert answers(Index.open(path)) == expected


def check_flipped_manifest(path, changed, content):
    """A version of another digit is another version; everything else is damaged."""
    try:
        versions = [json.loads(text)["version"] for text in (changed, content)]
    except (ValueError, KeyError):
        versions = [1, 1]
    refusal = CorruptIndexError if versions[0] == versions[1] else InputError
    with pytest.raises(refusal, match=r"manifest\.json|format version"):
        Index.open(path)


def test_every_truncation_is_named(scratch):
    path = scratch()
    expected = damaged_index(path)
    for file in data_files(path):
        content = file.read_bytes()
        os.truncate(file, len(content))
        for size in range(len(content) - 1, -1, -1):
            os.truncate(file, size)
            if content[size:] == b"\n":
                continue  # The manifest says all that it said.
            with pytest.raises(CorruptIndexError, match=file.name) as caught:
                Index.open(path)
            assert "\n" not in str(caught.value)
        file.write_bytes(content + b"\0")
        with pytest.raises(CorruptIndexError, match=file.name):
            Index.open(path)
        file.unlink()
        name = "there is no index" if file.name == "manifest.json" else file.name
        with pytest.raises(GlossatorError, match=name):
            Index.open(path)
        file.write_bytes(content)
    assert answers(Index.open(path)) == expected


SHRINKS = textwrap.dedent(
    """
    import os, pathlib, sys
    from glossator.errors import CorruptIndexError
    from glossator.index import Index
    from index_answers import QUESTIONS, answers, data_files, plain_bytes, wrong_answers
    from index_reference import corpus

    path = pathlib.Path(sys.argv[1])
    plain = corpus(64, windows=128, n_latents=16, segment_contexts=60)
    plain.build(path, durable=False)
    expected = answers(Index.open(path))
    files = [file for file in data_files(path) if file.name not in ("manifest.json", "pages.u64")]
    assert max(file.stat().st_size for file in files) > 1 << 17
    turn, noticed = 0, 0
    for file in files:
        content = file.read_bytes()
        for share, touched in ((0.0, True), (0.5, True), (0.9, False), (0.0, False)):
            index = Index.open(path)
            if touched:
                assert answers(index) == expected
            os.truncate(file, int(share * len(content)))
            turn += 1
            wrong = wrong_answers(lambda: index, expected, turn)
            assert not wrong, (file, share, touched, wrong)
            try:
                index.verify()
            except CorruptIndexError as error:
                assert file.name in str(error), (file, error)
                noticed += 1
            file.write_bytes(content)
    assert noticed == turn, (noticed, turn)
    assert answers(Index.open(path)) == expected
    print("whole", turn)
    """
)


def test_files_that_shrink_while_they_are_mapped_are_errors_and_no_signal(scratch):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", SHRINKS, str(scratch())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout.startswith("whole")


def test_a_copy_in_any_order_opens_whole_or_is_refused(scratch):
    """File by file over nothing, over the index as it was, and over it before it was compacted."""
    plain = corpus(11, segment_contexts=4)
    latents, activations = plain.topk()
    before, after, merged = scratch(), scratch(), scratch()
    with IndexWriter(before, **plain.parameters) as writer:
        writer.add(plain.tokens[:6], latents[:6], activations[:6], plain.documents[:6])
    shutil.copytree(before, after)
    plain.build(after)
    shutil.copytree(after, merged)
    compact(merged)
    whole = [answers(Index.open(path)) for path in (before, after, merged)]
    assert whole[1] == whole[2] != whole[0]
    draw = random.Random(0)
    for target, source in [(None, after), (before, after), (after, merged), (before, merged)] * 8:
        copy = scratch()
        if target is not None:
            shutil.copytree(target, copy)
        files = [*data_files(source), source / "lock"]
        draw.shuffle(files)
        for file in files:
            place = copy / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            content = file.read_bytes()
            for part in (content[: len(content) // 2], content):
                place.write_bytes(part)
                try:
                    found = answers(Index.open(copy))
                except GlossatorError:
                    continue
                assert found in whole
        assert found == whole[1]
        Index.open(copy).verify()


def test_a_damaged_index_is_not_gone_on_with(tmp_path):
    plain = corpus(7)
    path = plain.build(tmp_path / "index")
    hashes = path / "segments" / f"{3:020}" / "hashes.u64"
    content = hashes.read_bytes()
    hashes.write_bytes(bytes(8) + content[8:])
    with pytest.raises(CorruptIndexError, match=r"segment 3, file `hashes\.u64`"):
        plain.build(path)
