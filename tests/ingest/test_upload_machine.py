"""Any order of requests, breaks and restarts: offsets are correct, acknowledged clips are stored once."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from pathlib import Path

import httpx
from broken_link import broken_link
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from serving import BODY, about

from conftest import straight_drive
from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import issue_token, running
from drivefoundry_car.log import write_drive
from drivefoundry_car.upload.uploader import Uploader, UploadLimits

SECRET = "0123456789abcdef" * 2
CARS = ("car-1", "car-2")


def made() -> list[tuple[str, bytes]]:
    """Two clips of each car."""
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, vehicle in enumerate(CARS * 2):
            write_drive(Path(folder) / "a.mcap", straight_drive(steps=10, seed=seed, vehicle=vehicle))
            clips.append((vehicle, (Path(folder) / "a.mcap").read_bytes()))
    return clips


CLIPS = made()
WHICH = st.integers(0, len(CLIPS) - 1)


class Uploads(RuleBasedStateMachine):
    """The model: progress of each clip's upload, whether its bytes are correct, what was acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.places: dict[int, str] = {}
        self.sent: dict[int, bytes] = {}
        self.acknowledged: set[int] = set()
        self.store = ClipStore(self.folder / "store")
        self.life = ExitStack()
        self.start()

    def start(self) -> None:
        self.service = self.life.enter_context(running(self.store, SECRET))
        self.client = self.life.enter_context(httpx.Client(base_url=self.service.url))

    def teardown(self) -> None:
        self.life.close()
        assert sorted(self.store.ids()) == sorted({sha(i) for i in self.acknowledged})
        assert not list((self.folder / "store/incoming/landing").glob("*.mcap"))
        self.stack.close()

    def ask(self, method: str, path: str, i: int, vehicle: str | None = None, content: bytes = b"", **more: str):
        token = issue_token(SECRET, vehicle or CLIPS[i][0])
        headers = about(CLIPS[i][1]) | BODY | {"Authorization": f"Bearer {token}"}
        headers |= {name.replace("_", "-"): text for name, text in more.items()}
        return self.client.request(method, path, headers=headers, content=content)

    @rule(i=WHICH)
    def create(self, i: int) -> None:
        answer = self.ask("POST", "/uploads", i)
        assert answer.status_code == 201
        assert (answer.headers.get("Clip-Sha256") == sha(i)) == (i in self.acknowledged)
        if i not in self.acknowledged:
            assert int(answer.headers["Upload-Offset"]) == len(self.sent.get(i, b""))
            self.places[i] = answer.headers["Location"]
            self.sent.setdefault(i, b"")

    @rule(
        i=WHICH,
        share=st.floats(0, 1),
        right=st.sampled_from([True, True, True, False]),
        off=st.sampled_from([0, 0, 0, 1, -1]),
    )
    def send(self, i: int, share: float, right: bool, off: int) -> None:
        data, before = CLIPS[i][1], self.sent.get(i, b"")
        begin = max(0, len(before) + off)
        piece = data[begin : begin + round(share * len(data))]
        if not right and piece:
            piece = bytes([piece[0] ^ 1]) + piece[1:]
        answer = self.ask("PATCH", self.places.get(i, "/uploads/none"), i, content=piece, Upload_Offset=str(begin))
        self.judge(i, begin, piece, answer)

    def judge(self, i: int, begin: int, piece: bytes, answer: httpx.Response) -> None:
        data, before = CLIPS[i][1], self.sent.get(i)
        if before is None:
            assert answer.status_code == 404
        elif begin != len(before):
            assert answer.status_code == 409
        elif len(before) + len(piece) < len(data):
            assert answer.status_code == 204
            self.sent[i] = before + piece
        elif before + piece == data:
            assert answer.headers["Clip-Sha256"] == sha(i)
            self.acknowledged.add(i)
            del self.sent[i]
        else:
            assert answer.status_code == 460
            self.sent[i] = b""

    @rule(i=WHICH)
    def another_car_asks_and_adds(self, i: int) -> None:
        other = CARS[CLIPS[i][0] == CARS[0]]
        place = self.places.get(i, "/uploads/none")
        assert self.ask("HEAD", place, i, other).status_code == 404
        assert self.ask("PATCH", place, i, other, b"!", Upload_Offset="0").status_code == 404
        answer = self.client.post("/have", json={"sha256": [sha(i)]},
                                  headers={"Authorization": f"Bearer {issue_token(SECRET, other)}"})  # fmt: skip
        assert answer.json() == {"have": []}

    @rule(i=WHICH, after=st.integers(1, 3000))
    def the_uploader_takes_over_a_link_that_breaks(self, i: int, after: int) -> None:
        vehicle, data = CLIPS[i]
        if self.sent.get(i, b"") != data[: len(self.sent.get(i, b""))]:
            return  # somebody has sent wrong bytes; the uploader would be informed, and start again
        (self.folder / "a.mcap").write_bytes(data)
        with broken_link(int(self.service.url.rpartition(":")[2]), cuts=[after]) as link:
            uploader = Uploader(
                link.url, issue_token(SECRET, vehicle), self.folder / "queue", UploadLimits(backoff=0.001)
            )
            (receipt,) = uploader.send_all([self.folder / "a.mcap"])
        assert receipt.sha256 == sha(i)
        self.acknowledged.add(i)
        self.sent.pop(i, None)

    @rule()
    def restart(self) -> None:
        self.life.close()
        self.life = ExitStack()
        self.start()

    @rule()
    def land(self) -> None:
        self.service.flush()
        assert set(self.store.ids()) == {sha(i) for i in self.acknowledged}

    @invariant()
    def offsets_are_true(self) -> None:
        for i, place in self.places.items():
            answer = self.ask("HEAD", place, i)
            if i in self.sent:
                assert int(answer.headers["Upload-Offset"]) == len(self.sent[i])
            else:
                assert answer.status_code == 404

    @invariant()
    def only_what_is_acknowledged_shows(self) -> None:
        assert set(self.store.ids()) <= {sha(i) for i in self.acknowledged}


def sha(i: int) -> str:
    return hashlib.sha256(CLIPS[i][1]).hexdigest()


TestUploads = Uploads.TestCase
TestUploads.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)
