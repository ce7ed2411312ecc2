"""The paper's own setting on DDR: its pixel-labelled images, graders trained on its graded images, its own splits.

Purpose:   the literal method on the paper's second data set.
Paper:     the rows for DDR; beta is the paper's value for this set.
Launch:    python main.py --config=configs/ddr.py --config.data.root=DIR --config.model.weights=FILE
           DIR holds DDR-dataset/; FILE is torchvision's VGG16, .pth or .safetensors.
Expected:  not yet reproduced.
Hardware:  one GPU with 24 GB.
"""

import configs.idrid
from pldmlt_jax.config import Config


def get_config() -> Config:
    config = configs.idrid.get_config()
    config.name = "ddr"
    config.data.segmentation, config.data.grading = "ddr_s", "ddr_d"
    config.loss.beta = 0.95
    return config
