"""The networks of the paper's Table 1 with its own losses, rates and meta step, small, on synthetic images.

Purpose:   the literal setting, to compare with `table1_demo.py` in a few minutes: focal losses, 5e-5, J of Algorithm 1,
           and its "1 to 100: fetch one batch" read as 100 steps of theta, then 100 of the label network.
Paper:     not comparable: the networks are narrow and start at random, the images are synthetic.
Launch:    python main.py compare --config=configs/tables/table1_literal_demo.py
Expected:  not yet measured.
Hardware:  2 CPU cores, 2 GiB.
"""

from dataclasses import replace

from configs import idrid
from configs.tables.rows import IDRID_DIARETDB1, networks, small
from pldmlt_jax.config import Config
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    return Table(
        name="table1_literal_demo",
        title="Segmentation networks with the paper's losses, rates and meta step, on synthetic images",
        rows=networks(literal(small()), IDRID_DIARETDB1, imagenet=False),
        published_in="Table 1, on IDRiD and DiaRetDB1",
    )


def literal(config: Config) -> Config:
    paper = idrid.get_config()
    return replace(
        config,
        data=replace(config.data, resize=paper.data.resize),
        loss=paper.loss,
        meta=paper.meta,
        optim=paper.optim,
        train=replace(
            config.train, theta_units=100, label_units=100, max_rounds=3, eval_every_rounds=1, monitor=paper.train.monitor
        ),
    )
