"""`check`: reads the raw data only, tells every problem of it at once, and ends with a plan; leaves `data_report.json`."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pldmlt_jax.config import NO_SET, Config
from pldmlt_jax.data.check import DatasetReport, check_dataset, find_leakage
from pldmlt_jax.data.datasets.registry import DATASETS, parse_set_names
from pldmlt_jax.data.findings import SEVERITIES, Finding
from pldmlt_jax.data.plan import suggest_size, summarise_lesion_sizes
from pldmlt_jax.errors import DataError
from pldmlt_jax.io.files import write_json
from pldmlt_jax.io.progress import show_progress
from pldmlt_jax.method.diagnostics import state_bytes, step_cost
from pldmlt_jax.method.state import make_method
from pldmlt_jax.method.steps import meta_step, train_step
from pldmlt_jax.models.build import encoder_depth
from pldmlt_jax.workflow.options import RunOptions

SHOWN_OF_A_KIND = 12
"""Lines on the terminal; the file has all."""

GIB = 2**30


def main(options: RunOptions) -> None:
    """Checks every set of the config.

    Raises:
        DataError: There is an error, something that `prepare` would stop at.
    """
    config, data = options.config, options.config.data
    reports = {}
    for name in [*parse_set_names(data.segmentation), *(parse_set_names(data.grading) if data.grading != NO_SET else [])]:
        with show_progress(f"check {name}") as task:
            reports[name] = check_dataset(name, data, task)
    segmented = [report for name, report in reports.items() if DATASETS[name].has_masks]
    graded = [report for name, report in reports.items() if DATASETS[name].has_grades]
    pairs = [found for a in segmented for b in graded for found in find_leakage(a, b, data.leakage_distance)]
    pairs += list(find_grader_shortage(segmented, graded, pairs)) if config.pseudo.source == "graders" else []
    findings = list(dict.fromkeys([*(found for report in reports.values() for found in report.findings), *pairs]))
    findings.sort(key=lambda found: (SEVERITIES.index(found.severity), found.kind, found.file))
    show(findings)
    path = options.workdir / "data_report.json"
    content = {
        "counts": Counter(found.severity for found in findings),
        "sets": {name: describe_set(report) for name, report in reports.items()},
        "findings": [dataclasses.asdict(found) for found in findings],
    }
    write_json(path, content)  # before the plan, which takes a while
    num_errors = content["counts"]["error"]
    if num_errors:
        print(f"all of them: {path}")
        found = f"{num_errors} errors, see above"
        action = "mend them; or leave the bad files out: --config.data.on_bad_file=skip"
        raise DataError(f"data: {data.segmentation}, {data.grading}", found, "none", action)
    write_json(path, content | {"plan": plan(config, segmented)})
    print(f"no errors; all that was found: {path}")


def find_grader_shortage(
    segmented: Sequence[DatasetReport], graded: Sequence[DatasetReport], pairs: Sequence[Finding]
) -> Iterator[Finding]:
    """An error where every graded photograph is pixel-labelled as well: there is nothing to train graders on."""
    photographs = {str(p.record.image) for report in graded for p in report.photographs}
    if photographs and photographs <= {found.file for found in pairs}:
        yield Finding(
            segmented[0].name, "no_graders", "error", "every graded photograph is pixel-labelled as well",
            "graded photographs that the multi-task network does not see, to train graders on",
            "learn from the given grades: "
            "--config.pseudo.source=given --config.data.grading=none --config.meta.enabled=False",
        )  # fmt: skip


def show(findings: Sequence[Finding]) -> None:
    """A block for each kind: what was found in which file, and what to do; of notes the number alone."""
    for (severity, kind), group in groupby(findings, key=lambda found: (found.severity, found.kind)):
        members = list(group)
        shown = [] if severity == "note" else members[:SHOWN_OF_A_KIND]
        alike = len({(found.expected, found.action) for found in members}) == 1
        print(f"\n{severity}: {kind}, {len(members)} x")
        if alike:
            print(f"  expected: {members[0].expected}\n  to do:    {members[0].action}")
        for found in shown:
            print(f"  - {found.file}: {found.found}")
            if not alike:
                print(f"      expected: {found.expected}\n      to do:    {found.action}")
        if len(members) > len(shown):
            print(f"  {'and ' if shown else ''}{len(members) - len(shown)} {'more' if shown else 'files'}")
    print()


def describe_set(report: DatasetReport) -> dict[str, Any]:
    """Photographs and grades by split."""
    photographs = report.photographs
    splits = sorted({p.split for p in photographs})
    facts: dict[str, Any] = {"photographs": Counter(p.split for p in photographs), "ungradable": dict(report.ungradable)}
    if DATASETS[report.name].has_grades:
        facts["grades"] = {
            split: dict(sorted(Counter(p.record.grade for p in photographs if p.split == split).items())) for split in splits
        }
    return facts


def plan(config: Config, segmented: Sequence[DatasetReport]) -> dict[str, Any]:
    """Prints and returns what the lesions measure at the chosen size, what a step needs, and a size and batch that fit."""
    size_px, batch_size = config.data.size_px, config.train.batch_size
    diameters = np.sum([report.diameters for report in segmented], axis=0)
    sizes = summarise_lesion_sizes(diameters, size_px)
    print(f"lesions at {size_px} px:    number   median diameter   a tenth is below   narrower than 1 px")
    for name, lesion in sizes.items():
        print(
            f"  {name:<22}{lesion.number:>8}{lesion.median_px:>14.1f} px{lesion.tenth_px:>16.1f} px"
            f"{100 * lesion.below_1_px:>18.0f} %"
        )
    method = make_method(config, total_steps=1)
    state = state_bytes(method)
    steps = {"a training step": train_step} | ({"a meta step": meta_step} if config.meta.enabled else {})
    temporary = {what: step_cost(step, method, size_px, batch_size).temp_bytes for what, step in steps.items()}
    device = jax.local_devices()[0]
    available = available_bytes(device)
    needs = ", ".join(f"{what} {(state + temp) / GIB:.1f} GiB" for what, temp in temporary.items())
    print(f"at {size_px} px and batch {batch_size}: {needs}; {available / GIB:.1f} GiB are there ({device.device_kind})")
    field_px = int(np.median([px for report in segmented for px in report.longer_sides_px]))
    per_pixel = max(temporary.values()) / (batch_size * size_px**2)
    chosen = suggest_size(diameters, field_px, state, per_pixel, available, 2 ** encoder_depth(config.model))
    why = "nine of ten lesions are at least 2 px wide then" if chosen.wide_enough else "the largest that fits"
    print(f"suggested: --config.data.size_px={chosen.size_px} --config.train.batch_size={chosen.batch_size}, {why}")
    if device.platform == "cpu" and chosen.size_px > size_px:
        times = (chosen.size_px / size_px) ** 2
        print(f"  without an accelerator a step takes about {times:.0f} times as long then")
    return {
        "size_px": size_px,
        "batch_size": batch_size,
        "lesions": {name: lesion._asdict() for name, lesion in sizes.items()},
        "bytes_needed": state + max(temporary.values()),
        "bytes_available": available,
        "device": device.device_kind,
        "suggested": chosen._asdict(),
    }


def available_bytes(device: Any) -> int:
    """Memory of the device; of a CPU what Linux could give to a program now."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return int(limit)
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
