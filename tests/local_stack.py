"""A local stack of one's own, beside a user's: its own home, ports and tiny spec, used as a user does."""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipelines.settings import REPOSITORY, Settings
from pipelines.stack import ports, postgres
from pipelines.stack.layout import Layout
from pipelines.stack.processes import Identity, Stack
from pipelines.stack.supervisor import ProgramState, Supervisor
from tests.ports import own_block

NUM_PORTS = 41
"""Airflow's, ten for services, thirty for copies."""

TINY_SPEC = """\
description: A model that is as small as can be and goes through its whole life in seconds.
data:
  source:
    kind: jsonl
    uri: {corpus}
  suite:
    - type: expect_column_values_to_not_be_null
      kwargs: {{column: text}}
preparation:
  validation_fraction: 0.2
  tokenizer:
    vocabulary_size: 300
architecture:
  hidden_size: 16
  intermediate_size: 32
  num_layers: 1
  num_heads: 2
  num_key_value_heads: 2
  context_length: 128
training:
  max_steps: 20
  batch_size: 4
  sequence_length: 64
  warmup_steps: 2
  checkpoint_every_steps: 10
evaluation:
  bootstrap_resamples: 100
  max_perplexity_ratio: 100
  noninferiority_margin: 100
packaging:
  num_golden_requests: 2
  num_reference_requests: 10
  golden_tokens: 4
service:
  max_tokens: 32
rollout:
  weights: [10, 50]
  look_seconds: 0.2
  shadow_seconds: 1
  bake_seconds: 1
  bake_full_seconds: 1
  warmup_requests: 2
  min_user_exposures: 0
  max_bad_rate: 0.05
  quality: {{min_pairs: 10, margin: 0.2}}
  replay: {{requests_per_second: 40}}
"""


@dataclass(frozen=True)
class LocalStack:
    """A stack as its user sees it: a command line with settings in the environment."""

    settings: Settings

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a user who has set nothing else; other tests have an Airflow of their own in ours."""
        ours = {
            f"SLIPWAY_{name.upper()}": str(value) for name, value in self.settings.model_dump().items() if value != ""
        }
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "SLIPWAY", "_AIRFLOW"))
        }
        return {**clean, **ours, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "plugins")])}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `python -m pipelines ...`."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines", *arguments],
            env=self.environment,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run `python -m pipelines ...` to its end; output and errors are in `stdout`."""
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def states(self) -> dict[str, ProgramState]:
        """Return the supervised programs by name; empty when there is no supervisor."""
        supervisor = Supervisor(Layout.of(self.settings).supervisor_socket)
        return {state.name: state for state in supervisor.states()} if supervisor.is_alive() else {}

    def processes(self) -> list[int]:
        """Return the ids of all processes of the stack."""
        layout = Layout.of(self.settings)
        return [process.pid for process in Stack(layout.home, Identity.load(layout.supervisor_identity)).processes()]

    def assert_gone(self) -> None:
        """Check that nothing of the stack is left but its files."""
        assert self.processes() == []
        assert ports.is_free(self.settings.airflow_port)
        assert not Layout.of(self.settings).run_dir.exists()

    def remove(self) -> None:
        """Remove what lies outside the home."""
        layout = Layout.of(self.settings)
        if (layout.home / "id").exists():
            shutil.rmtree(postgres.root_folder(layout))


def free_ports(count: int) -> int:
    """Return the first of so many ports in a row that are free, and stay out of other tests' hands."""
    block = own_block()
    assert count <= len(block)
    return block[0]


def write_corpus(path: Path) -> None:
    """Write some documentation of the standard library as JSON lines."""
    import argparse
    import logging
    import unittest.mock

    with path.open("w", encoding="utf-8") as stream:
        for module in (argparse, logging, os, shutil, socket, subprocess, unittest.mock, inspect):
            for node in ast.walk(ast.parse(inspect.getsource(module))):
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                    name = f"{module.__name__}.{node.name}:{node.lineno}"
                    stream.write(json.dumps({"id": name, "text": text}) + "\n")


def lay_out(folder: Path, first_port: int | None = None) -> LocalStack:
    """Return a stack that is not started, with its home, a corpus and a tiny spec in a folder.

    Args:
        folder: an empty one.
        first_port: of `NUM_PORTS` in a row; None: some that are free.
    """
    (folder / "models").mkdir()
    write_corpus(folder / "corpus.jsonl")
    (folder / "models" / "tiny.yaml").write_text(TINY_SPEC.format(corpus=folder / "corpus.jsonl"))
    first = free_ports(NUM_PORTS) if first_port is None else first_port
    return LocalStack(
        Settings(
            home=folder / ".slipway",
            models_dir=folder / "models",
            airflow_port=first,
            service_ports=f"{first + 1}-{first + 10}",
            copy_ports=f"{first + 11}-{first + 40}",
        )
    )
