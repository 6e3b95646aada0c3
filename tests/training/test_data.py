"""Real data from disk: CIFAR-100's python files and image folders, and what is wrong with them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from csbench.core.case import Case
from csbench.errors import UsageError
from csbench.training import cifar
from csbench.training.data import Place, loader_ms, open_source
from csbench.training.datasets import DATASETS, Dataset
from csbench.training.folder import FolderSource

PLACE = Place(torch.device("cpu"), False)


def case(batch: int, size: tuple[int, int, int]) -> Case:
    return Case(
        task="train-step", model="resnet20", pattern="cs", sparsity=0.5, backend="cs",
        baseline="dense", device="cpu", batch=batch, input=size,
    )  # fmt: skip


def write_cifar(folder: Path, images: int = 12, **changed: object) -> None:
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        content = {
            b"data": draw.integers(0, 256, (images, 3072), dtype=np.uint8),
            b"fine_labels": [i % 100 for i in range(images)],
        } | {key.encode(): value for key, value in changed.items()}
        (folder / part).write_bytes(pickle.dumps(content, protocol=2))


def test_cifar_is_read_and_drawn(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    source = open_source(
        case(5, (3, 32, 32)), DATASETS["cifar100"], tmp_path, PLACE, seed=0, workers=0
    )
    labels = torch.cat([source.batch()[1] for _ in range(4)])
    assert set(labels[:10].tolist()) <= set(range(12))
    assert len(set(labels[:10].tolist())) == 10  # every image once before any comes again
    images, _ = source.batch()
    assert images.shape == (5, 3, 32, 32) and abs(float(images.mean())) < 1
    held = list(source.validation())
    assert [len(targets) for _, targets in held] == [5, 5, 2]


def test_ranks_share_the_validation_images(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    seen = []
    for rank in range(2):
        source = open_source(
            case(12, (3, 32, 32)), DATASETS["cifar100"], tmp_path, PLACE, seed=0, workers=0,
            rank=rank, ranks=2,
        )  # fmt: skip
        seen += [int(label) for _, labels in source.validation() for label in labels]
    assert sorted(seen) == list(range(12))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("owned"),))  # type: ignore[return-value]


def test_code_in_a_cifar_file_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(tmp_path, data=Evil())
    with pytest.raises(UsageError, match="never runs code"):
        cifar.read(tmp_path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fine_labels": [100] * 12}, "one of 100 classes"),
        ({"fine_labels": [0] * 3}, "3 labels"),
        ({"data": np.zeros((12, 10), dtype=np.uint8)}, r"expected \[N, 3072\] uint8"),
        ({"data": 3}, "holds no CIFAR-100"),
    ],
)
def test_wrong_cifar_files_are_told(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    write_cifar(tmp_path, **changed)
    with pytest.raises(UsageError, match=said):
        cifar.read(tmp_path)


def test_a_missing_cifar_folder_or_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data folder"):
        cifar.read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no file"):
        cifar.read(tmp_path)
    (tmp_path / "train").write_bytes(b"not a pickle")
    with pytest.raises(UsageError, match="is not a CIFAR-100 python file"):
        cifar.read(tmp_path)


TWO = Dataset("two", (3, 16, 16), 2, 8, 4, "an ImageFolder tree")


def write_tree(folder: Path, images: int = 4) -> None:
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "val"):
        for name, shade in (("cat", 20), ("dog", 230)):
            (folder / part / name).mkdir(parents=True)
            for i in range(images):
                picture = image.new("RGB", (40 + i, 30), (shade, shade, shade))
                picture.save(folder / part / name / f"{i}.png")


def source_of(folder: Path, facts: Dataset = TWO, batch: int = 4, workers: int = 0) -> FolderSource:
    return FolderSource(folder, facts, case(batch, (3, 16, 16)), PLACE.put, 0, workers, 0, 1)


def test_an_image_tree_is_read_with_its_labels(tmp_path: Path) -> None:
    write_tree(tmp_path)
    source = source_of(tmp_path)
    images, labels = source.batch()
    assert images.shape == (4, 3, 16, 16)
    bright = images.mean((1, 2, 3)) > 0
    assert torch.equal(bright, labels == 1)  # folders in alphabetical order: cat, dog
    assert sum(len(targets) for _, targets in source.validation()) == 8
    for _ in range(3):  # beyond the first epoch
        source.batch()


def test_wrong_image_trees_are_told(tmp_path: Path) -> None:
    write_tree(tmp_path)
    with pytest.raises(UsageError, match="holds 2 class folders, the dataset has 1000"):
        source_of(tmp_path, DATASETS["imagenet"])
    with pytest.raises(UsageError, match="8 images, fewer than a batch of 64"):
        source_of(tmp_path, batch=64)
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"no image")
    for workers in (0, 1):
        with pytest.raises(UsageError, match=r"\Acannot read image '.*0.png': [^\n]*\Z"):
            source_of(tmp_path, batch=8, workers=workers).batch()
    empty = tmp_path / "empty"
    (empty / "a").mkdir(parents=True)
    (empty / "b").mkdir()
    with pytest.raises(UsageError, match="holds no images"):
        source_of(empty)


class Prefetched:
    """A loader that has two batches of each process ready; all others take it 30 ms of a clock."""

    def __init__(self, workers: int) -> None:
        self.ready, self.workers, self.now = 2 * workers, workers, 0.0
        self.taken = 0

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.taken += 1
        if self.taken > self.ready and self.taken % self.workers == 0:
            self.now += 0.030 * self.workers  # the processes finish together
        return torch.empty(0), torch.empty(0)

    def validation(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(())


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_that_lay_ready_do_not_make_the_loader_fast(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Prefetched(workers)
    monkeypatch.setattr("csbench.training.data.time.perf_counter", lambda: loader.now)
    assert loader_ms(loader, workers, 3) == pytest.approx([30.0] * 3)
