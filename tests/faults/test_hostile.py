"""Files that are made to do harm are refused without doing it, and what came from file names is only text."""

import contextlib
import csv
import io
import os
import pickle
import struct
import time
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from data.diaretdb1_files import HEAD, TAIL
from data.idrid_files import photograph
from hypothesis import given, settings
from hypothesis import strategies as st

from pldmlt_jax.data.preprocessing.expert_markings import read_markings
from pldmlt_jax.data.preprocessing.geometry import IMAGE_SUFFIXES, read_image
from pldmlt_jax.data.preprocessing.image_headers import MAX_SCANS, declared_size
from pldmlt_jax.data.preprocessing.masks import read_mask
from pldmlt_jax.errors import CheckpointError, DataError
from pldmlt_jax.io.csv_files import read_rows, write_rows
from pldmlt_jax.io.files import write_json
from pldmlt_jax.models.weights.load import read_tensors
from pldmlt_jax.reporting.run_report import write_report
from tests.faults import fuzz

SHORT_FORM = 25


@pytest.mark.parametrize("name", fuzz.KINDS)
def test_damaged_files_end_in_a_result_or_in_one_error_that_names_them(name, tmp_path, monkeypatch):
    """A short form of `python -m tests.faults.fuzz`."""
    monkeypatch.chdir(tmp_path)
    for number in range(SHORT_FORM):
        outcome = fuzz.one(fuzz.KINDS[name], fuzz.content_of(name, 7, number), number, tmp_path)
        assert outcome.what != "failure", f"{number}: {outcome.detail}"


def test_seeds_of_the_fuzzer_are_read(tmp_path):
    """Else all that it makes of them would be refused for nothing."""
    for name, kind in fuzz.KINDS.items():
        for i, content in enumerate(fuzz.seeds_of(name)):
            outcome = fuzz.one(kind, content, i, tmp_path)
            small = name == "mask_png" and i == 0  # a photograph is a mask of many levels
            refused = outcome.what == "error" and (name in ("tiff", "config_py") or small)  # of another size; without data
            assert outcome.what == "result" or refused, f"{name} {i}: {outcome.detail}"


def bombs() -> dict[str, bytes]:
    """Small files that claim up to 60,000 x 60,000 pixels, a chunk of 3 GB, or more scans than anyone writes."""
    png, middle = (bytearray(cv2.imencode(".png", photograph(1))[1].tobytes()) for _ in range(2))
    for content, size in ((png, (60000, 60000)), (middle, (9000, 11000))):  # of the second Pillow only warns
        content[16:24] = struct.pack(">II", *size)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    chunk = bytearray(cv2.imencode(".png", photograph(1))[1].tobytes())
    place = chunk.index(b"IDAT")
    chunk[place - 4 : place] = struct.pack(">I", 3 * 10**9)
    bmp = bytearray(cv2.imencode(".bmp", photograph(1))[1].tobytes())
    bmp[18:26] = struct.pack("<ii", 60000, -60000)
    jpeg = bytearray(cv2.imencode(".jpg", photograph(1))[1].tobytes())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60000, 60000)
    entries = [(256, 4, 60000), (257, 4, 60000), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (279, 4, 9)]
    tiff = b"II*\0" + struct.pack("<IH", 8, len(entries))
    tiff += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries) + b"\0" * 4
    scans = cv2.imencode(".jpg", photograph(1))[1].tobytes()[:-2] + b"\xff\xda\0\x02" * (MAX_SCANS + 1) + b"\xff\xd9"
    gif = b"GIF89a" + struct.pack("<HHBBB", 60000, 60000, 0, 0, 0)
    gif += b"," + struct.pack("<HHHHB", 0, 0, 60, 60, 0) + b"\x02\x02\x4c\x01\0;"
    return {".png": bytes(png), "middle.png": bytes(middle), "chunk.png": bytes(chunk), ".bmp": bytes(bmp),
            ".jpg": bytes(jpeg), ".tif": tiff, "scans.jpg": scans, ".gif": gif,
            ".ppm": b"P6\n60000 60000\n255\n" + bytes(100)}  # fmt: skip


@pytest.mark.parametrize("name", bombs())
def test_image_bombs_are_refused_by_their_headers(tmp_path, name):
    path = tmp_path / f"bomb{name}"
    path.write_bytes(bombs()[name])
    begin = time.monotonic()
    for read in (read_image, lambda p: read_mask(p, (60, 90))):
        with pytest.raises(DataError, match=r"far too many pixels|11000 x 9000 px|a chunk that is cut off|scans") as error:
            read(path)
        assert error.value.where == str(path)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
@pytest.mark.parametrize("shape", [(70, 33, 3), (33, 70, 3)])
def test_declared_size_is_that_of_the_pixels(suffix, shape):
    content = cv2.imencode(suffix, np.full(shape, 100, np.uint8))[1].tobytes()
    assert declared_size(content) == shape[:2]


def test_files_that_are_no_files_and_names_that_are_no_names_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for path in (tmp_path / "pipe.jpg", tmp_path / "folder.jpg", tmp_path / ("x" * 300), Path("a\0b.jpg")):
        with pytest.raises(DataError):
            read_image(path)


ENTITIES = '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "inside",
    [ENTITIES, '<!ENTITY x SYSTEM "file:///etc/passwd">', '<!ENTITY % p "x">', "<!ELEMENT a ANY>"],
    ids=["expansion", "external", "parameter", "element"],
)
def test_xml_that_declares_anything_is_refused_in_any_encoding(tmp_path, inside, encoding):
    path = tmp_path / "a.xml"
    text = f"<?xml version='1.0' encoding='{encoding}'?><!DOCTYPE imgannotooldata [{inside}]>\n"
    path.write_bytes((text + HEAD.split(">", 2)[2] + TAIL).encode(encoding))
    with pytest.raises(DataError, match="declares entities or other things") as error:
        read_markings(path)
    assert error.value.where == str(path)


def test_deep_xml_is_refused(tmp_path):
    path = tmp_path / "deep.xml"
    path.write_text("<a>" * 200_000)
    with pytest.raises(DataError, match="nested"):
        read_markings(path)


class Harm:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


DEEP = b")" + b"2\x86" * 200
"""An empty tuple in a tuple, twice, and so on: small in memory, endless to whoever looks at every part."""

NESTED = b"\x80\x02" + DEEP + b"."
MEMO = b"\x80\x02}r\xff\xff\xff\x7f."

SET_KEY = b"\x80\x02}" + DEEP + b"Ns."
BYTES = b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"."


def tensor(key: bytes = b"U\x010", shape: bytes = b"K\x01", stride: bytes = b"K\x01") -> bytes:
    """The pickle of a tensor of one axis, as torch.save writes it, made of opcodes."""
    storage = b"(U\x07storagectorch\nFloatStorage\n" + key + b"U\x03cpuK\x01tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape + b"\x85" + stride + b"\x85tR"


def state_dict(value: bytes) -> bytes:
    return b"\x80\x02}U\x01w" + value + b"s."


HUGE = b"\x8a\x06" + (2**40).to_bytes(6, "little")
STORAGE_KEY = state_dict(tensor(key=DEEP))
TEXTS_FOR_NUMBERS = state_dict(tensor(shape=HUGE, stride=b"U\x01a"))


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_code_in_a_weight_file_is_refused_and_not_run(tmp_path, form):
    canary = tmp_path / "ran"
    for harm in (
        Harm(os.system, f"touch {canary}"), Harm(eval, f"open({str(canary)!r}, 'w')"), Harm(Path.touch, canary),
        Harm(getattr, "x", "upper"),
    ):  # fmt: skip
        pickled = pickle.dumps({"weight": harm}, 2)
        path = tmp_path / "a.pth"
        if form == "zip":
            archive(path, {"a/data.pkl": pickled, "a/version": b"3"})
        else:
            path.write_bytes(b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {})) + pickled)
        with pytest.raises(CheckpointError, match="not part of a tensor"):
            read_tensors(path)
        assert not canary.exists()


@pytest.mark.parametrize(
    "pickled",
    [NESTED, MEMO, SET_KEY, BYTES, STORAGE_KEY, TEXTS_FOR_NUMBERS],
    ids=["tuples", "memo", "key", "bytes", "storage", "texts"],
)
def test_pickles_that_would_take_for_ever_or_all_memory_are_refused_at_once(tmp_path, pickled):
    begin = time.monotonic()
    with contextlib.suppress(CheckpointError):  # the one with the memo is an empty dictionary, and so a state dict
        assert read_tensors(archive(tmp_path / "a.pth", {"a/data.pkl": pickled}))[0] == {}
    assert time.monotonic() - begin < 2


def test_names_of_storages_that_would_take_for_ever_are_refused_in_the_older_format(tmp_path):
    begin = time.monotonic()
    parts = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {}, {})]
    (tmp_path / "a.pth").write_bytes(b"".join([*parts, b"\x80\x02]" + DEEP + b"a."]))
    with pytest.raises(CheckpointError, match="not names"):
        read_tensors(tmp_path / "a.pth")
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("names", [1, 3, 5000])
def test_tensors_that_share_their_numbers_are_read_unless_all_do(tmp_path, names):
    numbers = np.arange(100_000, dtype="<f4")
    size = struct.pack("<I", numbers.size)
    again = b"".join(b"X" + struct.pack("<I", 5) + b"%05d" % i + b"h\x00s" for i in range(1, names))
    pickled = state_dict(tensor(shape=b"J" + size) + b"q\x00")[:-1] + again + b"."
    path = archive(tmp_path / "a.pth", {"a/data.pkl": pickled, "a/data/0": numbers.tobytes()})
    if names < 5:
        read = read_tensors(path)[0]
        assert len(read) == names and all((value == numbers).all() for value in read.values())
    else:
        with pytest.raises(CheckpointError, match="far larger than itself"):
            read_tensors(path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "\\\\host\\share"])
def test_archive_paths_that_climb_out_are_refused(tmp_path, name):
    whole = (Path(__file__).parents[1] / "fixtures" / "tensors.pth").read_bytes()
    path = tmp_path / "a.pth"
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"x")
    with pytest.raises(CheckpointError, match="leaves the archive"):
        read_tensors(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.pth"]


def test_compressed_and_overlapping_archives_are_refused(tmp_path):
    content = {"a/data.pkl": pickle.dumps({}, 2), "a/data/0": bytes(10**7)}
    with pytest.raises(CheckpointError, match="compressed"):
        read_tensors(archive(tmp_path / "a.pth", content, zipfile.ZIP_DEFLATED))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", pickle.dumps({}, 2))
        file.writestr("a/data/0", bytes(1000))
        for i in range(1, 50):  # the directory names the same bytes again and again
            again = zipfile.ZipInfo(f"a/data/{i}")
            again.CRC = 0
            again.header_offset, again.file_size, again.compress_size = file.infolist()[1].header_offset, 1000, 1000
            file.filelist.append(again)
            file.NameToInfo[again.filename] = again
    (tmp_path / "b.pth").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="larger than itself"):
        read_tensors(tmp_path / "b.pth")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
FORMULAS = st.builds(lambda start, text: start + text, st.sampled_from(["=", "+", "-", "@", "\t", "\r", "'=", "''-"]), TEXTS)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.one_of(TEXTS, FORMULAS), min_size=1, max_size=5))
def test_no_cell_is_a_formula_and_every_text_is_read_back(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    write_rows(path, [{"image": text, "n": -0.5} for text in texts])
    with open(path, encoding="utf-8", newline="") as file:
        cells = [row["image"] for row in csv.DictReader(file)]
    for cell in cells:
        if cell.startswith(("=", "@", "+", "-", "\t", "\r")):
            float(cell)  # a number is no formula
    assert [row["image"] for _, row in read_rows(path, ["image"])] == texts


@pytest.mark.parametrize(
    ("value", "written"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("-a", "'-a"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"), ("-0.5", "-0.5"),
     (-3, "-3"), ("+1e3", "+1e3"), ("IDRiD_01", "IDRiD_01"), ("'=x", "''=x"), ("it's", "it's")],
)  # fmt: skip
def test_cells_as_they_are_written(tmp_path, value, written):
    write_rows(tmp_path / "a.csv", [{"image": value}])
    assert (tmp_path / "a.csv").read_bytes().decode() == f"image\r\n{written}\r\n"


class Tags(HTMLParser):
    """Names of tags, and attributes that run something."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        runs = tuple(name for name, value in attrs if name.startswith("on") or str(value).startswith("javascript:"))
        if tag in ("script", "iframe", "object", "embed", "form", "base", "meta") or runs:
            self.found.append((tag, runs))


def run_folder(root: Path, name: str) -> Path:
    """A workdir whose images, grader and config are called that."""
    row = {"image": name, "true_grade": "", "before": 1, "after": 2, "changed": 1, "admissible": "2 3", "why": name,
           "vgg16/grade": 1, "vgg16/confidence": 0.5}  # fmt: skip
    write_rows(root / "pseudo_labels.csv", [row])
    write_rows(root / "per_image.csv", [{"image": name, "dice": 0.5, "predicted_grade": 1}])
    (root / "examples").mkdir()
    picture = cv2.imencode(".jpg", np.zeros((8, 12, 3), np.uint8))[1].tobytes()
    for view in ("image", "truth", "prediction"):
        (root / "examples" / f"{name}_{view}.jpg").write_bytes(picture)
    write_json(root / "config.json", {"name": name})
    write_json(root / "data.json", {"segmentation": {"splits": {name: [name]}, "bad_files": [name]}})
    write_json(root / "graders" / name / "metrics.json", {"grade/accuracy": 0.5})
    (root / "graders" / name / "log.jsonl").write_text('{"step": 1, "val/accuracy": 0.5}\n')
    (root / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    figures = ("seg/foreground/dice", "seg/micro_bg/dice", "seg/micro_bg/dice_all_background", "pseudo/n_known",
               "pseudo/majority",
               *(f"pseudo/{figure}_{when}" for figure in ("accuracy", "kappa") for when in ("before", "after")))  # fmt: skip
    write_json(root / "metrics.json", dict.fromkeys(figures, 0.5) | {"seg/split": name, "grade/confusion": [[1]]})
    return root


@pytest.mark.parametrize(
    "name", ["<script>alert(1)<", "\"onerror='alert(1)' x=\"", "<img src=x onerror=alert(1)>", "$x^{y$"]
)
def test_file_names_are_text_in_the_report(tmp_path, name):
    pages = []
    for folder, called in (("plain", "name"), ("hostile", name)):
        (tmp_path / folder).mkdir()
        pages.append(write_report(run_folder(tmp_path / folder, called)).read_text(encoding="utf-8"))
    plain, hostile = (Tags(page).found for page in pages)
    assert hostile == plain
    assert "<script>alert" not in pages[1] and "<img src=x" not in pages[1]
