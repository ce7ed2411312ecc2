"""Decides what is worth reporting about one image and its masks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from pldmlt_jax.data.preprocessing.field_of_view import MIN_SHARE
from pldmlt_jax.data.preprocessing.masks import brightest_channel, mask_levels
from pldmlt_jax.errors import ErrorGroup, UserError

SEVERITIES = ("error", "warning", "note")
"""An error stops `prepare`, a warning needs a look, and a note says how a file is read that others read wrongly."""

DARK = 20
"""A field of view with a lower mean brightness, of 255, shows hardly anything."""

LARGE_SHARE = 0.5
"""A lesion mask that covers a larger share of the field of view is probably inverted."""

OUTSIDE_SHARE = 0.02
"""Share of a mask that may be outside the field of view, because outlines are coarse."""


@dataclass(frozen=True)
class Finding:
    """Something to report about one file."""

    file: str
    kind: str
    severity: str  # one of SEVERITIES
    found: str
    expected: str
    action: str


def error_findings(error: UserError, kind: str) -> list[Finding]:
    """Turns an error, or each error of a group, into a finding."""
    errors = error.errors if isinstance(error, ErrorGroup) else (error,)
    return [Finding(e.where, kind, "error", e.found, e.expected, e.action) for e in errors]


def image_findings(path: Path, image: UInt8[np.ndarray, "h w 3"], fov: Bool[np.ndarray, "h w"]) -> Iterator[Finding]:
    """Yields findings about an image: too dark, or hardly any field of view.

    Args:
        path: The image file.
        image: RGB, 0..255.
        fov: The field of view.
    """
    brightness = float(image.max(axis=-1)[fov].mean())
    if brightness < DARK:
        found = f"mean brightness {brightness:.0f} of 255"
        yield Finding(str(path), "dark", "warning", found, "a well-lit photograph", "look at it")
    if fov.mean() < 2 * MIN_SHARE:
        found = f"a field of view of {100 * fov.mean():.0f} % of the image"
        yield Finding(str(path), "field_of_view", "warning", found, "a fundus photograph", "look at it")


def mask_findings(
    path: Path, pixels: np.ndarray, mask: Bool[np.ndarray, "h w"], fov: Bool[np.ndarray, "h w"], rule: str
) -> Iterator[Finding]:
    """Yields findings about a mask: grey levels, no lesion, inverted, outside the field of view, or easily misread.

    Args:
        path: The mask file.
        pixels: The file's content, [h, w] or [h, w, channels] with channels in OpenCV's order.
        mask: The mask that was read from it.
        fov: The field of view of its image.
        rule: The key of MASK_RULES that was applied.
    """
    file, levels, num_marked = str(path), mask_levels(brightest_channel(pixels)), np.count_nonzero(mask)
    if len(levels) > 2:
        how = {"upper_half": "half the maximum and above counts as lesion", "not_black": "all but black is lesion"}[rule]
        found = f"{len(levels)} grey levels, {levels[0]} to {levels[-1]}"
        yield Finding(file, "mask_levels", "warning", found, "black and one other level", f"look at it: {how}")
    if not num_marked and rule == "not_black":
        yield Finding(file, "mask_black", "warning", "all black", "no file if there is no lesion", "look at it")
    if not num_marked and rule == "upper_half":
        expected, action = "lesions, or all black if there are none", "nothing: it is read as no lesion of this kind"
        yield Finding(file, "mask_black", "note", "all black", expected, action)
    if mask[fov].mean() > LARGE_SHARE:
        found = f"{100 * mask[fov].mean():.0f} % of the field of view is set"
        yield Finding(file, "mask_inverted", "warning", found, "lesions white, background black", "invert it")
    elif (outside := np.count_nonzero(mask & ~fov)) > OUTSIDE_SHARE * max(num_marked, 1):
        found = f"{outside} of {num_marked} marked pixels are outside the field of view"
        action = "check that the mask belongs to this photograph"
        yield Finding(file, "mask_outside", "warning", found, "lesions inside the field of view", action)
    yield from _format_notes(file, pixels, len(levels))


def _format_notes(file: str, pixels: np.ndarray, num_levels: int) -> Iterator[Finding]:
    """Yields notes on properties of a mask file that other programs misread."""
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        found = f"alpha from {pixels[..., 3].min()} to {pixels[..., 3].max()}"
        yield Finding(file, "mask_alpha", "note", found, "no alpha", "nothing: alpha is ignored")
    if pixels.dtype == np.uint8 and num_levels > 1:
        grey = cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2GRAY) if pixels.ndim == 3 else pixels
        if (maximum := int(grey.max())) < 128:
            found = f"{maximum} at most when read in grey"
            yield Finding(file, "mask_dark", "note", found, "255", "nothing: any colour counts as lesion")


def disc_findings(
    path: Path, image: UInt8[np.ndarray, "h w 3"], fov: Bool[np.ndarray, "h w"], disc: Bool[np.ndarray, "h w"]
) -> Iterator[Finding]:
    """Yields a finding if the marked optic disc is darker than the field of view: the marks are of another photograph.

    Args:
        path: The image file.
        image: RGB, 0..255.
        fov: The field of view.
        disc: The marked disc.
    """
    green = image[..., 1]  # lesions and vessels are dark in it, the disc is bright
    inside, field_mean = float(green[disc].mean()), float(green[fov].mean())
    if inside < field_mean:
        found = f"disc marks where green is {inside:.0f}, against {field_mean:.0f} in the whole field of view"
        expected = "disc marks on the bright disc"
        action = "compare with the release: images and markings may be renumbered"
        yield Finding(str(path), "disc_marks", "warning", found, expected, action)
