"""Any method's mask files: what their names and values mean, and all that is wrong with them at once."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pldmlt_jax.errors import DataError, UserError
from pldmlt_jax.evaluation.mask_files import MaskEncoding, find_mask_files, read_probabilities, scan_mask_files

SHAPE = (5, 7)
RNG = np.random.default_rng(0)
MASK = RNG.random(SHAPE) < 0.4
P = RNG.random(SHAPE).astype(np.float32)


def write(path: Path, values: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        cv2.imwrite(str(path), values)
    return path


def palette(path: Path) -> Path:
    picture = Image.fromarray(MASK.astype(np.uint8))
    picture.putpalette([0, 0, 0, 128, 0, 0])
    picture.save(path)
    return path


@pytest.mark.parametrize(
    ("name", "values", "expected", "atol"),
    [
        ("a.png", MASK.astype(np.uint8) * 255, MASK, 0),
        ("a.png", MASK.astype(np.uint8), MASK, 0),
        ("a.png", MASK.astype(np.uint16) * 65535, MASK, 0),
        ("a.png", np.dstack([0 * MASK, 0 * MASK, MASK * 76]).astype(np.uint8), MASK, 0),
        ("a.png", np.dstack([MASK * 255] * 3 + [0 * MASK + 255]).astype(np.uint8), MASK, 0),
        ("a.png", np.zeros(SHAPE, np.uint8), 0 * MASK, 0),
        ("a.png", np.full(SHAPE, 51, np.uint8), 0 * P + 0.2, 1e-7),
        ("a.png", np.round(P * 255).astype(np.uint8), P, 0.5 / 255 + 1e-7),
        ("a.png", np.round(P * 65535).astype(np.uint16), P, 0.5 / 65535 + 1e-7),
        ("a.npy", P, P, 0),
        ("a.npy", P.astype(np.float64), P, 1e-7),
        ("a.npy", MASK, MASK, 0),
        ("a.npy", MASK.astype(np.uint8), MASK, 0),
        ("a.npy", MASK.astype(np.uint8) * 255, MASK, 0),
    ],
)
def test_values_are_probabilities_or_a_mask(tmp_path: Path, name: str, values, expected, atol: float) -> None:
    found = read_probabilities(write(tmp_path / name, values), SHAPE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=atol)


def test_a_palette_is_a_mask_whatever_its_colour(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_probabilities(palette(tmp_path / "a.png"), SHAPE), MASK)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("a.png", MASK.astype(np.uint8) * 128, "two values, 0 and 128"),
        ("a.png", RNG.integers(0, 255, (*SHAPE, 3)).astype(np.uint8), "several colours"),
        ("a.png", np.zeros((7, 5), np.uint8), "7 px high, 5 px wide"),
        ("a.npy", P * 8 - 4, "probabilities from 0 to 1"),
        ("a.npy", np.full(SHAPE, np.nan), "not finite"),
        ("a.npy", P[None], "[1, 5, 7]"),
        ("a.npy", np.zeros(SHAPE, np.int64), "int64"),
        ("a.npy", np.array([{}] * 3, dtype=object), "object"),
    ],
)
def test_values_that_can_mean_something_else_are_refused(tmp_path: Path, name: str, values, told: str) -> None:
    path = tmp_path / name
    if values.dtype == object:
        np.save(path, values, allow_pickle=True)
    else:
        write(path, values)
    with pytest.raises(DataError) as error:
        read_probabilities(path, SHAPE)
    assert told in str(error.value) and str(path) in str(error.value)


def test_a_file_that_is_cut_off_or_none_at_all_is_refused(tmp_path: Path) -> None:
    for name, values in (("a.npy", P), ("a.png", MASK.astype(np.uint8) * 255)):
        content = write(tmp_path / name, values).read_bytes()
        for part in (content[:-4], content[:9], b""):
            (tmp_path / name).write_bytes(part)
            with pytest.raises(DataError):
                read_probabilities(tmp_path / name, SHAPE)


def all_of(folder: Path, **files: np.ndarray) -> tuple[MaskEncoding, str]:
    errors: list[UserError] = []
    paths = {write(folder / f"{name}.png", values): values.shape for name, values in files.items()}
    return scan_mask_files(paths, errors, lambda path: None), "\n".join(map(str, errors))


WHITE, ONES, TWOS = (MASK.astype(np.uint8) * value for value in (255, 1, 2))
PROBABILITIES = np.round(P * 255).astype(np.uint8)


def test_whole_numbers_mean_the_same_in_all_files_of_a_folder(tmp_path: Path) -> None:
    """Beside probabilities a file of 0 and 1 is a network that is nearly sure of nothing, not a mask of full confidence."""
    assert all_of(tmp_path, a=WHITE, b=ONES, c=0 * ONES) == (MaskEncoding(False, 1), "")
    assert all_of(tmp_path, a=PROBABILITIES, b=ONES, c=TWOS, d=WHITE) == (MaskEncoding(True, 1), "")
    assert "two values, 0 and 2" in all_of(tmp_path, a=WHITE, c=TWOS)[1]
    assert "numbers of classes" in all_of(tmp_path, a=RNG.integers(0, 5, SHAPE).astype(np.uint8), b=ONES)[1]
    for values, expected in ((ONES, MASK / 255), (TWOS, 2 * MASK / 255), (WHITE, MASK)):
        found = read_probabilities(write(tmp_path / "a.png", values), SHAPE, has_probabilities=True)
        np.testing.assert_allclose(found, expected, atol=1e-7)


def test_a_picture_of_floats_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".tif", P)[1].tobytes())
    with pytest.raises(DataError, match="8 or 16 bits"):
        read_probabilities(path, SHAPE)


def found_in(folder: Path, *names: str, files: tuple[str, ...]) -> tuple:
    folder.mkdir(exist_ok=True)
    for name in files:
        write(folder / name, MASK.astype(np.uint8) * 255)
    errors: list[UserError] = []
    found = find_mask_files(folder, names, ["other"], errors)
    return found, "\n".join(map(str, errors))


def test_names_say_image_and_lesion(tmp_path: Path) -> None:
    files = ("a_MA.png", "a_EX_probability.npy", "b_MA.png", "b_EX.png", "other_MA.png", "a_mask.png")
    found, errors = found_in(tmp_path, "a", "b", files=files)
    assert errors == "" and found.lesions == ("MA", "EX") and found.target == "lesions" and found.num_others == 1
    assert found.files["a"]["EX"].name == "a_EX_probability.npy"
    fused, errors = found_in(tmp_path / "fused", "x_MA", "y", files=("x_MA.png", "y_lesion_probability.png"))
    assert errors == "" and fused.target == "fused"
    assert {name: files["lesion"].name for name, files in fused.files.items()} == {
        "x_MA": "x_MA.png", "y": "y_lesion_probability.png"
    }  # fmt: skip


def test_all_that_is_wrong_with_the_names_is_told_at_once(tmp_path: Path) -> None:
    _, errors = found_in(
        tmp_path, "a", "b", "c", files=("a_MA.png", "a_MA.npy", "b_EX.png", "c.png", "aa_MA.png", "a_XX.png")
    )
    for part in (
        "a second file of the same image and lesion", "aa_MA.png: no image of the set", "a_XX.png: no image of the set",
        "files of any lesion (NAME.png) and of EX, MA", "no file of b for MA", "no file of a for EX",
        "no file of c for MA, EX",
    ):  # fmt: skip
        assert part in errors, part
    _, errors = found_in(tmp_path / "none", "a", files=())
    assert "no file of a for lesion" in errors
