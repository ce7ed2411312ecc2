"""Writes small files in DiaRetDB1's layout, with the release's peculiarities."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
from data.idrid_files import photograph

HEAD = (
    '<?xml version="1.0" standalone="no"?>\n<!DOCTYPE imgannotool SYSTEM "imgannotool.dtd">\n<imgannotooldata>\n<header>'
    '<creator>Nobody</creator><software version="0.2">by hand</software></header>\n<markinglist>\n'
)
TAIL = "</markinglist>\n</imgannotooldata>\n"


def circle(x: int, y: int, radius: int) -> str:
    return f'<circleregion>{_centroid(x, y)}<radius direction="x">{radius}</radius></circleregion>'


def ellipse(x: int, y: int, first: int, second: int, angle: int) -> str:
    radii = f'<radius direction="x">{first}</radius><radius direction="y">{second}</radius>'
    return f"<ellipseregion>{_centroid(x, y)}{radii}<angle>{angle}</angle></ellipseregion>"


def polygon(*points: tuple[int, int]) -> str:
    """The centroid lies outside the points' box: who takes it for a vertex gets another region."""
    vertices = "".join(f"<coords2d>{x},{y}</coords2d>" for x, y in (*points, points[0]))
    return f"<polygonregion>{_centroid(1, 1)}{vertices}</polygonregion>"


def _centroid(x: int, y: int) -> str:
    return f"<centroid><coords2d>{x},{y}</coords2d></centroid>"


def marking(region: str, confidence: str, kind: str) -> str:
    point = "<representativepoint><coords2d>1,1</coords2d></representativepoint>"
    end = f"<confidencelevel>{confidence}</confidencelevel><markingtype>{kind}</markingtype>"
    return f"<marking>{region}{point}{end}</marking>\n"


def write_markings(path: Path, *markings: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + "".join(markings) + TAIL)
    return path


def write_set(root: Path, images: Mapping[int, Sequence[Sequence[str]]], split: str = "train", seed: int = 0) -> None:
    """Writes photographs, the markings of the four experts of each, in both forms, and the two lists of the split."""
    lines: dict[str, list[str]] = {"": [], "_plain": []}
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number, experts in images.items():
        name = f"diaretdb1_image{number:03d}"
        cv2.imwrite(str(root / "images" / f"{name}.png"), photograph(seed + number))
        for suffix, rows in lines.items():
            files = [f"groundtruth/{name}_{expert:02d}{suffix}.xml" for expert in range(1, len(experts) + 1)]
            for file, markings in zip(files, experts, strict=True):
                write_markings(root / file, *markings)
            rows.append(" ".join([f"images/{name}.png", *files]))
    for suffix, rows in lines.items():
        (root / f"ddb1_v02_01_{split}{suffix}.txt").write_text("".join(f"{row}\n" for row in rows))
