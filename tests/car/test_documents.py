"""JSON and TOML as editors write them are read, or refused in one line that names the file."""

import json

import pytest

from drivefoundry import recipes
from drivefoundry.settings import with_file, with_settings
from drivefoundry_car.documents import DEPTH, json_of, read_json, read_toml, toml_of
from drivefoundry_car.triggers import load_campaigns

CAMPAIGN = '[hard]\nrule = "accel < -4 m/s^2"\npriority = 3\n'


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(CAMPAIGN.encode("utf-8-sig"))
    assert [c.name for c in load_campaigns(path)] == ["hard"]
    path.write_bytes("[fleet]\ncars = 7\n".encode("utf-8-sig"))
    assert with_file(recipes.default(), path).fleet.cars == 7
    path.write_bytes('{"a": [1, "\ufeff"]}'.encode("utf-8-sig"))
    assert read_json(path) == {"a": [1, "\ufeff"]}


@pytest.mark.parametrize("read", [load_campaigns, read_json, read_toml, lambda p: with_file(recipes.default(), p)])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("# Maße\n".encode("latin-1"), "not UTF-8 .byte 0xdf at 4.; save the file as UTF-8"),
        ("a = 1".encode("utf-16"), "not UTF-8"),
        (b"a = " + b"[" * 20_000 + b"]" * 20_000, "nested more than 64 levels deep|not JSON"),
        (b"[" * 20_000 + b"]" * 20_000, "nested more than 64 levels deep|not TOML"),
        (b".".join([b"a"] * 5_000) + b" = 1", "nested more than 64 levels deep|not JSON"),
        (b"a = " + b"1" * 400, "an integer of 1326 bits|not JSON"),
        (b"1" * 400, "an integer of 1326 bits|not TOML"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line_that_names_the_file(read, data, says, tmp_path):
    path = tmp_path / "file.x"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"file\.x: ({says})") as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_levels_are_counted_not_brackets():
    flat = json.dumps([[i] for i in range(5 * DEPTH)])
    assert len(json_of(flat, "x")) == 5 * DEPTH
    assert toml_of(f'a = "{"b." * 100}"', "x")["a"].startswith("b.b.")
    deep = "[" * (DEPTH - 1) + "1" + "]" * (DEPTH - 1)
    assert json_of(deep, "x")
    with pytest.raises(ValueError, match="x: nested more than"):
        json_of(f"[[{deep}]]", "x")


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e999", "9" * 400])
def test_numbers_that_no_field_holds_name_the_key(text, tmp_path):
    (tmp_path / "r.toml").write_text(f"[fleet]\ncars = {text}\n")
    with pytest.raises(ValueError, match=r"r\.toml: (key 'fleet.cars'|an integer of)"):
        with_file(recipes.default(), tmp_path / "r.toml")
    with pytest.raises(ValueError, match=r"'rl\.lr'"):
        with_settings(recipes.default(), ["rl.lr=" + text * 200])
