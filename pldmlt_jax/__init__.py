"""PLDMLT: lesions and grades of diabetic retinopathy in photographs of the fundus, by one network.

    import pldmlt_jax as pj

    prediction = pj.load("runs/idrid").predict("photograph.jpg")
    prediction.masks["lesion"], prediction.grade, prediction.grade_probabilities

| name | what |
| --- | --- |
| `load(path)` | loads a trained network, or several, from a workdir, its checkpoints or a folder that `export` has written |
| `Predictor` | what `load` returns: `predict(image)`, `predict_many(images)` |
| `Prediction` | masks, grade and probabilities of one photograph, at its own size |
| `InferenceConfig` | tiles and test-time augmentation: `load(path, inference=InferenceConfig(tta="flips"))` |
| `run_config(config)` | does what `python main.py` does, for a config made in Python: the whole method, or one verb |
| `Config` | all fields of a run; the files under `configs/` make one |
| `read_image(path)` | reads a JPEG, PNG, TIFF or BMP file as RGB uint8 [h, w, 3], rotated as its EXIF data say |
| `overlay(image, masks)` | draws masks over a photograph, in the same colours as all other pictures |
| `UserError` | the base of all errors that a user can cause; it says where, what was found and expected, and what to do |

Their docstrings say shapes, units and errors. Importing this package defines these names and loads nothing: JAX and the
rest come with the first use of one. A research result, not a medical device.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pldmlt_jax.cli.app import run_config as run_config
    from pldmlt_jax.config import Config as Config
    from pldmlt_jax.config import InferenceConfig as InferenceConfig
    from pldmlt_jax.data.preprocessing.geometry import read_image as read_image
    from pldmlt_jax.errors import UserError as UserError
    from pldmlt_jax.evaluation.predictor import Prediction as Prediction
    from pldmlt_jax.evaluation.predictor import Predictor as Predictor
    from pldmlt_jax.reporting.overlays import overlay as overlay
    from pldmlt_jax.workflow.load_checkpoint import load as load

_HOMES = {
    "load": "pldmlt_jax.workflow.load_checkpoint",
    "Predictor": "pldmlt_jax.evaluation.predictor",
    "Prediction": "pldmlt_jax.evaluation.predictor",
    "run_config": "pldmlt_jax.cli.app",
    "Config": "pldmlt_jax.config",
    "InferenceConfig": "pldmlt_jax.config",
    "read_image": "pldmlt_jax.data.preprocessing.geometry",
    "overlay": "pldmlt_jax.reporting.overlays",
    "UserError": "pldmlt_jax.errors",
}

__all__ = [
    "Config",
    "InferenceConfig",
    "Prediction",
    "Predictor",
    "UserError",
    "load",
    "overlay",
    "read_image",
    "run_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
