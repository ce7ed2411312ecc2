"""The networks of the paper's Table 1, small, on synthetic images: to see `compare` work.

Purpose:   six networks, two seeds, one command.
Paper:     not comparable: the networks are narrow and start at random, the images are synthetic.
Launch:    python main.py compare --config=configs/tables/table1_demo.py
Expected:  results/table1_demo.json, and docs/compare.md.
Hardware:  2 CPU cores, 2 GiB.
"""

from configs.tables.rows import IDRID_DIARETDB1, networks, small
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    return Table(
        name="table1_demo",
        title="Segmentation networks on synthetic images",
        rows=networks(small(), IDRID_DIARETDB1, imagenet=False),
        seeds=(0, 1),
        published_in="Table 1, on IDRiD and DiaRetDB1",
    )
