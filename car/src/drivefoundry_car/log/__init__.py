"""Drives as MCAP files: what a vehicle recorded, read from any writer's channels and clocks, and written."""

from drivefoundry_car.log.drive import (
    Drive,
    Objects,
    Plans,
    Video,
    as_h264,
    check,
    cut,
    decode_video,
    encode_video,
    from_mp4,
    read_drive,
    read_meta,
    to_mp4,
    write_drive,
)

__all__ = [
    "Drive",
    "Objects",
    "Plans",
    "Video",
    "as_h264",
    "check",
    "cut",
    "decode_video",
    "encode_video",
    "from_mp4",
    "read_drive",
    "read_meta",
    "to_mp4",
    "write_drive",
]
