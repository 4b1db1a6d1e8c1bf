"""`rlaif check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.groups import app
from rlaif.cli.terminal import Json, emit, say


@app.command(rich_help_panel="Material")
def check(
    config: Annotated[Path | None, typer.Argument(help="A config file, to ask its endpoints.")] = None,
    as_json: Json = False,
) -> None:
    """Print versions and devices, and how a config's endpoints are."""
    from rlaif.config import find, load_config
    from rlaif.preflight.provenance import endpoint_health, environment

    data = environment()
    if config:
        data["endpoints"] = endpoint_health(load_config(find(str(config)))) or "none in this config"
    if as_json:
        emit(data)
    else:
        for key, value in data.items():
            told = (
                "".join(f"\n  {name}: {state}" for name, state in value.items())
                if isinstance(value, dict)
                else value
            )
            say(f"{key}: {told}")
