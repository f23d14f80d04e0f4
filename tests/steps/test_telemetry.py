"""A training's numbers, where people watch them while it runs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines.settings import Settings
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.store import Store
from pipelines.training.job import TrainingJob
from pipelines.training.metrics import Reading
from pipelines.training.nodes import Place
from pipelines.training.supervision import telemetry
from pipelines.training.supervision.telemetry import Snapshot, StatsdSink, Telemetry, TensorBoardSink
from pipelines.training.supervision.usage import Usage

FOLDER = "runs/tiny/r1/train/tensorboard"


def reading(step: int, loss: float = 5.0) -> Reading:
    return Reading(
        step=step,
        loss=loss,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens=step * 100,
        tokens_per_second=200.0,
        seconds=step / 2,
        eta_seconds=1.0,
        at=1000.0 + step,
    )


def snapshot(*readings: Reading) -> Snapshot:
    return Snapshot(readings, Usage(cpu_cores=1.5, memory_bytes=2**30), num_restarts=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path}/store")


def losses(store: Store) -> list[tuple[int, float]]:
    """Return what TensorBoard shows of the folder in the store."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(store.local_path(FOLDER)))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("training/loss")]


def test_tensorboard_shows_a_training_while_it_runs(store: Store) -> None:
    now = 0.0
    sink = TensorBoardSink(store, FOLDER, clock=lambda: now)
    sink.show(snapshot(reading(1, 6.0)))
    assert losses(store) == [(1, 6.0)]
    sink.show(snapshot(reading(2), reading(3)))
    assert losses(store) == [(1, 6.0)]  # uploads are not for every reading
    now = 31.0
    sink.show(snapshot(reading(4)))
    assert [step for step, _ in losses(store)] == [1, 2, 3, 4]
    sink.show(snapshot(reading(5)))
    sink.close()
    assert [step for step, _ in losses(store)] == [1, 2, 3, 4, 5]


def test_a_training_that_went_back_is_shown_as_it_went_on(store: Store) -> None:
    first = TensorBoardSink(store, FOLDER)
    first.show(snapshot(reading(1), reading(2, 99.0), reading(3, 99.0)))
    first.show(snapshot(reading(2, 4.0)))
    first.close()
    assert losses(store) == [(1, 5.0), (2, 4.0)]


class Gateway(BaseHTTPRequestHandler):
    """A Pushgateway that remembers."""

    requests: list[tuple[str, str, str]]

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        type(self).requests.append((self.command, self.path, body))
        self.send_response(202)
        self.end_headers()

    do_PUT = do_DELETE = answer  # noqa: N815 - the names are the library's

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """Serve a Pushgateway, to which nobody pushes twice."""
    monkeypatch.setattr(telemetry, "PUSH_SECONDS", 3600.0)
    monkeypatch.setattr(telemetry, "_TIMEOUT_SECONDS", 60.0)
    Gateway.requests = []
    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def make_job(tmp_path: Path, store: Store, place: Place | None = None) -> TrainingJob:
    return TrainingJob(
        architecture=ArchitectureConfig(),
        training=TrainingConfig(),
        tokens=tmp_path,
        tokenizer=tmp_path,
        workspace=tmp_path / "work",
        store_url=store.url,
        checkpoints="checkpoints/key",
        model="tiny",
        tensorboard=FOLDER,
        place=place or Place(),
    )


def test_a_pushgateway_has_the_newest_numbers_until_the_training_ends(
    tmp_path: Path, store: Store, gateway: HTTPServer
) -> None:
    address = f"127.0.0.1:{gateway.server_port}"
    shown = Telemetry.of(make_job(tmp_path, store), Settings(pushgateway=address))
    shown.show(snapshot(reading(1), reading(2, 4.5)))
    shown.show(snapshot(reading(3)))
    shown.close()
    (pushed, path, text), (deleted, _, _) = Gateway.requests  # the second reading came too soon after the first
    assert (pushed, deleted) == ("PUT", "DELETE")
    assert path == "/metrics/job/slipway_training/model/tiny"
    for line in ("step 2.0", "loss 4.5", "cpu_cores 1.5", "memory_bytes 1.073741824e+09", "restarts 1.0"):
        assert f"slipway_training_{line}\n" in text
    assert "gpu" not in text
    assert losses(store) == [(1, 5.0), (2, 4.5), (3, 5.0)]


def test_statsd_has_the_newest_numbers() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(60)
        sink = StatsdSink(f"127.0.0.1:{server.getsockname()[1]}", "tiny")
        sink.show(snapshot(reading(2)))
        sink.close()
        assert server.recv(200) == b"slipway.tiny.training.step:2|g"


def test_a_server_that_is_away_is_told_once_and_disturbs_nothing(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        settings = Settings(pushgateway=f"127.0.0.1:{closed.getsockname()[1]}", statsd="no-such-host.invalid:8125")
        shown = Telemetry.of(make_job(tmp_path, store), settings)
        shown.show(snapshot(reading(1)))
        shown.close()
    for name in ("PushgatewaySink", "StatsdSink"):
        assert caplog.text.count(f"{name} does not get its numbers") == 1
    assert losses(store) == [(1, 5.0)]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"place": Place(num_nodes=2, node_rank=1)}, id="a-machine-that-helps"),
        pytest.param({"model": ""}, id="a-calibration"),
    ],
)
def test_only_a_trainings_first_machine_is_watched(
    change: dict[str, object], tmp_path: Path, store: Store, gateway: HTTPServer
) -> None:
    job = make_job(tmp_path, store).model_copy(update=change)
    shown = Telemetry.of(job, Settings(pushgateway=f"127.0.0.1:{gateway.server_port}"))
    shown.show(snapshot(reading(1)))
    shown.close()
    assert (Gateway.requests, store.list("runs")) == ([], [])
