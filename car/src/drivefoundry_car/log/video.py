"""Encode, decode and remux H.264 packets, the layer below `log.Video`.

A packet is one access unit in Annex B form with four-byte start codes; key frames carry their parameter sets. In this
form the conversion to MP4 and back is exact: only start codes and length prefixes are exchanged.
"""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
from av.codec.context import Flags, ThreadType
from av.error import FFmpegError, InvalidDataError
from av.video.reformatter import VideoReformatter

START = b"\x00\x00\x00\x01"
_DECODERS = {"h264": "h264", "jpeg": "mjpeg"}
MP4_CLOCK = Fraction(1, 90000)
CRF = "28"
"""x264 constant rate factor: about 800 bytes per 160x64 city frame, 1 dB below the limit of 4:2:0 colour."""
_NAL_SLICE, _NAL_IDR, _NAL_SEI, _NAL_SPS, _NAL_DELIMITER = 1, 5, 6, 7, 9


def nals_of(packet: bytes) -> list[bytes]:
    """Split an Annex B access unit into NAL units without start codes."""
    # Zeros before a start code belong to the code (or to trailing_zero_8bits), never to the NAL unit (H.264 B.1).
    return [nal for nal in (part.rstrip(b"\x00") for part in packet.split(b"\x00\x00\x01")) if nal]


def is_key(packet: bytes) -> bool:
    """Whether an Annex B access unit is an IDR picture, by its first slice."""
    at = packet.find(b"\x00\x00\x01")
    while 0 <= at < len(packet) - 3:
        kind = packet[at + 3] & 31
        if kind in (_NAL_SLICE, _NAL_IDR):
            return kind == _NAL_IDR
        at = packet.find(b"\x00\x00\x01", at + 3)
    return False


class Encoder:
    """Encode frames of one camera one by one. A key frame every fps frames, no B-frames."""

    def __init__(self, width: int, height: int, fps: int) -> None:
        if height % 2 or width % 2:
            raise ValueError(f"frames: {width}x{height} px cannot be 4:2:0 video; width and height must be even")
        encoder = av.CodecContext.create("libx264", "w")
        assert isinstance(encoder, av.VideoCodecContext)
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.time_base, encoder.framerate = Fraction(1, fps), Fraction(fps, 1)
        encoder.thread_count, encoder.gop_size, encoder.max_b_frames = 1, fps, 0
        x264 = f"scenecut=0:keyint={fps}:min-keyint={fps}:threads=1"
        encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": CRF, "x264-params": x264}
        self._encoder = encoder
        # One reformatter for all frames: rebuilding its tables per frame costs ten times the encoding.
        self._to_yuv = VideoReformatter()
        self._count = 0

    def encode(self, rgb: np.ndarray) -> tuple[bool, bytes]:
        """Encode (H, W, 3) uint8 RGB; return whether it is a key frame, and its packet."""
        frame = self._to_yuv.reformat(av.VideoFrame.from_ndarray(rgb, format="rgb24"), format="yuv420p", threads=1)
        frame.pts = self._count
        self._count += 1
        (packet,) = self._encoder.encode(frame)  # zero latency: each frame gives its packet at once
        dropped = (_NAL_SEI, _NAL_DELIMITER)  # x264's settings as text: 600 bytes that no decoder needs
        nals = (START + n for n in nals_of(bytes(packet)) if n[0] & 31 not in dropped)
        return bool(packet.is_keyframe), b"".join(nals)


def encode(frames: np.ndarray, fps: int) -> tuple[np.ndarray, list[bytes]]:
    """Encode frames (F, H, W, 3) uint8 RGB to key (F,) bool and F packets."""
    encoder = Encoder(frames.shape[2], frames.shape[1], fps)
    made = [encoder.encode(rgb) for rgb in frames]
    return np.array([key for key, _ in made], bool), [packet for _, packet in made]


class Decoder:
    """Decodes the packets of one camera, one after the other. form: 'h264' or 'jpeg'."""

    def __init__(self, form: str) -> None:
        decoder = av.CodecContext.create(_DECODERS[form], "r")
        assert isinstance(decoder, av.VideoCodecContext)
        decoder.thread_count, decoder.thread_type = 1, ThreadType.NONE
        decoder.flags |= Flags.low_delay
        self._decoder, self._to_rgb = decoder, VideoReformatter()

    def decode(self, packet: bytes) -> np.ndarray | None:
        """The packet's frame (H, W, 3) uint8 RGB; None for one that refers to frames that did not come. ValueError if
        it is damaged."""
        try:
            frames = self._decoder.decode(av.Packet(packet))
        except InvalidDataError as error:
            raise ValueError(f"video: a packet does not decode ({error.strerror})") from error
        return self._to_rgb.reformat(frames[-1], format="rgb24", threads=1).to_ndarray() if frames else None


def decode(
    packets: list[bytes], key: np.ndarray, width: int, height: int, indices: np.ndarray | None, form: str = "h264"
) -> np.ndarray:
    """Decode H.264 or JPEG packets to frames (len(indices), H, W, 3) uint8 RGB, decoding only what these depend on."""
    requested = np.arange(len(packets)) if indices is None else np.asarray(indices, np.int64).reshape(-1)
    out = np.empty((len(requested), height, width, 3), np.uint8)
    if not len(requested):
        return out
    if requested.min() < 0 or requested.max() >= len(packets):
        raise ValueError(f"video: frames {requested.min()} .. {requested.max()} requested of {len(packets)}")
    needed = np.zeros(len(packets), bool)
    last_key = np.maximum.accumulate(np.where(key, np.arange(len(packets)), -1))
    if last_key[requested.min()] < 0:
        raise ValueError("video: does not begin with a key frame; cut it at one")
    if indices is None:
        needed[:] = True
    else:
        for i in np.unique(requested):
            needed[last_key[i] : i + 1] = True
    places: dict[int, list[int]] = {}
    for place, i in enumerate(requested):
        places.setdefault(int(i), []).append(place)
    decoder = av.CodecContext.create(_DECODERS[form], "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count, decoder.thread_type = 1, ThreadType.NONE
    to_rgb = VideoReformatter()
    got = 0
    try:
        for i in [*np.flatnonzero(needed).tolist(), None]:
            packet = None
            if i is not None:
                packet = av.Packet(packets[i])
                packet.pts = packet.dts = i
            for frame in decoder.decode(packet):
                for place in places.get(frame.pts if frame.pts is not None else -1, ()):
                    out[place] = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
                    got += 1
    except InvalidDataError as error:
        raise ValueError(f"video: a packet does not decode ({error.strerror}); the recording is damaged") from error
    if got != len(requested):
        raise ValueError(f"video: only {got} of {len(requested)} frames decode; the recording is damaged")
    return out


def mux_mp4(packets: list[bytes], key: np.ndarray, t: np.ndarray, width: int, height: int) -> bytes:
    """Mux packets and their times (s) to MP4 bytes; the first frame is at 0."""
    ticks = np.round((t - t[0]) / float(MP4_CLOCK)).astype(np.int64)
    steps = np.diff(ticks, append=2 * ticks[-1] - ticks[-2] if len(ticks) > 1 else 9000)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_mux_stream("h264", rate=10, width=width, height=height, time_base=MP4_CLOCK)
        for data, is_key, tick, step in zip(packets, key.tolist(), ticks.tolist(), steps.tolist(), strict=True):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, MP4_CLOCK
            packet.pts = packet.dts = tick
            packet.duration = step
            packet.is_keyframe = is_key
            container.mux_one(packet)
    return out.getvalue()


def demux_mp4(data: bytes) -> tuple[np.ndarray, np.ndarray, list[bytes], int, int]:
    """Demux MP4 bytes to t (F,) s from the first frame, key (F,) bool, Annex B packets, width, height."""
    try:
        with av.open(io.BytesIO(data), "r", format="mp4") as container:
            if not container.streams.video:
                raise ValueError("mp4: contains no video stream")
            stream = container.streams.video[0]
            if stream.codec_context.name != "h264":
                raise ValueError(f"mp4: video is {stream.codec_context.name}; re-encode it as H.264 without B-frames")
            header = stream.codec_context.extradata or b""
            found = [(p.pts, bytes(p), bool(p.is_keyframe)) for p in container.demux(stream) if p.size]
            clock, width, height = float(stream.time_base or MP4_CLOCK), stream.width, stream.height
    except FFmpegError as error:
        raise ValueError(f"mp4: does not open ({error.strerror}); the file is damaged or of another kind") from error
    ticks = np.array([pts for pts, _, _ in found], np.int64)
    if not len(ticks) or (np.diff(ticks) <= 0).any():
        raise ValueError("mp4: no frames, or B-frames among them; re-encode it as H.264 without B-frames")
    parameters, prefix = _avc_header(header)
    packets = []
    for _, sample, is_key in found:
        nals = _length_prefixed(sample, prefix)
        if is_key and not any(n[0] & 31 == _NAL_SPS for n in nals):
            nals = parameters + nals
        packets.append(b"".join(START + n for n in nals))
    return (ticks - ticks[0]) * clock, np.array([k for _, _, k in found], bool), packets, width, height


def _avc_header(header: bytes) -> tuple[list[bytes], int]:
    """Parameter sets and size of the length prefix from an avcC box (ISO/IEC 14496-15, 5.3.3.1)."""
    if len(header) < 7 or header[0] != 1:
        raise ValueError("mp4: H.264 without an avcC header; re-encode it")
    nals, at = [], 5
    for mask in (31, 255):
        count, at = header[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(header[at : at + 2], "big")
            nals.append(header[at + 2 : at + 2 + size])
            at += 2 + size
    return nals, (header[4] & 3) + 1


def _length_prefixed(sample: bytes, prefix: int) -> list[bytes]:
    """Split one MP4 sample into NAL units."""
    nals, at = [], 0
    while at + prefix <= len(sample):
        size = int.from_bytes(sample[at : at + prefix], "big")
        nals.append(sample[at + prefix : at + prefix + size])
        at += prefix + size
    return [nal for nal in nals if nal]
