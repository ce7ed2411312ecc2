"""The kinds of files that the fuzzer damages: whole examples of each, and what reads it."""

import csv
import dataclasses
import functools
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from data.diaretdb1_files import HEAD, TAIL, circle, ellipse, marking, polygon
from data.idrid_files import HEADER, photograph

from pldmlt_jax.cli.flags import parse
from pldmlt_jax.config import Config, DataConfig, to_dict
from pldmlt_jax.config_checks import validate_config
from pldmlt_jax.data.datasets import ddr, diaretdb1, folder, idrid
from pldmlt_jax.data.preprocessing.expert_markings import PLANES, count_votes, read_markings
from pldmlt_jax.data.preprocessing.geometry import read_image
from pldmlt_jax.data.preprocessing.masks import read_mask
from pldmlt_jax.data.preprocessing.prepare import prepare_image
from pldmlt_jax.data.splits.folds import read_folds
from pldmlt_jax.evaluation.inference import saved_config
from pldmlt_jax.evaluation.operating_points import OperatingPoint, OperatingPoints, read_points
from pldmlt_jax.io.files import read_json
from pldmlt_jax.models.weights.load import read_tensors
from pldmlt_jax.training.log import read_log
from pldmlt_jax.workflow.stages.pseudo_label import read_label_table

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
SHARED = ROOT.parent / "shared"
SHAPE = (60, 90)


class Kind(NamedTuple):
    """One kind of file: what it is called, whole examples of it, what reads it, and words that it is made of."""

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    words: tuple[bytes, ...] = ()


def encoded(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()


def lesion() -> np.ndarray:
    mask = np.zeros((*SHAPE, 3), np.uint8)
    mask[20:24, 30:36] = (0, 0, 255)
    return mask


def real(pattern: str, most_bytes: int = 400_000) -> list[bytes]:
    """The smallest real file of a pattern, where it is small enough to be mutated many times."""
    found = sorted((path.stat().st_size, path) for path in SHARED.glob(pattern))[:1]
    return [path.read_bytes() for size, path in found if size <= most_bytes]


def jpegs() -> list[bytes]:
    picture = photograph(1)
    progressive = encoded(".jpg", picture, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    return [encoded(".jpg", picture), progressive, *real("data/IDRiD/B*/1*/a*/*.jpg")]


def pngs() -> list[bytes]:
    picture = photograph(2)
    with_alpha = np.dstack([picture, np.full(SHAPE, 255, np.uint8)])
    return [encoded(".png", image) for image in (picture, picture.astype(np.uint16) * 257, with_alpha, lesion()[..., 2])]


def others(suffix: str) -> list[bytes]:
    """Of the formats that photographs seldom have."""
    return [encoded(suffix, photograph(4)), encoded(suffix, lesion())]


def tiffs() -> list[bytes]:
    return [
        encoded(".tif", lesion()), encoded(".tif", lesion()[..., 2], cv2.IMWRITE_TIFF_COMPRESSION, 1),
        *real("data/IDRiD/A*/2*/a*/*/*.tif"),
    ]  # fmt: skip


def xmls() -> list[bytes]:
    marks = [circle(20, 20, 5), ellipse(40, 30, 8, 4, 30), polygon((10, 10), (30, 12), (20, 40))]
    text = HEAD + "".join(marking(mark, "High", "Haemorrhages") for mark in marks) + TAIL
    return [text.encode(), text.encode("utf-16")]


def table(header: list[str], *rows: list[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


IMAGES = [f"IDRiD_{i:02d}" for i in range(1, 6)]
GRADES = table(HEADER.split(","), *[[name, i % 5, 0] for i, name in enumerate(IMAGES)])


def read_picture(path: Path) -> None:
    prepare_image(read_image(path), DataConfig(), 64)


def read_markings_and_draw(path: Path) -> None:
    assert count_votes([read_markings(path)], SHAPE).shape == (*SHAPE, len(PLANES))


def in_folder(name: str, files: dict[str, bytes], read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Reads a file where its set has it: under that name in a folder that holds these files as well."""

    def read_there(path: Path) -> Any:
        with tempfile.TemporaryDirectory(dir=path.parent) as root:
            for other, content in files.items():
                (Path(root) / other).parent.mkdir(parents=True, exist_ok=True)
                (Path(root) / other).write_bytes(content)
            place = Path(root) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
            return read(Path(root))

    return read_there


def read_config_file(path: Path) -> None:
    arguments = parse(["main.py", f"--config={path}"], ("run",))
    assert arguments is not None
    validate_config(arguments.config)


PLAIN = (b"..", b"\0", b"'", b'"', b"\xff\xfe", b"9" * 400, b"-1", b"1e999", b"nan", b"\r", b"A" * 5000)
IMAGE_FOLDER = {f"images/{name}.png": b"x" for name in IMAGES}

KINDS: dict[str, Kind] = {
    "jpeg": Kind("a.jpg", jpegs, read_picture, (b"\xff\xd8", b"\xff\xda", b"\xff\xc2", b"\xff\xff", b"\xff\xd9")),
    "png": Kind("a.png", pngs, read_picture, (b"IHDR", b"IDAT", b"IEND", b"PLTE", b"acTL", b"eXIf")),
    "mask_png": Kind("a.png", pngs, lambda path: read_mask(path, SHAPE, "upper_half"), (b"IHDR", b"IDAT", b"tRNS")),
    "tiff": Kind("a.tif", tiffs, lambda path: read_mask(path, SHAPE), (b"II*\0", b"MM\0*", b"II+\0", b"\x42\x01")),
    "bmp": Kind("a.bmp", lambda: [encoded(".bmp", photograph(3))], read_picture, (b"BM",)),
    **{
        name: Kind(f"a.{name}", functools.partial(others, f".{name}"), read_picture, words)
        for name, words in (
            ("webp", (b"RIFF", b"VP8X", b"VP8L", b"ANIM")),
            ("gif", (b"GIF89a", b"!\xf9", b";")),
            ("ppm", (b"P6", b"P4", b"#")),
            ("jp2", (b"jP  ", b"ihdr", b"\xff\x4f\xff\x51")),
            ("avif", (b"ftyp", b"ispe", b"av01", b"iloc")),
        )
    },
    "grades_csv": Kind("grades.csv", lambda: [GRADES], idrid.read_grade_table, PLAIN),
    "folder_csv": Kind(
        "grades.csv",
        lambda: [table(["image", "grade"], *[[name, 1] for name in IMAGES]), b"id_code;level\nIDRiD_01;2.0\n"],
        in_folder("grades.csv", IMAGE_FOLDER, folder.list_grading),
        (b";", b"\t", *PLAIN),
    ),
    "folds_csv": Kind(
        "folds.csv",
        lambda: [table(["set", "image", "fold"], *[["idrid_s", name, i] for i, name in enumerate(IMAGES)])],
        lambda path: read_folds(path, [("idrid_s", name) for name in IMAGES], 5),
        PLAIN,
    ),
    "pseudo_labels_csv": Kind(
        "pseudo_labels.csv",
        lambda: [table(["image", "before", "after", "true_grade"], *[[name, 1, 2, ""] for name in IMAGES])],
        read_label_table,
        PLAIN,
    ),
    "true_grades_csv": Kind(
        "true.csv",
        lambda: [table(["image", "dr_grade"], *[[name, 1] for name in IMAGES])],
        idrid._read_extra_grades,
        PLAIN,
    ),
    "ddr_list": Kind("train.txt", lambda: [b"a.jpg 0\nb.jpg 5\nc.jpg 3\n"], ddr.read_grade_list, PLAIN),
    "diaretdb1_list": Kind(
        "ddb1_v02_01_train.txt",
        lambda: [b"images/a.png g/a1.xml g/a2.xml g/a3.xml g/a4.xml\nimages/b.png g/a1.xml g/a2.xml g/a3.xml g/a4.xml\n"],
        in_folder(
            "ddb1_v02_01_train.txt",
            dict.fromkeys(("images/a.png", "images/b.png", "g/a1.xml", "g/a2.xml", "g/a3.xml", "g/a4.xml"), b"x"),
            diaretdb1.list_photographs,
        ),
        PLAIN,
    ),
    "xml": Kind(
        "a.xml",
        xmls,
        read_markings_and_draw,
        (b"<!DOCTYPE x [", b'<!ENTITY a "b">', b"]>", b"&a;", b"<a>" * 40, b"<![CDATA[", b"999999999999", b"-5", b"utf-7"),
    ),
    "safetensors": Kind(
        "a.safetensors",
        lambda: [(FIXTURES / "vgg16_narrow.safetensors").read_bytes()],
        read_tensors,
        (b'"F8_E4M3"', b'"BF16"', b'"I64"', b"[0,0]", b"-1", b"18446744073709551615"),
    ),
    "pth": Kind(
        "a.pth",
        lambda: [(FIXTURES / name).read_bytes() for name in ("tensors.pth", "tensors_legacy.pth")],
        read_tensors,
        (
            b"cos\nsystem\n",
            b"cbuiltins\neval\n",
            b"R",
            b"b",
            b"\x93",
            b"r\xff\xff\xff\x7f",
            b"../",
            b"2",
            b"\x86",
            b"t",
            b"0",
        ),
    ),
    "h5": Kind(
        "a.h5",
        lambda: [(FIXTURES / "vgg16_keras_narrow.h5").read_bytes()],
        read_tensors,
        (b"layer_names", b"weight_names", b"TREE", b"HEAP", b"SNOD", b"OHDR"),
    ),
    "operating_points": Kind(
        "operating_points.json",
        lambda: [json.dumps(dataclasses.asdict(OperatingPoints(lesions={"MA": OperatingPoint()}))).encode()],
        lambda path: read_points(path.parent, 3),
        (b"null", b"NaN", b"{}", b"[]", b'"'),
    ),
    "config_py": Kind(
        "config.py",
        lambda: [path.read_bytes() for path in (ROOT / "configs").glob("*.py")],
        read_config_file,
        (b"None", b"1e999", b"-1", b"()", b"Config()", b"raise SystemExit\n", b"=", b'""', b"float('nan')", b"True"),
    ),
    "config_json": Kind(
        "config.json",
        lambda: [json.dumps(to_dict(Config())).encode()],
        lambda path: validate_config(saved_config(path.parent)),
        (b"{}", b"[]", b"null", b"[" * 3000, b"1e999", b"NaN", b"-1", b'"seed"', b"true"),
    ),
    "json": Kind("stages.json", lambda: [b'{"train": {"begun": "1", "complete": "2"}}'], read_json, (b"[" * 9000, b"NaN")),
    "log": Kind(
        "log.jsonl",
        lambda: [b'{"step": 1, "phase": "theta", "loss": 0.5}\n' * 5],
        read_log,
        (b"[" * 9000, b"null", b"NaN", b"\n\n", b"[1]\n"),
    ),
}
