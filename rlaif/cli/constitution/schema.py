"""`rlaif constitution schema`."""

from __future__ import annotations

from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import emit


@constitution_app.command("schema")
def constitution_schema() -> None:
    """Print the JSON Schema of the constitution file, for editors."""
    from rlaif.constitution import json_schema

    emit(json_schema())
