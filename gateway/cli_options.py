"""What every command of `tidegate` takes: where its settings are, and where the default store lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from gateway.settings import Settings, load_settings

__all__ = ["Config", "Data", "Model", "settings_of"]

Config = Annotated[Path | None, typer.Option(help="Settings; default: tidegate.toml, if it is there.")]
Data = Annotated[Path | None, typer.Option(help="The folder of the default SQLite file.")]
Model = Annotated[
    str | None,
    typer.Option(help="The default model: one of the settings, or 'local' or 'demo', which need none."),
]


def settings_of(config: Path | None, data: Path | None, flags: Mapping[str, object] | None = None) -> Settings:
    """The settings of a command, its `flags` by dotted key. Raises SettingsError."""
    return load_settings(config, os.environ, {"data": data, **(flags or {})})
