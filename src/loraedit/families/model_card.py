"""The model card: everything that loraedit knows about a checkpoint, as plain values. No weights are read here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from loraedit.families.file_kinds import worth_quantising
from loraedit.settings import Recipe, WeightStore
from loraedit.storage.checkpoints import checkpoint_files, sample_bytes
from loraedit.storage.files import fingerprint, read_json
from loraedit.types import Size
from loraedit.video.scaling import working_size

__all__ = ["CARD_FILE", "LEAST_SHARE", "CardFile", "ModelCard", "SingleFile", "prior_file"]

CARD_FILE = "loraedit.json"

LEAST_SHARE = 0.25
"""Share of its frame area below which a model is not used, unless its card says otherwise: half of each side.

This is judged, not measured. Video models are trained at rising sizes, Wan for example at 192 lines, then 480, then
720 (arXiv 2503.20314), and are known to lose quality far below the size of their last stage. Half of 480 lines is a
size between two stages.
"""

Positive = Annotated[int, Field(ge=1)]


class CardFile(BaseModel):
    """The fields of ``loraedit.json``, with the defaults of Wan2.1-I2V-14B-480P.

    Attributes:
        area_px: frame area the model was trained at, in pixels.
        least_area_px: smallest frame area at which the model still works well, in pixels; see :data:`LEAST_SHARE`. One
            above ``area_px`` counts as ``area_px``.
        text_tokens: length to which prompts are padded.
        frame_rate: frames per second that the model was trained at.
        source: the page or file with the sampling values and the frame rate; empty if there is none.
        recipe: defaults for training and sampling.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    area_px: Positive = 832 * 480
    least_area_px: Positive = round(832 * 480 * LEAST_SHARE)
    text_tokens: Positive = 512
    frame_rate: Annotated[float, Field(gt=0)] = 16.0
    source: str = ""
    recipe: Recipe = Recipe()

    def over(self, base: CardFile) -> CardFile:
        """Returns these settings, with those of ``base`` for whatever is unset here, in the recipe too."""
        recipe = base.recipe.model_copy(update=self.recipe.model_dump(exclude_unset=True))
        mine = self.model_dump(exclude_unset=True, exclude={"recipe"})
        return base.model_copy(update={**mine, "recipe": recipe})


class SingleFile(BaseModel):
    """A transformer given as one file, in place of a folder of the checkpoint.

    Attributes:
        path: ``.safetensors`` or ``.gguf``, with native layer names or those of diffusers.
        config: the configuration of diffusers' class, derived from the tensors' shapes.
        shapes: of its tensors, by diffusers' names.
        kinds: how its quantised weights are stored, by diffusers' names: ``fp8``, or a GGUF type such as ``Q4_K``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]] = {}
    kinds: dict[str, str] = {}


class ModelCard(BaseModel):
    """Everything that loraedit knows about a checkpoint.

    Attributes:
        folder: the checkpoint, in diffusers layout.
        pipeline: the image-to-video pipeline class of this checkpoint; a family is found by it.
        spatial: pixels per latent cell, per side.
        temporal: frames per latent frame.
        multiple_px: height and width must be multiples of this.
        frame_step: clips have ``frame_step * n + 1`` frames.
        latent_channels: channels of a latent.
        mask: how the model reads the keep mask. ``channels``: mask and condition are input channels beside the noise,
            and every frame can be kept by itself. ``tokens``: the model has one timestep per token. A token that is
            kept as a whole shows the clean condition at timestep 0; all others show noise, so the model sees no
            condition inside the edit mask.
        experts: folders of the transformers, the one for high noise first.
        components: folders with weights that are needed, including the experts.
        boundary: noise level at which the second expert takes over; 0 with one expert.
        image_frames: frames that the image encoder reads: 0 is none, 1 the first, 2 the first and the last.
        embeds_guidance: whether the transformer reads the guidance scale as an input, as models distilled from
            classifier-free guidance do. There is no second pass then.
        reads_frame_rate: whether the position codes count seconds, so that the model reads the clip's frame rate.
        max_positions: largest number of latent frames, or of patches along a side, that the position codes cover.
        settings: the content of the card file.
        prior_rank: LoRA rank of the checkpoint's prior; 0 if it has none.
        files: transformers that are read from a single file, by expert.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    pipeline: str
    spatial: Positive
    temporal: Positive
    multiple_px: Positive
    frame_step: Positive
    latent_channels: Positive
    mask: Literal["channels", "tokens"] = "channels"
    experts: tuple[str, ...]
    components: tuple[str, ...]
    boundary: float
    image_frames: Annotated[int, Field(ge=0, le=2)]
    embeds_guidance: bool = False
    reads_frame_rate: bool = False
    max_positions: Positive
    settings: CardFile
    prior_rank: Annotated[int, Field(ge=0)]
    files: dict[str, SingleFile] = {}

    def config(self, component: str) -> dict[str, Any]:
        """Returns the configuration of a component, from its folder or from the single file in its place."""
        if component in self.files:
            return self.files[component].config
        config: dict[str, Any] = read_json(self.folder / component / "config.json")
        return config

    def kinds(self, component: str) -> dict[str, str]:
        """Returns how the quantised weights of a component are stored, by name; empty if none is quantised."""
        return self.files[component].kinds if component in self.files else {}

    def has_kind(self, kind: str) -> bool:
        """Returns whether a weight of a transformer is stored in a kind, such as ``fp8``."""
        return any(kind in file.kinds.values() for file in self.files.values())

    def held_on(self, device: str) -> ModelCard:
        """Returns the card with the weights as a kind of device can hold them. ``mps`` has no fp8: it is expanded."""
        if device != "mps" or not self.has_kind("fp8"):
            return self
        kept = {
            name: file.model_copy(update={"kinds": {key: kind for key, kind in file.kinds.items() if kind != "fp8"}})
            for name, file in self.files.items()
        }
        return self.model_copy(update={"files": kept})

    def may_quantise(self, expert: str, weights: WeightStore) -> bool:
        """Returns whether an expert is held as fp8, int8 or nf4 if that is asked for; see :func:`worth_quantising`.

        A quantised file stays as it is otherwise.
        """
        return worth_quantising(self.kinds(expert).values(), weights)

    def guided(self, guidance: float) -> bool:
        """Returns whether a sampling step at this guidance scale takes a second forward pass, without the prompt."""
        return guidance > 1 and not self.embeds_guidance

    def prior(self, expert: str) -> Path:
        """Returns the LoRA file that the training of this expert may start from."""
        return prior_file(self.folder, expert)

    def working_size(self, window: Size, settings: Recipe) -> Size:
        """Returns the height and width at which the model works on a window of a clip. Plans and runs both ask here.

        ``quality="native"`` keeps the window's own pixels, except that one below the model's least area is scaled up
        to it. No window is worked on at more than the share ``area`` of the model's frame area; with ``quality="full"``
        every window is worked on at just that. The sides are rounded to the model's multiples.

        Args:
            window: size in pixels of the clip.
            settings: the resolved settings.

        Raises:
            InputError: a side is not positive.
        """
        return working_size(window, self._area_px(window, settings), self.multiple_px)

    def keeps_pixels(self, window: Size, settings: Recipe) -> bool:
        """Returns whether a window is worked on at its own pixels, but for the rounding of its sides."""
        return self._area_px(window, settings) == window.height * window.width

    def _area_px(self, window: Size, settings: Recipe) -> int:
        most = max(round(self.settings.area_px * settings.area), 1)
        least = most if settings.quality == "full" else self.settings.least_area_px
        return min(max(window.height * window.width, least), most)

    @property
    def recipe(self) -> Recipe:
        """Returns the defaults for training and sampling."""
        return self.settings.recipe

    def fingerprint(self) -> str:
        """Returns the checkpoint's identity: its text files, and size and samples of each weights file.

        Of the card file only the areas and the prompt length count. The recipe's defaults and the prior do not, because
        they only affect results through the settings.
        """

        def skip(name: str) -> bool:
            top, weights = name.split("/")[0], name.endswith(".safetensors")
            return Path(name).name == CARD_FILE or (weights and (top == "prior" or top in self.files))

        card = self.settings
        parts = [card.area_px, card.least_area_px, card.text_tokens, *checkpoint_files(self.folder, skip)]
        for name, file in sorted(self.files.items()):
            parts += [name, file.path.stat().st_size, sample_bytes(file.path)]
        return fingerprint(*parts)


def prior_file(folder: Path, expert: str) -> Path:
    """Returns the path of an expert's prior LoRA in a checkpoint."""
    return folder / "prior" / f"{expert}.safetensors"
