"""The networks and graders of the paper's Table 2, on DDR with its own splits.

Purpose:   the paper's second data set.
Paper:     Table 2, both halves; beta is 0.95.
Launch:    python main.py compare --config=configs/tables/table2_ddr.py --config.data.root=DIR
           DIR holds DDR-dataset/.
Expected:  not yet reproduced.
Hardware:  one GPU with 24 GB, for days.
"""

from configs import ddr
from configs.tables.rows import DDR, graders, networks
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    config = ddr.get_config()
    return Table(
        name="table2_ddr",
        title="Table 2: networks and graders, DDR",
        rows=(*graders(config, DDR), *networks(config, DDR)),
        published_in="Table 2",
    )
