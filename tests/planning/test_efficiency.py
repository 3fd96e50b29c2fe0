"""Times rest on each GPU's own share of its published speed, and `plan` says where that comes from."""

from __future__ import annotations

import pytest

from loraedit.planning.gpus import GPUS, efficiency_of, known_gpu


def test_a_gpu_has_its_own_efficiency_and_all_others_have_that_of_the_published_step() -> None:
    published = efficiency_of("RTX 4090")
    assert published.source == "published"
    assert published.share == pytest.approx(3.04e15 / 31.88 / 165.2e12, abs=0.001)
    assert efficiency_of("H200").source in ("assumed", "measured")
    unknown = efficiency_of("this machine's processor")
    assert unknown.share == published.share and unknown.source == "as RTX 4090"


def test_every_efficiency_is_of_a_gpu_of_the_list() -> None:
    own = {gpu.name for gpu in GPUS if not gpu.efficiency.source.startswith("as ")}
    assert {"RTX 4090", "H100 SXM", "H200"} <= own
    assert all(0 < gpu.efficiency.share < 1 and gpu.efficiency.basis for gpu in GPUS)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA L40", None),
    ],
)
def test_a_device_is_recognised_only_as_the_gpu_that_it_is(device: str, name: str | None) -> None:
    found = known_gpu(device)
    assert (found.name if found else None) == name
