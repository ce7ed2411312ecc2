"""Draws a synthetic fundus photograph without lesions: camera, retina, optic disc, fovea and vessels."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float

FOV_RADIUS = 0.605
"""Radius of the field of view in image heights; it is cut off at the top and bottom, as in IDRiD."""

ASPECT = 1.5
"""Width over height."""

SHIFT = 4
"""Fractional bits of OpenCV's fixed-point coordinates."""


@dataclass
class Canvas:
    """A photograph while it is drawn. Lengths are in radii of the field of view, and points are relative to its centre."""

    image: Float[np.ndarray, "h w 3"]  # RGB, 0..1
    fov: Bool[np.ndarray, "h w"]
    radius_px: float
    disc: tuple[float, float]  # centre (x, y)
    disc_radius: float
    fovea: tuple[float, float]
    background: np.ndarray  # mean RGB, 0..1

    @property
    def shape(self) -> tuple[int, int]:
        return self.fov.shape[0], self.fov.shape[1]

    def to_px(self, points: np.ndarray) -> np.ndarray:
        """Converts points [n, 2] (x, y) in radii to pixel coordinates."""
        height, width = self.shape
        return np.asarray(points) * self.radius_px + np.array([(width - 1) / 2.0, (height - 1) / 2.0])

    def blend(self, alpha: Float[np.ndarray, "h w"], factor: np.ndarray) -> None:
        """Multiplies the colour by `factor` (RGB) where `alpha` is 1, and by less where it is smaller."""
        self.image *= 1.0 + alpha[..., None] * (np.asarray(factor, np.float32) - 1.0)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Float[np.ndarray, "h w"]:
    """Samples smooth noise with a standard deviation of 1 at its grid points.

    Args:
        rng: Source of all randomness.
        shape: Height and width in pixels.
        cells: Grid points along the height.
    """
    coarse = rng.normal(size=(cells, round(cells * ASPECT))).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def to_fixed_point(canvas: Canvas, points: np.ndarray) -> np.ndarray:
    """Converts points [n, 2] in radii to fixed-point pixel coordinates int32 [n, 1, 2] for OpenCV."""
    return np.round(canvas.to_px(points) * (1 << SHIFT)).astype(np.int32)[:, None]


def new_canvas(rng: np.random.Generator, height_px: int) -> Canvas:
    """Draws the retina with its shading and the fovea, and places the optic disc."""
    width_px = round(ASPECT * height_px)
    radius_px = FOV_RADIUS * height_px
    y, x = np.mgrid[:height_px, :width_px].astype(np.float32)
    x, y = (x - (width_px - 1) / 2.0) / radius_px, (y - (height_px - 1) / 2.0) / radius_px
    r2 = x * x + y * y
    background = np.array([rng.uniform(0.58, 0.75), rng.uniform(0.27, 0.37), rng.uniform(0.04, 0.18)], np.float32)
    side = rng.choice([-1.0, 1.0])  # left or right eye
    disc = (side * rng.uniform(0.48, 0.62), rng.uniform(-0.08, 0.08))
    canvas = Canvas(
        image=np.broadcast_to(background, (height_px, width_px, 3)).copy(),
        fov=r2 < 1.0,
        radius_px=radius_px,
        disc=disc,
        disc_radius=rng.uniform(0.12, 0.15),
        fovea=(disc[0] - side * rng.uniform(0.6, 0.7), disc[1] + rng.uniform(0.02, 0.10)),
        background=background,
    )
    shade = 1.06 - rng.uniform(0.18, 0.34) * r2**1.4  # vignetting
    shade += rng.uniform(-0.08, 0.08) * x + rng.uniform(-0.08, 0.08) * y  # light that falls in from one side
    shade += 0.035 * smooth_noise(rng, canvas.shape, 6) + 0.02 * smooth_noise(rng, canvas.shape, 40)  # choroid
    canvas.image *= shade[..., None]
    canvas.image[..., 1] *= 1.0 + 0.03 * smooth_noise(rng, canvas.shape, 9)
    _spot(canvas, canvas.fovea, rng.uniform(0.16, 0.24), np.array([0.78, 0.70, 0.75]))
    return canvas


def _spot(canvas: Canvas, centre: tuple[float, float], radius: float, factor: np.ndarray) -> None:
    cx, cy = canvas.to_px(np.array([centre]))[0]
    y, x = np.ogrid[: canvas.shape[0], : canvas.shape[1]]
    distance2 = ((x - cx) ** 2 + (y - cy) ** 2) / (radius * canvas.radius_px) ** 2
    canvas.blend(np.exp(-2.0 * distance2).astype(np.float32), factor)


def draw_disc(canvas: Canvas, rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
    """Draws the bright optic disc with its cup, and returns its mask."""
    cx, cy = canvas.to_px(np.array([canvas.disc]))[0]
    radius_px = canvas.disc_radius * canvas.radius_px
    y, x = np.ogrid[: canvas.shape[0], : canvas.shape[1]]
    distance = np.hypot((x - cx) / rng.uniform(0.9, 1.0), y - cy) / radius_px
    softness = 0.10
    disc = np.clip((1.0 - distance) / softness + 0.5, 0.0, 1.0).astype(np.float32)
    cup = np.clip((rng.uniform(0.4, 0.55) - distance) / 0.3 + 0.5, 0.0, 1.0).astype(np.float32)
    colour = np.array([0.98, rng.uniform(0.74, 0.85), rng.uniform(0.35, 0.55)], np.float32)
    for alpha, target in ((0.85 * disc, colour), (0.5 * cup, np.minimum(colour * 1.12, 1.0))):
        canvas.image += alpha[..., None] * (target - canvas.image)
    return (distance < 1.0) & canvas.fov


def random_vessel_path(
    rng: np.random.Generator, start: np.ndarray, angle: float, length: float, bend: float
) -> Float[np.ndarray, "n 2"]:
    """Samples a winding path in radii; `bend` is its total turn in radians."""
    steps = max(int(length / 0.03), 4)
    turns = bend / steps + 0.06 * rng.normal(size=steps)
    angles = angle + np.cumsum(turns)
    moves = 0.03 * np.column_stack([np.cos(angles), np.sin(angles)])
    return start + np.vstack([np.zeros(2), np.cumsum(moves, axis=0)])


def draw_path(plane: np.ndarray, canvas: Canvas, path: np.ndarray, widths: np.ndarray) -> None:
    """Draws a path onto a plane of intensities in 0..1.

    Args:
        plane: float32 [h, w], changed in place.
        canvas: Canvas that sets the scale.
        path: [n, 2] (x, y) in radii.
        widths: [n] in radii.
    """
    points = to_fixed_point(canvas, path)
    for i in range(len(path) - 1):
        width_px = max(widths[i] * canvas.radius_px, 0.6)
        value = min(width_px, 1.0)  # thinner than a pixel: paler
        cv2.polylines(plane, [points[i : i + 2]], False, value, max(round(float(width_px)), 1), cv2.LINE_AA, SHIFT)


def _grow(
    rng: np.random.Generator, start: np.ndarray, angle: float, length: float, width: float, bend: float, depth: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Samples a vessel and its branches, as paths with widths."""
    path = random_vessel_path(rng, start, angle, length, bend)
    vessels = [(path, np.linspace(width, 0.45 * width, len(path)))]
    if depth == 0:
        return vessels
    for i in rng.choice(np.arange(2, len(path) - 1), size=min(3, len(path) - 3), replace=False):
        heading = np.arctan2(*(path[i] - path[i - 1])[::-1])
        turn = rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.1)
        share = 1.0 - i / len(path)
        vessels += _grow(
            rng, path[i], heading + turn, length * rng.uniform(0.25, 0.55) * (0.5 + share), 0.55 * width, -0.4 * turn,
            depth - 1,
        )  # fmt: skip
    return vessels


def draw_vessels(canvas: Canvas, rng: np.random.Generator, beaded: bool = False) -> None:
    """Draws arteries and veins: arcades from the optic disc around the fovea, and nasal vessels.

    Args:
        canvas: Changed in place.
        rng: Source of all randomness.
        beaded: Whether the veins have the alternating width of venous beading.
    """
    toward = np.sign(canvas.fovea[0] - canvas.disc[0])
    start = np.array(canvas.disc)
    for vein in (False, True):
        plane = np.zeros(canvas.shape, np.float32)
        width = rng.uniform(0.022, 0.028) if vein else rng.uniform(0.014, 0.019)
        for up in (-1.0, 1.0):
            steep = rng.uniform(0.95, 1.25) + (0.12 if vein else 0.0)
            arcade = np.arctan2(up * np.sin(steep), toward * np.cos(steep))
            nasal = np.arctan2(up * np.sin(rng.uniform(0.5, 1.0)), -toward)
            for angle, length, bend in ((arcade, 1.5, -up * toward * rng.uniform(1.1, 1.5)), (nasal, 0.7, 0.0)):
                for path, widths in _grow(rng, start, angle, length, width, bend, 2):
                    wave = 1.0 + 0.55 * np.sin(np.arange(len(path)) * 1.9) if beaded and vein else 1.0
                    draw_path(plane, canvas, path, widths * wave)
        plane = cv2.GaussianBlur(plane, (0, 0), max(0.0022 * canvas.radius_px, 0.4))
        canvas.blend(plane, np.array([0.78, 0.58, 0.66]) if vein else np.array([0.90, 0.70, 0.75]))


def render_photograph(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Renders the photograph as a camera stores it: slightly blurred, with sensor noise, black outside the field of view.

    Returns:
        uint8 RGB [h, w, 3].
    """
    image = cv2.GaussianBlur(canvas.image, (0, 0), rng.uniform(0.3, 0.55) * canvas.shape[0] / 384.0 + 0.1)
    image = image + rng.normal(scale=0.008, size=image.shape).astype(np.float32)
    edge = cv2.GaussianBlur(canvas.fov.astype(np.float32), (0, 0), 0.8)
    return np.round(255.0 * np.clip(image, 0.0, 1.0) * edge[..., None]).astype(np.uint8)
