"""The ablation of the paper's Table 3, small, on synthetic images.

Purpose:   the same rows in a few minutes.
Paper:     not comparable: the network is narrow and starts at random, the images are synthetic.
Launch:    python main.py compare --config=configs/tables/table3_demo.py
Expected:  results/table3_demo.json, and docs/compare.md.
Hardware:  2 CPU cores, 2 GiB.
"""

from configs.tables.rows import ablation, small
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    return Table(
        name="table3_demo",
        title="Ablation on synthetic images",
        rows=ablation(small()),
        seeds=(0, 1),
        published_in="Table 3, on IDRiD and DiaRetDB1",
    )
