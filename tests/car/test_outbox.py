"""The car's queue: what is worth most a byte first, within the day's budgets, and nothing lost to a kill."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car.outbox import DAYS, Note, Outbox

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


def test_a_book_that_cannot_be_read_begins_anew(tmp_path):
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
