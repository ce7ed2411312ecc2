"""The table of parameters against the arrays themselves."""

import numpy as np

from pldmlt_jax.training.parameters import PARAMETERS, write_parameter_table


def test_every_array_has_a_row_with_its_shape_size_mean_and_deviation(tmp_path, capsys):
    kernel = np.random.default_rng(0).normal(2.0, 3.0, (3, 3, 40, 50)).astype(np.float32)
    params = {"encoder": {"conv": {"kernel": kernel}}, "head": {"bias": np.zeros(5, np.float32)}}
    write_parameter_table(tmp_path, "network", params)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (tmp_path / PARAMETERS).read_text().splitlines()
        if line.startswith("|")
    ]
    assert rows == [
        ["Name", "Shape", "Dtype", "Size", "Mean", "Std"],
        ["encoder/conv/kernel", "(3, 3, 40, 50)", "float32", "18,000", f"{kernel.mean():.3}", f"{kernel.std():.3}"],
        ["head/bias", "(5,)", "float32", "5", "0.0", "0.0"],
    ]
    assert capsys.readouterr().out == f"  network: 18,005 parameters, listed in {tmp_path / PARAMETERS}\n"
