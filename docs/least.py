"""Prints the least versions that pyproject.toml allows, as pip's requirements: `make audit` looks them up."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_LEAST = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)")


def least(text: str) -> dict[str, str]:
    """The packages that are needed to run vmctl, with the arbiter's, and the least version of each."""
    project = tomllib.loads(text)["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["etcd"]]
    return {found[1]: found[2] for found in map(_LEAST.match, wanted) if found}


if __name__ == "__main__":
    path = Path(__file__).parent.parent / "pyproject.toml"
    for name, version in least(path.read_text("utf-8")).items():
        print(f"{name}=={version}")  # noqa: T201 - that is what it is for
