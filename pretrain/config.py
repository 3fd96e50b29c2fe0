"""One typed configuration for a model and how it is trained, and named presets of it.

The same preset serves two CPU cores and a GPU: only what is worth more in one go differs between them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch

__all__ = ["PRESETS", "SHIPPED", "ClipKind", "PerDevice", "Preset", "VaePhase", "changed"]

SHIPPED = Path(__file__).parents[1] / "src/loraedit/nano"


@dataclass(frozen=True)
class PerDevice:
    """A number that is one thing on a CPU and another on an accelerator."""

    cpu: int
    accelerator: int

    def on(self, device: torch.device) -> int:
        return self.cpu if device.type == "cpu" else self.accelerator


@dataclass(frozen=True)
class ClipKind:
    """One size of clip that the transformer trains on.

    Attributes:
        clips: how many of them a shard holds, relative to the other kinds.
    """

    frames: int
    height: int
    width: int
    clips: int

    @property
    def name(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


# ---- the models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VaeModel:
    """Sizes of the AutoencoderKLWan: 4 x 4 in space and 2 x in time."""

    base_dim: int = 16
    decoder_base_dim: int = 24
    channels: int = 16
    dim_mult: tuple[int, ...] = (2, 2)
    res_blocks: int = 1

    def settings(self) -> dict[str, Any]:
        """Returns the arguments of ``AutoencoderKLWan``."""
        return {
            "base_dim": self.base_dim, "decoder_base_dim": self.decoder_base_dim, "z_dim": self.channels,
            "dim_mult": list(self.dim_mult), "num_res_blocks": self.res_blocks, "attn_scales": [],
            "temperal_downsample": [True], "patch_size": 2, "in_channels": 12, "out_channels": 12,
            "is_residual": True, "scale_factor_spatial": 4, "scale_factor_temporal": 2,
            "latents_mean": [0.0] * self.channels, "latents_std": [1.0] * self.channels,
        }  # fmt: skip


@dataclass(frozen=True)
class TransformerModel:
    """Sizes of the WanTransformer3DModel and of its text encoder, a UMT5EncoderModel."""

    heads: int = 6
    head_dim: int = 32
    layers: int = 6
    ffn: int = 768
    patch: int = 2
    text_dim: int = 64
    text_layers: int = 2

    def settings(self, channels: int) -> dict[str, Any]:
        """Returns the arguments of ``WanTransformer3DModel`` over latents of so many channels."""
        return {
            "patch_size": (1, self.patch, self.patch), "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim, "in_channels": 2 * channels + 2, "out_channels": channels,
            "text_dim": self.text_dim, "freq_dim": 128, "ffn_dim": self.ffn, "num_layers": self.layers,
            "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 256,
        }  # fmt: skip


# ---- how they are trained ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VaePhase:
    """A stretch of the VAE's training, with optimisers and schedule of its own.

    Attributes:
        share: of the VAE's steps or time.
        kl: weight of the KL term.
        hold: weight of how far latents are from what they were at the start of the phase; 0 lets them go anywhere.
        decoder_only: leave the encoder as it is.
        crops: share of the batches that are crops round objects; the others are whole clips.
        peak: factor on the learning rate.
    """

    name: str
    share: float
    kl: float
    hold: float = 0.0
    decoder_only: bool = False
    crops: float = 0.5
    peak: float = 1.0


@dataclass(frozen=True)
class VaePlan:
    """How the VAE is trained.

    Attributes:
        batch: whole clips; a batch of crops holds three times as many.
        drawn: batches that are drawn in one go: a GPU draws many clips in little more time than few.
    """

    steps: int
    phases: tuple[VaePhase, ...]
    batch: PerDevice = PerDevice(4, 64)
    drawn: PerDevice = PerDevice(1, 8)
    peak: float = 1e-3
    average: float = 0.998
    frames: int = 17
    side: int = 64
    crop: int = 40
    photo_share: float = 0.35
    hole_share: float = 0.2


@dataclass(frozen=True)
class TransformerPlan:
    """How transformer and text encoder are trained.

    Attributes:
        tokens: in a batch.
        shard_clips: clips that are rendered in one go.
        shard_steps: steps until the oldest shard gives way to a new one.
        shards: how many are drawn from.
        small: kinds of clips at first.
        large: kinds of clips from ``large_from`` of the schedule on.
        last_kept: share of clips whose last frame is kept too.
        no_caption: share of clips without a caption.
        object_weight: weight of moving objects in the loss.
        shift: of the noise levels.
    """

    steps: int
    small: tuple[ClipKind, ...]
    large: tuple[ClipKind, ...]
    large_from: float = 0.65
    tokens: PerDevice = PerDevice(4608, 147_456)
    shard_clips: PerDevice = PerDevice(1200, 8192)
    shard_steps: PerDevice = PerDevice(400, 128)
    shards: int = 5
    peak: float = 1.5e-3
    warmup: int = 200
    average: float = 0.9995
    weight_decay: float = 0.01
    last_kept: float = 0.12
    no_caption: float = 0.15
    object_weight: float = 3.0
    shift: float = 3.0


@dataclass(frozen=True)
class PriorPlan:
    """How the prior is trained: edits of a size (frames, height, width), then the package's own training."""

    edits: int = 3000
    size: tuple[int, int, int] = (17, 64, 64)
    steps: int = 1500
    batch: int = 8
    rank: int = 16
    lr: float = 2e-3
    edit_weight: float = 4.0


@dataclass(frozen=True)
class GatePlan:
    """The quality gate: so many benchmark cases, edited by the paper's method in so many training steps."""

    cases: int = 8
    frames: int = 17
    side: int = 128
    steps: int = 60
    lr: float = 3e-3
    sampling_steps: int = 20


@dataclass(frozen=True)
class Preset:
    """A model and its training."""

    name: str
    vae_plan: VaePlan
    transformer_plan: TransformerPlan
    vae: VaeModel = VaeModel()
    transformer: TransformerModel = TransformerModel()
    prior: PriorPlan = PriorPlan()
    gate: GatePlan = GatePlan()
    area: int = 64 * 64
    held_out: int = 64
    """Clips of the held-out set."""
    evaluations: int = 30
    """How often the held-out loss is measured in a course of training."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """The model's own defaults for an edit, as its card states them."""

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def changed(preset: Preset, changes: list[str]) -> Preset:
    """Returns a preset with values replaced, each as ``transformer_plan.peak=1e-3`` (values are JSON).

    Raises:
        SystemExit: a name is unknown.
    """
    for text in changes:
        path, _, value = text.partition("=")
        preset = _replaced(preset, path.split("."), json.loads(value), text)
    return preset


def _replaced(holder: Any, path: list[str], value: Any, text: str) -> Any:
    names = {each.name for each in fields(holder)} if is_dataclass(holder) else set()
    if path[0] not in names:
        raise SystemExit(f"--set {text}: no such setting. Choose one of {', '.join(sorted(names))}.")
    if len(path) > 1:
        value = _replaced(getattr(holder, path[0]), path[1:], value, text)
    return replace(holder, **{path[0]: tuple(value) if isinstance(value, list) else value})  # type: ignore[type-var]


# ---- presets -----------------------------------------------------------------------------------------------------

_SMALL = (ClipKind(17, 64, 64, 10), ClipKind(1, 64, 64, 2))
_LARGE = (
    ClipKind(17, 64, 64, 10), ClipKind(17, 80, 80, 5), ClipKind(33, 64, 64, 2), ClipKind(33, 96, 64, 2),
    ClipKind(1, 80, 80, 2),
)  # fmt: skip
_RECIPE: dict[str, Any] = json.loads((SHIPPED / "loraedit.json").read_text())["recipe"]
"""The recipe of the model that ships."""

_NANO_PHASES = (
    VaePhase("whole", 0.41, 1e-6),
    VaePhase("decoder", 0.24, 0.0, decoder_only=True, crops=0.0),
    VaePhase("polish", 0.35, 3e-8, hold=0.02, peak=0.5),
)
_NEW_PHASES = (VaePhase("whole", 0.8, 3e-8), VaePhase("decoder", 0.2, 0.0, decoder_only=True, crops=0.2, peak=0.5))

NANO = Preset("nano", VaePlan(5800, _NANO_PHASES), TransformerPlan(6000, _SMALL, _LARGE), recipe=_RECIPE)
"""The model that ships: 4 M parameters at 64 x 64."""

_LONG = replace(NANO.transformer_plan, steps=40_000)
_WIDE_VAE = VaeModel(base_dim=24, decoder_base_dim=48, channels=24, res_blocks=1)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        NANO,
        replace(NANO, name="nano-long", transformer_plan=_LONG, evaluations=200),
        replace(
            NANO, name="nano2-8m", vae=_WIDE_VAE, vae_plan=VaePlan(8000, _NEW_PHASES), transformer_plan=_LONG,
            transformer=TransformerModel(heads=8, layers=8, ffn=1024),
        ),
        replace(
            NANO, name="nano2-16m", vae=_WIDE_VAE, vae_plan=VaePlan(8000, _NEW_PHASES), transformer_plan=_LONG,
            transformer=TransformerModel(heads=10, layers=10, ffn=1280),
        ),
        replace(
            NANO, name="nano2-8m-96", vae=_WIDE_VAE, area=96 * 96,
            vae_plan=VaePlan(8000, _NEW_PHASES, side=96),
            transformer=TransformerModel(heads=8, layers=8, ffn=1024),
            transformer_plan=replace(
                _LONG, small=(ClipKind(17, 96, 96, 10), ClipKind(1, 96, 96, 2)),
                large=(ClipKind(17, 96, 96, 10), ClipKind(17, 80, 112, 5), ClipKind(33, 96, 96, 2),
                       ClipKind(1, 96, 96, 2)),
            ),
            prior=PriorPlan(size=(17, 96, 96)),
        ),
        Preset(
            "tiny",
            VaePlan(2, (VaePhase("whole", 0.5, 1e-6), VaePhase("decoder", 0.5, 0.0, decoder_only=True)),
                    batch=PerDevice(2, 2), drawn=PerDevice(2, 2), frames=5, side=32, crop=16),
            TransformerPlan(2, (ClipKind(5, 32, 32, 2), ClipKind(1, 32, 32, 1)), (ClipKind(5, 32, 48, 2),),
                            tokens=PerDevice(96, 96), shard_clips=PerDevice(6, 6), shard_steps=PerDevice(1, 1),
                            shards=2, warmup=1),
            VaeModel(base_dim=8, decoder_base_dim=8, channels=4),
            TransformerModel(heads=2, head_dim=16, layers=1, ffn=32, text_dim=16, text_layers=1),
            PriorPlan(edits=4, size=(5, 32, 32), steps=2, batch=2, rank=2),
            GatePlan(cases=1, frames=5, side=32, steps=1, sampling_steps=1),
            area=32 * 32, held_out=2, evaluations=2, recipe=_RECIPE,
        ),
    )
}  # fmt: skip
"""By name; ``tiny`` is for tests."""
