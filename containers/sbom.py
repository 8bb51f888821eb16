"""A bill of materials of an image, in CycloneDX 1.5: what its packages and programs are, each with its version.

Pure, and the same for the same image: everything is sorted, and the only time in it is the commit's.
"""

from __future__ import annotations

import datetime
from typing import Any
from urllib.parse import quote

from containers.inventory import DebianPackage, Inventory, Program, PythonPackage

Component = dict[str, Any]


def document(
    inventory: Inventory, *, name: str, version: str, commit: str, committed: datetime.datetime
) -> Component:
    """Return the bill of an image that was built from a commit, ready to be written as JSON."""
    distribution, release = inventory["distribution"], inventory["release"]
    components = [_debian(each, distribution, release) for each in inventory["debian"]]
    components += [_python(each) for each in inventory["python"]]
    components += [_program(each) for each in inventory["programs"]]
    system = {"type": "operating-system", "bom-ref": distribution, "name": distribution, "version": release}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": committed.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "container",
                "bom-ref": f"{name}@{version}",
                "name": name,
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
            "properties": [{"name": "autopilot-mysql:commit", "value": commit}],
        },
        "components": [system, *sorted(components, key=lambda each: str(each["purl"]))],
    }


def _debian(package: DebianPackage, distribution: str, release: str) -> Component:
    where = f"?arch={package['architecture']}" + (f"&distro={quote(release)}" if release else "")
    purl = _purl(f"deb/{distribution}", package["name"], package["version"]) + where
    return _component("library", package["name"], package["version"], purl, _named(package["licenses"]))


def _python(package: PythonPackage) -> Component:
    purl = _purl("pypi", package["name"].lower().replace("_", "-"), package["version"])
    expression = package["expression"]
    licenses = [{"expression": expression}] if expression else _named(package["licenses"])
    return _component("library", package["name"], package["version"], purl, licenses)


def _program(program: Program) -> Component:
    name, version = program["name"], program["version"]
    made = _component(
        "application", name, version, _purl("generic", name, version), _of_program(name, version)
    )
    return {**made, "hashes": [{"alg": "SHA-256", "content": program["sha256"]}]}


def _of_program(name: str, version: str) -> list[Component]:
    """HashiCorp put Consul under another licence with 1.17."""
    major, minor = (int(number) for number in version.split(".")[:2])
    free = name == "containerpilot" or (major, minor) < (1, 17)
    return [{"license": {"id": "MPL-2.0" if free else "BUSL-1.1"}}]


def _component(kind: str, name: str, version: str, purl: str, licenses: list[Component]) -> Component:
    made: Component = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return {**made, "licenses": licenses} if licenses else made


def _named(licenses: list[str]) -> list[Component]:
    return [{"license": {"name": each}} for each in sorted(set(licenses))]


def _purl(kind: str, name: str, version: str) -> str:
    """Return a package URL (purl-spec): in it a colon stays as it is."""
    return f"pkg:{kind}/{quote(name, safe='')}@{quote(version, safe=':')}"
