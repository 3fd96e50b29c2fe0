"""The lowest versions that pyproject.toml allows become constraints of pip."""

from __future__ import annotations

import tomllib

from scripts.lowest_versions import ROOT, constraints


def test_every_requirement_with_a_bound_is_held_at_it() -> None:
    project = {"dependencies": ["a>=2.0,<3", "b"], "optional-dependencies": {"web": ["c>=1.2.3"], "dev": ["d>=4"]}}
    assert list(constraints(project, ["web"])) == ["a==2.0", "c==1.2.3"]


def test_no_dependency_of_the_package_goes_without_a_lowest_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(list(constraints(project, []))) == len(project["dependencies"])
