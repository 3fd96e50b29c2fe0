"""The renderer of pretraining clips: repeatable, exact in its motion, and able to draw all of its kinds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pretrain.render
from pretrain.render.captions import captions
from pretrain.render.compose import Rendered, render
from pretrain.render.dice import Dice
from pretrain.render.edits import EDITS, edited_twin
from pretrain.render.lighting import draw_light
from pretrain.render.motion import Camera, moving_pose
from pretrain.render.scene import FORMS, Layer, Mix, Scene, Studio, draw_form, draw_scene, dressed
from pretrain.render.textures import PATTERNS, Textures, colour_words, draw_textures

CPU = torch.device("cpu")
NO_PHOTOS = torch.zeros((0, 3, 256, 256), dtype=torch.uint8)
FRAMES, SIDE = 5, 48


def studio(seed: int, mix: Mix | None = None, frames: int = FRAMES, height: int = SIDE, width: int = SIDE) -> Studio:
    photos = torch.randint(256, (2, 3, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Studio(Dice(CPU, seed), photos, mix or Mix(), frames, height, width)


def drawn(seed: int, count: int = 4, mix: Mix | None = None, **sizes: int) -> Rendered:
    here = studio(seed, mix, **sizes)
    scene = draw_scene(here, count)
    return render(here.dice, scene, here.height, here.width)


def alone(form: str, frames: int = 9, side: int = 96, count: int = 3) -> tuple[Studio, Scene]:
    """Objects of one form over plain grey, the camera still."""
    here = studio(3, Mix(object_photo=0.0), frames, side, side)
    zero = torch.zeros(count, frames)
    pose = moving_pose(here.dice, torch.full((count,), 0.6), frames, (0.1, 0.1), upright=form == "person")
    bare = Layer("hero", form, torch.arange(count), draw_form(here.dice, form, count, frames), pose)
    (hero,) = dressed(here, [bare])
    ground = Textures(torch.full((count, 3, 64, 64), 0.5), ("grey plain",) * count)
    camera = Camera(zero, zero, zero + 1, zero)
    return here, Scene(ground, torch.full((count,), 3.0), camera, (hero,), draw_light(here.dice, count, frames))


def test_the_same_numbers_give_the_same_bytes() -> None:
    one, two, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(one.frames, two.frames)
    assert torch.equal(one.visible, two.visible)
    assert not torch.equal(one.frames, other.frames)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 48, 48), (5, 48, 80), (9, 80, 48)])
def test_clips_of_any_size_are_drawn(frames: int, height: int, width: int) -> None:
    clip = drawn(5, frames=frames, height=height, width=width)
    assert clip.frames.shape == (4, 3, frames, height, width)
    assert clip.frames.dtype == torch.uint8
    assert clip.visible.shape == (4, frames, height, width)
    assert clip.visible.min() >= 0 and clip.visible.max() <= 1
    assert (clip.visible <= clip.moving + 1e-5).all()
    assert clip.pixels.abs().max() <= 1


@pytest.mark.parametrize("form", [*FORMS, "bar"])
def test_every_form_is_drawn_and_moves(form: str) -> None:
    here, scene = alone(form)
    clip = render(here.dice, scene, 96, 96)
    shown = clip.visible.mean((2, 3))
    assert ((shown > 0.01) & (shown < 0.8)).all()
    assert (clip.frames[:, :, 0] != clip.frames[:, :, -1]).any()


def test_nothing_waits_for_the_device() -> None:
    """Tensors of the meta device have no values, so that asking for one fails."""
    meta = torch.device("meta")
    here = Studio(Dice(CPU, 1), torch.zeros((2, 3, 256, 256), dtype=torch.uint8, device=meta), Mix(), 5, 48, 48)
    here.dice.device, here.dice.generator = meta, None
    scene = draw_scene(here, 24)
    assert render(here.dice, scene, 48, 48).frames.device == meta
    for kind in EDITS:
        assert render(here.dice, edited_twin(here, scene, kind), 48, 48, positions=True).visible.device == meta


def read(clip: Tensor, positions: Tensor) -> Tensor:
    """Frame 0 of a clip ``[B, 3, F, H, W]`` at positions ``[B, F, H, W, 2]``."""
    b, _, frames, height, width = clip.shape
    grid = (positions.nan_to_num(-9) * 2 + 1) / torch.tensor([width, height]) - 1
    seen = F.grid_sample(clip[:, :, 0].float(), grid.view(b, frames * height, width, 2), align_corners=False)
    return seen.view(b, 3, frames, height, width)


@pytest.mark.parametrize("form", FORMS)
def test_motion_is_exact(form: str) -> None:
    here, scene = alone(form)
    wide = 33 if form in ("person", "box") else 9  # so that bilinear reading is exact enough
    textures = scene.layers[0].textures
    smooth = F.avg_pool2d(textures, wide, stride=1, padding=wide // 2, count_include_pad=False)
    scene = replace(scene, layers=(replace(scene.layers[0], textures=smooth),))
    clip = render(here.dice, scene, 96, 96, flat=True, positions=True)
    assert clip.positions is not None
    inside = clip.visible > 0.99
    solid = -F.max_pool2d(-inside[:, 0].float()[:, None], 3, stride=1, padding=1)
    whole = read(solid[:, :, None].expand(-1, 3, 9, -1, -1), clip.positions)[:, 0] > 0.99
    known = inside & whole & clip.positions.isfinite().all(-1)
    assert known[:, -1].float().mean() > 0.2 * inside[:, -1].float().mean()
    error = (read(clip.frames, clip.positions) - clip.frames.float()).abs().mean(1)[known]
    still = (clip.frames[:, :, :1].float() - clip.frames.float()).abs().mean(1)[known]
    assert error.median() < 2.5
    assert error.mean() < 0.35 * still.mean()


def test_nothing_is_cut_off_at_the_window_that_a_layer_is_drawn_in(monkeypatch: pytest.MonkeyPatch) -> None:
    here = studio(12, height=64, width=64)
    scene = draw_scene(here, 24)
    cut = render(Dice(CPU, 1), scene, 64, 64)
    monkeypatch.setattr("pretrain.render.compose._Canvas._window", lambda *_: (slice(0, 64), slice(0, 64)))
    whole = render(Dice(CPU, 1), scene, 64, 64)
    assert (cut.visible - whole.visible).abs().max() < 1e-3
    assert (cut.frames.float() - whole.frames.float()).abs().max() <= 4


def test_every_pattern_is_drawn_and_named() -> None:
    textures = draw_textures(Dice(CPU, 4), 150, 32, NO_PHOTOS, 0.5)
    assert {words.split()[-1] for words in textures.words} == set(PATTERNS)
    assert textures.pictures.min() >= 0 and textures.pictures.max() <= 1
    assert textures.pictures.isfinite().all()
    assert colour_words(torch.tensor([[0.9, 0.1, 0.1], [0.0, 0.0, 0.1]])) == ["red", "black"]


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_changes_the_first_object_and_nothing_else(kind: str) -> None:
    here = studio(8)
    scene = draw_scene(here, 4)
    twin = edited_twin(here, scene, kind)
    before, after = (render(Dice(CPU, 1), each, SIDE, SIDE, flat=True) for each in (scene, twin))
    touched = torch.maximum(before.visible, after.visible)[:, None] > 0
    change = (before.frames.float() - after.frames.float()).abs()
    assert change[~touched.expand_as(change)].max() == 0
    assert (change.amax((1, 2, 3, 4)) > 40).all()


def test_captions_name_what_is_there() -> None:
    here = studio(9)
    scene = draw_scene(here, 12)
    said = captions(scene)
    assert all(text.endswith(" background") for text in said)
    hero = next(layer for layer in scene.layers if layer.role == "hero")
    assert hero.words[0] in said[int(hero.rows[0])]
    assert captions(draw_scene(studio(9, Mix(hero=0.0, behind=0.0, before=0.0)), 1))[0].startswith("a ")


def test_the_renderer_shares_no_code_with_the_benchmarks() -> None:
    for path in (Path(pretrain.render.__file__).parent).glob("*.py"):
        assert "benchmarks" not in path.read_text(encoding="utf-8")
