"""No test is lost: neither in a folder that pytest passes by, nor between the README's command and that of .ci/run."""

import fnmatch

from tests.support.native import ROOT


def test_every_folder_of_tests_is_collected(pytestconfig):
    """pytest passes some names of folders by, such as `build`, unless it is told otherwise."""
    folders = {part for file in (ROOT / "tests").rglob("test_*.py") for part in file.relative_to(ROOT).parent.parts}
    passed = [f for f in folders for pattern in pytestconfig.getini("norecursedirs") if fnmatch.fnmatch(f, pattern)]
    assert "build" in folders and not passed


def test_what_the_readmes_command_leaves_out_runs_in_ci(pytestconfig):
    (command,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("pip install -e")]
    assert command.endswith(" && python -m pytest -n auto")  # .ci/run appends to it
    assert """bash -c "$second -m '' """ in (ROOT / ".ci" / "run").read_text()
    assert pytestconfig.getini("addopts")[-2:] == ["-m", "not slow"]
