"""Bad input is one line on stderr and exit code 2; every other error traces."""

import asyncio
import gc
import os
import subprocess
import sys

import pytest

from dynamite_envs.errors import UserError
from dynamite_jax import errors
from dynamite_jax.commands import evaluate, train
from experiments.studies import bayes_optimal
from refusals import CHECKOUT, only_line


@pytest.mark.parametrize(("gives_up", "count"), [(True, 0), (False, 1)])
def test_a_read_that_is_given_up_is_not_shown(gives_up, count, monkeypatch):
    """As orbax has it: a coroutine that makes an error of whatever ends it."""

    async def read() -> None:
        try:
            await asyncio.sleep(0)
        except BaseException as error:
            raise ValueError("could not be read") from (error if gives_up else None)

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", errors._without_late_reads(lambda unraisable: shown.append(1)))
    reading = read()
    reading.send(None)
    del reading
    gc.collect()
    assert len(shown) == count


@pytest.mark.parametrize(
    ("module", "flags", "named"),
    [
        ("dynamite_jax.train", ["--env", "gridwrold"], "did you mean 'gridworld'?"),
        ("dynamite_jax.train", ["--seeds", "0"], "seeds is 0; it must be 1 or more"),  # so many devices, too
        ("experiments.studies.bayes_optimal", ["--p", "2"], "p of gridworld is 2"),
    ],
)
def test_a_refused_command_says_one_line_and_leaves_nothing(tmp_path, module, flags, named):
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}  # experiments are not installed
    command = [sys.executable, "-m", module, *flags]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (2, "")
    assert named in only_line(process.stderr)
    assert not list(tmp_path.iterdir())


def test_a_message_of_several_lines_becomes_one(capsys):
    @errors.one_line_errors
    def main() -> None:
        raise UserError("first\n  second\tthird")

    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code, capsys.readouterr().err) == (2, "error: first second third\n")


def test_what_the_parser_frames_in_a_box_becomes_one_line():
    for words in (["--colour"], ["--episodes", "some"], ["--run"], []):
        with pytest.raises(UserError) as caught:
            errors.parse(evaluate.Arguments, words)
        text = str(caught.value)
        assert text == " ".join(text.split()) and text.isascii() and "[0m" not in text


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, TypeError])
def test_an_error_that_is_no_bad_input_keeps_its_traceback(kind):
    @errors.one_line_errors
    def main() -> None:
        raise kind("a bug")

    with pytest.raises(kind, match="a bug"):
        main()


def test_a_bug_inside_a_command_traces_and_ends_with_exit_code_1(tmp_path):
    """A `ValueError` of NumPy, deep inside, is nothing that a person has typed wrong."""
    code = (
        "import sys, numpy\n"
        "from dynamite_jax.commands import train\n"
        "from dynamite_jax.runtime import training\n"
        "training.evaluate = lambda *arguments, **sizes: numpy.zeros(2).reshape(3)\n"
        "sys.argv = ['train', '--env', 'probe_match', '--method', 'markov', '--steps', '1280', '--seeds', '1']\n"
        "train.main()\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 1
    assert "Traceback" in process.stderr and "cannot reshape array" in process.stderr


def test_help_is_no_error(monkeypatch, capsys):
    for command in (train, evaluate, bayes_optimal):
        monkeypatch.setattr(sys, "argv", ["command", "--help"])
        with pytest.raises(SystemExit) as stop:
            command.main()
        assert not stop.value.code
        assert "--help" in capsys.readouterr().out
