"""Table 1 with Algorithm 1 read literally: 100 epochs of theta, then 100 of the label network, in each round.

Purpose:   the other reading of lines 8 and 16 of Algorithm 1, not the one in `table1.py`.
Paper:     Table 1, upper half.
Launch:    python main.py compare --config=configs/tables/table1_literal.py --config.data.root=DIR
Expected:  not yet reproduced.
Hardware:  one GPU with 24 GB, for weeks: up to 20 rounds of 200 epochs, 30 times.
"""

from dataclasses import replace

from configs.tables import table1
from configs.tables.rows import IDRID_DIARETDB1, networks
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    config = table1.pool()
    train = replace(config.train, theta_units=100, label_units=100, max_rounds=20, patience_rounds=2, min_delta=1e-4)
    return replace(
        table1.get_table(),
        name="table1_literal",
        title="Table 1 with 100 + 100 epochs a round: segmentation networks, IDRiD and DiaRetDB1",
        rows=networks(replace(config, train=train), IDRID_DIARETDB1),
    )
