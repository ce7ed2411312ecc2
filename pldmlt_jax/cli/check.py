"""`check`: every problem of the raw data and a plan for the training, on the terminal and in `data_report.json`."""

from collections.abc import Sequence
from itertools import groupby

import jax

from pldmlt_jax.data.findings import Finding
from pldmlt_jax.errors import DataError
from pldmlt_jax.io.files import write_json
from pldmlt_jax.workflow.check import TrainingPlan, check_data, plan_training
from pldmlt_jax.workflow.options import RunOptions

MAX_PRINTED = 12
"""Findings of one kind on the terminal; the file has all."""

GIB = 2**30


def main(options: RunOptions) -> None:
    """Checks every data set of the config.

    Raises:
        DataError: There is an error, at which `prepare` would stop.
    """
    config, path = options.config, options.workdir / "data_report.json"
    report = check_data(config)
    print_findings(report.findings)
    write_json(path, report.to_dict())  # before the plan, which takes a while
    if num_errors := report.counts["error"]:
        print(f"all findings: {path}")
        found = f"{num_errors} errors, see above"
        action = "correct them, or leave out the bad files: --config.data.on_bad_file=skip"
        raise DataError(f"data: {config.data.segmentation}, {config.data.grading}", found, "none", action)
    plan = plan_training(config, report.segmented)
    print_plan(plan)
    write_json(path, report.to_dict() | {"plan": plan.to_dict()})
    print(f"no errors; all findings: {path}")


def print_findings(findings: Sequence[Finding]) -> None:
    """Prints a block for each kind: what was found in which file, and what to do; of notes only the number."""
    for (severity, kind), group in groupby(findings, key=lambda found: (found.severity, found.kind)):
        members = list(group)
        printed = [] if severity == "note" else members[:MAX_PRINTED]
        alike = len({(found.expected, found.action) for found in members}) == 1
        print(f"\n{severity}: {kind}, {len(members)} x")
        if alike:
            print(f"  expected: {members[0].expected}\n  to do:    {members[0].action}")
        for found in printed:
            print(f"  - {found.file}: {found.found}")
            if not alike:
                print(f"      expected: {found.expected}\n      to do:    {found.action}")
        if len(members) > len(printed):
            print(f"  {'and ' if printed else ''}{len(members) - len(printed)} {'more' if printed else 'files'}")
    print()


def print_plan(plan: TrainingPlan) -> None:
    """Prints the sizes of the lesions, the memory of a step, and the suggested size and batch."""
    print(f"lesions at {plan.size_px} px:    number   median diameter   a tenth is below   narrower than 1 px")
    for name, lesion in plan.lesions.items():
        print(
            f"  {name:<22}{lesion.number:>8}{lesion.median_px:>14.1f} px{lesion.tenth_px:>16.1f} px"
            f"{100 * lesion.below_1_px:>18.0f} %"
        )
    needs = ", ".join(f"{name} needs {needed / GIB:.1f} GiB" for name, needed in plan.step_bytes.items())
    available = f"{plan.bytes_available / GIB:.1f} GiB are available ({plan.device})"
    print(f"at {plan.size_px} px and batch {plan.batch_size}: {needs}; {available}")
    suggested = plan.suggestion
    why = "at which nine of ten lesions are at least 2 px wide" if suggested.wide_enough else "the largest that fits"
    print(f"suggested: --config.data.size_px={suggested.size_px} --config.train.batch_size={suggested.batch_size}, {why}")
    if jax.default_backend() == "cpu" and suggested.size_px > plan.size_px:
        times = (suggested.size_px / plan.size_px) ** 2
        print(f"  without an accelerator, a step takes about {times:.0f} times as long at this size")
