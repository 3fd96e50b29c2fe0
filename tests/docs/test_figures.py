"""Figures in the documents are those of the present code."""

from __future__ import annotations

from documents import ROOT

from loraedit.families.skeleton import open_skeleton
from loraedit.planning import Shape
from loraedit.settings import make_settings
from scripts.window_cost import FRAME, FRAMES, MODEL, QUARTER, WINDOWS


def test_the_tokens_of_a_window_in_the_documents_are_those_of_the_model() -> None:
    with open_skeleton(MODEL) as card:
        settings = make_settings({"model": MODEL, "recipe": "paper"}).resolved(card.recipe)
        tokens = {each: Shape(FRAMES, card.working_size(each, settings)).tokens(card) for each in WINDOWS}
    sentence = f"{tokens[QUARTER]:,} instead of {tokens[FRAME]:,} tokens"
    assert sentence in (ROOT / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    page = (ROOT / "docs/training-and-sampling.md").read_text(encoding="utf-8")
    for window, count in tokens.items():
        assert any(line.startswith(f"| {window} |") and f" {count:,} |" in line for line in page.splitlines())
