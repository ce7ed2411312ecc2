"""The field of view of photographs as cameras and archives leave them, where the true one is known."""

import cv2
import numpy as np
import pytest

from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.data.synthetic.dataset import draw_fundus
from pldmlt_jax.data.synthetic.fundus import FOV_RADIUS

HEIGHT = 320
Case = tuple[np.ndarray, np.ndarray]


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray, float, int]:
    """A photograph, its true field, that field's radius and the column of its centre."""
    image = draw_fundus((seed, 1), 2, HEIGHT).image
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    radius, centre = FOV_RADIUS * HEIGHT, (image.shape[1] - 1) / 2
    return image, np.hypot(y - (HEIGHT - 1) / 2, x - centre) <= radius, radius, round(centre)


def dark(share: float) -> Case:
    image, fov, *_ = drawn()
    noise = np.random.default_rng(0).integers(0, 6, image.shape)
    return (image * share + noise).clip(0, 255).astype(np.uint8), fov


def noisy_border() -> Case:
    image, fov, *_ = drawn()
    noise = np.random.default_rng(0).integers(0, 14, image.shape)
    return np.where(fov[..., None], image, noise).astype(np.uint8), fov


def border(colour: tuple[int, int, int]) -> Case:
    image, fov, *_ = drawn()
    return np.where(fov[..., None], image, np.array(colour)).astype(np.uint8), fov


def green_halo() -> Case:
    """Light that the lens scatters beyond the field."""
    image, fov, radius, centre = drawn()
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    fading = np.clip(1 - (np.hypot(y - HEIGHT / 2, x - centre) - radius) / (HEIGHT / 12), 0, 1)
    halo = 60 * fading[..., None] * np.array([0.3, 1.0, 0.4])
    return np.where(fov[..., None], image, halo).astype(np.uint8), fov


def overexposed_rim() -> Case:
    image, fov, radius, centre = drawn()
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    glare = np.clip((np.hypot(y - HEIGHT / 2, x - centre) / radius - 0.9) / 0.1, 0, 1) * (x > centre)
    return (image + 255 * (glare * fov)[..., None]).clip(0, 255).astype(np.uint8), fov


def writing(*, touching: bool) -> Case:
    image, fov, *_ = drawn()
    if touching:
        cv2.putText(image, "PATIENT 12345", (4, HEIGHT - 50), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
    cv2.putText(image, "OD 2019", (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
    return image, fov


def cut(rows: slice, columns: float) -> Case:
    """A window of the photograph, as wide as this share of the field."""
    image, fov, radius, centre = drawn()
    half = round(columns * radius)
    return image[rows, centre - half : centre + half], fov[rows, centre - half : centre + half]


def large_border() -> Case:
    image, fov, *_ = drawn()
    wide = [cv2.copyMakeBorder(a, 200, 100, 300, 50, cv2.BORDER_CONSTANT) for a in (image, fov.astype(np.uint8))]
    return wide[0], wide[1] > 0


def frame(colour: tuple[int, int, int]) -> Case:
    """Around the photograph's own black border, as in a picture that was taken from a screen."""
    image, fov, *_ = drawn()
    framed = cv2.copyMakeBorder(image, 30, 30, 50, 50, cv2.BORDER_CONSTANT, value=colour)
    return framed, cv2.copyMakeBorder(fov.astype(np.uint8), 30, 30, 50, 50, cv2.BORDER_CONSTANT) > 0


CASES = {
    "plain": lambda: drawn()[:2],
    "dark": lambda: dark(0.15),
    "hardly lit": lambda: dark(0.07),
    "noisy border": noisy_border,
    "green border": lambda: border((0, 70, 0)),
    "bright green border": lambda: border((0, 150, 10)),
    "grey border": lambda: border((40, 40, 40)),
    "white border": lambda: border((255, 255, 255)),
    "white frame around a black border": lambda: frame((255, 255, 255)),
    "green frame around a black border": lambda: frame((0, 150, 10)),
    "green halo": green_halo,
    "overexposed rim": overexposed_rim,
    "writing in the margin": lambda: writing(touching=False),
    "writing that touches the field": lambda: writing(touching=True),
    "circle cut at the sides": lambda: cut(slice(None), 0.95),
    "circle cut on all sides": lambda: cut(slice(30, -30), 0.85),
    "nothing to crop": lambda: cut(slice(72, -72), 0.6),
    "large border": large_border,
}


def box(fov: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
    return np.array([rows[0], rows[-1], columns[0], columns[-1]])


@pytest.mark.parametrize("name", CASES)
def test_field_is_found(name):
    image, truth = CASES[name]()
    found = field_of_view(image)
    assert (found & truth).sum() / (found | truth).sum() > 0.97
    assert np.abs(box(found) - box(truth)).max() <= 0.01 * max(truth.shape)


def test_dark_lesions_specks_and_noise_leave_no_hole():
    image, truth, *_ = drawn()
    cv2.circle(image, (240, 160), 22, (0, 0, 0), -1)  # a haemorrhage as dark as the ground
    found = field_of_view(image)
    assert found[160, 240]
    assert (found & truth).sum() / (found | truth).sum() > 0.98


@pytest.mark.parametrize("level", [0, 120])
def test_plain_image_is_taken_whole(level):
    assert field_of_view(np.full((50, 80, 3), level, np.uint8)).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (2000, 5)])
def test_odd_shapes_do_not_fail(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert field_of_view(image).any()
