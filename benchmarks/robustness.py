"""Evaluates held-out IDRiD images after changes of brightness, colour, focus or resolution.

    python -m benchmarks.robustness --checkpoint=runs/shipped --root=IDRiD --images=IDRiD_03,IDRiD_43

Prints for each change the pooled Dice at the operating points, the number of images that keep their grade, and the
number that get a warning. The changes are a rough substitute for images of other cameras, which IDRiD does not have.
Name only held-out images. The bundled model has none: it was trained on all of them.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

import pldmlt_jax as pj
from benchmarks.full_size import pooled_line, score, training_records
from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.evaluation.tta import VIEWS

Change = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h w 3"]]

MIDDLE = 128.0
"""The grey level that a change of contrast does not move."""


def lit(red: float, green: float, blue: float) -> Change:
    return lambda image: (image * np.array([red, green, blue])).clip(0, 255).astype(np.uint8)


def contrasted(factor: float) -> Change:
    """Changes the contrast inside the field of view only. The border has to stay dark."""

    def change(image: np.ndarray) -> np.ndarray:
        changed = ((image - MIDDLE) * factor + MIDDLE).clip(0, 255).astype(np.uint8)
        return np.where(field_of_view(image)[..., None], changed, image)

    return change


def blurred(share: float) -> Change:
    """Blurs with a Gaussian whose standard deviation is a share of the image's height."""
    return lambda image: cv2.GaussianBlur(image, (0, 0), share * image.shape[0])


def coarse(share: float) -> Change:
    """Reduces the image to a share of its height, then enlarges it again."""

    def change(image: np.ndarray) -> np.ndarray:
        small = cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)

    return change


def compressed(quality: int) -> Change:
    """Compresses and decompresses the image as JPEG."""

    def change(image: np.ndarray) -> np.ndarray:
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))

    return change


CHANGES: dict[str, Change] = {
    "unchanged": lambda image: image,
    "0.6 times as bright": lit(0.6, 0.6, 0.6),
    "1.4 times as bright": lit(1.4, 1.4, 1.4),
    "redder (red 1.2, blue 0.7)": lit(1.2, 1.0, 0.7),
    "paler (red 0.8, blue 1.3)": lit(0.8, 1.0, 1.3),
    "contrast 0.7": contrasted(0.7),
    "blurred by 0.2 % of the height": blurred(0.002),
    "half the resolution": coarse(0.5),
    "JPEG quality 30": compressed(30),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--images", required=True)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--tta", default="none", choices=tuple(VIEWS))
    arguments = parser.parse_args()
    predictor = pj.load(arguments.checkpoint, inference=pj.InferenceConfig(tta=arguments.tta))
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
