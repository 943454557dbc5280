"""A study's program as data that goes to other nodes, which need not hold its file."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from hedgecast.programs.catalog import ProgramConfig, load_program
from hedgecast.programs.program import TwoStageProgram


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProgramText:
    """What a program is built from."""

    values: Mapping[str, Any]
    """Of the ``[program]`` table."""
    source: str | None
    """Text of its file; None: a shipped program."""
    num_steps: int
    """Steps of the decision period."""

    @classmethod
    def of(cls, config: ProgramConfig, num_steps: int) -> Self:
        """The program that ``config`` names."""
        source = None if config.path is None else Path(config.path).read_text(encoding="utf-8")
        return cls(values=config.to_dict(), source=source, num_steps=num_steps)

    def build(self) -> TwoStageProgram:
        """The program, built anew.

        Raises
        ------
        ConfigError, ProgramError
            As `load_program`.
        """
        if self.source is None:
            return load_program(ProgramConfig.from_dict(self.values), self.num_steps)
        with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
            path = Path(folder) / Path(str(self.values["path"])).name
            path.write_text(self.source, encoding="utf-8")
            return load_program(ProgramConfig.from_dict({**self.values, "path": str(path)}), self.num_steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the constructor."""
        return {"values": dict(self.values), "source": self.source, "num_steps": self.num_steps}
