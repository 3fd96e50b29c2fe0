"""The settings that mean the same before and after they are resolved against a model's recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from loraedit.settings.about import About
from loraedit.settings.phases import Resources
from loraedit.settings.values import LoraMode, Pixels, RecipeName, Scale, Seed, Settings, Steps, WeightStore
from loraedit.types import Codec

__all__ = ["CommonSettings"]


class CommonSettings(Settings):
    """Settings with a default of their own. Each field says what it is.

    A field may be None only where that is an answer of its own, which its description gives as "[default: ...]".
    """

    # ---- inputs ------------------------------------------------------------------------------------------------------

    prompt: Annotated[str, About("Inputs", trains="motion")] = Field(
        "",
        description="What the edited clip shows; auto asks the captioner.  [default: auto with --captioner, else none]",
    )
    source_prompt: Annotated[str, About("Inputs", trains="motion")] = Field(
        "",
        description="What the source clip shows; auto asks the captioner.  [default: auto with --captioner, else "
        "--prompt]",
    )
    captioner: Annotated[str | None, About("Inputs", trains="motion", path=True)] = Field(
        None,
        description="Model that writes the texts you leave out: florence-2, florence-2-base, qwen3-vl, qwen3-vl-4b, a "
        "folder, or a Hub id.  [default: none]",
    )
    fit: Annotated[bool, About("Inputs", trains="motion", plan=True)] = Field(
        False, description="Resize edited frames of another size to the clip's."
    )

    # ---- mask --------------------------------------------------------------------------------------------------------

    tracker: Annotated[str, About("Mask", trains="motion", plan=True, shapes_mask=True, no_shaping="embedded")] = Field(
        "embedded", description="Tracker that makes an automatic mask: embedded, sam2, edgetam or sam3."
    )
    tracker_model: Annotated[str | None, About("Mask", trains="motion", plan=True, path=True, shapes_mask=True)] = (
        Field(None, description="Folder of that tracker's weights.  [default: none]")
    )
    dilate_px: Annotated[Pixels, About("Mask", trains="motion", plan=True, shapes_mask=True, no_shaping=0)] = Field(
        0, description="Grow the mask by this many pixels."
    )
    feather_px: Annotated[Pixels | None, About("Mask")] = Field(
        None,
        description="Soft border inside the mask, in pixels.  [default: 1% of the clip's short side, at least 2]",
    )

    # ---- model -------------------------------------------------------------------------------------------------------

    model: Annotated[str, About("Model", trains="motion", plan=True, path=True)] = Field(
        "nano", description="nano, a checkpoint folder in diffusers layout, or a Hub id."
    )
    transformer: Annotated[str | None, About("Model", trains="motion", plan=True, path=True)] = Field(
        None, description="The transformer as one .safetensors or .gguf file.  [default: the model's]"
    )
    transformer_2: Annotated[str | None, About("Model", trains="motion", plan=True, path=True)] = Field(
        None, description="The same for the low-noise expert of a model with two.  [default: the model's]"
    )
    download: Annotated[bool, About("Model")] = Field(
        False, description="Download from the Hub what is not on this machine."
    )
    extra_lora: Annotated[tuple[str, ...], About("Model", trains="motion", plan=True, path=True)] = Field(
        (), description="A further LoRA to generate with, FILE[:WEIGHT][:high|low]; may be given several times."
    )
    extra_in_training: Annotated[bool, About("Model", trains="motion", plan=True)] = Field(
        False, description="Apply the extra LoRAs during training too."
    )

    # ---- method ------------------------------------------------------------------------------------------------------

    recipe: Annotated[RecipeName, About("Method", trains="motion", plan=True)] = Field(
        "model",
        description="Defaults of the method: paper (LoRA-Edit as published), fast, propagate (for new colours or "
        "textures), or model (what was measured on the model; paper if nothing was).",
    )
    lora: Annotated[LoraMode, About("Method", trains="motion", plan=True)] = Field(
        "motion", description="motion (the method), naive (its ablation, no mask) or none (the bare model)."
    )
    flow_estimator: Annotated[str, About("Method", trains="motion")] = Field(
        "dis", description="Optical flow estimator that carries the keyframes: dis, or one that a program registered."
    )
    budget: Annotated[str | None, About("Method", trains="motion", plan=True)] = Field(
        None,
        description="Limit each course of training, as 200steps, 90s or 10min. How many steps fit into a time depends "
        "on the machine.  [default: no limit]",
    )
    train_seed: Annotated[Seed, About("Method", trains="motion")] = Field(
        0, description="Determines everything random in training."
    )

    # ---- generation --------------------------------------------------------------------------------------------------

    seed: Annotated[Seed, About("Generation")] = Field(
        0, description="Determines the noise that generation starts from."
    )
    step_cache: Annotated[Scale, About("Generation")] = Field(
        0.0, description="Skip blocks whose input changes less than this from step to step."
    )

    match_colours: Annotated[bool, About("Generation")] = Field(
        True, description="Match the colours inside the mask to the source, so that the mask's border does not show."
    )

    # ---- memory ------------------------------------------------------------------------------------------------------

    device: Annotated[str | None, About("Memory", trains="motion", plan=True)] = Field(
        None, description="cpu, cuda, cuda:1, mps or xpu.  [default: the best available]"
    )
    vram: Annotated[str, About("Memory", trains="motion", plan=True)] = Field(
        "auto", description="GPU memory to fit into, such as 24GB; auto asks the GPU (on a CPU: no limit)."
    )
    weights: Annotated[WeightStore, About("Memory", trains="motion", plan=True)] = Field(
        "auto",
        description="Hold the blocks' weights full or, less exactly, as fp8, int8 or nf4; auto: as in the file, or as "
        "--vram needs.",
    )
    checkpointing: Annotated[bool | None, About("Memory", plan=True)] = Field(
        None, description="Compute blocks again for their gradients, to save memory.  [default: as --vram needs]"
    )
    offload_checkpoints: Annotated[bool | None, About("Memory", plan=True)] = Field(
        None, description="Keep the inputs of the blocks in host memory.  [default: as --vram needs]"
    )
    swap_blocks: Annotated[Steps | None, About("Memory", plan=True)] = Field(
        None, description="Keep the weights of N blocks in host memory.  [default: as --vram needs]"
    )
    offload_encoders: Annotated[bool | None, About("Memory", plan=True)] = Field(
        None, description="Keep the weights of the encoders in host memory.  [default: as --vram needs]"
    )
    reload_weights: Annotated[bool | None, About("Memory", plan=True)] = Field(
        None,
        description="Read the model's weights again for each use, to save host memory.  [default: no]",
    )
    tile_vae: Annotated[bool | None, About("Memory", trains="motion", plan=True)] = Field(
        None, description="Encode and decode in tiles.  [default: as --vram needs]"
    )
    attention: Annotated[str | None, About("Memory")] = Field(
        None,
        description="Attention backend of sampling by diffusers' name, such as flash or sage.  [default: torch's "
        "choice]",
    )
    training_attention: Annotated[str | None, About("Memory")] = Field(
        None, description="The same of training, such as flash; it needs a backward pass.  [default: torch's choice]"
    )
    compile_blocks: Annotated[bool, About("Memory")] = Field(
        False, description="Compile the model's blocks; pays on long runs."
    )

    # ---- output ------------------------------------------------------------------------------------------------------

    codec: Annotated[Codec | None, About("Output")] = Field(
        None, description="h264, h265, av1, prores, ffv1 or png.  [default: by the name of --out]"
    )
    preview: Annotated[bool | None, About("Output")] = Field(
        None,
        description="Show a preview, in few steps, before training.  [default: if the model has a prior, and the run "
        "costs far more]",
    )
    preview_every: Annotated[Steps, About("Output", plan=True)] = Field(
        0, description="Show a preview every N training or sampling steps; 0: never."
    )
    profile: Annotated[bool, About("Output")] = Field(
        False, description="Report where the time goes, in a table and in RUN/profile.json."
    )
    store: Annotated[str | None, About("Output", path=True)] = Field(
        None,
        description="Folder that keeps LoRAs for other runs, or none.  [default: the folder in LORAEDIT_STORE, or one "
        "in the user's cache]",
    )

    def resources(self, chosen: Resources) -> Resources:
        """Returns ``chosen`` with every field that the user set replaced by the user's value."""
        own = {name: getattr(self, name) for name in Resources.model_fields}
        return chosen.model_copy(update={name: value for name, value in own.items() if value not in (None, "auto")})
