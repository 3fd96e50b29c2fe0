"""The names that Wan's own code gives to the tensors of a transformer."""

from __future__ import annotations

from loraedit.families.wan.tensors import BLOCK_NAMES, TOP_NAMES


def native_tensor_name(name: str) -> str:
    """``blocks.0.attn1.to_q.weight`` -> ``blocks.0.self_attn.q.weight``."""
    start = ".".join(name.split(".")[:2]) + "." if name.startswith("blocks.") else ""
    table, rest = BLOCK_NAMES if start else TOP_NAMES, name[len(start) :]
    if rest in table:
        return start + table[rest]
    module, leaf = rest.rsplit(".", 1)
    return f"{start}{table[module]}.{leaf}"
