"""Figures of stages are shown with readable names and units."""

from hypothesis import given
from hypothesis import strategies as st

from drivefoundry.reports.quantities import quantities


def test_values_have_units():
    said = dict(
        quantities({
            "policy": "engine", "bytes": 12, "goodput": 0.107, "mfu": 0.11, "samples_per_s": 1234.4, "car_seconds": 360,
            "plan_error_m": 0.0031, "takeovers_per_km": 37.84, "clips": 1196, "constant velocity ADE m": 3.42,
            "compression": 3.458, "gates": "failed", "upload_seconds": 1.2,
        })
    )  # fmt: skip
    assert said == {
        "goodput": "11 %", "MFU": "11 %", "throughput": "1,234 samples/s", "driving": "6 min 00 s",
        "plan error": "0.0031 m", "takeovers": "37.8 / km", "clips": "1,196", "constant velocity ADE": "3.42 m",
        "compression": "3.46 x", "gates": "failed", "upload": "1.2 s",
    }  # fmt: skip


def test_empty_values_are_omitted():
    assert quantities({"dropped": {}, "place": "", "ok": True, "nothing": None}) == ()
    assert quantities({"dropped": {"too_dark": 3, "short": 1}}) == (("dropped", "too dark 3, short 1"),)


@given(st.dictionaries(st.text(max_size=12), st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.booleans())))
def test_any_info_is_shown(info):
    for name, value in quantities(info):
        assert isinstance(name, str)
        assert isinstance(value, str)
