"""The model families that loraedit can run. Importing this module loads no torch."""

from __future__ import annotations

from loraedit.families.hunyuan.record import HUNYUAN
from loraedit.families.hunyuan15.record import HUNYUAN_15
from loraedit.families.ltx.record import LTX
from loraedit.families.ltx2.record import LTX_2
from loraedit.families.model_card import ModelCard
from loraedit.families.record import FamilyRecord
from loraedit.families.wan.record import WAN

__all__ = ["block_count", "find_record", "record_of", "records", "register"]

_records: list[FamilyRecord] = [WAN, HUNYUAN, HUNYUAN_15, LTX, LTX_2]


def register(record: FamilyRecord) -> None:
    """Adds a family, also from outside of the package.

    Raises:
        ValueError: another family has its name, or reads one of its pipelines.
    """
    for other in _records:
        taken = {other.name, *other.pipelines} & {record.name, *record.pipelines}
        if taken:
            raise ValueError(f"The family '{other.name}' is registered for {min(taken)} already. Choose another name.")
    _records.append(record)


def records() -> tuple[FamilyRecord, ...]:
    """Returns all families in the order of their registration, the built-in ones first."""
    return tuple(_records)


def find_record(pipeline: object) -> FamilyRecord | None:
    """Returns the family that reads checkpoints of a pipeline class, or None if no family does."""
    return next((record for record in _records if pipeline in record.pipelines), None)


def record_of(pipeline: str) -> FamilyRecord:
    """Returns the family of a model card's pipeline class.

    Raises:
        KeyError: no family reads such checkpoints.
    """
    record = find_record(pipeline)
    if record is None:
        raise KeyError(pipeline)
    return record


def block_count(card: ModelCard, expert: str | None = None) -> int:
    """Returns the number of blocks of a transformer; None stands for the model's first."""
    config = card.config(expert or card.experts[0])
    return sum(int(config[name]) for name in record_of(card.pipeline).block_counts)
