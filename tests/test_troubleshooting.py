"""Every message that docs/troubleshooting.md quotes is brought about, and it quotes none besides."""

import dataclasses
import errno
import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from data import ddr_files
from data.idrid_files import SHAPE, photograph, write_grading, write_segmentation
from training.test_loop import run as train

from pldmlt_jax.cli.app import run
from pldmlt_jax.config import Config, DataConfig, to_dict
from pldmlt_jax.data.check import CheckedPhotograph, DatasetReport, check_dataset, find_leakage
from pldmlt_jax.data.image_warnings import image_warnings
from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.data.preprocessing.geometry import read_image
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.data.splits.selection import require_lesion_types, select_segmented
from pldmlt_jax.errors import UserError
from pldmlt_jax.export.onnx import import_optional
from pldmlt_jax.io.locks import locked
from pldmlt_jax.io.signals import Interrupted
from pldmlt_jax.models.weights.load import assign_tensors
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.loop import restore_latest
from pldmlt_jax.training.nonfinite import NonfiniteWatch
from pldmlt_jax.training.rounds import RoundPlan
from pldmlt_jax.workflow.check import find_grader_shortage
from pldmlt_jax.workflow.method_stages import STAGES
from pldmlt_jax.workflow.pipeline import set_aside

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
IDRID, LAPTOP = "--config=configs/idrid.py", "--config=configs/idrid_laptop.py"


@dataclasses.dataclass
class User:
    """Somebody with a folder, who gives commands and reads what is told."""

    root: Path
    capsys: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def command(self, *arguments: str, status: int = 2) -> str:
        assert run(["main.py", *arguments]) == status
        return self.capsys.readouterr().err

    def meets(self, error: BaseException, status: int) -> str:
        """What is told of an error that no reader has foreseen."""

        def main(_: object) -> None:
            raise error

        self.patch.setattr("pldmlt_jax.workflow.stages.report.main", main)
        return self.command("report", f"--workdir={self.root}", status=status)


def told(function: Callable[[], object]) -> str:
    with pytest.raises((UserError, FloatingPointError)) as error:
        function()
    return str(error.value)


def checked(name: str, data: DataConfig) -> str:
    """What `check` finds in a set."""
    return "\n".join(f"{f.kind}: {f.found}, {f.expected}, {f.action}" for f in check_dataset(name, data).findings)


def idrid(root: Path) -> DataConfig:
    """A sound one of three pixel-labelled photographs and as many graded ones."""
    write_segmentation(root / "IDRiD", {f"IDRiD_{i:02d}": ["MA"] for i in (1, 2, 3)})
    write_grading(root / "IDRiD", {f"IDRiD_{i:03d}": i for i in (1, 2, 3)})
    return DataConfig(root=str(root), cache_dir=str(root / "cache"), size_px=32)


def copied(root: Path, pattern: str) -> None:
    """The second photograph that fits is from now on the first one again."""
    first, second, *_ = sorted(root.rglob(pattern))
    second.write_bytes(first.read_bytes())


def conflicting(user: User) -> str:
    data = idrid(user.root)
    copied(user.root, "IDRiD_00?.jpg")
    return checked("idrid_d", data)


def mask_without_image(user: User) -> str:
    data = idrid(user.root)
    next(user.root.rglob("IDRiD_01.jpg")).unlink()
    return checked("idrid_s", data)


def renamed_masks(user: User) -> str:
    data = idrid(user.root)
    for path in sorted(user.root.rglob("*_MA.tif")):
        path.rename(path.with_name(path.name.replace("_MA", "-MA")))
    return checked("idrid_s", data)


def two_folds(user: User) -> str:
    data = dataclasses.replace(idrid(user.root), split="folds", num_folds=2, folds_file=str(user.root / "folds.csv"))
    copied(user.root, "IDRiD_0?.jpg")
    (user.root / "folds.csv").write_text("image,fold\nIDRiD_01,0\nIDRiD_02,1\nIDRiD_03,1\n")
    return told(lambda: select_segmented(data))


def grey_levels(user: User) -> str:
    ddr_files.write_segmentation(user.root / "DDR-dataset", {"a": ["MA"]})
    cv2.imwrite(str(next(user.root.rglob("MA/a.tif"))), mask(255) // 2 + mask(255, slice(22, 30)) // 3)
    return checked("ddr_s", DataConfig(root=str(user.root), cache_dir=str(user.root / "cache")))


def mask(value: int, rows: slice = slice(20, 24)) -> np.ndarray:
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[rows, 40:50] = value
    return drawn


def folder(user: User, **masks: np.ndarray) -> DataConfig:
    """A photograph of one's own with these masks."""
    (user.root / "images").mkdir()
    cv2.imwrite(str(user.root / "images" / "a.png"), photograph(1))
    for lesion, pixels in masks.items():
        (user.root / "masks" / lesion).mkdir(parents=True)
        cv2.imwrite(str(user.root / "masks" / lesion / "a.png"), pixels)
    root, cache = str(user.root), str(user.root / "cache")
    return DataConfig(segmentation="folder_s", grading="none", folder_root=root, cache_dir=cache, size_px=32)


def all_graded_are_labelled(user: User) -> str:
    record = RawRecord("a", Path("a.png"))
    both = [
        DatasetReport(name, photographs=[CheckedPhotograph(record, "train", np.zeros(72, np.uint8))]) for name in ("s", "d")
    ]
    return next(find_grader_shortage(both[:1], both[1:], list(find_leakage(*both, distance=88)))).found


def pixels(user: User, content: bytes) -> str:
    (user.root / "a.jpg").write_bytes(content)
    return told(lambda: read_image(user.root / "a.jpg"))


def odd(value: tuple[int, int, int]) -> str:
    image = np.zeros((90, 90, 3), np.uint8)
    cv2.circle(image, (45, 45), 40, value, -1)
    return "\n".join(image_warnings(image, field_of_view(image), (1000, 2000)))


def other_config(user: User) -> str:
    (user.root / "checkpoints" / "1").mkdir(parents=True)
    (user.root / "checkpoints" / "config.json").write_text(json.dumps(to_dict(Config(data=DataConfig(size_px=512)))))
    return user.command("evaluate", IDRID, f"--checkpoint={user.root}")


def saved(user: User, rounds: int) -> Path:
    with Checkpoints(user.root) as checkpoints:
        for n in range(1, rounds + 1):
            checkpoints.save(n, {"x": np.zeros(3)}, {"round": n, "step": 0}, float(n))
    return user.root


def fewer_rounds(user: User) -> str:
    with Checkpoints(saved(user, 3)) as checkpoints:
        return told(lambda: restore_latest({"x": np.zeros(3)}, RoundPlan((("theta", 1),), 2), checkpoints))


def damaged(user: User) -> str:
    next((saved(user, 2) / "2" / "state" / "d").iterdir()).write_bytes(b"")
    return told(lambda: Checkpoints(user.root))


def moved_aside(user: User) -> str:
    (user.root / "log.jsonl").write_text("{}")
    set_aside(next(stage for stage in STAGES if stage.name == "train"), user.root)
    return user.capsys.readouterr().out


def not_finite(user: User) -> str:
    watch = NonfiniteWatch(user.root, lambda batch: ["IDRiD_01"], skip=False)
    watch.record(1, "theta", {"image": np.zeros(1)}, {"loss": np.float32(np.nan), "finite": np.array(False)})
    return told(lambda: watch.check_pending({"x": np.zeros(3)}))


def in_use(user: User) -> str:
    with locked(user.root / ".lock", lambda holder: AssertionError(holder)):
        return user.command("report", f"--workdir={user.root}")


def other_weights() -> str:
    tree, tensors = {"kernel": np.zeros((3, 3, 3, 8))}, {"weight": np.zeros((16, 3, 3, 3))}
    return told(lambda: assign_tensors(tree, tensors, lambda path: "weight", Path("vgg.pth")))


JPEG = cv2.imencode(".jpg", photograph(1))[1].tobytes()
FULL = OSError(errno.ENOSPC, "No space left on device", "metrics.json")

MESSAGES: dict[str, Callable[[User], str]] = {
    "no such config field": lambda user: user.command("--config.data.rot=x"),
    "no such flag": lambda user: user.command("--workdri=x"),
    "no such verb": lambda user: user.command("evalute"),
    "unknown name": lambda user: user.command("--config.meta.loss=papr"),
    "a number from": lambda user: user.command("--config.loss.beta=-1"),
    "a multiple of 32, because the network halves it 5 times": lambda user: user.command(IDRID, "--config.data.size_px=100"),
    "no effect on": lambda user: user.command("--checkpoint=runs/demo"),
    "more than one word": lambda user: user.command("predict", "--input", "a.jpg", "b.jpg"),
    "the packages of requirements.txt": lambda user: user.meets(ModuleNotFoundError("No module named 'jax'"), 1),
    "no file 'configs/": lambda user: user.command("--config=configs/nope.py"),
    "in use by": in_use,
    "no images in": lambda user: checked("idrid_s", DataConfig(idrid_root=str(user.root))),
    "no such folder": lambda user: checked("idrid_s", DataConfig(root=str(user.root))),
    "a truncated image": lambda user: pixels(user, JPEG[: len(JPEG) // 2].replace(b"\xff\xda", b"\xff\xdb")),
    "not a readable image": lambda user: pixels(user, b"no image at all"),
    "the size of its image": lambda user: checked("folder_s", folder(user, MA=mask(255)[:-2])),
    "a mask without its image": mask_without_image,
    "files of other names only": renamed_masks,
    "two at most: background and lesion": grey_levels,
    "indices of classes?": lambda user: checked("folder_s", folder(user, MA=mask(1) + mask(2, slice(30, 34)))),
    "no lesion in any mask": lambda user: checked("folder_s", folder(user, MA=mask(0))),
    "of the field of view is set": lambda user: checked("folder_s", folder(user, MA=255 - mask(255))),
    "outside the field of view": lambda user: checked("folder_s", folder(user, MA=np.eye(*SHAPE, dtype=np.uint8) * 255)),
    "conflicting_grades": conflicting,
    "no masks in it": lambda user: checked("folder_s", folder(user)),
    "no grades in it": lambda user: checked("folder_d", folder(user)),
    "every graded photograph is pixel-labelled as well": all_graded_are_labelled,
    "the same photograph in two folds": two_folds,
    "masks do not say which lesion they show": lambda user: told(
        lambda: require_lesion_types(select_segmented(folder(user, lesion=mask(255))))
    ),
    "which is empty": lambda user: user.command(LAPTOP, f"--workdir={user.root}"),
    "nowhere.pth: no such file": lambda user: user.command(
        LAPTOP, "--config.model.weights=nowhere.pth", f"--workdir={user.root}"
    ),
    "give the weights of the same architecture and width, or none": lambda user: other_weights(),
    "no checkpoint in it": lambda user: user.command("evaluate", f"--checkpoint={user.root}"),
    "a network trained with these values": other_config,
    "a network trained for 3 rounds": fewer_rounds,
    "made with another config or input, so moved to": moved_aside,
    "--config.checkpoint.fallback=True": damaged,
    "not finite": not_finite,
    "training has diverged": lambda user: told(lambda: train(user.root, RoundPlan((("a", 1),), 1), [float("nan")])),
    "make room, and the same command resumes": lambda user: user.meets(FULL, 1),
    "(--debug shows the traceback)": lambda user: user.meets(RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), 1),
    "stopped by SIGTERM": lambda user: user.meets(Interrupted(15), 143),
    "much smaller than the": lambda user: odd((200, 90, 40)),
    "not red or orange as a fundus is": lambda user: odd((40, 90, 200)),
    "the package no_such_package is not installed": lambda user: told(
        lambda: import_optional("no_such_package", "--engine=onnx")
    ),
}
"""What the page quotes -> what brings it about and returns what is then told."""


def test_the_page_quotes_these_messages():
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE)
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert sorted(quoted) == sorted(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_the_message_is_told(message, tmp_path, capsys, monkeypatch):
    assert message in MESSAGES[message](User(tmp_path, capsys, monkeypatch))
