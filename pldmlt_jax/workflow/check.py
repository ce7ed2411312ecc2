"""Checks the raw data of a config, and plans a training on it."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pldmlt_jax.config import NO_SET, Config
from pldmlt_jax.data.check import DatasetReport, check_dataset, find_leakage
from pldmlt_jax.data.datasets.registry import DATASETS, parse_set_names
from pldmlt_jax.data.findings import SEVERITIES, Finding
from pldmlt_jax.data.plan import LesionSize, SizeSuggestion, suggest_size, summarise_lesion_sizes
from pldmlt_jax.io.progress import show_progress
from pldmlt_jax.method.diagnostics import state_bytes, step_cost
from pldmlt_jax.method.state import make_method
from pldmlt_jax.method.steps import meta_step, train_step
from pldmlt_jax.models.build import encoder_depth


class DataReport(NamedTuple):
    """The results of checking the raw files of a config's data sets.

    Attributes:
        sets: Name of a data set -> its report.
        findings: All findings, errors first.
    """

    sets: dict[str, DatasetReport]
    findings: list[Finding]

    @property
    def segmented(self) -> list[DatasetReport]:
        """The reports of the pixel-labelled sets."""
        return [report for name, report in self.sets.items() if DATASETS[name].has_masks]

    @property
    def graded(self) -> list[DatasetReport]:
        """The reports of the graded sets."""
        return [report for name, report in self.sets.items() if DATASETS[name].has_grades]

    @property
    def counts(self) -> Counter[str]:
        """Severity -> number of findings."""
        return Counter(finding.severity for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `data_report.json`."""
        return {
            "counts": self.counts,
            "sets": {name: count_photographs(report) for name, report in self.sets.items()},
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }


class TrainingPlan(NamedTuple):
    """The memory that a training needs, and a size and batch that fit.

    Attributes:
        size_px: Side of the network's square input, from the config.
        batch_size: Images per step, from the config.
        lesions: Lesion -> its measures at that size.
        step_bytes: Kind of step -> memory that it needs, in bytes.
        bytes_available: Memory of the device in bytes.
        device: The name of the device.
        suggestion: A size and batch that fit.
    """

    size_px: int
    batch_size: int
    lesions: dict[str, LesionSize]
    step_bytes: dict[str, int]
    bytes_available: int
    device: str
    suggestion: SizeSuggestion

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of "plan" in `data_report.json`."""
        return {
            "size_px": self.size_px,
            "batch_size": self.batch_size,
            "lesions": {name: lesion._asdict() for name, lesion in self.lesions.items()},
            "bytes_needed": max(self.step_bytes.values()),
            "bytes_available": self.bytes_available,
            "device": self.device,
            "suggested": self.suggestion._asdict(),
        }


def check_data(config: Config) -> DataReport:
    """Reads the raw files of all data sets of a config, and finds photographs that are in two of them."""
    data, sets = config.data, {}
    for name in [*parse_set_names(data.segmentation), *(parse_set_names(data.grading) if data.grading != NO_SET else [])]:
        with show_progress(f"check {name}") as task:
            sets[name] = check_dataset(name, data, task)
    report = DataReport(sets, [])
    pairs = [found for a in report.segmented for b in report.graded for found in find_leakage(a, b, data.leakage_distance)]
    if config.pseudo.source == "graders":
        pairs += list(find_grader_shortage(report.segmented, report.graded, pairs))
    unique = dict.fromkeys([*(found for each in sets.values() for found in each.findings), *pairs])
    findings = sorted(unique, key=lambda found: (SEVERITIES.index(found.severity), found.kind, found.file))
    return report._replace(findings=findings)


def find_grader_shortage(
    segmented: Sequence[DatasetReport], graded: Sequence[DatasetReport], pairs: Sequence[Finding]
) -> Iterator[Finding]:
    """Yields an error if all graded photographs are pixel-labelled as well, so that none is left to train graders on.

    Args:
        segmented: Reports of the pixel-labelled sets.
        graded: Reports of the graded sets.
        pairs: Findings about photographs that are in both kinds of sets.
    """
    photographs = {str(photograph.record.image) for report in graded for photograph in report.photographs}
    if photographs and photographs <= {found.file for found in pairs}:
        yield Finding(
            segmented[0].name, "no_graders", "error", "every graded photograph is pixel-labelled as well",
            "graded photographs that the multi-task network does not see, to train graders on",
            "train on the given grades: "
            "--config.pseudo.source=given --config.data.grading=none --config.meta.enabled=False",
        )  # fmt: skip


def count_photographs(report: DatasetReport) -> dict[str, Any]:
    """Counts the photographs and grades of a data set by split."""
    photographs = report.photographs
    splits = sorted({photograph.split for photograph in photographs})
    counts: dict[str, Any] = {
        "photographs": Counter(each.split for each in photographs),
        "ungradable": dict(report.ungradable),
    }
    if DATASETS[report.name].has_grades:
        grades = {split: Counter(each.record.grade for each in photographs if each.split == split) for split in splits}
        counts["grades"] = {split: dict(sorted(numbers.items())) for split, numbers in grades.items()}
    return counts


def plan_training(config: Config, segmented: Sequence[DatasetReport]) -> TrainingPlan:
    """Measures the lesions at the config's size and the memory of its steps, and suggests a size and batch.

    Args:
        config: The config of the training.
        segmented: Reports of its pixel-labelled sets.
    """
    size_px, batch_size = config.data.size_px, config.train.batch_size
    diameters = np.sum([report.diameters for report in segmented], axis=0)
    method = make_method(config, total_steps=1)
    state = state_bytes(method)
    steps = {"a training step": train_step} | ({"a meta step": meta_step} if config.meta.enabled else {})
    temporary = {name: step_cost(step, method, size_px, batch_size).temp_bytes for name, step in steps.items()}
    device = jax.local_devices()[0]
    available = find_available_bytes(device)
    field_px = int(np.median([px for report in segmented for px in report.longer_sides_px]))
    per_pixel = max(temporary.values()) / (batch_size * size_px**2)
    return TrainingPlan(
        size_px,
        batch_size,
        summarise_lesion_sizes(diameters, size_px),
        {name: state + temp for name, temp in temporary.items()},
        available,
        device.device_kind,
        suggest_size(diameters, field_px, state, per_pixel, available, 2 ** encoder_depth(config.model)),
    )


def find_available_bytes(device: Any) -> int:
    """Returns the memory of a device in bytes; for a CPU, the memory that Linux has available now."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return int(limit)
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
