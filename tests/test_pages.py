"""docs/data_sets.md and docs/dependencies.md name what there is, and nothing else."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pldmlt_jax.data.datasets import ddr, diaretdb1, idrid
from pldmlt_jax.data.datasets.registry import DATASETS

ROOT = Path(__file__).parents[1]
DATA_SETS, DEPENDENCIES = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("data_sets", "dependencies"))


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of a table's rows, by the first cell of its heading."""
    table = page[page.index(f"| {heading} |") :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def test_every_data_set_is_there_with_the_numbers_of_its_release():
    listed = {
        name: row
        for row in rows(DATA_SETS, "`data.segmentation`, `data.grading`")
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert listed.keys() == DATASETS.keys()
    for name, spec in DATASETS.items():
        if spec.released:
            assert " + ".join(f"{number:,}" for number in spec.released.values()) in listed[name][1]


@pytest.mark.parametrize("module", [idrid, diaretdb1, ddr])
def test_layouts_are_those_of_the_messages(module):
    address, *lines = module.LAYOUT.splitlines()
    assert re.findall(r"https://[^)]+", address)[0] in DATA_SETS
    assert "\n".join(lines) in DATA_SETS


def test_every_package_that_is_needed_is_there_with_what_it_is_for():
    lines = [line.split("  #")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()]
    needed = {Requirement(line).name for line in lines if line and not line.startswith("#")}
    assert {name for row in rows(DEPENDENCIES, "package") for name in row[0].split(", ")} == needed
    assert all(row[1] for row in rows(DEPENDENCIES, "package"))


def test_what_is_written_by_hand_is_where_the_page_says():
    places = [re.findall(r"`([\w/.]+)`", row[0])[-1] for row in rows(DEPENDENCIES, "what, where")]
    assert len(places) > 15
    for place in places:
        assert (ROOT / "pldmlt_jax" / place).exists() or (ROOT / place).exists(), place
