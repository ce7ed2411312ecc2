"""Reads DiaRetDB1 v2.1: photographs with regions that four experts marked, without grades.

Kauppi et al.: The DIARETDB1 diabetic retinopathy database and evaluation protocol. BMVC 2007.
"""

import os
from pathlib import Path

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.base import FundusBuilder, FundusConfig
from pldmlt_jax.data.records import Listing, RawRecord
from pldmlt_jax.errors import DataError, UserError
from pldmlt_jax.io.files import WINDOWS_ENCODING, read_text

LAYOUT = """the layout of DiaRetDB1 v2.1 (https://www.it.lut.fi/project/imageret/diaretdb1_v2_1/):
    DiaRetDB1/ddb1_v02_01_{train,test}.txt
    DiaRetDB1/images/diaretdb1_imageNNN.png
    DiaRetDB1/groundtruth/diaretdb1_imageNNN_{01,02,03,04}.xml"""

LISTS = {"train": "ddb1_v02_01_train", "test": "ddb1_v02_01_test"}
LIST_SUFFIXES = (".txt", "_plain.txt")
"""Endings of the two forms of each list; one is enough. The files of the plain form lack only a reference to a DTD."""

ACTION = "set --config.data.root to the folder with DiaRetDB1/ in it, or --config.data.diaretdb1_root to DiaRetDB1/ itself"

NUM_EXPERTS = 4
LISTS_BELOW = ("", "*/", "*/*/")
"""Where the lists may be below the root; the archive unpacks into folders of its own."""


class Diaretdb1(FundusBuilder):
    """DiaRetDB1's photographs with the fused regions of four experts."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT
    BUILDER_CONFIGS = (FundusConfig(),)
    CITATION = (
        "Kauppi, Kalesnykiene, Kamarainen et al.: The DIARETDB1 diabetic retinopathy database and evaluation protocol. "
        "BMVC 2007"
    )
    LICENCE = "restricted to academic use"

    @classmethod
    def raw_folder(cls, data: DataConfig) -> Path:
        return Path(data.diaretdb1_root or Path(data.root) / "DiaRetDB1")

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_photographs(folder)


def list_photographs(root: Path) -> Listing:
    """Lists the photographs by the data set's own two lists, training and test.

    Args:
        root: The folder of the release, or one above it.

    Returns:
        The photographs. Wrong lines, and files that they name and that are missing, are its errors.

    Raises:
        DataError: There is no training list.
    """
    base = _find_list_folder(root)
    records: dict[str, list[RawRecord]] = {}
    errors: list[UserError] = []
    seen: dict[str, str] = {}
    for split, name in LISTS.items():
        table = next((path for suffix in LIST_SUFFIXES if (path := base / f"{name}{suffix}").is_file()), None)
        if table is None:
            if split == "train":
                raise DataError(base / f"{name}.txt", "no such file", LAYOUT, "get the whole release")
            continue
        records[split] = []
        for number, line in enumerate(read_text(table, fallback_encoding=WINDOWS_ENCODING).splitlines(), start=1):
            if not line.strip():
                continue
            where, parts = f"{table}, line {number}", line.split()
            wrong = _check_line(where, parts, base)
            if not wrong and parts[0] in seen:
                again = f"{parts[0]} again, as in {seen[parts[0]]}"
                wrong = [DataError(where, again, "each image once", "restore the released list")]
            errors += wrong
            seen[parts[0]] = where
            if not wrong:
                image, *markings = (base / part for part in parts)
                records[split].append(RawRecord(image.stem, image, masks={}, markings=tuple(markings)))
    return Listing(records, tuple(errors))


def _find_list_folder(root: Path) -> Path:
    for below in LISTS_BELOW:
        for suffix in LIST_SUFFIXES:
            if found := sorted(root.glob(f"{below}{LISTS['train']}{suffix}")):
                return found[0].parent
    if not root.is_dir():
        found = "no such folder"
    elif (root / "resources" / "traindatasets").is_dir():
        found = "DiaRetDB1 v1.1, which has only fused masks"
    else:
        found = f"no {LISTS['train']}.txt in it"
    action = (
        "set --config.data.root to the folder that contains DiaRetDB1/, or --config.data.diaretdb1_root to DiaRetDB1/ itself"
    )
    raise DataError(f"data.diaretdb1_root: {root}", found, LAYOUT, action)


def _check_line(where: str, parts: list[str], base: Path) -> list[UserError]:
    if len(parts) != 1 + NUM_EXPERTS or any(Path(part).is_absolute() or ".." in Path(part).parts for part in parts):
        expected = f"an image and {NUM_EXPERTS} files of markings, as relative paths in {base}"
        return [DataError(where, " ".join(parts), expected, "restore the released list")]
    return [
        DataError(base / part, f"no such file, but {where} names it", "the whole release", "get the file or remove the line")
        for part in parts
        if not os.path.isfile(base / part)  # also False for a name that no file can have
    ]
