"""Where rows from elsewhere are read: a file, a folder of `datasets`, or a data set of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rlaif.options.base import FILE, Options


class DataSourceOptions(Options):
    """A file or data set of rows; a plain path stands for `{path: …}`."""

    path: str | None = Field(
        default=None,
        description="a file (text, JSON, JSON lines, CSV, Parquet; also gzipped) or a folder that "
        "`save_to_disk` of datasets wrote",
        json_schema_extra=FILE,
    )
    hub: str | None = Field(default=None, description="instead of path: the hub id of a data set, owner/name")
    subset: str | None = Field(
        default=None, description="hub: the data set's configuration, where it has several"
    )
    split: str | None = Field(
        default=None, description="the split, e.g. train, of a folder of datasets or of a hub id"
    )
    format: Literal["text", "json", "csv"] | None = Field(
        default=None,
        description="what a file holds: text (a prompt a line), json (lines or one array) or csv; omitted = "
        "recognised from its name and content",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            return {"path": str(value)}
        if not isinstance(value, dict | DataSourceOptions):
            raise ValueError("should be a path, or keys such as {path: file.csv, column: question}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> DataSourceOptions:
        if (self.path is None) == (self.hub is None):
            raise ValueError("name exactly one of path and hub")
        if self.hub is not None and (self.split is None or self.format is not None):
            raise ValueError("hub: needs a split, and takes no format")
        if self.subset is not None and self.hub is None:
            raise ValueError("subset goes with hub")
        return self

    @model_serializer(mode="wrap")
    def _plain_path(self, handler: SerializerFunctionWrapHandler) -> Any:
        # A path alone stays the text that it has been in configs and run folders of earlier versions.
        given = {key: value for key, value in handler(self).items() if value is not None}
        return self.path if given.keys() == {"path"} else given

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler.resolve_ref_schema(handler(schema))]}

    @property
    def name(self) -> str:
        """The file, folder or hub id, in messages."""
        return self.path or f"{self.hub} ({self.split})"


class PromptSourceOptions(DataSourceOptions):
    """The prompts of a run."""

    column: str | None = Field(
        default=None,
        description="the column with a prompt's text or its conversation; omitted = prompt, messages or "
        "conversations, or the only one",
    )
    system: str | None = Field(
        default=None, description="the column with a system prompt; omitted = system, where there is one"
    )
    group: str | None = Field(
        default=None,
        description="the column with the name that prompts which ask the same share; omitted = group, where "
        "there is one",
    )
    tags: str | None = Field(
        default=None,
        description="the column with tags, a list or text with commas; omitted = tags, where there is one",
    )
