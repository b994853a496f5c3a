"""MCAP files of other writers: drives do not depend on what the format leaves open."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType, Writer
from test_log import same

from drivefoundry_car.log import channels, read_drive, read_meta, write_drive

LAYOUTS = {
    "no summary": {"index_types": IndexType.NONE, "use_statistics": False, "use_summary_offsets": False,
                   "repeat_channels": False, "repeat_schemas": False},
    "no index": {"index_types": IndexType.NONE},
    "no metadata index": {"index_types": IndexType.CHUNK | IndexType.MESSAGE},
    "channels not repeated": {"repeat_channels": False, "repeat_schemas": False},
    "no chunks": {"use_chunking": False},
    "no chunks, no summary": {"use_chunking": False, "index_types": IndexType.NONE, "use_statistics": False,
                              "use_summary_offsets": False, "repeat_channels": False, "repeat_schemas": False},
    "lz4": {"compression": CompressionType.LZ4},
    "uncompressed": {"compression": CompressionType.NONE},
    "no checksums": {"enable_crcs": False},
    "data checksum": {"enable_data_crcs": True},
    "small chunks": {"chunk_size": 1000},
}  # fmt: skip


@pytest.fixture(scope="module")
def drive(make_drive):
    return make_drive(steps=60, frames=True)


@pytest.fixture(scope="module")
def own(drive, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "a.mcap"
    write_drive(path, drive)
    return path.read_bytes()


def rewritten(data, change=lambda messages: messages, extra=lambda writer, ids: None, forget=(), **layout):
    """A drive's file, rewritten by the format's own library. change: of the messages (topic, ns, bytes); extra:
    additional records before them; forget: metadata records to omit."""
    reader = make_reader(io.BytesIO(data))
    summary = reader.get_summary()
    out = io.BytesIO()
    writer = Writer(out, **layout)
    writer.start(profile="", library="somebody's")
    ids = {}
    for c in summary.channels.values():
        s = summary.schemas[c.schema_id]
        ids[c.topic] = writer.register_channel(
            c.topic, c.message_encoding, writer.register_schema(s.name, s.encoding, s.data), c.metadata
        )
    extra(writer, ids)
    for topic, ns, message in change([(c.topic, m.log_time, m.data) for _, c, m in reader.iter_messages()]):
        writer.add_message(ids[topic], ns, message, ns)
    for record in reader.iter_metadata():
        if record.name not in forget:
            writer.add_metadata(record.name, record.metadata)
    writer.finish()
    return out.getvalue()


def read(tmp_path, data, **options):
    (tmp_path / "b.mcap").write_bytes(data)
    return read_drive(tmp_path / "b.mcap", **options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_alike(own, drive, tmp_path, layout):
    same(drive, read(tmp_path, rewritten(own, **LAYOUTS[layout])))


def test_messages_out_of_order_are_sorted(own, drive, tmp_path):
    def shuffled(messages):
        order = np.random.default_rng(0).permutation(len(messages))
        return [messages[i] for i in order]

    same(drive, read(tmp_path, rewritten(own, shuffled, chunk_size=3000)))


def test_attachments_and_foreign_channels_change_nothing(own, drive, tmp_path):
    def more(writer, ids):
        writer.add_attachment(5, 5, "notes.txt", "text/plain", b"x" * 5000)
        foreign = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        for topic in (
            channels.STATE,
            "/camera/front",
            "/tf",
        ):  # a topic of ours, written differently by another program
            id = writer.register_channel(topic, "cdr", foreign)
            writer.add_message(id, 10, b"\0\1\0\0\1\0\0\0a", 10)
        bare = writer.register_channel("/blob", "", 0)
        writer.add_message(bare, 11, b"?", 11)

    same(drive, read(tmp_path, rewritten(own, extra=more)))


def test_two_channels_of_one_topic_and_schema_are_one(own, drive, tmp_path):
    """Every other state comes from a second publisher."""

    def more(writer, ids):
        schema = writer.register_schema("again", "jsonschema", b"{}")
        ids["second"] = writer.register_channel(channels.STATE, "json", schema)

    def half(messages):
        return [("second" if t == channels.STATE and ns % 200_000_000 else t, ns, m) for t, ns, m in messages]

    # Another schema's states are not mixed with a drive's own: half of them are left, 5 a second.
    fewer = read(tmp_path, rewritten(own, half, more))
    assert "clock" in fewer.notes
    assert len(fewer.t) == 59

    def alike(writer, ids):
        schema = writer.register_schema("drivefoundry.ego.state", "jsonschema", b"{}")
        ids["second"] = writer.register_channel(channels.STATE, "json", schema)

    same(drive, read(tmp_path, rewritten(own, half, alike)))


def test_each_channel_by_its_own_clock(own, drive, tmp_path):
    """Objects reported 20 ms after the states, and states at log times of another epoch."""

    def late(messages):
        return [(t, ns + 20_000_000 * (t == channels.OBJECTS), m) for t, ns, m in messages]

    moved = read(tmp_path, rewritten(own, late))
    np.testing.assert_array_equal(moved.t, drive.t)
    # What was seen at t + 0.02 s stood 0.2 m further back at t.
    np.testing.assert_allclose(moved.objects.states[0, :, 0], drive.objects.states[0, :, 0] - 0.2, atol=1e-4)
    day = 86_400_000_000_000
    shifted = read(tmp_path, rewritten(own, lambda messages: [(t, ns + day, m) for t, ns, m in messages]))
    same(drive, shifted)


def test_a_file_without_our_metadata_is_a_drive_with_notes(own, drive, tmp_path):
    bare = read(tmp_path, rewritten(own, forget=("drive", "ego", "notes", "objects")))
    assert bare.meta == {}
    assert "ego_size" in bare.notes
    np.testing.assert_array_equal(bare.ego, drive.ego)
    np.testing.assert_allclose(bare.objects.states, drive.objects.states, atol=1e-5)


def test_states_twice_or_at_another_rate(own, drive, tmp_path):
    def twice(messages):
        return [m for message in messages for m in [message] * (2 if message[0] == channels.STATE else 1)]

    np.testing.assert_array_equal(read(tmp_path, rewritten(own, twice)).ego, drive.ego)

    def sparse(messages):
        """Every other state, 5 Hz, and no other channel with steps."""
        return [m for m in messages if m[0] not in (*channels.STEPPED, channels.STATE) or (
            m[0] == channels.STATE and not m[1] % 200_000_000)]  # fmt: skip

    slow = read(tmp_path, rewritten(own, sparse))
    np.testing.assert_allclose(np.diff(slow.t), 0.1, atol=1e-9)
    np.testing.assert_allclose(slow.ego[:, 0], 10 * slow.t, atol=1e-6)
    assert "interpolated" in slow.notes["clock"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d[: len(d) // 2], "truncated MCAP, its footer is missing; .*`mcap recover`"),
        (lambda d: d[:-8], "truncated MCAP"),
        (lambda d: d.replace(b"zstd", b"zstx"), "chunks are compressed with 'zstx'; zstd, lz4 or none can be read"),
    ],
)
def test_unreadable_input_is_reported_in_one_line(own, tmp_path, change, says):
    with pytest.raises(ValueError, match=rf"b\.mcap: {says}") as error:
        read(tmp_path, change(own))
    assert "\n" not in str(error.value)


def test_a_bomb_of_another_compression_is_refused(own, tmp_path):
    """An LZ4 chunk that unpacks to more than it declares, and one that declares more than allowed."""
    import lz4.frame

    packed = lz4.frame.compress(bytes(50 << 20))

    def chunk(size):
        body = struct.pack("<QQQII", 0, 1, size, 0, 3) + b"lz4" + struct.pack("<Q", len(packed)) + packed
        return own[:8] + struct.pack("<BQ", 6, len(body)) + body + own[8:]

    with pytest.raises(ValueError, match="as it says"):
        read(tmp_path, chunk(51 << 20))
    with pytest.raises(ValueError, match="unpacks to more than 110 MiB"):
        read(tmp_path, chunk(1 << 40))


def test_a_camera_without_calibration_is_named(own, drive, tmp_path):
    def bare(messages):
        return [m for m in messages if not m[0].endswith("/calibration")]

    with pytest.raises(ValueError, match="/camera/front: no calibration with its mount"):
        read(tmp_path, rewritten(own, bare))
    assert json.dumps(read(tmp_path, rewritten(own, bare), video=False).meta) == json.dumps(drive.meta)


def states_like(own, tmp_path, change):
    """The drive whose states' messages were changed."""

    def changed(messages):
        return [(topic, ns, change(m) if topic == channels.STATE else m) for topic, ns, m in messages]

    return read(tmp_path, rewritten(own, changed))


def replaced(**values):
    """A change of a state's fields; ... removes one."""
    return lambda m: json.dumps({k: v for k, v in (json.loads(m) | values).items() if v is not ...}).encode()


def test_a_state_may_lack_what_may_be_unknown(own, drive, tmp_path):
    found = states_like(own, tmp_path, replaced(acceleration=..., steering_wheel_angle=...))
    assert np.isnan(found.ego[:, [4, 6]]).all()
    np.testing.assert_array_equal(found.ego[:, [0, 1, 2, 3, 5]], drive.ego[:, [0, 1, 2, 3, 5]])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: b"[" * 100_000, "damaged MCAP .RecursionError"),
        (replaced(x=...), "/ego/state: a state without 'x'"),
        *((replaced(yaw=value), "/ego/state: a state whose 'yaw' is not a number") for value in ([1.0], {}, "left")),
        (replaced(speed=10**400), "/ego/state: a state whose 'speed' is not a number"),
        (lambda _: b"[1, 2]", "/ego/state: a message that is not one JSON object"),
        (lambda m: m + b"," + m, "/ego/state: a message that is not one JSON object"),
    ],
)
def test_a_senseless_state_is_reported_in_one_line(own, tmp_path, change, says):
    with pytest.raises(ValueError, match=rf"b\.mcap: {says}") as error:
        states_like(own, tmp_path, change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_drive_is_about_is_read_from_every_layout(own, drive, tmp_path, layout):
    path = tmp_path / "a.mcap"
    path.write_bytes(rewritten(own, **LAYOUTS[layout]))
    assert read_meta(path) == drive.meta
    path.write_bytes(rewritten(own, forget=("drive",), **LAYOUTS[layout]))
    assert read_meta(path) == {}
