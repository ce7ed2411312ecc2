"""DiaRetDB1's markings: regions drawn by four experts, each with a confidence, and their fusion to masks.

Every expert votes for each pixel with the highest confidence among the regions that cover it: 3 for high, 2 for medium, 1
for low, 0 for none. The mean over the experts, relative to 3, is the agreement; the set's own masks are where it is at
least 0.75. Votes are whole numbers, for sums of thirds miss 0.75 by rounding.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

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
"""`markingtype` -> the plane that it belongs to, None for findings that are not ours."""

PLANES = (*LESIONS, "OD")
"""The order of the last axis of votes."""

CONFIDENCES = {"High": 3, "Medium": 2, "Low": 1}
"""`confidencelevel` -> votes."""

MOST_VOTES = 3

MAX_XML_BYTES, MAX_XML_DEPTH, MAX_COORDINATE = 2**24, 32, 10**6
"""Far beyond what any of the markings has."""

DISC_AGREEMENT = 0.5
"""Of the optic disc, which only supports the refinement: half of the votes leave out the few that are mistyped."""

Point = tuple[int, int]


@dataclass(frozen=True)
class Ellipse:
    """Or a circle. Coordinates are pixels (column, row) from 0; semi-axes are in pixels."""

    centre: Point
    semi_axes: tuple[int, int]
    angle_deg: int = 0  # from +x to the first semi-axis, counter-clockwise as seen on the screen


@dataclass(frozen=True)
class Polygon:
    """Coordinates are pixels (column, row) from 0."""

    vertices: tuple[Point, ...]


@dataclass(frozen=True)
class Marking:
    """One region of one expert."""

    region: Ellipse | Polygon
    votes: int
    plane: str | None  # see KINDS


def read_markings(path: Path) -> list[Marking]:
    """The regions that one expert marked in one image; an empty list is an expert who found nothing.

    Coordinates in the file count from 1; a polygon's centroid is no vertex of it.

    Raises:
        DataError: The file is missing or no such XML, or has an unknown shape, kind, confidence or number.
    """
    content = read_bytes(path)
    try:
        _require_plain_xml(content)
        root = ElementTree.fromstring(content)
        if root.find("markinglist") is None:
            raise ValueError("no markinglist")
        return [_marking(element) for element in root.iterfind("markinglist/marking")]
    except (ElementTree.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(path, str(error), "DiaRetDB1's markings as released", "fetch the file again") from error


def _require_plain_xml(content: bytes) -> None:
    """Goes through the file with nothing kept, in whatever encoding it is: no entity is declared, and so none expanded.

    Raises:
        ValueError: It declares one, is nested as no markings are, or is too large.
        ExpatError: It is no XML.
    """
    if len(content) > MAX_XML_BYTES:
        raise ValueError(f"{len(content)} bytes, where markings have less than {MAX_XML_BYTES}")
    depth = 0
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise ValueError("XML that declares entities or other things; the released markings name a document type at most")

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
    raise ValueError("a marking that is no circle, ellipse or polygon: " + ", ".join(child.tag for child in marking))


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _number(element: ElementTree.Element) -> int:
    return _within(int(element.text or ""))


def _within(number: int) -> int:
    if abs(number) > MAX_COORDINATE:
        raise ValueError(f"the number {number}, beyond {MAX_COORDINATE}")
    return number


def _point(element: ElementTree.Element | None) -> Point:
    x, y = (_within(int(number)) for number in ((element.text if element is not None else "") or "").split(","))
    return x - 1, y - 1


def rasterise(region: Ellipse | Polygon, shape: tuple[int, int]) -> tuple[tuple[slice, slice], Bool[np.ndarray, "y x"]]:
    """The pixels of an image whose centre lies inside a region or on its border; of a polygon also those of its drawn line.

    Args:
        region: May reach beyond the image.
        shape: Height and width of the image.

    Returns:
        The part of the image that bounds the region, as slices of rows and columns, and its covered pixels.
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
    """Votes for each of PLANES, summed over the experts; at most `MOST_VOTES` from each.

    Args:
        experts: The markings of each expert, also of those who found nothing.
        shape: Height and width of the image.
        weighted: By confidence; otherwise every region counts as one of high confidence.
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


def agreement_map(paths: Sequence[Path], shape: tuple[int, int], *, weighted: bool = True) -> Float[np.ndarray, "h w 5"]:
    """The experts' agreement in [0, 1] on MA, HE, EX, SE and the optic disc: a soft label of every pixel.

    Args:
        paths: The file of each expert.
        shape: Height and width of the image.
        weighted: By the experts' confidence, as the set does it.

    Raises:
        DataError: See `read_markings`.
    """
    total = count_votes([read_markings(path) for path in paths], shape, weighted=weighted)
    return (total / (MOST_VOTES * len(paths))).astype(np.float32)


def required_votes(agreement: float, num_experts: int) -> int:
    """The least sum of votes that reaches an agreement; never none at all."""
    return max(math.ceil(agreement * MOST_VOTES * num_experts - 1e-6), 1)
