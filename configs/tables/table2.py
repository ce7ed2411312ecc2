"""The graders of the paper's tables and the multi-task networks, on the same held-out graded images.

Purpose:   grading as the paper evaluates it, on a held-out fifth of IDRiD's graded training images; here each fifth once.
Paper:     Table 1, lower half, MTUnet and PLDMLT included. For Table 2 (DDR) see table2_ddr.py.
Launch:    python main.py compare --config=configs/tables/table2.py --config.data.root=DIR
           As is usual, on the official test images: --folds=0 --config.data.grading_split=official
           DIR holds IDRiD/ and DiaRetDB1/, or only IDRiD/ with --config.data.segmentation=idrid_s
Expected:  not yet reproduced. No grader sees an image of the segmentation part, or one image twice: see `data.leakage`.
Hardware:  one GPU with 24 GB, for days: 20 graders, and 15 trainings at 1024x1024.
"""

from dataclasses import replace

from configs.tables import table1
from configs.tables.rows import IDRID_DIARETDB1, grading
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    config = table1.pool()
    return Table(
        name="table2",
        title="Graders on IDRiD",
        rows=grading(replace(config, data=replace(config.data, grading_split="folds")), IDRID_DIARETDB1),
        folds=(0, 1, 2, 3, 4),
        published_in="Table 1",
    )
