"""What an older product left on an environment's machines, as settings declare it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from tenantfleet.model.document import Document

Name = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Fates = dict[Name, Literal["remove", "keep"]]


class LegacyInventory(Document):
    """Exact names to remove or to keep, kind by kind; library/legacy_state.schema.json says which names."""

    roots: tuple[Name, ...] = Field(default=(), description="directories that may hold `paths`")
    projects: Fates = Field(default_factory=dict, description="compose projects by label")
    containers: Fates = Field(default_factory=dict)
    networks: Fates = Field(default_factory=dict)
    images: Fates = Field(default_factory=dict)
    volumes: Fates = Field(default_factory=dict)
    units: Fates = Field(default_factory=dict)
    cron_files: Fates = Field(default_factory=dict)
    crontabs: dict[Name, Fates] = Field(default_factory=dict, description="lines by user")
    nginx_sites: Fates = Field(default_factory=dict)
    paths: Fates = Field(default_factory=dict)
    docker: Literal["keep", "disable"] = "keep"

    def host_vars(self) -> dict[str, Any]:
        """The variable `legacy` of a host; none when nothing is declared."""
        declared = self.model_dump(mode="json", exclude_defaults=True)
        return {"legacy": declared} if declared else {}
