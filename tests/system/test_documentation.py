"""What the documents say exists: every command, option, make target, file and configuration key that they name."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from edgecase_agent.cli import app as agent_app
from edgecase_agent.settings import known_keys, load_settings
from edgecase_cloud.cli import app as cloud_app
from edgecase_models.cli import app as model_app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("models/**/*.md"), *ROOT.glob("deploy/**/*.md"), *ROOT.glob("deploy/systemd/*")]
)
COMMANDS = {
    "edgecase-agent": get_command(agent_app),
    "edgecase-cloud": get_command(cloud_app),
    "edgecase-model": get_command(model_app),
}
NAMES = "|".join(COMMANDS)


def blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    found = []
    for path in DOCUMENTS:
        text = path.read_text()
        lines = [line for block in blocks(text) for line in block.splitlines()] + re.findall(
            rf"`((?:{NAMES}) [^`|…]+)`", text
        )
        lines += [line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart=")]
        for line in lines:
            command = re.search(rf"(?:^|/|\s)((?:{NAMES}) [^#&|]+)", line)
            if command:
                found.append((path.name, command.group(1).strip()))
    return found


def test_there_is_something_to_check() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize(("document", "line"), commands(), ids=lambda value: str(value)[:60])
def test_a_documented_command_exists_with_its_options(document: str, line: str) -> None:
    program, *words = shlex.split(line)
    command = COMMANDS[program]
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"{document}: {line}: no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, f"{document}: {line}"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        named = set(re.findall(r"`make ([a-z-]+)", path.read_text())) | set(
            re.findall(r"^make ([a-z-]+)", path.read_text(), re.MULTILINE)
        )
        assert named <= targets, path


def test_every_relative_link_leads_somewhere() -> None:
    for path in DOCUMENTS:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_readmes_configurations_are_accepted(tmp_path: Path) -> None:
    found = blocks((ROOT / "README.md").read_text(), "toml")
    assert found
    for number, block in enumerate(found):
        config = tmp_path / f"agent-{number}.toml"
        config.write_text(block)
        load_settings(config)


def test_the_readme_lists_every_configuration_key() -> None:
    text = (ROOT / "README.md").read_text()
    table = dict(re.findall(r"^\| `([a-z_.]+)` \| (.*?) \|", text, re.MULTILINE))
    assert set(table) == set(known_keys())


def test_the_package_is_described_as_it_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["scripts"]) == set(COMMANDS)
    assert set(project["optional-dependencies"]) == {"agent", "cloud", "train", "scale", "bench", "dev"}
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    pins = {re.split(r"[=<>~]", line)[0].lower().replace("_", "-") for line in pinned}
    extras = project["optional-dependencies"].values()
    needed = [*project["dependencies"], *(each for extra in extras for each in extra)]
    assert {re.split(r"[\[=<>~]", each)[0].lower() for each in needed} <= pins
