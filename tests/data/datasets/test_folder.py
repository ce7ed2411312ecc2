"""One's own folder: images, masks and grades paired by their names, whatever they are called."""

import unicodedata

import cv2
import numpy as np
import pytest
from data.idrid_files import SHAPE, photograph
from data.valid_records import valid_records

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.folder import list_grading, list_segmentation
from pldmlt_jax.data.preprocessing.geometry import read_image
from pldmlt_jax.data.splits.selection import require_lesion_types, select_all
from pldmlt_jax.data.store import open_prepared
from pldmlt_jax.errors import DataError, ErrorGroup
from pldmlt_jax.method.pseudo_labels import admissible_grades
from pldmlt_jax.types import MASK_BITS


def write_image(path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), photograph(seed))


def write_mask(path, rows: slice = slice(20, 23), value: object = 255, shape: tuple[int, ...] = SHAPE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(shape, np.uint8)
    mask[rows, 40:44] = value
    cv2.imwrite(str(path), mask)


@pytest.fixture
def root(tmp_path):
    """Six images of several formats; three with masks, four with grades."""
    folder = tmp_path / "mine"
    for i, name in enumerate(("a.jpg", "b.png", "c.tif", "d.JPG", "e.bmp", "f.jpeg")):
        write_image(folder / "images" / name, i)
    write_mask(folder / "masks" / "MA" / "a.png")
    write_mask(folder / "masks" / "hard exudates" / "a.png")
    write_mask(folder / "masks" / "OD" / "a.png")
    write_mask(folder / "masks" / "b_HE.png")
    write_mask(folder / "masks" / "Microaneurysms" / "c_MA.png", rows=slice(0, 0))
    (folder / "grades.csv").write_text("Image,Grade\na,2\nd.JPG,0\ne,\nf.jpeg,4\nb.png,3\n")
    return folder


def data_of(root) -> DataConfig:
    return DataConfig(
        segmentation="folder_s", grading="folder_d", folder_root=str(root), cache_dir=str(root.parent / "cache"), size_px=64
    )


def test_masks_are_found_in_folders_and_by_suffixes(root):
    records = {record.image_id: record for record in valid_records(list_segmentation(root))["train"]}
    assert {name: sorted(record.masks) for name, record in records.items()} == {
        "a": ["EX", "MA"], "b": ["HE"], "c": ["MA"],
    }  # fmt: skip
    assert records["a"].disc.name == "a.png"
    assert (records["a"].true_grade, records["c"].true_grade) == (2, -1)


def test_only_some_images_have_grades(root):
    records = valid_records(list_grading(root))["train"]
    assert {record.image_id: record.grade for record in records} == {"a": 2, "b": 3, "d": 0, "f": 4}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_are_read_as_spreadsheets_and_pandas_write_them(root, delimiter):
    lines = ("image,dr grade,remark", "a,2.0,old", "d.JPG,0.0,", "e,,", "f.jpeg,4.0,")
    (root / "grades.csv").write_text("\n".join(lines).replace(",", delimiter), encoding="utf-8-sig")
    found = {record.image_id: record.grade for record in valid_records(list_grading(root))["train"]}
    assert found == {"a": 2, "d": 0, "f": 4}


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_accents_are_the_same_however_a_mac_or_a_table_spells_them(tmp_path, encoding):
    composed, taken_apart = (unicodedata.normalize(form, "Zoé 1") for form in ("NFC", "NFD"))
    for name in ("images", "masks/MA"):
        (tmp_path / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name / f"{taken_apart}.png"), np.full((20, 20, 3), 255, np.uint8))
    (tmp_path / "grades.csv").write_text(f"image,grade\n{composed}.png,3\n", encoding=encoding)
    (record,) = valid_records(list_segmentation(tmp_path))["train"]
    assert (record.image_id, record.true_grade, list(record.masks)) == (composed, 3, ["MA"])


def test_photographs_of_a_format_that_is_not_read_are_told(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.HEIC").write_bytes(b"something else")
    (tmp_path / "grades.csv").write_text("image,grade\na,1\n")
    (record,) = valid_records(list_grading(tmp_path))["train"]
    with pytest.raises(DataError, match=r"a\.HEIC: not a readable image"):
        read_image(record.image)


def test_what_a_mac_leaves_beside_each_file_is_no_image(root):
    expected = [record.image_id for record in valid_records(list_segmentation(root))["train"]]
    for path in list(root.rglob("*.*")):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    assert [record.image_id for record in valid_records(list_segmentation(root))["train"]] == expected
    assert len(valid_records(list_grading(root))["train"]) == 4


def test_prepared_images_carry_their_masks(root):
    split = open_prepared("folder_s", data_of(root), 64)["train"]
    assert [row.lesion_px.tolist() for row in split.metadata] == [[12, 0, 12, 0], [0, 12, 0, 0], [0, 0, 0, 0]]
    assert [np.flatnonzero(admissible_grades(row.evidence_px)).tolist() for row in split.metadata] == [
        [2, 3, 4], [2, 3, 4], [0],
    ]  # fmt: skip


def test_images_beside_their_masks_in_one_folder(tmp_path):
    for i, name in enumerate(("left", "right_eye", "plain")):
        write_image(tmp_path / f"{name}.png", i)
    for name in ("left_MA", "left-SE", "right_eye_haemorrhages"):
        write_mask(tmp_path / f"{name}.png")
    records = {record.image_id: record for record in valid_records(list_segmentation(tmp_path))["train"]}
    assert {name: sorted(record.masks) for name, record in records.items()} == {"left": ["MA", "SE"], "right_eye": ["HE"]}


def test_masks_of_no_kind_are_any_lesion(tmp_path):
    write_image(tmp_path / "images" / "a.png", 0)
    write_mask(tmp_path / "masks" / "lesions" / "a.png")
    split = open_prepared("folder_s", data_of(tmp_path), 64)["train"]
    row = split.metadata[0]
    assert row.evidence_px.tolist() == [0, 0, 0, 0, 12]
    assert row.fused_px[0] == 12
    assert np.flatnonzero(admissible_grades(row.evidence_px)).tolist() == [1, 2, 3, 4]
    with pytest.raises(DataError, match="1 images whose masks do not say"):
        require_lesion_types({"train": select_all(split)})
    bits = split[0].mask_bits
    assert ((bits & MASK_BITS["fused"]) != 0).any()
    assert not (bits & sum(MASK_BITS[lesion] for lesion in ("MA", "HE", "EX", "SE"))).any()


@pytest.mark.parametrize(
    ("value", "shape"), [(1, SHAPE), (255, SHAPE), ((0, 0, 255), (*SHAPE, 3)), ((0, 90, 0, 255), (*SHAPE, 4))]
)
def test_masks_of_any_colour_are_read(tmp_path, value, shape):
    write_image(tmp_path / "images" / "a.png", 0)
    write_mask(tmp_path / "masks" / "MA" / "a.png", value=value, shape=shape)
    if shape[2:] == (4,):  # alpha is 255 everywhere, and no mask
        pixels = cv2.imread(str(tmp_path / "masks" / "MA" / "a.png"), cv2.IMREAD_UNCHANGED)
        pixels[..., 3] = 255
        cv2.imwrite(str(tmp_path / "masks" / "MA" / "a.png"), pixels)
    assert open_prepared("folder_s", data_of(tmp_path), 64)["train"].metadata[0].lesion_px[0] == 12


def test_grey_edges_and_lossy_masks_are_cut_at_half_of_their_brightest(tmp_path):
    write_image(tmp_path / "images" / "a.png", 0)
    mask = np.zeros(SHAPE, np.uint8)
    mask[20:40, 30:50] = 255
    soft = cv2.GaussianBlur(mask, (5, 5), 0)
    (tmp_path / "masks" / "MA").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "masks" / "MA" / "a.png"), soft)
    (tmp_path / "masks" / "HE").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "HE" / "a.jpg"), mask, [cv2.IMWRITE_JPEG_QUALITY, 60])
    found = open_prepared("folder_s", data_of(tmp_path), 64)["train"].metadata[0].lesion_px
    assert found[0] == (soft >= 128).sum()
    assert found[1] == 400


def test_class_indices_in_one_mask_are_refused(tmp_path):
    write_image(tmp_path / "images" / "a.png", 0)
    mask = np.zeros(SHAPE, np.uint8)
    mask[20, 30:35] = (1, 2, 3, 4, 4)
    (tmp_path / "masks" / "MA").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "masks" / "MA" / "a.png"), mask)
    with pytest.raises(DataError, match="indices of classes"):
        open_prepared("folder_s", data_of(tmp_path), 64)


def test_folders_of_splits_are_kept(tmp_path):
    for i, name in enumerate(("train/a", "Validation/b", "test/c", "test/deeper/d")):
        write_image(tmp_path / "images" / f"{name}.png", i)
        write_mask(tmp_path / "masks" / f"{name.split('/')[-1]}_MA.png")
    records = valid_records(list_segmentation(tmp_path))
    assert {split: [record.image_id for record in found] for split, found in records.items()} == {
        "train": ["a"], "val": ["b"], "test": ["c", "d"],
    }  # fmt: skip


def test_everything_that_is_wrong_is_told_at_once(root):
    write_image(root / "images" / "deeper" / "a.png", 7)
    write_mask(root / "masks" / "drusen" / "b.png")
    write_mask(root / "masks" / "MA" / "nobody.png")
    write_mask(root / "masks" / "MA" / "a.tif")
    (root / "grades.csv").write_text("Image,Grade\na,2\na,3\nb,7\nnobody,1\n")
    with pytest.raises(ErrorGroup) as caught:
        valid_records(list_segmentation(root))
    text = str(caught.value)
    for part in ("deeper/a.png: a second image of this name", "drusen/b.png: a mask of no known lesion",
                 "nobody.png: a mask without its image", "a second MA mask of a", "line 3: a again",
                 "line 4: grade '7' of b", "line 5: a row for nobody"):  # fmt: skip
        assert part in text
    assert len(caught.value.errors) == 7


def test_what_is_lacking_altogether_is_explained(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        list_segmentation(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images in"):
        list_segmentation(tmp_path)
    write_image(tmp_path / "a.png", 0)
    with pytest.raises(DataError, match="no masks in it"):
        list_segmentation(tmp_path)
    write_mask(tmp_path / "masks" / "OD" / "a.png")  # of which no lesion can be learnt
    with pytest.raises(DataError, match="no masks in it"):
        list_segmentation(tmp_path)
    with pytest.raises(DataError, match=r"data\.grading=none"):
        list_grading(tmp_path)
    (tmp_path / "labels.csv").write_text("who,what\na,1\n")
    with pytest.raises(DataError, match="columns who, what"):
        list_grading(tmp_path)
    (tmp_path / "other.csv").write_text("image,grade\na,1\n")
    with pytest.raises(DataError, match="2 CSV files"):
        list_grading(tmp_path)
