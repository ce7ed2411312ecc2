"""The graders of the paper's tables and the multi-task networks, small, on synthetic images.

Purpose:   to see how graders are compared.
Paper:     not comparable: the graders are narrow and start at random, the images are synthetic.
Launch:    python main.py compare --config=configs/tables/table2_demo.py
Expected:  results/table2_demo.json, and docs/compare.md.
Hardware:  2 CPU cores, 2 GiB.
"""

from configs.tables.rows import IDRID_DIARETDB1, grading, small
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    return Table(
        name="table2_demo",
        title="Graders on synthetic images",
        rows=grading(small(), IDRID_DIARETDB1, imagenet=False),
        seeds=(0, 1),
        published_in="Table 1, on IDRiD",
    )
