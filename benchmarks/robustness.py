"""How held-out IDRiD photographs are marked and graded when their light, colour, focus or resolution changes.

    python -m benchmarks.robustness --root=IDRiD --images=IDRiD_03,IDRiD_43

Prints pooled Dice at the operating points for each change, and how many photographs keep the grade that they have unchanged.
The changes are rough stand-ins for other cameras, of which IDRiD has none; they are no substitute for photographs by one.
Name only photographs that the network has not learnt from.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

import pldmlt_jax as pj
from benchmarks.full_size import pooled_line, score, training_records

MIDDLE = 128.0
"""Grey that contrast leaves alone."""


def lit(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: (image * factor).clip(0, 255).astype(np.uint8)


def tinted(red: float, green: float, blue: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: (image * np.array([red, green, blue])).clip(0, 255).astype(np.uint8)


def contrasted(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """Inside the field of view alone: a brighter border would be no border."""

    def change(image: np.ndarray) -> np.ndarray:
        changed = ((image - MIDDLE) * factor + MIDDLE).clip(0, 255).astype(np.uint8)
        return np.where(image.max(axis=2, keepdims=True) > 20, changed, image)

    return change


def blurred(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """By a Gaussian whose standard deviation is a share of the image's height."""
    return lambda image: cv2.GaussianBlur(image, (0, 0), share * image.shape[0])


def coarse(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """Taken at a share of the height, then enlarged again."""

    def change(image: np.ndarray) -> np.ndarray:
        small = cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)

    return change


def compressed(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    """As JPEG."""

    def change(image: np.ndarray) -> np.ndarray:
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))

    return change


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "unchanged": lambda image: image,
    "0.6 times as bright": lit(0.6),
    "1.4 times as bright": lit(1.4),
    "redder (red 1.2, blue 0.7)": tinted(1.2, 1.0, 0.7),
    "paler (red 0.8, blue 1.3)": tinted(0.8, 1.0, 1.3),
    "contrast 0.7": contrasted(0.7),
    "blurred by 0.2 % of the height": blurred(0.002),
    "half the resolution": coarse(0.5),
    "JPEG quality 30": compressed(30),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--images", required=True)
    parser.add_argument("--checkpoint", type=Path, help="default: the network that ships")
    arguments = parser.parse_args()
    predictor = pj.load(arguments.checkpoint) if arguments.checkpoint else pj.load()
    records = training_records(arguments.root, arguments.images)
    images = [pj.read_image(record.image) for record in records]
    grades: list[int | None] = []
    for name, change in CHANGES.items():
        answers = [predictor.predict(change(image)) for image in images]
        grades = grades or [answer.grade for answer in answers]
        kept = sum(answer.grade == grade for answer, grade in zip(answers, grades, strict=True))
        warned = sum(bool(answer.warnings) for answer in answers)
        line = pooled_line([score(answer, record) for answer, record in zip(answers, records, strict=True)])
        print(f"{name}: {line}  same grade {kept}/{len(records)}  warned {warned}", flush=True)


if __name__ == "__main__":
    main()
