"""The lesions of the bundled model after each of its trainings, on one fold or on all.

Purpose:   mean and standard deviation of the metrics over folds, and what each of the three sizes adds.
Paper:     no row. Four lesions only: training on graded images as well doubles the time and does not change the lesion
           metrics measurably (`joint` in `factors.py`).
Launch:    python main.py compare --config=configs/tables/shipped_folds.py --config.data.root=DIR --config.model.weights=FILE
           DIR holds IDRiD/; FILE is torchvision's VGG16. One fold: --folds=1. Without AMX add
           --config.model.weight_gradients=xla
Expected:  see docs/results.md.
Hardware:  1 CPU core, 3 GiB: two hours a fold for the first three rows, and 46 minutes on two cores for the fourth.
"""

from dataclasses import replace

from configs.experiments import shipped, shipped_middle, shipped_start
from configs.tables.rows import IMAGENET, lesions_only
from pldmlt_jax.config import Config
from pldmlt_jax.table_config import Row, Table


def lesions(config: Config) -> Config:
    """Returns `config` with lesions only, from ImageNet, or from the row that the table names."""
    model = replace(config.model, weights=IMAGENET["vgg16"])
    return lesions_only(replace(config, model=model, train=replace(config.train, init_from="")))


def get_table() -> Table:
    middle = shipped_middle.get_config()
    absent = replace(middle, loss=replace(middle.loss, absent_overlap=True))
    return Table(
        name="shipped_folds",
        title="Lesions of IDRiD, at three sizes",
        rows=(
            Row("size_384", lesions(shipped_start.get_config()), "384 px, from ImageNet"),
            Row("absent", lesions(absent), "then 448 px, Dice of absent lesions included", starts_from="size_384"),
            Row("size_448", lesions(middle), "then 448 px", starts_from="size_384"),
            Row("size_640", lesions(shipped.get_config()), "then 640 px, mean of four flips", starts_from="size_448"),
        ),
        folds=(0, 1, 2, 3, 4),
        reference="size_448",
    )
