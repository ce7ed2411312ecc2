"""Draws the signs of diabetic retinopathy, and grades them by the international clinical scale."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool

from pldmlt_jax.data.synthetic.fundus import SHIFT, Canvas, draw_path, random_vessel_path, to_fixed_point
from pldmlt_jax.types import LESIONS


@dataclass
class DrawnSigns:
    """The signs that were drawn, as far as the grade depends on them."""

    masks: dict[str, Bool[np.ndarray, "h w"]]
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LESIONS, 0))
    haemorrhages: list[tuple[float, float]] = field(default_factory=list)  # centres, in radii
    beading: bool = False
    irma: bool = False
    proliferative: bool = False  # neovascularisation or pre-retinal haemorrhage


def grade_from_signs(signs: DrawnSigns) -> int:
    """Grades signs by the international clinical diabetic retinopathy scale (Wilkinson et al. 2003).

    0 no signs; 1 microaneurysms only; 2 more than that; 3 more than 20 haemorrhages in each of the four quadrants,
    venous beading or intraretinal microvascular abnormalities; 4 neovascularisation or pre-retinal haemorrhage.
    """
    if signs.proliferative:
        return 4
    quadrants = np.zeros(4, int)
    for x, y in signs.haemorrhages:
        quadrants[2 * (y > 0) + (x > 0)] += 1
    if signs.beading or signs.irma or (quadrants > 20).all():
        return 3
    if any(signs.counts[lesion] for lesion in ("HE", "EX", "SE")):
        return 2
    return 1 if signs.counts["MA"] else 0


def random_position(canvas: Canvas, rng: np.random.Generator, quadrant: int | None = None) -> tuple[float, float]:
    """Samples a point (x, y) in radii inside the photograph and outside the optic disc.

    Args:
        canvas: The photograph.
        rng: Source of all randomness.
        quadrant: 0..3 for the upper left, upper right, lower left and lower right one; None for any.
    """
    low_y = (canvas.shape[0] / 2.0) / canvas.radius_px
    while True:
        x, y = rng.uniform(-0.93, 0.93), rng.uniform(-0.9 * low_y, 0.9 * low_y)
        inside = np.hypot(x, y) < 0.93 and np.hypot(x - canvas.disc[0], y - canvas.disc[1]) > 1.4 * canvas.disc_radius
        if inside and (quadrant is None or quadrant == 2 * (y > 0) + (x > 0)):
            return float(x), float(y)


def draw_blob(
    plane: np.ndarray,
    canvas: Canvas,
    rng: np.random.Generator,
    centre: tuple[float, float],
    radius: float,
    rough: float,
) -> None:
    """Fills an irregular outline on a plane of intensities in 0..1.

    Args:
        plane: float32 [h, w], changed in place.
        canvas: Canvas that sets the scale.
        rng: Source of all randomness.
        centre: (x, y) in radii.
        radius: Mean radius of the blob, in radii of the field of view.
        rough: Irregularity; 0 is a circle.
    """
    n = 14
    radius = max(radius - 0.5 / canvas.radius_px, 0.4 / canvas.radius_px)  # OpenCV fills the outline's own pixels too
    radii = radius * (1.0 + rough * cv2.GaussianBlur(rng.normal(size=(3 * n, 1)), (1, 5), 0)[n : 2 * n, 0])
    angles = np.linspace(0.0, 2.0 * np.pi, n, endpoint=False)
    stretch = rng.uniform(1.0, 1.0 + rough)
    points = np.column_stack([stretch * radii * np.cos(angles), radii * np.sin(angles) / stretch])
    turn = rng.uniform(0.0, np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    cv2.fillPoly(plane, [to_fixed_point(canvas, points @ rotation.T + centre)], 1.0, cv2.LINE_AA, SHIFT)


@dataclass(frozen=True)
class Appearance:
    """How a kind of lesion looks."""

    factor: tuple[float, float, float]  # multiplies RGB
    spread: float  # largest change of the factor between images
    softness: float  # blur of the edge, in radii


APPEARANCES = {
    "MA": Appearance((0.96, 0.87, 0.925), 0.02, 0.0015),
    "HE": Appearance((0.945, 0.845, 0.93), 0.02, 0.002),
    "EX": Appearance((1.14, 1.44, 1.32), 0.05, 0.0015),
    "SE": Appearance((1.12, 1.50, 1.40), 0.05, 0.010),
}


@dataclass(frozen=True)
class RadiusDistribution:
    """A log-normal distribution of radii, in radii of the field of view."""

    median: float
    spread: float  # of the logarithm; large lesions are few but have most of the pixels

    def sample(self, rng: np.random.Generator) -> float:
        """Samples a radius."""
        return self.median * float(np.exp(rng.normal(0.0, self.spread)))


MICROANEURYSMS = RadiusDistribution(0.0062, 0.08)
HAEMORRHAGES = RadiusDistribution(0.0220, 0.60)
DOT_HAEMORRHAGES = RadiusDistribution(0.0130, 0.30)  # the many of severe retinopathy
HARD_EXUDATES = RadiusDistribution(0.0064, 0.75)
SOFT_EXUDATES = RadiusDistribution(0.0400, 0.12)


def apply_lesion(canvas: Canvas, rng: np.random.Generator, signs: DrawnSigns, lesion: str, plane: np.ndarray) -> None:
    """Blends a plane float32 [h, w] of one kind of lesion into the photograph, and adds it to the lesion's mask."""
    look = APPEARANCES[lesion]
    soft = cv2.GaussianBlur(plane, (0, 0), max(look.softness * canvas.radius_px, 0.35))
    canvas.blend(soft, np.array(look.factor) + look.spread * rng.uniform(-1.0, 1.0))
    signs.masks[lesion] |= (plane > 0.4) & canvas.fov


def draw_microaneurysms(canvas: Canvas, rng: np.random.Generator, signs: DrawnSigns, count: int) -> None:
    """Draws microaneurysms: small dark red dots."""
    plane = np.zeros(canvas.shape, np.float32)
    for _ in range(count):
        draw_blob(plane, canvas, rng, random_position(canvas, rng), MICROANEURYSMS.sample(rng), 0.15)
    signs.counts["MA"] += count
    apply_lesion(canvas, rng, signs, "MA", plane)


def draw_haemorrhages(
    canvas: Canvas,
    rng: np.random.Generator,
    signs: DrawnSigns,
    count: int,
    sizes: RadiusDistribution = HAEMORRHAGES,
    quadrant: int | None = None,
) -> None:
    """Draws haemorrhages: dark red patches, anywhere or in one quadrant."""
    plane = np.zeros(canvas.shape, np.float32)
    for _ in range(count):
        centre = random_position(canvas, rng, quadrant)
        draw_blob(plane, canvas, rng, centre, sizes.sample(rng), 0.35)
        signs.haemorrhages.append(centre)
    signs.counts["HE"] += count
    apply_lesion(canvas, rng, signs, "HE", plane)


def draw_hard_exudates(canvas: Canvas, rng: np.random.Generator, signs: DrawnSigns, count: int) -> None:
    """Draws hard exudates: sharp yellow specks in clusters, often near the fovea."""
    plane = np.zeros(canvas.shape, np.float32)
    drawn = 0
    while drawn < count:
        centre = np.array(random_position(canvas, rng))
        if rng.random() < 0.5:
            centre = np.array(canvas.fovea) + rng.normal(scale=0.22, size=2)
        for _ in range(min(int(rng.integers(8, 30)), count - drawn)):
            position = centre + rng.normal(scale=0.045, size=2)
            draw_blob(plane, canvas, rng, tuple(position), HARD_EXUDATES.sample(rng), 0.3)
            drawn += 1
    signs.counts["EX"] += count
    apply_lesion(canvas, rng, signs, "EX", plane)


def draw_soft_exudates(canvas: Canvas, rng: np.random.Generator, signs: DrawnSigns, count: int) -> None:
    """Draws soft exudates: pale patches with soft edges."""
    plane = np.zeros(canvas.shape, np.float32)
    for _ in range(count):
        draw_blob(plane, canvas, rng, random_position(canvas, rng), SOFT_EXUDATES.sample(rng), 0.4)
    signs.counts["SE"] += count
    apply_lesion(canvas, rng, signs, "SE", plane)


def draw_irma(canvas: Canvas, rng: np.random.Generator, signs: DrawnSigns) -> None:
    """Draws intraretinal microvascular abnormalities: short winding vessels where there should be none."""
    plane = np.zeros(canvas.shape, np.float32)
    for _ in range(int(rng.integers(4, 8))):
        start = np.array(random_position(canvas, rng))
        for _ in range(5):
            path = random_vessel_path(rng, start, rng.uniform(0.0, 2.0 * np.pi), 0.14, rng.uniform(-3.0, 3.0))
            draw_path(plane, canvas, path, np.full(len(path), 0.008))
    canvas.blend(cv2.GaussianBlur(plane, (0, 0), 0.5), np.array([0.80, 0.60, 0.70]))
    signs.irma = True


def draw_neovascularisation(canvas: Canvas, rng: np.random.Generator, signs: DrawnSigns) -> None:
    """Draws neovascularisation: a tangle of fine vessels on the optic disc and elsewhere."""
    plane = np.zeros(canvas.shape, np.float32)
    centres = [np.array(canvas.disc), np.array(random_position(canvas, rng))]
    for centre, spread, strands in zip(centres, (canvas.disc_radius, 0.12), (34, 26), strict=True):
        for _ in range(strands):
            start = centre + rng.normal(scale=0.6 * spread, size=2)
            path = random_vessel_path(
                rng, start, rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.15, 0.3), rng.uniform(-4.0, 4.0)
            )
            draw_path(plane, canvas, path, np.full(len(path), 0.008))
    canvas.blend(cv2.GaussianBlur(plane, (0, 0), 0.5), np.array([0.78, 0.48, 0.55]))
    signs.proliferative = True


def draw_preretinal_haemorrhage(canvas: Canvas, rng: np.random.Generator, signs: DrawnSigns) -> None:
    """Draws a pre-retinal haemorrhage: settled blood in the shape of a boat, level at the top and round below."""
    plane = np.zeros(canvas.shape, np.float32)
    centre, width = random_position(canvas, rng), rng.uniform(0.16, 0.28)
    t = np.linspace(0.0, np.pi, 24)
    outline = np.column_stack([width * np.cos(t), rng.uniform(0.45, 0.65) * width * np.sin(t)]) + centre
    cv2.fillPoly(plane, [to_fixed_point(canvas, outline)], 1.0, cv2.LINE_AA, SHIFT)
    signs.counts["HE"] += 1
    signs.proliferative = True
    canvas.blend(cv2.GaussianBlur(plane, (0, 0), 1.0), np.array([0.72, 0.42, 0.60]))
    signs.masks["HE"] |= (plane > 0.5) & canvas.fov


def draw_signs(canvas: Canvas, rng: np.random.Generator, grade: int) -> DrawnSigns:
    """Draws the signs of a grade 0..4, except venous beading, which is drawn with the vessels."""
    signs = DrawnSigns({lesion: np.zeros(canvas.shape, bool) for lesion in LESIONS})

    def sample_count(median: float, spread: float) -> int:
        return max(round(median * float(np.exp(rng.normal(0.0, spread)))), 1)

    if grade == 0:
        return signs
    draw_microaneurysms(canvas, rng, signs, sample_count(10 if grade == 1 else 24, 0.4))
    if grade == 1:
        return signs
    draw_hard_exudates(canvas, rng, signs, min(sample_count(110, 0.4), 300))
    draw_haemorrhages(canvas, rng, signs, min(sample_count(8, 0.3), 50))
    if rng.random() < 0.7:
        draw_soft_exudates(canvas, rng, signs, sample_count(6, 0.3))
    if grade == 3:
        _draw_severe(canvas, rng, signs)
    if grade == 4:
        _draw_proliferative(canvas, rng, signs)
    return signs


def _draw_severe(canvas: Canvas, rng: np.random.Generator, signs: DrawnSigns) -> None:
    for quadrant in range(4):
        draw_haemorrhages(canvas, rng, signs, int(rng.integers(21, 28)), DOT_HAEMORRHAGES, quadrant)
    if rng.random() < 0.4:
        draw_irma(canvas, rng, signs)


def _draw_proliferative(canvas: Canvas, rng: np.random.Generator, signs: DrawnSigns) -> None:
    vessels = rng.random() < 0.65
    if vessels:
        draw_neovascularisation(canvas, rng, signs)
    if not vessels or rng.random() < 0.4:
        draw_preretinal_haemorrhage(canvas, rng, signs)
