"""Tables written by users' own scripts are read consistently; errors name the line."""

from __future__ import annotations

import numpy as np
import pytest
from test_importers import road_camera
from test_udacity_telemetry import table

from drivefoundry.clips.importers import drives_in
from drivefoundry.clips.importers.drives import udacity
from drivefoundry.clips.importers.drives.table import rows_of

WAYS = {
    "blank last line": lambda s: s + "\r\n",
    "blank lines between": lambda s: s.replace("\n", "\n\n"),
    "lines of spaces and commas": lambda s: s + "  \r\n,,,\r\n",
    "no newline at the end": lambda s: s.rstrip("\r\n"),
    "plain newlines": lambda s: s.replace("\r\n", "\n"),
    "a byte order mark": lambda s: "\ufeff" + s,
    "commas at the end of lines": lambda s: s.replace("\r\n", ",\r\n"),
    "commas at the end of rows only": lambda s: s.replace("\r\n", ",\r\n").replace(",\r\n", "\r\n", 1),
    "quotes": lambda s: "\r\n".join(",".join(f'"{c}"' for c in line.split(",")) for line in s.splitlines()) + "\r\n",
    "spaces after commas": lambda s: s.replace(",", ", "),
    "semicolons": lambda s: s.replace(",", ";"),
    "tabs": lambda s: s.replace(",", "\t"),
    "blank first line": lambda s: "\r\n" + s,
}


@pytest.mark.parametrize("way", WAYS)
def test_udacity_tables_read_alike(tmp_path, way):
    path = table(tmp_path / "HMB_1.csv")
    (plain,) = drives_in(tmp_path)
    path.write_bytes(WAYS[way](path.read_bytes().decode()).encode())
    (drive,) = drives_in(tmp_path)
    np.testing.assert_array_equal(drive.ego, plain.ego)
    np.testing.assert_array_equal(drive.t, plain.t)


@pytest.mark.parametrize("way", WAYS)
def test_udacity_labels_read_alike(tmp_path, way):
    folder = road_camera(tmp_path / "cam", 6.0)
    (plain,) = udacity.runs_of(folder)
    labels = folder / "labels.csv"
    labels.write_bytes(WAYS[way](labels.read_bytes().decode()).encode())
    (run,) = udacity.runs_of(folder)
    assert run.files == plain.files
    np.testing.assert_array_equal(run.t, plain.t)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a,b\n1,2\n\n3\n", "line 4: 1 columns where the header has 2; copy it again"),
        (b"a,b\n1,2,3\n", "line 2: 3 columns where the header has 2"),
        (b"\n \n", "empty; copy it again"),
        ("a,b\n1,2\n".encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, data, says):
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"^{path}: {says}"):
        rows_of(path)


def test_labels_that_go_back_in_time_are_named_by_line(tmp_path):
    folder = road_camera(tmp_path / "cam", 6.0)
    labels = folder / "labels.csv"
    lines = labels.read_text().splitlines()
    lines[9], lines[10] = lines[10], lines[9]
    labels.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"labels\.csv: line 11, t_s: it must rise from line to line; sort the file"):
        udacity.runs_of(folder)
