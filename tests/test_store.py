"""The run's database: whole rows or nothing, one writer, versions that refuse or migrate."""

import sqlite3
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator import store as store_module
from glossator.errors import InputError, RunLockedError
from glossator.records import TABLES, Explanation, Rule
from glossator.store import SCHEMA_VERSION, Store

EXPLANATION = Explanation.of("layer.0", 3, "rules", "Activates on « x »", Rule(tokens=(7,)))


def _value(field):
    kind = field.type
    if pa.types.is_list(kind):
        tokens = kind.value_type == pa.uint32()
        integers = st.integers(0, 2**32 - 1) if tokens else st.integers(-(2**63), 2**63 - 1)
        floats = st.floats(-6e4, 6e4, width=16)
        return st.lists(integers if pa.types.is_integer(kind.value_type) else floats, max_size=3)
    if kind == pa.bool_():
        return st.booleans()
    if kind == pa.uint64():
        return st.integers(0, 2**64 - 1)
    if kind == pa.int64():
        return st.integers(-(2**63), 2**63 - 1)
    if kind == pa.float64():
        return st.floats(allow_nan=False, allow_infinity=False)
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_column_of_every_table_comes_back_as_it_went_in(tmp_path_factory, name, data):
    row = {
        field.name: data.draw(
            _value(field) if field.name in store_module._KEYS[name] else st.none() | _value(field)
        )
        for field in TABLES[name]
    }
    with Store.open(tmp_path_factory.mktemp("run")) as store:
        store.add(name, [row])
        table = store.table(name)
    assert table.schema == TABLES[name]
    assert table.to_pylist() == [row]


def test_batches_are_the_table_in_steps_and_tell_what_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_ROWS", 4)
    said = [Explanation.of("layer.0", n, "rules", f"text {n}") for n in range(10)]
    with Store.open(tmp_path) as store:
        store.add("explanations", said)
        batches = list(store.batches("explanations"))
        assert [batch.num_rows for batch in batches] == [4, 4, 2]
        assert pa.Table.from_batches(batches).equals(store.table("explanations"))
        columns = ("text", "latent")
        (some,) = store.batches("explanations", "latent > ?", (7,), columns=columns)
        assert some.schema.names == ["text", "latent"]
        assert sorted(some["latent"].to_pylist()) == [8, 9]
        # Two readings at once do not disturb one another.
        first, second = store.batches("explanations"), store.batches("explanations")
        next(first)
        assert [batch.num_rows for batch in second] == [4, 4, 2]
        assert [batch.num_rows for batch in first] == [4, 2]
        assert (store.count("explanations"), store.count("scores")) == (10, 0)
        with pytest.raises(InputError, match="table `x`: unknown"):
            store.batches("x")


def test_the_same_key_replaces_its_row(tmp_path):
    with Store.open(tmp_path) as store:
        store.add("explanations", [EXPLANATION])
        store.add("explanations", [EXPLANATION])
        assert store.table("explanations").num_rows == 1


def test_a_failing_batch_leaves_no_row_behind(tmp_path):
    with Store.open(tmp_path) as store:
        store.add("explanations", [EXPLANATION])
        with pytest.raises(OverflowError):
            store.add("explanations", [{"explanation_id": "b", "latent": 2**70}], replace=True)
        assert store.table("explanations")["explanation_id"].to_pylist() == [
            EXPLANATION.explanation_id
        ]


def test_a_full_database_is_one_line_that_says_what_to_do(tmp_path):
    with Store.open(tmp_path) as store:
        store.add("explanations", [EXPLANATION])
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        store._database.execute(f"PRAGMA max_page_count = {pages}")
        rows = [{"explanation_id": str(i), "text": "x" * 4_096} for i in range(64)]
        with pytest.raises(InputError, match=r"run\.db: table `explanations`.*free space") as info:
            store.add("explanations", rows)
        assert "\n" not in str(info.value)
        assert store.table("explanations").num_rows == 1


HOLD = """
import sys
from glossator.store import Store
with Store.open(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunLockedError, match="another process is writing"):
            Store.open(tmp_path)
        with Store.open(tmp_path, write=False) as reader:
            assert reader.table("scores").num_rows == 0
        holder.stdin.close()
        assert holder.wait(60) == 0
    Store.open(tmp_path).close()


def test_a_killed_writer_leaves_no_lock_and_whole_transactions(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from glossator.store import Store\n"
        "store = Store.open(sys.argv[1])\n"
        "store.add('ledger', [{'stage': 'a', 'scorer': ''}])\n"
        "store._database.execute('BEGIN IMMEDIATE')\n"
        "store._database.execute(\"INSERT INTO ledger (stage, scorer) VALUES ('b', '')\")\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    with Store.open(tmp_path) as store:
        assert store.table("ledger")["stage"].to_pylist() == ["a"]


def test_a_newer_schema_is_refused_naming_both_versions(tmp_path):
    Store.open(tmp_path).close()
    database = sqlite3.connect(tmp_path / "run.db")
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 4}")
    database.close()
    with pytest.raises(InputError, match=f"version {SCHEMA_VERSION + 4} is newer than"):
        Store.open(tmp_path)


def test_an_older_schema_is_migrated_and_a_reader_says_how(tmp_path, monkeypatch):
    with Store.open(tmp_path) as store:
        store.set_fact("answer", 42)
    monkeypatch.setattr(store_module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    monkeypatch.setattr(
        store_module,
        "_MIGRATIONS",
        {SCHEMA_VERSION: lambda database: database.execute("UPDATE facts SET value = '43'")},
    )
    with pytest.raises(InputError, match="run `glossator atlas` on it once"):
        Store.open(tmp_path, write=False)
    with Store.open(tmp_path) as store:
        assert store.fact("answer") == 43


def test_a_run_of_version_1_gets_the_columns_of_version_2_and_keeps_its_rows(tmp_path):
    added = ["source_latent", "source_rank"]
    Store.open(tmp_path).close()
    database = sqlite3.connect(tmp_path / "run.db")
    old = [name for name in TABLES["examples"].names if name not in added]
    columns = ", ".join(f'"{name}" TEXT' for name in old[1:])
    database.execute("DROP TABLE examples")
    database.execute(f"CREATE TABLE examples (example_id TEXT PRIMARY KEY, {columns})")
    database.execute("INSERT INTO examples (example_id, kind) VALUES ('a', 'random')")
    database.execute("PRAGMA user_version = 1")
    database.commit()
    database.close()
    with Store.open(tmp_path) as store:
        store.add("examples", [{"example_id": "b", "source_latent": 3, "source_rank": 7}])
        rows = store.table("examples").select(["example_id", "kind", *added]).to_pylist()
        assert store.table("examples").schema == TABLES["examples"]
    assert rows == [
        {"example_id": "a", "kind": "random", "source_latent": None, "source_rank": None},
        {"example_id": "b", "kind": None, "source_latent": 3, "source_rank": 7},
    ]


def test_the_journal_suits_the_file_system(tmp_path, monkeypatch):
    def mounted(kind):
        part = type("Part", (), {"mountpoint": str(tmp_path), "fstype": kind})
        monkeypatch.setattr(store_module.psutil, "disk_partitions", lambda **_: [part])
        return store_module.journal_mode(tmp_path / "run")

    assert mounted("ext4") == "WAL"
    assert mounted("nfs4") == "DELETE"
    assert mounted("fuse.sshfs") == "DELETE"


def test_what_is_no_run_is_said_to_be_none(tmp_path):
    with pytest.raises(InputError, match="no run here"):
        Store.open(tmp_path / "nothing", write=False)
    (tmp_path / "run.db").write_bytes(b"not a database, but long enough to be read as one" * 99)
    with pytest.raises(InputError, match="not a database"):
        Store.open(tmp_path)


def test_an_unknown_table_names_the_known_ones(tmp_path):
    with Store.open(tmp_path) as store, pytest.raises(InputError, match="known are latents"):
        store.table("latentz")
