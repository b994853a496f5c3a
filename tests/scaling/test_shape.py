"""A shape's parameter count equals the model's."""

import pytest

from drivefoundry.model.presets import SIZES, parameters, preset
from drivefoundry.model.vla import VLA
from drivefoundry.scaling import shape


@pytest.mark.parametrize("size", ["0.1M", "1M"])
def test_a_config_counts_as_its_model(size):
    config = preset(size)
    assert shape.of(config).parameters() == sum(p.numel() for p in VLA(config).parameters())
    other = preset(size, image=(32, 64), history=3, codes=64)
    assert shape.of(other).parameters() == sum(p.numel() for p in VLA(other).parameters())


@pytest.mark.parametrize("size", SIZES)
def test_named_sizes_are_the_models(size):
    assert shape.named(size.lower()).parameters() == parameters(preset(size))


def test_the_largest_decoder_counts_as_published():
    largest = shape.named("72B")
    more = 2 * (largest.vocab - 152_064) * largest.width  # rows of ours
    assert largest.parameters() - largest.other - more == 72_706_203_648  # Qwen2.5-72B


@pytest.mark.parametrize("expected", ["5e6", "40M", "350M", "1.3B", "13B", "70e9", "200B", "1e12"])
def test_any_number_of_parameters_has_a_shape(expected):
    number = float(expected[:-1]) * {"M": 1e6, "B": 1e9}[expected[-1]] if expected[-1] in "MB" else float(expected)
    found = shape.named(expected).validate()
    assert found.parameters() == pytest.approx(number, rel=0.1)
    assert found.heads % found.kv_heads == 0


@pytest.mark.parametrize("name", ["7x", "huge", "12", "1e20", "-3B", ""])
def test_no_size(name):
    with pytest.raises(ValueError, match="or a number of parameters: 3e9, 13B"):
        shape.named(name)


def test_six_flop_a_parameter_and_attention():
    one = shape.named("8B")
    working = one.parameters() - one.table() - one.width  # the embedding is looked up; the last norm is no product
    flat = one.training_flop_per_token(0.0)
    assert flat == pytest.approx(6 * working, rel=1e-6)
    assert one.training_flop_per_token(1000.0) - flat == 12 * 32 * 4096 * 1000.0
