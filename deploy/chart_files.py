"""Write the chart's values.schema.json and README.md from the comments of its values.yaml, and its dashboard.

    python deploy/chart_files.py [--check | --without-operator FOLDER]

The comment above a key documents it (``# -- ...``) and narrows what it takes (``# @schema {...}``, JSON,
over several lines if need be). Types come from the defaults; every object is closed. ``--check`` (in the
tests) compares instead, exit code 1 where a file is behind. ``--without-operator`` writes a copy of the chart
that needs no `helm dependency build`, which wants the operator's chart even where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "hedgecast"
DASHBOARD = "dashboards/hedgecast.json"
_QUANTITY = {"type": ["string", "integer"], "pattern": "^[0-9]+([.][0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
_AMOUNTS = {"type": "object", "additionalProperties": _QUANTITY, "required": ["memory"]}
_COUNT = {"type": "integer", "minimum": 1}
_DEFINITIONS: dict[str, Any] = {
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    "replicas": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"replicas": _COUNT, "maxReplicas": _COUNT},
    },
    # What is not asked for is not kept free, and what has no limit takes its neighbors' memory.
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "required": ["requests", "limits"],
        "properties": {"requests": {**_AMOUNTS, "required": ["cpu", "memory"]}, "limits": _AMOUNTS},
    },
    "tolerations": {
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "key": {"type": "string"},
                "operator": {"enum": ["Exists", "Equal"]},
                "value": {"type": "string"},
                "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                "tolerationSeconds": {"type": "integer"},
            },
        },
    },
}
_README = """\
# The hedgecast chart

Made by `deploy/chart_files.py` from `values.yaml`: change that file, not this one.

    helm dependency build helm/hedgecast     # the KubeRay operator's chart, for kuberay.enabled
    helm install planning helm/hedgecast -n planning --create-namespace -f helm/hedgecast/values-laptop.yaml
    helm test planning -n planning

Where KubeRay is installed already and its chart cannot be fetched, take a copy without it:

    python deploy/chart_files.py --without-operator /tmp/hedgecast && helm install planning /tmp/hedgecast ...

Needs Kubernetes 1.27 and KubeRay 1.7 (its RayCluster has `authOptions.secretName`). Which secrets the chart
expects, what may talk to what, how it is upgraded, and what was and was not run: `docs/deployment.md`.
`values-*.yaml` are starting points.

| value | default | |
|---|---|---|
"""


class Field:
    """One key of values.yaml: its path, its default and its comment."""

    def __init__(self, path: tuple[str, ...], node: yaml.Node, comment: list[str]) -> None:
        self.path, self.node = path, node
        self.default: Any = yaml.SafeLoader("").construct_document(node)
        self.text = " ".join(
            line.removeprefix("--").strip() for line in comment if not line.startswith("@schema")
        ).strip()
        written = " ".join(line.removeprefix("@schema") for line in comment if line.startswith("@schema"))
        self.narrowed: dict[str, Any] = json.loads(written) if written.strip() else {}
        self.documented = any(line.startswith("--") for line in comment)

    @property
    def leaf(self) -> bool:
        """Whether it is one value rather than a group of documented keys."""
        return bool(
            self.narrowed or not isinstance(self.node, yaml.MappingNode) or self.node.flow_style is not False
        )

    def schema(self) -> dict[str, Any]:
        """JSON schema of a leaf."""
        if "$ref" in self.narrowed:
            return self.narrowed
        found = {"type": _type(self.default), **self.narrowed}
        if "exclusiveMinimum" in found:
            # A default without a fraction does not make it a whole number.
            found["type"] = "number"
        if "enum" in found:
            del found["type"]
        return found


def fields(text: str) -> Iterator[Field]:
    """Every key of values.yaml, groups before what is in them.

    Raises
    ------
    ValueError
        A value without a ``# --`` line.
    """
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, path: tuple[str, ...]) -> Iterator[Field]:
        for key, value in node.value:
            field = Field((*path, key.value), value, _comment(lines, key.start_mark.line))
            if field.leaf and not field.documented:
                raise ValueError(f"values.yaml: {'.'.join(field.path)} has no comment that begins with --")
            yield field
            if not field.leaf:
                yield from walk(value, field.path)

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, ())


def schema(text: str) -> dict[str, Any]:
    """The JSON schema of values.yaml, closed at every level."""
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the hedgecast chart",
        "type": "object",
        "additionalProperties": False,
        "properties": {},
        "$defs": _DEFINITIONS,
    }
    for field in fields(text):
        parent = root
        for name in field.path[:-1]:
            parent = parent["properties"][name]
        group = {"type": "object", "additionalProperties": False, "properties": {}}
        parent["properties"][field.path[-1]] = field.schema() if field.leaf else group
    return root


def readme(text: str) -> str:
    """The page of the chart."""
    rows = [
        f"| `{'.'.join(field.path)}` | `{json.dumps(field.default)}` | {field.text} |"
        for field in fields(text)
        if field.leaf
    ]
    return _README + "\n".join(row.replace("\n", " ") for row in rows) + "\n"


def written() -> dict[str, str]:
    """Each file's name and what should be in it."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    return {
        "values.schema.json": json.dumps(schema(text), indent=2) + "\n",
        "README.md": readme(text),
        # A chart packs only what lies in its folder.
        DASHBOARD: (ROOT / "deploy" / DASHBOARD).read_text(encoding="utf-8"),
    }


def copy_without_operator(folder: Path) -> None:
    """Write the chart into ``folder``, which may not exist yet, without its optional dependency."""
    shutil.copytree(CHART, folder)
    meta = (folder / "Chart.yaml").read_text(encoding="utf-8")
    # The last key of the file.
    (folder / "Chart.yaml").write_text(meta[: meta.index("dependencies:")], encoding="utf-8")


def _comment(lines: list[str], line: int) -> list[str]:
    found: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].lstrip().removeprefix("#").strip())
    return found


def _type(default: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(default)]


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; 1 where a file is behind."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="compare, write nothing")
    choice.add_argument(
        "--without-operator", type=Path, metavar="FOLDER", help="write a copy that needs no operator's chart"
    )
    chosen = parser.parse_args(arguments)
    if chosen.without_operator is not None:
        copy_without_operator(chosen.without_operator)
        return 0
    check = chosen.check
    behind = []
    for name, content in written().items():
        path = CHART / name
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            behind.append(name)
            if not check:
                path.write_text(content, encoding="utf-8")
    if check and behind:
        print(f"{', '.join(behind)}: behind values.yaml; run python deploy/chart_files.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
