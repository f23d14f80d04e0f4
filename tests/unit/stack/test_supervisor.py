"""supervisord's configuration says what we mean, in supervisord's own reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import StackError
from pipelines.stack.layout import Layout
from pipelines.stack.supervisor import Program, Supervisor, configuration, escape


def read_back(conf: str, folder: Path) -> dict[str, object]:
    """Return the programs of a configuration by name, as supervisord itself reads them."""
    from supervisor.options import ServerOptions

    path = folder / "supervisord.conf"
    path.write_text(conf)
    options = ServerOptions()
    options.realize(["-c", str(path)])
    return {group.name: group.process_configs[0] for group in options.process_group_configs}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return a stack's paths below a temporary folder."""
    layout = Layout(home=tmp_path / "home", run_dir=tmp_path / "run")
    layout.make()
    return layout


def test_program_ends_with_its_whole_group_and_comes_back_when_killed(layout: Layout, tmp_path: Path) -> None:
    program = Program(
        name="one", command=["/bin/sleep", "9"], directory=tmp_path, stop_signal="INT", stop_wait_seconds=7
    )

    read = read_back(configuration(layout, [program]), tmp_path)["one"]

    assert read.stopasgroup is True
    assert read.killasgroup is True
    assert read.autorestart is not False
    assert read.autostart is False
    assert (read.stopsignal, read.stopwaitsecs) == (2, 7)
    assert read.stdout_logfile == str(layout.logs / "one.log")
    assert read.stdout_logfile_maxbytes > 0


@pytest.mark.parametrize(
    "argument",
    [
        pytest.param("100%", id="percent"),
        pytest.param("two words", id="space"),
        pytest.param("it's", id="quote"),
        pytest.param("a;b", id="semicolon"),
        pytest.param("%(ENV_HOME)s", id="an-expansion"),
    ],
)
def test_arguments_survive_the_configuration_file(argument: str, layout: Layout, tmp_path: Path) -> None:
    import shlex

    program = Program(name="one", command=["/bin/echo", argument], directory=tmp_path)

    read = read_back(configuration(layout, [program]), tmp_path)["one"]

    assert shlex.split(read.command) == ["/bin/echo", argument]


@pytest.mark.parametrize("text", ["a\nb", "a ;b"], ids=["line-break", "comment"])
def test_value_that_the_file_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="cannot hold"):
        escape(text)


def test_programs_added_later_are_included(layout: Layout, tmp_path: Path) -> None:
    (layout.programs / "bento.conf").write_text("[program:bento]\ncommand=/bin/sleep 9\n")

    assert set(read_back(configuration(layout, []), tmp_path)) == {"bento"}


def test_socket_without_a_listener_is_not_alive(tmp_path: Path) -> None:
    assert not Supervisor(tmp_path / "absent.sock").is_alive()


def test_absent_supervisor_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="does not answer"):
        Supervisor(tmp_path / "absent.sock").states()
