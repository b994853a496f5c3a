"""The car's queue: most valuable bytes first, within the day's budgets, with nothing lost to a kill."""

from __future__ import annotations

import errno
import json
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car import durable
from drivefoundry_car.upload import outbox
from drivefoundry_car.upload.outbox import DAYS, Full, Note, Outbox

DAY = 86400.0


def clip(folder, name, size=10, note=None):
    path = folder / f"{name}.mcap"
    path.write_bytes(name.encode() * size)
    if note is not None:
        path.with_suffix(".json").write_text(json.dumps(note))
    return path


@pytest.fixture
def recorded(tmp_path):
    (tmp_path / "recorded").mkdir()
    return tmp_path / "recorded"


def test_priority_goes_first_and_then_the_smaller(tmp_path, recorded):
    box = Outbox(tmp_path / "queue")
    notes = {"a": (5, Note("x", 10)), "b": (3, Note("x", 10)), "c": (1, Note()), "d": (50, Note("y", 90))}
    sha = {name: box.put(clip(recorded, name, size), note) for name, (size, note) in notes.items()}
    order = [q.sha256 for q in box.waiting()]
    assert order == [sha[name] for name in "dbac"]
    assert [q.note for q in Outbox(tmp_path / "queue").waiting()] == [notes[name][1] for name in "dbac"]
    assert not list(recorded.iterdir())


def test_strays_with_a_note_beside_them_are_taken_in(tmp_path):
    box = Outbox(tmp_path)
    clip(tmp_path, "stray", note={"campaign": "night", "priority": 7, "bytes_per_day": 100})
    clip(tmp_path, "torn", note=None).with_suffix(".json").write_text('{"campaign": "ni')
    first, last = box.waiting()
    assert first.note == Note("night", 7, 100)
    assert last.note.priority < 0  # a note that cannot be read does not keep the clip at home
    assert not (tmp_path / "stray.json").exists()
    box.remove(first)
    assert [q.sha256 for q in box.waiting()] == [last.sha256]
    assert not (tmp_path / f"{first.sha256}.json").exists()


@pytest.mark.parametrize(
    ("note", "field"),
    [(Note(campaign=3), "campaign"), (Note(priority=1.5), "priority"), (Note(bytes_per_day=-1), "bytes_per_day")],
)
def test_notes_that_cannot_be_are_refused(tmp_path, recorded, note, field):
    with pytest.raises(ValueError, match=f"Note.{field}"):
        Outbox(tmp_path / "queue").put(clip(recorded, "a"), note)
    assert (recorded / "a.mcap").exists()


def test_budgets_of_a_campaign_and_of_all_outlive_the_process_and_end_with_the_day(tmp_path):
    now = [1_700_000_000.0]
    night, other = Note("night", 0, 100), Note("other")

    def box():
        return Outbox(tmp_path, bytes_per_day=250, clock=lambda: now[0])

    assert box().grant(night, 80) == 80
    box().refund(night, 30)
    assert box().grant(night, 80) == 50
    assert box().grant(night, 1) == 0
    assert box().grant(other, 500) == 150
    assert box().grant(other, 1) == 0
    now[0] += DAY
    assert box().grant(night, 80) == 80
    now[0] -= DAY  # a clock that is put back finds yesterday's purse empty
    assert box().grant(other, 1) == 0
    for _ in range(2 * DAYS):
        now[0] += DAY
        box().grant(other, 1)
    assert len(json.loads((tmp_path / "spent.json").read_text())) == DAYS


def test_an_unreadable_book_starts_afresh(tmp_path):
    (tmp_path / "spent.json").write_text('{"2026-01-01": {"all": "much"')
    assert Outbox(tmp_path, bytes_per_day=10).grant(Note(), 100) == 10


def test_without_budgets_nothing_is_booked(tmp_path):
    assert Outbox(tmp_path).grant(Note(), 1 << 40) == 1 << 40
    assert not (tmp_path / "spent.json").exists()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=12))
def test_never_more_than_the_budget(tmp_path_factory, asked):
    box, note, spent = Outbox(tmp_path_factory.mktemp("q"), clock=lambda: 0.0), Note("c", 0, 500), 0
    for wanted, unsent in asked:
        granted = box.grant(note, wanted)
        assert granted == min(wanted, 500 - spent)
        back = min(unsent, granted)
        box.refund(note, back)
        spent += granted - back


def test_threads_that_share_a_budget_do_not_overspend(tmp_path):
    note, granted = Note("c", 0, 1000), []

    def spend():
        box = Outbox(tmp_path)
        granted.extend(box.grant(note, 30) for _ in range(20))

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 1000


def test_a_clip_is_held_by_one(tmp_path, recorded):
    box = Outbox(tmp_path / "queue")
    box.put(clip(recorded, "a"))
    (queued,) = box.waiting()
    with box.held(queued) as mine, Outbox(tmp_path / "queue").held(queued) as theirs:
        assert mine is not None
        assert theirs is None
    with box.held(queued) as mine:
        assert mine is not None
        box.remove(queued)
        with box.held(queued) as gone:
            assert gone is None
    assert box.waiting() == []


def ages(box):
    """Give what is queued ages by the name of its content, so that 'a' is the oldest."""
    for file in box.folder.rglob("*.mcap"):
        old = 1_000_000_000 + file.read_bytes()[0]
        os.utime(file, (old, old))


def names(folder):
    return sorted(f.read_bytes()[:1].decode() for f in folder.glob("*.mcap"))


def test_the_least_valuable_makes_room(tmp_path, recorded):
    """The lowest priority first, the oldest first among equals; nothing if that would not be enough."""
    box = Outbox(tmp_path / "queue", most_bytes=40)
    for name, priority in (("a", 5), ("b", 1), ("c", 1), ("d", 9)):
        box.put(clip(recorded, name), Note("some", priority))
        ages(box)
    box.put(clip(recorded, "e"), Note("new", 1))
    assert names(box.folder) == ["a", "c", "d", "e"]
    box.put(clip(recorded, "f", 20), Note("new", 6))
    assert names(box.folder) == ["a", "d", "f"]
    for size, priority in ((31, 8), (41, 99), (1, 4)):
        with pytest.raises(Full, match="40 bytes are full of more valuable clips") as full:
            box.put(clip(recorded, "g", size), Note("new", priority))
        assert full.value.errno == errno.ENOSPC
        assert (recorded / "g.mcap").stat().st_size == size
    assert names(box.folder) == ["a", "d", "f"]
    assert box.evicted == {"some": 2, "new": 1}
    assert len(list(box.folder.iterdir())) == 6  # each with its note


def test_a_clip_that_is_being_sent_makes_no_room(tmp_path, recorded):
    box = Outbox(tmp_path / "queue", most_bytes=20)
    for name, priority in (("a", 1), ("b", 2)):
        box.put(clip(recorded, name), Note("", priority))
    sent = box.waiting()[-1]
    with box.held(sent) as file:
        assert file is not None
        box.put(clip(recorded, "c"), Note("", 9))
        assert names(box.folder) == ["a", "c"]
        with pytest.raises(Full):
            box.put(clip(recorded, "d"), Note("", 8))
    box.put(clip(recorded, "d"), Note("", 8))
    assert names(box.folder) == ["c", "d"]


def test_what_was_refused_makes_room_first(tmp_path, recorded):
    box = Outbox(tmp_path / "queue", most_bytes=30)
    for name, priority in (("a", 99), ("b", 1), ("c", 2)):
        box.put(clip(recorded, name), Note("x", priority))
    box.refuse(box.waiting()[0], "422 not a clip")
    box.put(clip(recorded, "d"), Note("x", 1))
    assert names(box.folder) == ["b", "c", "d"]
    assert not list((box.folder / "refused").iterdir())


def test_a_stray_that_finds_no_room_is_the_one_to_go(tmp_path):
    box = Outbox(tmp_path, most_bytes=20)
    for name, priority in (("a", 5), ("b", 5), ("c", 1)):
        clip(tmp_path, name, note={"campaign": name, "priority": priority})
    assert sorted(q.note.campaign for q in box.waiting()) == ["a", "b"]
    assert not list(tmp_path.glob("c.*"))
    assert box.evicted == {"c": 1}


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.integers(-3, 3), st.sampled_from(["put", "refuse", "restore"])), max_size=16
    ),
    st.integers(1, 100),
)
def test_the_queue_keeps_within_its_bytes_and_its_best(tmp_path_factory, clips, most):
    """For any puts, refusals and restores: the bound holds, and nothing is evicted while something less valuable
    stays."""
    folder = tmp_path_factory.mktemp("q")
    box, gone = Outbox(folder / "queue", most_bytes=most), 0
    for i, (size, priority, action) in enumerate(clips):
        if action == "refuse" and box.waiting():
            box.refuse(box.waiting()[0], "no")
        elif action == "restore" and box.refused():
            box.restore(box.refused()[0])
        before = {q.sha256: (1, q.note.priority, q.size) for q in box.waiting()}
        before |= {r.sha256: (0, r.note.priority, r.file.stat().st_size) for r in box.refused()}
        made = folder / "made.mcap"
        made.write_bytes(bytes([i]) * size)
        try:
            sha = box.put(made, Note("", priority))
        except Full:
            worth_less = sum(n for refused, p, n in before.values() if (refused, p) <= (1, priority))
            assert sum(n for *_, n in before.values()) - worth_less + size > most  # they would not have been enough
            assert {q.sha256 for q in box.waiting()} | {r.sha256 for r in box.refused()} == set(before)
            continue
        after = {q.sha256 for q in box.waiting()} | {r.sha256 for r in box.refused()}
        assert sha in after
        dropped = set(before) - after
        gone += len(dropped)
        worst = min((before[c][:2] for c in after - {sha}), default=(2, 0))
        assert all(before[c][:2] <= min(worst, (1, priority)) for c in dropped)
        assert sum(f.stat().st_size for f in box.folder.rglob("*.mcap")) <= most
    assert sum(box.evicted.values()) == gone


def test_a_full_disk_drops_less_valuable_clips_and_leaves_no_pieces(tmp_path, recorded, monkeypatch):
    """The disk takes a note only once it has room again."""
    box = Outbox(tmp_path / "queue")
    for name, priority in (("a", 1), ("b", 2), ("c", 99)):
        box.put(clip(recorded, name), Note("", priority))
    real = os.fsync

    def fsync(opened):
        if os.readlink(f"/proc/self/fd/{opened}").endswith(".part") and len(names(box.folder)) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(opened)

    monkeypatch.setattr(durable.os, "fsync", fsync)
    room = 2
    box.put(clip(recorded, "d"), Note("", 50))
    assert names(box.folder) == ["b", "c", "d"]
    room = 0
    with pytest.raises(OSError, match="No space left"):
        box.put(clip(recorded, "e"), Note("", 50))
    assert names(box.folder) == ["c"]
    assert names(recorded) == ["e"]
    assert sorted(f.suffix for f in box.folder.iterdir()) == [".json", ".mcap"]


def test_a_full_disk_keeps_no_budget_from_being_booked(tmp_path, recorded, monkeypatch):
    """Sending frees the disk: clips less valuable than the one sent make room for the booking."""
    box = Outbox(tmp_path / "queue", bytes_per_day=100)
    for name, priority in (("a", 1), ("b", 9), ("c", 5)):
        box.put(clip(recorded, name), Note(name, priority))
    real = outbox.write_json

    def write_json(file, value, durable=True):
        if len(names(box.folder)) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, value, durable)

    monkeypatch.setattr(outbox, "write_json", write_json)
    first = box.waiting()[0]
    with box.held(first):
        assert box.grant(first.note, 30) == 30
    assert names(box.folder) == ["b", "c"]
    assert json.loads((box.folder / "spent.json").read_text()).popitem()[1]["all"] == 30


def test_room_for_others(tmp_path, recorded):
    box = Outbox(tmp_path / "queue")
    for name, priority in (("a", 1), ("b", 2), ("c", 3)):
        box.put(clip(recorded, name), Note("", priority))
    assert not box.make_room(21, priority=3)
    assert names(box.folder) == ["a", "b", "c"]
    assert box.make_room(11, priority=3)
    assert names(box.folder) == ["c"]


def test_pieces_of_an_earlier_life_are_swept(tmp_path):
    parts = [f".{'0' * 64}.json.1-2.part", f".{'0' * 64}.mcap.1-2.part", ".spent.json.1-2.part"]
    for name in [*parts, "recording.mcap.part", ".other.mcap.1.part"]:
        (tmp_path / name).write_text("half")
    Outbox(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == [".other.mcap.1.part", "recording.mcap.part"]


def test_refused_clips_come_back_with_their_notes(tmp_path, recorded, capsys):
    box = Outbox(tmp_path / "queue")
    notes = {"a": Note("night", 7, 100), "b": Note("day", 3), "c": Note()}
    sha = {name: box.put(clip(recorded, name), note) for name, note in notes.items()}
    for queued in box.waiting():
        box.refuse(queued, "413 too large; cut it")
    assert box.waiting() == []
    assert {r.sha256: r.note for r in box.refused()} == {sha[name]: note for name, note in notes.items()}

    def run(*arguments):
        code = outbox.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    code, lines, _ = run("list", box.folder)
    assert (code, len(lines)) == (0, 3)
    assert any(line.startswith(f"refused  {sha['a']}  10 bytes  priority 7  413 too large") for line in lines)
    for odd in ("f" * 64, ""):
        code, lines, err = run("restore", box.folder, odd)
        assert (code, lines, err.count("\n")) == (2, [], 1)
        assert "matches no refused clip" in err
    assert run("restore", box.folder, sha["a"][:12])[:2] == (0, [f"restored {sha['a']}"])
    assert [(q.sha256, q.note) for q in box.waiting()] == [(sha["a"], notes["a"])]
    assert run("restore", box.folder)[0] == 0
    assert {q.sha256: q.note for q in box.waiting()} == {sha[name]: note for name, note in notes.items()}
    assert not list((box.folder / "refused").iterdir())
    assert run("list", box.folder)[1][0].startswith(f"waiting  {sha['a']}  10 bytes  priority 7  night")
    code, _, err = run("list", tmp_path / "nowhere")
    assert (code, err) == (2, f"{tmp_path / 'nowhere'}: no such folder; give the queue's folder\n")
    assert not (tmp_path / "nowhere").exists()


def test_a_bound_must_be_one(tmp_path):
    with pytest.raises(ValueError, match=r"Outbox.most_bytes: must be > 0, got 0"):
        Outbox(tmp_path, most_bytes=0)
