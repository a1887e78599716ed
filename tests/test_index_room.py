"""An index on a disk that is full, in files that may not grow, in a folder without leave."""

import os
import subprocess
import sys
import tempfile
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import os, pathlib, resource, signal, subprocess, sys
    from glossator.errors import InputError
    from glossator.index import Index, IndexWriter
    from index_answers import answers
    from index_reference import corpus, folder_bytes
    from killed_builds import LATENTS, Corpus, build

    room, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def mount(options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", room], check=True)

    def one_line(error):
        text = str(error)
        assert text.startswith("cannot ") and "\\n" not in text, text
        return text
    """
)

FILL = textwrap.dedent(
    """
    def allow(size):
        if kind == "file":
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        else:
            subprocess.run(["mount", "-o", f"remount,size={size}", room], check=True)

    given = Corpus()
    order = {"threads": 1, "jump": False, "way": 0, "durable": True, "compact": False}
    order["until"] = 2**63
    build(given, {**order, "path": room.parent / "whole"}, lambda text: None)
    whole = folder_bytes(room.parent / "whole")
    if kind == "disk":
        mount("size=1m")
    size, struck = 100, set()
    while True:
        size = size * 5 // 4
        allow(size)
        try:
            build(given, {**order, "path": room / "index", "jump": size % 2}, lambda text: None)
            break
        except InputError as error:
            text = one_line(error)
            assert ("File too large" if kind == "file" else "No space left on device") in text, text
            struck.add(pathlib.Path(text.split("`")[1]).name)
        for name in LATENTS:
            if (room / "index" / name / "manifest.json").exists():
                Index.open(room / "index" / name, unfinished=True).verify()
    assert folder_bytes(room / "index") == whole
    print(*sorted(struck))
    """
)

READ_ONLY = textwrap.dedent(
    """
    def lock(path, mode):
        for entry in [*path.rglob("*"), path]:
            entry.chmod(mode | 0o111 * entry.is_dir())

    plain = corpus(7)
    if kind == "disk":
        mount("size=1m")
    path = plain.build(room / "index")
    expected, before = answers(Index.open(path)), folder_bytes(path)
    if kind == "disk":
        subprocess.run(["mount", "-o", "remount,ro", room], check=True)
    else:
        lock(path, 0o444)
    index = Index.open(path)
    assert answers(index) == expected
    index.verify()
    assert folder_bytes(path) == before
    try:
        IndexWriter(path, **plain.parameters).abandon()
    except InputError as error:
        print(one_line(error))
    else:
        # The superuser writes whatever the mode says.
        assert kind == "file" and os.geteuid() == 0
        print("superuser")
    if kind == "file":
        lock(path, 0o644)
    """
)


def in_own_mounts(*command):
    return ["unshare", "--map-root-user", "--mount", *command]


def may_mount():
    """Whether a program may have a small disk of its own here."""
    with tempfile.TemporaryDirectory() as folder:
        command = in_own_mounts("mount", "-t", "tmpfs", "none", folder)
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False


KINDS = ["file", "disk"] if may_mount() else ["file"]


def run(program, room, kind):
    room.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", PROGRAM + program, str(room), kind]
    command = in_own_mounts(*command) if kind == "disk" else command
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_without_room_says_so_in_one_line_and_goes_on_when_there_is_some(tmp_path, kind):
    struck = run(FILL, tmp_path / "room", kind)
    # No file is larger than the spill; a disk may be full at any.
    assert "spill.bin" in struck
    assert len(struck) >= {"file": 2, "disk": 3}[kind], struck


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_may_not_be_written_is_read(tmp_path, kind):
    said = " ".join(run(READ_ONLY, tmp_path / "room", kind))
    assert said == "superuser" or "Read-only file system" in said or "Permission denied" in said
