"""Reads DiaRetDB1's markings, which are regions with a confidence by four experts, and fuses them to masks.

Each expert votes for a pixel with the highest confidence among the regions that cover it: 3 for high, 2 for medium, 1 for
low, 0 for none. The agreement is the mean over the experts divided by 3. The release's own masks are the pixels with an
agreement of at least 0.75. Votes are integers because sums of thirds miss 0.75 by rounding.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from pldmlt_jax.data.preprocessing.geometry import read_bytes
from pldmlt_jax.errors import DataError
from pldmlt_jax.types import LESIONS

KINDS: dict[str, str | None] = {
    "Red_small_dots": "MA",
    "Haemorrhages": "HE",
    "Hard_exudates": "EX",
    "Soft_exudates": "SE",
    "Disc": "OD",
    "IRMA": None,
    "Neovascularisation": None,
    "Fundus_area": None,
}
"""The plane of each `markingtype`; None for findings that are not used."""

PLANES = (*LESIONS, "OD")
"""Order of the last axis of the votes."""

CONFIDENCES = {"High": 3, "Medium": 2, "Low": 1}
"""Votes for each `confidencelevel`."""

MOST_VOTES = 3

MAX_XML_BYTES, MAX_XML_DEPTH, MAX_COORDINATE = 2**24, 32, 10**6
"""Limits far above anything in the release."""

DISC_AGREEMENT = 0.5
"""Agreement needed for the optic disc, which only supports the refinement; half leaves out the few mistyped regions."""

Point = tuple[int, int]


@dataclass(frozen=True)
class Ellipse:
    """An ellipse or a circle. Coordinates are pixels (column, row) from 0; semi-axes are in pixels."""

    centre: Point
    semi_axes: tuple[int, int]
    angle_deg: int = 0  # from +x to the first semi-axis, counter-clockwise as seen on the screen


@dataclass(frozen=True)
class Polygon:
    """A polygon. Coordinates are pixels (column, row) from 0."""

    vertices: tuple[Point, ...]


@dataclass(frozen=True)
class Marking:
    """A region that one expert marked."""

    region: Ellipse | Polygon
    votes: int
    plane: str | None  # see KINDS


def read_markings(path: Path) -> list[Marking]:
    """Reads the regions that one expert marked in one image.

    Coordinates in the file count from 1. A polygon's centroid is not one of its vertices.

    Args:
        path: The expert's XML file.

    Returns:
        The regions; an empty list if the expert found nothing.

    Raises:
        DataError: The file is missing or is not such an XML file, or has an unknown shape, kind, confidence or number.
    """
    content = read_bytes(path)
    try:
        _require_plain_xml(content)
        root = ElementTree.fromstring(content)
        if root.find("markinglist") is None:
            raise ValueError("no markinglist")
        return [_marking(element) for element in root.iterfind("markinglist/marking")]
    except (ElementTree.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(path, str(error), "DiaRetDB1's markings as released", "get the file again") from error


def _require_plain_xml(content: bytes) -> None:
    """Parses the file in its own encoding without keeping anything, so that no entity can be declared or expanded.

    Raises:
        ValueError: The file declares an entity, is nested too deeply, or is too large.
        ExpatError: The file is not XML.
    """
    if len(content) > MAX_XML_BYTES:
        raise ValueError(f"{len(content)} bytes, but markings have at most {MAX_XML_BYTES}")
    depth = 0
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise ValueError("XML that declares entities or other things; the released markings only name a document type")

    def doctype(_name: str, _system: object, _public: object, has_declarations: int) -> None:
        if has_declarations:
            refuse()

    def descend(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_XML_DEPTH:
            raise ValueError(f"elements nested more than {MAX_XML_DEPTH} deep")

    def ascend(*_: object) -> None:
        nonlocal depth
        depth -= 1

    parser.StartDoctypeDeclHandler, parser.EntityDeclHandler = doctype, refuse
    parser.StartElementHandler, parser.EndElementHandler = descend, ascend
    parser.Parse(content, True)


def _marking(element: ElementTree.Element) -> Marking:
    kind, confidence = _text(element, "markingtype"), _text(element, "confidencelevel")
    if kind not in KINDS:
        raise ValueError(f"markingtype {kind!r}, not one of {', '.join(KINDS)}")
    if confidence not in CONFIDENCES:
        raise ValueError(f"confidencelevel {confidence!r}, not one of {', '.join(CONFIDENCES)}")
    return Marking(_region(element), CONFIDENCES[confidence], KINDS[kind])


def _region(marking: ElementTree.Element) -> Ellipse | Polygon:
    for shape in marking:
        if shape.tag == "polygonregion":
            vertices = tuple(_point(point) for point in shape.findall("coords2d"))
            if len(vertices) < 3:
                raise ValueError(f"a polygon of {len(vertices)} points")
            return Polygon(vertices)
        if shape.tag in ("circleregion", "ellipseregion"):
            centre = _point(shape.find("centroid/coords2d"))
            radii = {radius.get("direction"): _number(radius) for radius in shape.findall("radius")}
            first = radii.get("x")
            second = radii.get("y") if shape.tag == "ellipseregion" else first
            if not first or not second:
                raise ValueError(f"{shape.tag} without its radius")
            angle = shape.find("angle")
            return Ellipse(centre, (first, second), 0 if angle is None else _number(angle))
    raise ValueError("a marking that is not a circle, ellipse or polygon: " + ", ".join(child.tag for child in marking))


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _number(element: ElementTree.Element) -> int:
    return _check_range(int(element.text or ""))


def _check_range(number: int) -> int:
    if abs(number) > MAX_COORDINATE:
        raise ValueError(f"the number {number}, larger than {MAX_COORDINATE}")
    return number


def _point(element: ElementTree.Element | None) -> Point:
    x, y = (_check_range(int(number)) for number in ((element.text if element is not None else "") or "").split(","))
    return x - 1, y - 1


def rasterise(region: Ellipse | Polygon, shape: tuple[int, int]) -> tuple[tuple[slice, slice], Bool[np.ndarray, "y x"]]:
    """Finds the pixels of an image that a region covers.

    A pixel is covered if its centre is inside the region or on its border; a polygon also covers the pixels of its outline.

    Args:
        region: The region, which may extend beyond the image.
        shape: Height and width of the image in pixels.

    Returns:
        The region's bounding box in the image, as slices of rows and columns, and bool [y, x]: the covered pixels in it.
    """
    if isinstance(region, Polygon):
        low, high = np.min(region.vertices, axis=0), np.max(region.vertices, axis=0)
    else:
        low, high = (np.array(region.centre) + sign * max(region.semi_axes) for sign in (-1, 1))
    x0, y0 = (int(v) for v in np.maximum(low, 0))
    x1, y1 = (int(v) for v in np.maximum(np.minimum(high + 1, (shape[1], shape[0])), (x0, y0)))
    inside = _polygon(region, x0, y0, x1, y1) if isinstance(region, Polygon) else _ellipse(region, x0, y0, x1, y1)
    return (slice(y0, y1), slice(x0, x1)), inside


def _polygon(region: Polygon, x0: int, y0: int, x1: int, y1: int) -> Bool[np.ndarray, "y x"]:
    inside = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(inside, [np.array(region.vertices, np.int32) - np.array((x0, y0), np.int32)], 1)
    return inside.astype(bool)


def _ellipse(region: Ellipse, x0: int, y0: int, x1: int, y1: int) -> Bool[np.ndarray, "y x"]:
    x, y = np.arange(x0, x1) - region.centre[0], (np.arange(y0, y1) - region.centre[1])[:, None]
    cos, sin = math.cos(math.radians(region.angle_deg)), math.sin(math.radians(region.angle_deg))
    along, across = x * cos - y * sin, x * sin + y * cos  # y counts downwards
    return (along / region.semi_axes[0]) ** 2 + (across / region.semi_axes[1]) ** 2 <= 1 + 1e-9


def count_votes(
    experts: Sequence[Sequence[Marking]], shape: tuple[int, int], *, weighted: bool = True
) -> UInt8[np.ndarray, "h w 5"]:
    """Counts the experts' votes for each pixel.

    Args:
        experts: The markings of each expert, including those who found nothing.
        shape: Height and width of the image in pixels.
        weighted: Whether to weight by confidence; otherwise each region counts as one of high confidence.

    Returns:
        uint8 [h, w, 5] in the order of PLANES, in 0..MOST_VOTES * number of experts.
    """
    total = np.zeros((*shape, len(PLANES)), np.uint8)
    for markings in experts:
        own = np.zeros_like(total)
        for marking in markings:
            if marking.plane is not None:
                place, inside = rasterise(marking.region, shape)
                plane = own[(*place, PLANES.index(marking.plane))]
                given = np.uint8(marking.votes if weighted else MOST_VOTES)
                np.maximum(plane, inside * given, out=plane)
        total += own
    return total


def required_votes(agreement: float, num_experts: int) -> int:
    """Returns the smallest sum of votes that reaches an agreement in [0, 1]; at least 1."""
    return max(math.ceil(agreement * MOST_VOTES * num_experts - 1e-6), 1)
