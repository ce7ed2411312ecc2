"""The table of a network's parameters that is written when its training starts."""

from pathlib import Path
from typing import Any

from clu import parameter_overview

from pldmlt_jax.io.files import atomic_write
from pldmlt_jax.io.processes import is_first_process

PARAMETERS = "parameters.txt"


def write_parameter_table(workdir: Path, name: str, params: Any) -> None:
    """Writes name, shape, dtype, size, mean and standard deviation of each array to `parameters.txt`; prints the total.

    Args:
        workdir: Folder of the table.
        name: Name of the network, for the printed line.
        params: Nested dictionary of arrays, each whole on one device.
    """
    if not is_first_process():
        return
    with atomic_write(workdir / PARAMETERS) as file:
        file.write(parameter_overview.get_parameter_overview(params) + "\n")
    print(f"  {name}: {parameter_overview.count_parameters(params):,} parameters, listed in {workdir / PARAMETERS}")
