import numpy as np
import pytest

from benchmarks.demo_data.textures import FIELDS, noise, random_palette, texture

SIZE = (97, 61)


def generator() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("kind", FIELDS)
def test_field_lies_in_the_unit_interval_and_varies(kind: str) -> None:
    field = FIELDS[kind](generator(), SIZE, 14.0)
    assert field.shape == (61, 97)
    assert field.min() >= 0
    assert field.max() <= 1
    assert field.std() > 0.08


@pytest.mark.parametrize("kind", FIELDS)
def test_texture_has_structure_at_the_scale_of_its_cell(kind: str) -> None:
    image = texture(generator(), kind, SIZE, random_palette(generator()), 14.0)
    assert image.size == SIZE
    pixels = np.asarray(image, np.float32)
    assert max(np.abs(pixels[:, 7:] - pixels[:, :-7]).mean(), np.abs(pixels[7:] - pixels[:-7]).mean()) > 8
    assert image.tobytes() == texture(generator(), kind, SIZE, random_palette(generator()), 14.0).tobytes()


def test_noise_is_smooth_over_less_than_a_cell() -> None:
    field = noise(generator(), (120, 80), 40.0, octaves=1)
    assert np.abs(np.diff(field, axis=1)).max() < 0.12


def test_palette_runs_from_dark_to_light() -> None:
    palette = random_palette(generator())
    assert palette.shape == (7, 3)
    assert palette[-1].max() > palette[0].max()
