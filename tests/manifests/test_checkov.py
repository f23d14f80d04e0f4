"""Checkov finds nothing; what it would find and we mean is explained in place by its own skips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.settings import REPOSITORY
from tests.manifests.rendered import OVERLAYS, text_of

CHECKOV = "checkov==3.3.30"
"""Its pins clash with ours, so it has an environment of its own."""

OFFLINE = {"SKIP_PACKAGE_UPDATE_CHECK": "true", "LOG_LEVEL": "ERROR"}


@pytest.fixture(scope="module")
def checkov() -> Path:
    """Return checkov's program; installed once, beside the tests' environment."""
    folder = Path(sys.prefix) / "tools" / CHECKOV
    program = folder / "bin" / "checkov"
    if not program.exists():
        uv = str(Path(sys.prefix) / "bin" / "uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        command = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), CHECKOV]
        subprocess.run(command, check=True)
    return program


def findings(checkov: Path, files: list[Path]) -> tuple[list[str], list[dict[str, Any]], int]:
    """Return failed checks, those that were skipped, and how many passed."""
    options = ["--framework", "kubernetes", "dockerfile", "--compact", "--skip-download", "--output", "json"]
    named = [part for file in files for part in ("--file", str(file))]
    done = subprocess.run(
        [str(checkov), *options, *named], capture_output=True, text=True, check=False, env={**os.environ, **OFFLINE}
    )
    reports = json.loads(done.stdout)
    results = [report["results"] for report in (reports if isinstance(reports, list) else [reports])]
    failed = [f"{check['check_id']} {check['resource']}" for part in results for check in part["failed_checks"]]
    skipped = [check for part in results for check in part["skipped_checks"]]
    return failed, skipped, sum(len(part["passed_checks"]) for part in results)


def test_no_check_fails_and_every_skip_says_why(checkov: Path, tmp_path: Path) -> None:
    for overlay in OVERLAYS:
        (tmp_path / f"{overlay}.yaml").write_text(text_of(overlay))
    files = [*tmp_path.glob("*.yaml"), *(REPOSITORY / "docker").glob("Dockerfile*")]

    failed, skipped, passed = findings(checkov, files)

    assert failed == []
    assert passed > 400
    assert [check["check_id"] for check in skipped if len(check["check_result"]["suppress_comment"]) < 20] == []


def test_a_container_with_rights_to_gain_is_found(checkov: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(text_of("kind").replace("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"))

    failed, _, _ = findings(checkov, [bad])

    assert "CKV_K8S_20 Deployment.slipway.slipway-controller" in failed
