"""IDRiD's layout, read from small files of its exact form."""

import shutil

import pytest
from data.idrid_files import write_grading, write_segmentation
from data.valid_records import valid_records

from pldmlt_jax.data.datasets.idrid import list_grading, list_segmentation, read_grade_table
from pldmlt_jax.errors import DataError, ErrorGroup


def test_absent_mask_file_means_none_of_that_lesion(tmp_path):
    write_segmentation(tmp_path, {"IDRiD_01": ["MA", "OD"], "IDRiD_02": ["MA", "HE", "EX", "SE", "OD"], "IDRiD_03": []})
    first, second, third = valid_records(list_segmentation(tmp_path))["train"]
    assert set(first.masks) == {"MA"}
    assert set(second.masks) == {"MA", "HE", "EX", "SE"}
    assert third.masks == {}
    assert first.disc.name == "IDRiD_01_OD.tif"
    assert third.disc is None


def test_test_split_is_read_where_it_is_on_disk(tmp_path):
    write_segmentation(tmp_path, {"IDRiD_01": ["MA"]})
    assert set(valid_records(list_segmentation(tmp_path))) == {"train"}
    write_segmentation(tmp_path, {"IDRiD_55": ["MA"]}, "test")
    assert [record.image_id for record in valid_records(list_segmentation(tmp_path))["test"]] == ["IDRiD_55"]


def test_grades_of_each_split_stay_with_it_although_names_recur(tmp_path):
    write_grading(tmp_path, {"IDRiD_001": 3, "IDRiD_002": 0})
    write_grading(tmp_path, {"IDRiD_001": 4}, "test", first_seed=200)
    records = valid_records(list_grading(tmp_path))
    assert [(r.image_id, r.grade) for r in records["train"]] == [("IDRiD_001", 3), ("IDRiD_002", 0)]
    assert [(r.image_id, r.grade) for r in records["test"]] == [("IDRiD_001", 4)]


def test_byte_order_mark_and_spaces_do_no_harm(tmp_path):
    table = tmp_path / "grades.csv"
    table.write_bytes("\ufeffImage name , Retinopathy grade,x \r\nIDRiD_001, 2 ,\r\n".encode())
    assert read_grade_table(table) == ({"IDRiD_001": 2}, [])


def test_every_bad_grade_is_named_with_its_line_at_once(tmp_path):
    write_grading(tmp_path, {"IDRiD_001": 5, "IDRiD_002": 1, "IDRiD_003": "x", "IDRiD_004": -1, "IDRiD_005": "", "a": 2.0})
    with pytest.raises(ErrorGroup) as caught:
        valid_records(list_grading(tmp_path))
    text = str(caught.value)
    assert len(caught.value.errors) == 5
    for line, grade in ((2, "5"), (4, "x"), (5, "-1"), (6, ""), (7, "2.0")):
        assert f"line {line}: grade {grade!r}" in text
    assert "0, 1, 2, 3 or 4" in text


def test_images_and_rows_without_each_other_are_all_named(tmp_path):
    table = write_grading(tmp_path, {"IDRiD_001": 1, "IDRiD_002": 2, "IDRiD_003": 3})
    table.write_text(table.read_text().replace("IDRiD_002", "IDRiD_999"))
    with pytest.raises(ErrorGroup) as caught:
        valid_records(list_grading(tmp_path))
    assert "IDRiD_002.jpg: no row" in str(caught.value)
    assert "a row for IDRiD_999" in str(caught.value)


def test_rows_that_contradict_each_other_are_told_and_give_no_grade(tmp_path):
    table = write_grading(tmp_path, {"IDRiD_001": 1, "IDRiD_002": 2})
    table.write_text(table.read_text() + "IDRiD_001,3\nIDRiD_002,2\n")
    listing = list_grading(tmp_path)
    assert [record.image_id for record in listing.records["train"]] == ["IDRiD_002"]
    (error,) = listing.errors
    assert "IDRiD_001 again, with another grade" in str(error)


def test_table_with_another_header_is_refused_with_what_it_has(tmp_path):
    table = write_grading(tmp_path, {"IDRiD_001": 1})
    table.write_text("id,level\nIDRiD_001,1\n")
    with pytest.raises(DataError, match="but id, level"):
        valid_records(list_grading(tmp_path))


@pytest.mark.parametrize("records", [list_segmentation, list_grading])
def test_missing_root_shows_the_layout_and_the_source(tmp_path, records):
    with pytest.raises(DataError) as caught:
        records(tmp_path / "nowhere")
    text = str(caught.value)
    assert "no such folder" in text
    assert "1. Original Images" in text
    assert "https://" in text
    assert "--config.data.root" in text


def test_lesion_folder_that_is_missing_or_misspelt_is_an_error_not_an_absent_lesion(tmp_path):
    write_segmentation(tmp_path, {"IDRiD_01": ["MA", "EX"]})
    masks = tmp_path / "A. Segmentation" / "2. All Segmentation Groundtruths" / "a. Training Set"
    (masks / "1. Microaneurysms").rename(masks / "1. Microaneurisms")
    (masks / "3. Hard Exudates" / "IDRiD_01_EX.tif").rename(masks / "3. Hard Exudates" / "IDRiD_01_EX.tiff")
    with pytest.raises(ErrorGroup) as caught:
        valid_records(list_segmentation(tmp_path))
    assert "1. Microaneurysms: no such folder" in str(caught.value)
    assert "3. Hard Exudates: files of other names only" in str(caught.value)


def test_table_without_rows_names_every_image(tmp_path):
    table = write_grading(tmp_path, {"IDRiD_001": 1, "IDRiD_002": 2})
    table.write_text("Image name,Retinopathy grade\n")
    with pytest.raises(ErrorGroup, match="no row"):
        valid_records(list_grading(tmp_path))


def test_masks_that_are_missing_altogether_are_an_error_not_healthy_eyes(tmp_path):
    write_segmentation(tmp_path, {"IDRiD_01": ["MA"]})
    shutil.rmtree(tmp_path / "A. Segmentation" / "2. All Segmentation Groundtruths")
    with pytest.raises(ErrorGroup, match=r"2\. All Segmentation Groundtruths"):
        valid_records(list_segmentation(tmp_path))


def test_mask_whose_image_was_lost_is_an_error_not_an_image_left_out(tmp_path):
    write_segmentation(tmp_path, {"IDRiD_01": ["MA"], "IDRiD_02": ["MA", "EX"]})
    (tmp_path / "A. Segmentation" / "1. Original Images" / "a. Training Set" / "IDRiD_02.jpg").unlink()
    with pytest.raises(ErrorGroup) as caught:
        valid_records(list_segmentation(tmp_path))
    for part in ("IDRiD_02_MA.tif", "IDRiD_02_EX.tif", "a mask without its image", "IDRiD_02.jpg"):
        assert part in str(caught.value)
