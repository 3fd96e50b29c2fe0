"""Captions of scenes by a small grammar: "a red striped ball with a blue plain star over a photo background"."""

from __future__ import annotations

from pretrain.render.scene import Scene

__all__ = ["captions"]

LINKS = {"hero": "", "part": "with a", "behind": "and a", "before": "behind a"}
"""What joins an object to the sentence, in the order in which they are named."""


def captions(scene: Scene) -> list[str]:
    """Returns one caption for each scene of a batch."""
    found: list[dict[str, str]] = [{} for _ in range(scene.count)]
    for layer in scene.layers:
        for row, words in zip(layer.rows.tolist(), layer.words, strict=True):
            found[row][layer.role] = words
    return [_sentence(names, ground) for names, ground in zip(found, scene.ground.words, strict=True)]


def _sentence(names: dict[str, str], ground: str) -> str:
    said = [f"{link} {names[role]}".strip() for role, link in LINKS.items() if role in names]
    subject = " ".join(said).removeprefix("and a ").removeprefix("behind a ")
    return f"a {subject} over a {ground} background" if subject else f"a {ground} background"
