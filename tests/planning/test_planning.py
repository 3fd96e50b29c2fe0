"""Plans count the operations of the true architecture, and choose memory measures that fit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import Scene
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import loraedit
from loraedit.cli.main import app
from loraedit.errors import InputError, ModelError
from loraedit.families.card import NANO, read_card
from loraedit.families.known import known_names
from loraedit.families.skeleton import open_skeleton
from loraedit.planning import (
    Cost,
    Fitting,
    Limits,
    Shape,
    fits,
    host,
    make_plan,
    measure_cost,
    parse_vram,
    work_of,
)
from loraedit.planning.fitting import MARGIN_BYTES, ladder
from loraedit.planning.gpus import Gpu
from loraedit.planning.meter import Meter, gpu_attention
from loraedit.planning.skeleton import build
from loraedit.planning.transformer_cost import TransformerPlan
from loraedit.settings import Resources, TrainSettings, make_settings
from loraedit.types import Size

GB = 10**9
SETTINGS = TrainSettings(steps=1, rank=2, lr=1e-3)
SHAPE = Shape(9, Size(64, 64))


@pytest.fixture(autouse=True, scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


RUNGS = ladder(6)


def nano_costs(resources: Resources) -> dict[str, Cost]:
    return measure_cost(read_card(NANO), SHAPE, SETTINGS, resources)


def test_a_meter_counts_as_torch_does_and_sees_what_lives() -> None:
    layer = nn.Linear(64, 64)
    with Meter(layer) as meter, FlopCounterMode(display=False) as counter:
        rows = torch.ones(8, 64)
        layer(layer(rows)).sum().backward()
    assert meter.flops == counter.get_total_flops() == 5 * 2 * 8 * 64 * 64
    with Meter(layer) as meter, torch.no_grad():
        for _ in range(5):
            torch.zeros(1000)
    assert (meter.peak, meter.live) == (4000, 0)


def test_attention_counts_forwards_and_backwards_and_keeps_no_table() -> None:
    length, width = 512, 64
    with FakeTensorMode(), Meter(nn.Module()) as meter, gpu_attention():
        query = torch.empty(1, 1, length, width, dtype=torch.bfloat16, requires_grad=True)
        out = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        forward = meter.flops
        torch.autograd.backward(out.sum())
    assert forward == 2 * 2 * length * length * width
    assert meter.flops == forward + 5 * 2 * length * length * width
    assert meter.peak < 2 * length * length


def test_means_lower_the_peak_and_recomputing_raises_the_operations() -> None:
    plain, again, swapped, hosted = (nano_costs(each)["train"] for each in RUNGS)
    assert plain.working_bytes > again.working_bytes == swapped.working_bytes > hosted.working_bytes
    assert 1.2 < again.flops / plain.flops < 1.7
    assert again.flops == swapped.flops == hosted.flops
    assert swapped.weights_bytes < again.weights_bytes and swapped.host_bytes > 0 == again.host_bytes
    assert hosted.checkpoint_bytes > 0 == swapped.checkpoint_bytes


def test_a_figure_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = nano_costs(Resources())
    assert len(list((tmp_path / "loraedit/plans").iterdir())) == 7
    monkeypatch.setattr("loraedit.planning.transformer_cost.Meter", None)
    assert nano_costs(Resources()) == first


@pytest.mark.parametrize("depths", [(1, 2)])
def test_the_14b_model_takes_3e15_operations_a_step(depths: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured at two depths of the true width, because all blocks cost the same."""
    monkeypatch.setattr("loraedit.planning.transformer_cost.stored", lambda *about: about[-1]())
    counts = []
    with open_skeleton("wan2.1-i2v-14b-480p") as card:
        assert sum(p.numel() for p in build(card, "transformer").parameters()) == 16_394_878_784
        shape = Shape(49, Size(480, 832))
        assert shape.tokens(card) == 20_280
        path = card.folder / "transformer/config.json"
        config = json.loads(path.read_text())
        for depth in depths:
            path.write_text(json.dumps({**config, "num_layers": depth}))
            sixteen = SETTINGS.model_copy(update={"rank": 16})
            counts.append(
                TransformerPlan(card, "transformer", shape, sixteen, Resources(checkpointing=True)).train().flops
            )
    low, high = depths
    block = (counts[1] - counts[0]) / (high - low)
    assert counts[0] + (40 - low) * block == pytest.approx(3.04e15, rel=0.002)


@pytest.mark.parametrize(("zone", "share"), [(Size(480, 832), 1 / 3), (Size(240, 416), 1 / 10)])
def test_propagating_costs_a_third_of_the_published_recipe_and_a_tenth_in_a_quarter_of_the_frame(
    zone: Size, share: float
) -> None:
    frame = Size(480, 832)
    with open_skeleton("wan2.1-i2v-14b-480p") as card:
        totals = []
        for recipe, window in (("propagate", zone), ("paper", frame)):
            settings = make_settings({"recipe": recipe}).resolved(card.recipe)
            work = work_of(card, settings, window, [49], 0)
            totals.append(make_plan(card, "wan", frame, work, None, settings.resources).total_flops)
        assert totals[0] <= share * totals[1]


def made_up_costs(resources: Resources) -> dict[str, Cost]:
    """Returns costs of 30 GB of training with weights of 12 GB in six blocks, two of which have a slot."""
    half = 1 if resources.weights == "auto" else 2
    there = (6 - max(resources.swap_blocks - 2, 0)) * 2 * GB // half
    work = (18 - 8 * resources.checkpointing - 6 * resources.offload_checkpoints) * GB
    text = (2 if resources.offload_encoders else 11) * GB
    vae = (3 if resources.tile_vae else 7) * GB
    swapped = resources.swap_blocks * 2 * GB // half
    train = Cost(1, there, work, host_bytes=swapped, loaded_bytes=12 * GB // half)
    return {"train": train, "text_encode": Cost(1, 0, text), "vae_decode": Cost(1, 0, vae)}


def fitted(device: int, host: int | None = None, **own: Any) -> Resources:
    """Returns the choice for limits in GB. The host needs the weights once, or twice if they stay there."""

    def host_bytes(resources: Resources, costs: Mapping[str, Cost]) -> int:
        return (1 if resources.reload_weights else 2) * costs["train"].loaded_bytes

    def apply_user(resources: Resources) -> Resources:
        return resources.model_copy(update=own)

    fitting = Fitting(made_up_costs, host_bytes, apply_user, blocks=6, stores=("auto", "fp8"))
    return fitting.choose(Limits(device * GB, None if host is None else host * GB))


def test_the_choice_is_the_first_that_fits() -> None:
    kept = Resources(checkpointing=True)
    assert fitted(40) == Resources()
    assert fitted(24) == kept
    assert fitted(20) == kept.model_copy(update={"swap_blocks": 4})  # two have a slot, and two are away
    assert fitted(16) == kept.model_copy(update={"swap_blocks": 6})
    assert fitted(14) == kept.model_copy(update={"swap_blocks": 4, "offload_checkpoints": True})
    assert fitted(24, swap_blocks=3) == kept.model_copy(update={"swap_blocks": 3})
    assert fitted(40, checkpointing=True) == kept


def test_weights_are_stored_smaller_only_where_nothing_else_fits() -> None:
    least = fitted(9)
    assert (least.weights, least.swap_blocks, least.offload_checkpoints) == ("fp8", 5, True)
    assert least.offload_encoders and not least.tile_vae
    assert fitted(9, weights="auto").weights == "auto"
    assert not fits(made_up_costs(fitted(4)), 4 * GB)
    assert fits({"train": Cost(1, 0, 8 * GB)}, 8 * GB + MARGIN_BYTES)


def test_what_a_container_may_take_limits_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(host, "CGROUPS", [(limit, used)])
    whole = host.this_host_bytes()
    limit.write_text("max\n")
    used.write_text("1000\n")
    assert host.this_host_bytes() == pytest.approx(whole, rel=0.3)
    limit.write_text("3000\n")
    assert host.this_host_bytes() - host.process_bytes() == 2000


def test_a_run_goes_on_with_the_weights_that_it_began_with(
    checkpoint: Path, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"model": str(checkpoint), "steps": 2, "prompt": "a", "source_prompt": "b", "vram": "9GB"}

    def edited(weights: str) -> Any:
        chosen = Resources(weights=weights, checkpointing=True)  # type: ignore[arg-type]
        monkeypatch.setattr(Fitting, "choose", lambda self, _: self.apply_user(chosen))
        loraedit.edit(scene.source, scene.edited_first, scene.mask, run=tmp_path / "run", **settings)
        return json.loads((tmp_path / "run/settings.json").read_text())["resources"]["weights"]

    assert [edited("int8"), edited("auto")] == ["int8", "int8"]


def test_the_memory_of_the_host_is_kept_within() -> None:
    assert not fitted(24, host=24).reload_weights
    assert fitted(24, host=20) == Resources(checkpointing=True, reload_weights=True)
    assert fitted(24, host=11).weights == "fp8"


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * GB), ("16", 16 * GB), ("1.5 gb", 3 * GB // 2), ("auto", None)]
)
def test_memory_is_read_in_gigabytes(text: str, size: int | None) -> None:
    assert parse_vram(text, torch.device("cpu")) == size


@pytest.mark.parametrize("text", ["", "0", "lots", "-3GB", "24MB"])
def test_memory_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="24GB"):
        parse_vram(text, None)


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    assert "wan2.2-i2v-a14b" in known_names()
    with pytest.raises(ModelError, match="Give a checkpoint folder"), open_skeleton("no-such-model"):
        pass


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_plan_prints_one_object_that_holds_what_was_asked() -> None:
    done = run("plan", "--model", "nano", "--size", "64x64", "--frames", "9", "--vram", "12GB", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    here = found["here"]
    assert here["memory_gb"] > 0 and here["tflops"] > 0
    computing = found["total_flops"] / (here["tflops"] * 1e12 * here["efficiency"])
    assert here["seconds"] == pytest.approx(computing)  # nothing of nano is brought in from the host
    assert found["fits"] and found["resources"]["checkpointing"] is False
    assert set(found["peak_bytes"]) == {"text_encode", "vae_encode", "train", "sample", "vae_decode"}
    recipe = read_card(NANO).recipe
    assert found["train_steps"] == recipe.steps
    least = recipe.steps * found["train_step_flops"] + found["sampling_forwards"] * found["sample_step_flops"]
    assert found["total_flops"] > least
    assert found["recipe"] == "model" and "recipes" not in found


def test_plan_without_a_clip_or_a_size_is_refused() -> None:
    done = run("plan", "--model", "nano")
    assert isinstance(done.exception, InputError) and "--size" in str(done.exception)


@pytest.mark.parametrize(
    ("size", "frames", "words"),
    [("64x64", "99999999999999999999", "at most 250000 frames"), ("99999x9", "1", "narrow or too large")],
)
def test_plan_refuses_what_no_clip_has_and_no_model_takes(size: str, frames: str, words: str) -> None:
    done = run("plan", "--model", "nano", "--size", size, "--frames", frames)
    assert isinstance(done.exception, InputError) and words in str(done.exception)


def test_plan_counts_a_long_clip_in_segments() -> None:
    reach = read_card(NANO).recipe.segment_frames
    flops, disk = [], []
    for frames in (reach, 100 * reach):
        done = run("plan", "--model", "nano", "--size", "64x64", "--frames", str(frames), "--json")
        flops.append(json.loads(done.stdout)["sample_step_flops"])
        disk.append(json.loads(done.stdout)["disk_bytes"])
    assert flops[0] == flops[1]
    assert disk[1] - disk[0] > 99 * reach * 64 * 64 * 3 * 4  # source, result, mask and pieces


def test_a_model_that_reads_the_guidance_itself_is_run_once_a_step() -> None:
    passes = []
    for model in ("hunyuanvideo-i2v", "wan2.1-i2v-14b-480p"):
        with open_skeleton(model) as card:
            asked = {"model": model, "sampling_steps": 20, "guidance": 5.0, "strength": 1.0}
            settings = make_settings(asked).resolved(card.recipe)
            passes.append(work_of(card, settings, SHAPE.size, [9], 0).passes)
    assert passes == [20, 40]


def test_the_working_memory_counts_too_where_the_hosts_memory_is_all_there_is() -> None:
    with open_skeleton("nano") as card:
        work = work_of(card, make_settings({}).resolved(card.recipe), SHAPE.size, [9], 0)
        plan = make_plan(card, "nano", SHAPE.size, work, None, lambda resources: resources)
    plan = replace(plan, costs={"train": Cost(1, GB, GB)}, host_bytes={"train": 20 * GB})
    assert plan.fits_on(Gpu("a card", 8, 1.0)) and plan.fits_on(Gpu("a processor", 21, 1.0, is_host=True))
    assert not plan.fits_on(Gpu("a processor", 20, 1.0, is_host=True))


def test_doctor_finds_nano_and_says_what_is_wrong_with_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models--Lightricks--LTX-2"
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    done = run("doctor", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    nano, broken = found["models"]
    assert nano["runs"] == "yes"
    assert nano["model"] == "nano" and nano["problem"] is None and found["codecs"]["ffv1"]
    assert broken["model"] == "Lightricks/LTX-2" and "no model_index.json" in broken["problem"]
    assert "Lightricks/LTX-2 cannot be used" in run("doctor").stdout


def test_an_edit_is_fitted_into_memory_and_says_how(
    checkpoint: Path, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edited(name: str, **settings: Any) -> Any:
        settings |= {"model": str(checkpoint), "steps": 2, "prompt": "a", "source_prompt": "b"}
        return loraedit.edit(scene.source, scene.edited_first, scene.mask, run=tmp_path / name, **settings)

    plain = edited("plain")
    monkeypatch.setattr(
        "loraedit.planning.fitting.ladder", lambda blocks: ladder(blocks)[-1:] * 2
    )  # as if nothing less would do
    fitted = edited("fitted", vram="4GB")
    assert np.abs(fitted.clip.frames.astype(int) - plain.clip.frames).max() <= 1
    assert any("swapped block" in note for note in fitted.notes) and not plain.notes
    written = json.loads((tmp_path / "fitted/settings.json").read_text())
    assert written["resources"]["offload_checkpoints"] is True
    with pytest.raises(InputError, match="more memory than the device has"):
        edited("small", vram="2GB")
    assert not (tmp_path / "small").exists()  # nothing is loaded or written
