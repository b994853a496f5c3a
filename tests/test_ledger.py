"""The ledger builds things once, rebuilds exactly what a change affects, and survives a kill at any moment."""

import errno
import os
import shutil
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry.disk import stamp
from drivefoundry.ledger import Ledger, fresh
from drivefoundry.settings import canonical

CODE = "code"


@dataclass(frozen=True)
class Recipe:
    words: int = 3
    rate: float = 0.5


class Line:
    """A three-stage line over text files that counts its builds: words -> upper -> count."""

    def __init__(self, root: Path) -> None:
        self.root, self.built = root, []

    def run(self, recipe=Recipe(), upper="upper"):
        def words(path):
            self.built.append("words")
            (path / "words.txt").write_text(" ".join(f"word{i}" for i in range(recipe.words)))
            return {"words": recipe.words}

        def upper_case(path):
            self.built.append("upper")
            (path / "upper.txt").write_text((first.path / "words.txt").read_text().upper())

        def count(path):
            self.built.append("count")
            (path / "count.txt").write_text(str(len((second.path / "upper.txt").read_text())))

        self.built = []
        with Ledger(self.root) as ledger:
            first = ledger.make("words", recipe, [], CODE, words)
            second = ledger.make("upper", {"how": upper}, [first], CODE, upper_case)
            third = ledger.make("count", {}, [second], CODE, count)
            return first, second, third


def test_second_run_does_nothing(tmp_path):
    line = Line(tmp_path / "out")
    before = line.run()
    assert line.built == ["words", "upper", "count"]
    assert all(a.made for a in before)
    after = line.run()
    assert line.built == []
    assert [replace(a, made=True) for a in after] == list(before)
    assert before[0].info == {"words": 3}
    assert before[0].bytes == len("word0 word1 word2")


def test_changed_recipe_redoes_only_what_depends_on_it(tmp_path):
    line = Line(tmp_path / "out")
    line.run()
    line.run(upper="UPPER")
    assert line.built == ["upper"]  # the same letters came out, so the count stands: early cutoff
    line.run(Recipe(words=4))
    assert line.built == ["words", "upper", "count"]
    line.run()
    assert line.built == []


def test_parent_redone_with_the_same_content_leaves_children_alone(tmp_path):
    line = Line(tmp_path / "out")
    first, _, _ = line.run()
    again, _, _ = line.run(Recipe(rate=0.25))
    assert line.built == ["words"]
    assert again.id == first.id
    assert again.key != first.key
    assert len(list((tmp_path / "out" / "artefacts").iterdir())) == 3


def test_artefact_with_missing_file_is_made_again(tmp_path):
    line = Line(tmp_path / "out")
    _, second, _ = line.run()
    (second.path / "upper.txt").unlink()
    line.run()
    assert line.built == ["upper"]


def flip(file: Path) -> None:
    """Change one byte, but neither size nor time of modification."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_changed_byte_is_found(tmp_path):
    line = Line(tmp_path / "out")
    _, second, _ = line.run()
    with Ledger(tmp_path / "out") as ledger:
        assert ledger.damaged() == []
        flip(second.path / "upper.txt")
        assert [a.id for a in ledger.damaged()] == [second.id]


def test_artefact_with_a_changed_byte_is_made_again(tmp_path):
    line = Line(tmp_path / "out")
    _, second, third = line.run()
    flip(second.path / "upper.txt")
    assert [a.id for a in line.run()[1:]] == [second.id, third.id]
    assert line.built == ["upper"]
    assert (second.path / "upper.txt").read_text() == "WORD0 WORD1 WORD2"


def test_copied_run_is_hashed_again_and_taken(tmp_path):
    line = Line(tmp_path / "out")
    line.run()
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    copied = Line(tmp_path / "copy")
    copied.run()
    assert copied.built == []


@pytest.mark.parametrize("same_process", [True, False])
def test_no_child_is_built_from_a_damaged_parent(tmp_path, same_process):
    """The disk changes a byte without changing file times: the artefact's stamp is made to match the damaged file."""
    line = Line(tmp_path / "out")
    with Ledger(tmp_path / "out") as ledger:
        parent = ledger.make("words", {}, [], CODE, lambda path: write(path / "words.txt", "word0 word1"))
        flip(parent.path / "words.txt")
        if same_process:
            with pytest.raises(ValueError, match=r"words-.*: was damaged after it was made; run again"):
                ledger.make("upper", {}, [parent], CODE, lambda path: write(path / "upper.txt", "WORD0 WORD1"))
            assert not parent.path.exists()
            return
    held = stamp(parent.path, [parent.path / "words.txt"])
    with sqlite3.connect(tmp_path / "out" / "ledger.db") as database:
        database.execute("UPDATE builds SET stamp = ?", (held,))
    database.close()
    with Ledger(line.root) as ledger:
        parent = ledger.make("words", {}, [], CODE, lambda path: write(path / "words.txt", "word0 word1"))
        assert not parent.made
        with pytest.raises(ValueError, match=r"words-.*: was damaged after it was made; run again"):
            ledger.make("upper", {}, [parent], CODE, lambda path: write(path / "upper.txt", "WORD0 WORD1"))
    with Ledger(line.root) as ledger:
        parent = ledger.make("words", {}, [], CODE, lambda path: write(path / "words.txt", "word0 word1"))
        assert parent.made
        child = ledger.make("upper", {}, [parent], CODE, lambda path: write(path / "upper.txt", "WORD0 WORD1"))
        assert child.made


def write(file: Path, text: str) -> None:
    file.write_text(text)


def test_same_content_from_another_build_replaces_a_damaged_copy(tmp_path):
    with Ledger(tmp_path / "out") as ledger:
        first = ledger.make("words", {"a": 1}, [], CODE, lambda path: write(path / "words.txt", "word0 word1"))
        flip(first.path / "words.txt")
        second = ledger.make("words", {"a": 2}, [], CODE, lambda path: write(path / "words.txt", "word0 word1"))
        assert second.id == first.id
        assert ledger.damaged() == []


def test_a_ledger_without_stamps_is_taken_and_hashed(tmp_path):
    line = Line(tmp_path / "out")
    line.run()
    with sqlite3.connect(tmp_path / "out" / "ledger.db") as database:
        database.execute("ALTER TABLE builds DROP COLUMN stamp")
    database.close()
    line.run()
    assert line.built == []


def test_a_damaged_page_of_the_database_is_one_line(tmp_path):
    line = Line(tmp_path / "out")
    for words in range(60):
        line.run(Recipe(words=words))
    with sqlite3.connect(tmp_path / "out" / "ledger.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    file = tmp_path / "out" / "ledger.db"
    pages = file.stat().st_size // 4096
    assert pages > 10
    with file.open("r+b") as handle:
        for page in range(2, pages):
            handle.seek(4096 * page)
            handle.write(os.urandom(4096))
    with pytest.raises(ValueError, match=r"ledger.db: damaged \(.*\); restore a backup") as caught:
        line.run(Recipe(words=100))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((column, value) for column in ("parents", "info") for value in ("-1", "'x'", "x'ff'", "'[[1]]'", "'null'")),
        *(("recipe", value) for value in ("'{'", "x'ff'")),
        *((column, value) for column in ("id", "kind") for value in ("x'61'", "'../x'")),
        *((column, "'x'") for column in ("seconds", "cpu_seconds", "bytes", "finished")),
        ("kind", "CAST(x'ff' AS TEXT)"),
        ("info", "CAST(x'ff' AS TEXT)"),
    ],
)
def test_a_damaged_value_of_the_database_is_one_line(tmp_path, column, value):
    line = Line(tmp_path / "out")
    line.run()
    with sqlite3.connect(tmp_path / "out" / "ledger.db") as database:
        database.execute(f"UPDATE builds SET {column} = {value}")
    database.close()

    def history():
        with Ledger.reading(tmp_path / "out") as ledger:
            ledger.history()

    for use in (line.run, history):
        with pytest.raises(ValueError, match=r"ledger.db: damaged \(.*\); restore a backup") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_folder_in_the_place_of_the_database_is_one_line(tmp_path):
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(ValueError, match=r"ledger.db: damaged \(a folder\); restore a backup"):
        Ledger(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.db"]


def test_failed_build_leaves_no_artefact(tmp_path):
    def bad(path):
        (path / "half.txt").write_text("half")
        raise ZeroDivisionError

    with Ledger(tmp_path / "out") as ledger:
        with pytest.raises(ZeroDivisionError):
            ledger.make("bad", {}, [], CODE, bad)
        assert ledger.history() == []
        assert list((tmp_path / "out" / "artefacts").iterdir()) == []


def test_scratch_is_dropped(tmp_path):
    def build(path):
        (path / ".checkpoint").mkdir()
        (path / ".checkpoint" / "step9").write_text("9")
        (path / "result.txt.tmp").write_text("hal")
        (path / "result.txt").write_text("whole")

    with Ledger(tmp_path / "out") as ledger:
        made = ledger.make("one", {}, [], CODE, build)
    assert [p.name for p in made.path.rglob("*")] == ["result.txt"]


def test_full_disk_is_recognised(tmp_path):
    def fill(path):
        with open("/dev/full", "w") as full:
            full.write("x")

    with Ledger(tmp_path / "out") as ledger, pytest.raises(OSError, match="disk full while making big") as caught:
        ledger.make("big", {}, [], CODE, fill)
    assert caught.value.errno == errno.ENOSPC
    assert list((tmp_path / "out" / "artefacts").iterdir()) == []


def test_two_runs_in_one_root_are_refused(tmp_path):
    with Ledger(tmp_path) as one, Ledger(tmp_path) as two:
        one.make("x", {}, [], CODE, lambda p: None)
        with pytest.raises(ValueError, match=f"process {os.getpid()} is running here"):
            two.make("y", {}, [], CODE, lambda p: None)
        assert [a.kind for a in two.history()] == ["x"]  # reading needs no lock
    with Ledger(tmp_path) as three:
        three.make("y", {}, [], CODE, lambda p: None)


@pytest.mark.parametrize("name", ["notes.txt", "src"])
def test_foreign_folder_is_refused_untouched(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="but no ledger"):
        Ledger(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_foreign_database_is_refused(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"not a database, but long enough to be read as the header of one" * 20)
    with pytest.raises(ValueError, match="not a ledger"):
        Ledger(tmp_path)


def test_lineage_and_gc(tmp_path):
    line = Line(tmp_path / "out")
    line.run()
    _, second, third = line.run(Recipe(words=5))
    with Ledger(tmp_path / "out") as ledger:
        assert [a.kind for a in ledger.lineage(third.id[:12])] == ["words", "upper", "count"]
        assert ledger.lineage(third.id)[0].info == {"words": 5}
        with pytest.raises(ValueError, match="0 artefacts match"):
            ledger.lineage("feedfacefeed")
        assert ledger.gc([second]) > 0
        assert [a.kind for a in ledger.history()] == ["words", "upper"]
    line.run(Recipe(words=5))
    assert line.built == ["count"]


def test_fresh_empties(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("")
    (tmp_path / ".c").write_text("")
    assert list(fresh(tmp_path).iterdir()) == []


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(plain, st.randoms())
def test_canonical_does_not_hang_on_order_or_container(value, random):
    def shuffled(v):
        if isinstance(v, dict):
            keys = list(v)
            random.shuffle(keys)
            return {k: shuffled(v[k]) for k in keys}
        return tuple(map(shuffled, v)) if isinstance(v, list) else v

    assert canonical(shuffled(value)) == canonical(value)


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
def test_canonical_tells_recipes_apart(words, rate):
    assert canonical(Recipe(words, rate)) != canonical(Recipe(words + 1, rate))
    assert canonical(Recipe(words, rate)) == canonical({"rate": rate, "words": words})


def test_canonical_refuses_what_is_not_plain():
    with pytest.raises(ValueError, match=r"recipe\.rate: nan is not a finite number"):
        canonical(Recipe(rate=float("nan")))
    with pytest.raises(ValueError, match=r"recipe\.words: set is not a plain value"):
        canonical(Recipe(words={1}))


@pytest.mark.parametrize("name", ["work/thesis.txt", "artefacts/vase.jpg", "report.html"])
def test_a_folder_with_things_where_a_run_has_its_own_is_refused(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="but no ledger"):
        Ledger(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_reading_creates_locks_and_changes_nothing(tmp_path):
    with pytest.raises(ValueError, match="no run is here"):
        Ledger.reading(tmp_path / "none")
    with Ledger.reading(tmp_path / "none", may_be_absent=True) as empty:
        assert empty.history() == []
    assert not (tmp_path / "none").exists()
    line = Line(tmp_path / "out")
    line.run()
    with Ledger(tmp_path / "out") as building:
        building.claim()
        with Ledger.reading(tmp_path / "out") as ledger:
            assert [a.kind for a in ledger.history()] == [a.kind for a in building.history()]
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                ledger._db.execute("DELETE FROM builds")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "ledger.db").write_bytes(b"no database, whatever its name is" * 100)
    with pytest.raises(ValueError, match="not a ledger"):
        Ledger.reading(tmp_path / "other")
