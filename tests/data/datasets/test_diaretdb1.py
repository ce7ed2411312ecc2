"""DiaRetDB1: regions to pixels, experts to masks, lists to records, and everything that can be wrong with them."""

import dataclasses

import numpy as np
import pytest
from data.diaretdb1_files import circle, ellipse, marking, polygon, write_markings, write_set
from data.idrid_files import SHAPE
from data.valid_records import valid_records

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.diaretdb1 import list_photographs
from pldmlt_jax.data.preprocessing.expert_markings import (
    MOST_VOTES,
    count_votes,
    rasterise,
    read_markings,
    required_votes,
)
from pldmlt_jax.data.preprocessing.masks import read_annotation
from pldmlt_jax.data.splits.selection import select_segmented
from pldmlt_jax.data.store import open_prepared
from pldmlt_jax.errors import DataError, ErrorGroup
from pldmlt_jax.evaluation.original_size import read_original
from pldmlt_jax.method.pseudo_labels import admissible_grades
from pldmlt_jax.types import MASK_BITS

LARGE = (1152, 1500)
SQUARE = ((881, 581), (931, 581), (931, 631), (881, 631))
FIRST = (
    marking(circle(301, 201, 5), "High", "Red_small_dots"),
    marking(ellipse(601, 401, 60, 20, 30), "High", "Haemorrhages"),
    marking(polygon(*SQUARE), "High", "Hard_exudates"),
    marking(circle(1491, 1001, 30), "Medium", "Soft_exudates"),
)
SECOND = (
    marking(circle(304, 201, 5), "Medium", "Red_small_dots"),
    marking(ellipse(601, 401, 60, 20, 30), "Medium", "Haemorrhages"),
    marking(circle(601, 401, 5), "Low", "Haemorrhages"),
    marking(circle(906, 606, 10), "Low", "Hard_exudates"),
    marking(circle(100, 500, 60), "High", "Disc"),
)


@pytest.fixture
def experts(tmp_path):
    """Markings of two experts and of one who found nothing."""
    files = {"first": FIRST, "second": SECOND, "nothing": ()}
    return {name: read_markings(write_markings(tmp_path / f"{name}.xml", *found)) for name, found in files.items()}


def pixels(total: np.ndarray, num_experts: int = 4) -> dict[str, list[int]]:
    """Pixels of each lesion at the agreements 1/4, 1/2, 3/4 and 1."""
    needed = [required_votes(agreement, num_experts) for agreement in (0.25, 0.5, 0.75, 1.0)]
    return {name: [int((total[..., i] >= n).sum()) for n in needed] for i, name in enumerate(("MA", "HE", "EX", "SE"))}


def test_weighted_fusion_counts_the_pixels_of_the_worked_example(experts):
    """Every shape and every confidence, two experts of each kind; a circle reaches beyond the image."""
    total = count_votes([experts["first"], experts["second"]] * 2, LARGE)
    assert pixels(total) == {
        "MA": [110, 81, 52, 0],
        "HE": [3771, 3771, 3771, 0],
        "EX": [2601, 2601, 0, 0],
        "SE": [1968, 0, 0, 0],
    }


def test_unweighted_fusion_counts_the_pixels_of_the_worked_example(experts):
    total = count_votes([experts["first"], experts["second"]] * 2, LARGE, weighted=False)
    assert pixels(total) == {
        "MA": [110, 110, 52, 52],
        "HE": [3771] * 4,
        "EX": [2601, 2601, 317, 317],
        "SE": [1968, 1968, 0, 0],
    }


def test_three_experts_of_four_make_exactly_three_quarters(experts):
    total = count_votes([experts["first"]] * 3 + [experts["nothing"]], LARGE)
    assert pixels(total)["MA"] == [81, 81, 81, 0]


def test_angles_run_counter_clockwise_as_seen_on_the_screen(experts):
    total = count_votes([experts["first"]], LARGE)
    assert total[371, 650, 1] > 0
    assert total[429, 650, 1] == 0


def test_one_pixel_of_an_ellipse_with_equal_axes_is_that_of_the_circle(tmp_path):
    path = write_markings(
        tmp_path / "a.xml",
        marking(circle(31, 21, 7), "High", "Haemorrhages"),
        marking(ellipse(31, 21, 7, 7, 40), "High", "Hard_exudates"),
    )
    total = count_votes([read_markings(path)], SHAPE)
    np.testing.assert_array_equal(total[..., 1], total[..., 2])
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    np.testing.assert_array_equal(total[..., 1] > 0, (x - 30) ** 2 + (y - 20) ** 2 <= 49)


def test_regions_beyond_the_image_are_cut_and_those_outside_are_empty(tmp_path):
    path = write_markings(
        tmp_path / "a.xml",
        marking(circle(1, 1, 3), "High", "Haemorrhages"),
        marking(circle(500, 500, 3), "High", "Hard_exudates"),
        marking(polygon((80, 50), (200, 50), (200, 90), (80, 90)), "High", "Soft_exudates"),
    )
    corner, outside, across = read_markings(path)
    assert rasterise(corner.region, SHAPE)[1].sum() == 11  # a quarter of 29 pixels, with its two edges
    assert rasterise(outside.region, SHAPE)[1].size == 0
    assert rasterise(across.region, SHAPE)[1].shape == (SHAPE[0] - 49, SHAPE[1] - 79)
    assert rasterise(across.region, SHAPE)[1].all()


def test_votes_divided_by_their_maximum_are_the_mean_of_the_experts_confidences(tmp_path):
    paths = [write_markings(tmp_path / f"{i}.xml", *found) for i, found in enumerate((FIRST, SECOND, FIRST, SECOND))]
    experts = [read_markings(path) for path in paths]
    agreement = count_votes(experts, LARGE) / (MOST_VOTES * len(experts))
    assert agreement[200, 301, 0] == pytest.approx((1 + 2 / 3) / 2)
    assert agreement[200, 296, 0] == pytest.approx(0.5)  # two experts of high confidence, the others left it out
    assert agreement[499, 99, 4] == pytest.approx(0.5)
    assert count_votes(experts, LARGE, weighted=False)[200, 301, 0] == MOST_VOTES * len(experts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Red_small_dots", "Drusen"), "markingtype 'Drusen'"),
        (("High", "Sure"), "confidencelevel 'Sure'"),
        (("circleregion", "squareregion"), "not a circle, ellipse or polygon"),
        (("301,201", "301"), "not enough values"),
        (("301,201", "a,b"), "invalid literal"),
        (('<radius direction="x">5</radius>', ""), "without its radius"),
        (("</imgannotooldata>", ""), "no element found"),
        (("markinglist", "list"), "no markinglist"),
        (("<!DOCTYPE", '<!DOCTYPE a [<!ENTITY b "c">]>\n<!DOCTYPE'), "declares entities"),
    ],
)
def test_markings_of_another_form_are_refused_with_the_file(tmp_path, change, message):
    path = write_markings(tmp_path / "a.xml", *FIRST)
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(DataError) as caught:
        read_markings(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


DOT = marking(circle(41, 31, 2), "High", "Red_small_dots")
EXUDATE = marking(circle(31, 31, 3), "Medium", "Hard_exudates")
DISC = marking(circle(61, 31, 4), "High", "Disc")
IMAGES = {
    1: [(DOT, DISC), (DOT, DISC), (DOT,), ()],
    2: [(), (), (), (EXUDATE,)],
    3: [(DOT, EXUDATE)] * 4,
    4: [()] * 4,
    5: [(EXUDATE,)] * 4,
}


@pytest.fixture
def data(tmp_path) -> DataConfig:
    write_set(tmp_path / "DiaRetDB1", IMAGES)
    write_set(tmp_path / "DiaRetDB1", {11: [(DOT,)] * 4, 12: [()] * 4}, "test")
    return DataConfig(
        segmentation="diaretdb1", root=str(tmp_path), cache_dir=str(tmp_path / "cache"), size_px=64, num_threads=2
    )


def test_lists_name_the_splits_and_each_marking_counts_once(data, tmp_path):
    records = valid_records(list_photographs(tmp_path / "DiaRetDB1"))
    assert [record.image_id for record in records["train"]] == [f"diaretdb1_image{i:03d}" for i in IMAGES]
    assert [record.image_id for record in records["test"]] == ["diaretdb1_image011", "diaretdb1_image012"]
    assert [path.name for path in records["train"][0].markings] == [f"diaretdb1_image001_{i:02d}.xml" for i in range(1, 5)]


def test_set_is_found_below_the_folder_that_the_archive_made_and_by_its_plain_lists(data, tmp_path):
    base = tmp_path / "deep" / "diaretdb1_v_2_1"
    base.parent.mkdir()
    (tmp_path / "DiaRetDB1").rename(base)
    (base / "ddb1_v02_01_train.txt").unlink()
    records = valid_records(list_photographs(tmp_path / "deep"))
    assert len(records["train"]) == len(IMAGES)
    assert records["train"][0].markings[0].name == "diaretdb1_image001_01_plain.xml"


def test_prepared_masks_are_the_agreement_and_evidence_is_anyones_mark(data):
    split = open_prepared("diaretdb1", data, 64)["train"]
    dot, exudate = 13, 29  # pixels of circles of radius 2 and 3
    assert [row.lesion_px.tolist() for row in split.metadata] == [
        [dot, 0, 0, 0], [0, 0, 0, 0], [dot, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0],
    ]  # fmt: skip
    assert split.metadata[1].evidence_px.tolist() == [0, 0, exudate, 0, 0]
    grades = [np.flatnonzero(admissible_grades(row.evidence_px)).tolist() for row in split.metadata]
    assert grades == [[1], [2, 3, 4], [2, 3, 4], [0], [2, 3, 4]]
    assert [((split[i].mask_bits & MASK_BITS["OD"]) != 0).any() for i in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    ("change", "marked"),
    [({"agreement": 0.5}, True), ({"agreement_weighted": False}, True), ({"agreement": 0.75}, False)],
)
def test_agreement_is_a_field_of_the_config(data, change, marked):
    """Four experts of medium confidence agree by 2/3."""
    changed = dataclasses.replace(data, **change)
    split = open_prepared("diaretdb1", changed, 64)["train"]
    assert (split.metadata[4].lesion_px[2] > 0) == marked
    assert (read_annotation(split.records[4], SHAPE, changed).masks["EX"].any()) == marked
    bits = read_original(split.records[4], changed)[1]
    assert ((bits & MASK_BITS["EX"]) != 0).any() == marked


def test_official_test_images_are_the_sets_own_list(data):
    selections = select_segmented(data)
    assert selections["test"].image_ids == ["diaretdb1_image011", "diaretdb1_image012"]
    assert len(selections["train"]) + len(selections["val"]) == len(IMAGES)


def test_everything_that_is_wrong_with_the_lists_is_told_at_once(data, tmp_path):
    base = tmp_path / "DiaRetDB1"
    (base / "images" / "diaretdb1_image002.png").unlink()
    (base / "groundtruth" / "diaretdb1_image003_04.xml").unlink()
    table = base / "ddb1_v02_01_train.txt"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[0], "images/a.png ../../etc/passwd b c d", "images/x.png"]))
    with pytest.raises(ErrorGroup) as caught:
        open_prepared("diaretdb1", data, 64)
    text = str(caught.value)
    for part in ("diaretdb1_image002.png: no such file", "diaretdb1_image003_04.xml: no such file",
                 "line 6: images/diaretdb1_image001.png again", "line 7", "line 8"):  # fmt: skip
        assert part in text
    assert len(caught.value.errors) == 5


@pytest.mark.parametrize(("folder", "found"), [("", "no such folder"), ("a", "no ddb1_v02_01_train"), ("b", "v1.1")])
def test_missing_set_shows_the_layout_and_the_source(tmp_path, folder, found):
    root = tmp_path / "DiaRetDB1"
    if folder:
        root.mkdir()
    if folder == "b":
        (root / "resources" / "traindatasets").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        list_photographs(root)
    text = str(caught.value)
    assert found in text
    assert "https://" in text
    assert "--config.data.diaretdb1_root" in text
