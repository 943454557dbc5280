"""The suite's own rules: what tests start can be interrupted, and none leaves files where it was started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SAYS_SO = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
STARTS = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SAYS_SO!r}], check=True)"
CONFIGURES = f"import runpy; runpy.run_path({str(TESTS / 'conftest.py')!r})['pytest_configure']()"


@pytest.mark.parametrize(("code", "interrupted"), [(STARTS, False), (f"{CONFIGURES}\n{STARTS}", True)])
def test_what_tests_start_can_be_interrupted_in_the_background_of_a_shell(
    code: str, interrupted: bool
) -> None:
    # A shell without a terminal lets what it starts with & ignore SIGINT.
    command = ["sh", "-c", '"$0" -c "$1" & wait', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(interrupted)], done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("open('mlflow.db', 'w').close()", "a test left files in the current folder"),
        ("__import__('os').chdir('/')", "assert PosixPath('/') == "),
        ("pass", "2 passed"),
    ],
)
def test_a_test_that_leaves_a_file_or_the_folder_fails(tmp_path: Path, line: str, said: str) -> None:
    text = f"def test_it():\n    {line}\n\ndef test_another():\n    pass\n"
    (tmp_path / "test_it.py").write_text(text, encoding="utf-8")
    options = ["-p", "conftest", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "made")]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path / "test_it.py")]
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert said in done.stdout, done.stdout + done.stderr
    assert ("2 passed, 1 error" in done.stdout) == (line != "pass") == (done.returncode != 0)
