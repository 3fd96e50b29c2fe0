"""The settings of a single phase: training, sampling, and the fit into memory."""

from __future__ import annotations

from typing import Any

from loraedit.settings.values import (
    Count,
    Factor,
    Level,
    LoraTargets,
    LrSchedule,
    Rank,
    Rate,
    Scale,
    SchedulerName,
    Seed,
    Settings,
    Steps,
    Strength,
    WeightStore,
)

__all__ = ["Resources", "SamplingSettings", "TrainSettings"]


class TrainSettings(Settings):
    """Everything that determines a LoRA, besides its samples.

    Attributes:
        steps: maximum number of optimiser steps; 0 keeps the initial LoRA, which is useful with a prior.
        check_every: interval, in steps, between measurements of the held-out loss; 0 never measures and runs all steps.
        patience: training stops after this many measurements in a row without a gain.
        min_gain: share by which a loss must fall below the previous best to count as a gain.
        budget_s: seconds that the steps may take; 0 is no limit. How many steps fit depends on the machine.
        batch_size: samples per step.
        rank: LoRA rank; alpha equals it.
        lora_targets: linear layers that the LoRA adapts: ``all`` of the blocks, or those of their ``attention``.
        lr: learning rate of AdamW.
        lr_schedule: ``constant``, or ``falling``: five steps of warm-up, and a linear fall over the last third.
        edit_weight: weight of the loss inside the mask; outside it is 1.
        colour_variants: appearance augmentation. 1 trains on the clip as it is. N trains on N variants: the clip, and
            N - 1 copies whose condition and target are recoloured alike, so that the LoRA learns motion, not colours.
        min_noise_level: lowest noise level trained on, in [0, 1); 0 trains on all levels.
        train_seed: determines initial weights, order, noise and noise levels.
    """

    steps: Steps
    check_every: Steps = 0
    patience: Count = 3
    min_gain: Level = 0.01
    budget_s: Scale = 0.0
    batch_size: Count = 1
    rank: Rank
    lora_targets: LoraTargets = "all"
    lr: Rate
    lr_schedule: LrSchedule = "constant"
    edit_weight: Factor = 1.0
    colour_variants: Count = 1
    min_noise_level: Level = 0.0
    train_seed: Seed = 0


class SamplingSettings(Settings):
    """Everything that determines how a clip is sampled, besides the condition.

    Attributes:
        sampling_steps: denoising steps, from noise to the data.
        guidance: classifier-free guidance scale; 1 or less is off.
        negative_prompt: what guidance steers away from.
        scheduler: the solver; ``model`` is the checkpoint's own.
        flow_shift: shift of the noise levels towards high noise; 0 is the checkpoint's own.
        seed: determines the noise.
        strength: noise level down to which the latents that the condition shows are held to it; 1 holds nothing.
        blend_latents: after every step, replace the latents of the preserve zone by the source's, noised to that level.
        step_cache: First Block Cache: a step whose first block changes by less than this share reuses the previous
            step's other blocks; 0 computes every step.
    """

    sampling_steps: Count
    guidance: Scale
    negative_prompt: str = ""
    scheduler: SchedulerName = "model"
    flow_shift: Scale = 0.0
    seed: Seed = 0
    strength: Strength = 1.0
    blend_latents: bool = False
    step_cache: Scale = 0.0


class Resources(Settings):
    """How an edit fits into memory.

    All but ``weights``, ``tile_vae`` and the attention backends change results by rounding at most. Some backends
    compute in fewer bits.

    Attributes:
        weights: how the frozen weights of a transformer's blocks are held: as their file has them (``auto``), in full
            precision, or quantised and converted back layer by layer.
        checkpointing: keep only the inputs of each block, and compute the block again for its gradients.
        offload_checkpoints: keep these inputs in host memory.
        swap_blocks: number of blocks whose frozen weights stay in host memory; each is copied to the device while the
            block before it computes.
        offload_encoders: do the same for the layers of text and image encoders.
        reload_weights: read a transformer from its files for each use, in place of keeping it in host memory.
        tile_vae: encode and decode in overlapping tiles.
        attention: diffusers' name of the attention backend of sampling. None is a real answer: torch's own choice.
        training_attention: the same for training, with the previews during it. It needs a backward pass.
        compile_blocks: compile a block once, and use it for all.
    """

    weights: WeightStore = "auto"
    checkpointing: bool = False
    offload_checkpoints: bool = False
    swap_blocks: Steps = 0
    offload_encoders: bool = False
    reload_weights: bool = False
    tile_vae: bool = False
    attention: str | None = None
    training_attention: str | None = None
    compile_blocks: bool = False

    @property
    def recomputes(self) -> bool:
        """True if blocks are computed again for their gradients; swapped weights require it."""
        return self.checkpointing or self.offload_checkpoints or self.swap_blocks > 0

    def alters(self, *, quantised: bool) -> dict[str, Any]:
        """Returns the fields that change training and sampling by more than rounding, and differ from their defaults.

        Args:
            quantised: whether the model's files are quantised; ``full`` is what they are otherwise.
        """
        same = ("auto",) if quantised else ("auto", "full")
        weights = {} if self.weights in same else {"weights": self.weights}
        return {**weights, "tile_vae": True} if self.tile_vae else weights
