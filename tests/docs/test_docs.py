"""The documentation is true: commands exist and parse, parts of params.yaml and links are valid.

`RULES` say how each command of every page is checked; a command without a rule is an error.
test_pipeline_docs.py runs the quick commands in a small copy of the project.
"""

import ast
import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from dvc.cli.parser import get_main_parser
from dvc.utils.hydra import apply_overrides
from mlflow.cli import cli as mlflow_cli
from ruamel.yaml import YAML
from typer.core import TyperGroup
from typer.main import get_command

from pipeline.cli.app import app
from pipeline.params import load_params
from tests.helpers.cli import all_commands
from tests.helpers.pages import PAGES, Command, anchors, blocks, commands, links
from tests.helpers.projects import REPOSITORY

COMMANDS = [command for page in PAGES for command in commands(page)]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.M)
OTHER_BLOCKS = {
    ("docs/data.md", "pictures/pets/cat/1.jpg"),
    ("docs/data.md", "image,class_name"),
    ("docs/data.md", "sun397/SUN397"),
}
"""Code blocks that are neither commands nor parts of params.yaml, by their beginning."""


def merged(old: Any, new: Any) -> Any:
    """Put a part of params.yaml over the whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}
    return new


def write_params(path: Path, parts: tuple[dict[str, Any], ...]) -> None:
    """Write params.yaml, as it is or with parts of a page put over it."""
    if not parts:
        shutil.copy(REPOSITORY / "params.yaml", path)
        return
    params = YAML(typ="safe").load((REPOSITORY / "params.yaml").read_text())
    for part in parts:
        params = merged(params, part)
    with path.open("w") as file:
        YAML(typ="safe").dump(params, file)


def made(command: Command, _: Path) -> None:
    """A target of the Makefile, whose recipe expands."""
    target = command.words[1]
    assert target in TARGETS, f"no such target; there are {TARGETS}"
    arguments = ["make", "-n", "-o", ".venv/.ready", *command.words[1:]]
    subprocess.run(arguments, cwd=REPOSITORY, check=True, capture_output=True)
    for name in (word.partition("=")[0] for word in command.words[2:]):
        served = (REPOSITORY / "pipeline/cli/tracking.py").read_text()
        assert f"$({name})" in MAKEFILE or name in served, f"{name} is no variable"


def parsed_by_dvc(command: Command, tmp: Path) -> None:
    """DVC's own parser takes it; stages exist, and what `-S` sets is valid."""
    words = command.words[1:]
    if len(words) == 1 and words[0] in ("exp", "queue"):  # a family of commands
        words = [*words, "list" if words[0] == "exp" else "status"]
    arguments = get_main_parser().parse_args(words)
    path = tmp / "params.yaml"
    write_params(path, command.params)
    if getattr(arguments, "set_param", None):
        apply_overrides(path, ["train.momentum=0.9"])  # DVC writes it in a form of its own
        apply_overrides(path, arguments.set_param)
        load_params(path)
    if words[0] in ("repro", "freeze", "unfreeze"):
        stages = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"]
        tasks = load_params(path).tasks
        for target in arguments.targets:
            stage, _, task = target.partition("@")
            assert stage in (*stages, "STAGE")
            assert not task or task in tasks


def parsed_by_click(program: click.Command, words: list[str]) -> None:
    """Click takes the words: all subcommands and options exist."""
    context = click.Context(program)
    while isinstance(program, click.Group):
        name, *words = words
        found = program.get_command(context, name)
        assert found is not None, f"no such command: {name}"
        program, context = found, click.Context(found, parent=context)
    program.make_parser(context).parse_args(words)


def parsed_by_loqua(command: Command, _: Path) -> None:
    """Typer takes it: commands, options and values are valid, and no argument is missing."""
    program, words = get_command(app), command.words[1:]
    while isinstance(program, TyperGroup) and words and words[0] in program.commands:
        program, words = program.commands[words[0]], words[1:]
    if words or not isinstance(program, TyperGroup):  # else a family of commands
        with contextlib.suppress(typer.Exit):  # of --help
            program.make_context("loqua", words)


def parsed_by_mlflow(command: Command, _: Path) -> None:
    """MLflow's own parser takes it."""
    parsed_by_click(mlflow_cli, command.words[1:])


def parsed_by_ray(command: Command, _: Path) -> None:
    """Ray's own parser takes it."""
    from ray.scripts.scripts import cli as ray_cli

    parsed_by_click(ray_cli, command.words[1:])


def has_help(command: Command, _: Path) -> None:
    """The subcommand exists, and its help names every option."""
    words = [word for word in command.words if not word.startswith("-") and "=" not in word]
    known = subprocess.run(
        [Path(sys.executable).parent / words[0], *(w for w in words[1:] if w.isalpha()), "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for option in (word.partition("=")[0] for word in command.words if word.startswith("--")):
        assert option in known


def is_module(command: Command, _: Path) -> None:
    """The module can be found, and names every option that is given to it."""
    name, *words = command.words[2:]
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).name == "__init__.py"
    source = Path(found.origin).with_name("__main__.py") if package else Path(found.origin)
    text = source.read_text()
    for option in (w.partition("=")[0] for w in words if w.startswith("--") and w != "--help"):
        assert f'"{option}"' in text


def is_python(command: Command, _: Path) -> None:
    """The code compiles, and what it imports is there."""
    heredoc = "<<'EOF'" in command.text
    code = "\n".join(command.text.splitlines()[1:-1]) if heredoc else command.words[2]
    check_imports(code)


def is_extra(command: Command, _: Path) -> None:
    """Extras of the project's own package exist."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"\[([\w,]+)\]", command.text):
        assert extra in project["optional-dependencies"]


def is_collected(command: Command, _: Path) -> None:
    """The marker is declared, and the tests are there."""
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["pytest"]
    assert command.words[1] == "-m"
    marker, *paths = command.words[2:]
    assert any(line.startswith(f"{marker}:") for line in declared["ini_options"]["markers"])
    assert all((REPOSITORY / path).exists() for path in paths)


def is_plain(command: Command, _: Path) -> None:
    """A tool of the system, exactly as the rule's author has seen it."""


RULES: tuple[tuple[str, Callable[[Command, Path], None]], ...] = (
    (r"make [a-z-]+( [A-Z_]+=(\"[^\"]*\"|\S+))*", made),
    (r"dvc .*", parsed_by_dvc),
    (r"loqua (COMMAND --help|--install-completion|--version)", is_plain),
    (r"loqua .*", parsed_by_loqua),
    (r"mlflow .*", parsed_by_mlflow),
    (r"ray .*", parsed_by_ray),
    (r"optuna storage upgrade .*", has_help),
    (r"python -m (stages|bench)\S* ?.*", is_module),
    (r"(?s)python (-c .*|- \S+ <<'EOF'.*)", is_python),
    (r"pytest -m .*", is_collected),
    (r"pip install -e '\.\[\w+\]'", is_extra),
    (r"(\.|source) \.venv/bin/activate|cd loqua", is_plain),
    (r"export (MLFLOW_TRACKING_URI|RAY_AUTH_MODE)=\S+", is_plain),
    (r"read -rs (\w+) && export \1", is_plain),
    (r"export MLFLOW_FLASK_SERVER_SECRET_KEY=\$\(openssl rand -hex 32\)", is_plain),
    (r'git (pull|clone URL loqua|commit -m "Baseline" dvc\.lock|commit -am "Rank 2")', is_plain),
    (r"(du -sh|rm -r|tar -czf) .*artifacts/\S+.*", is_plain),
    (r"ssh -L 5000:127\.0\.0\.1:5000 (HOST|that-machine|you@server)", is_plain),
    (r"ssh-keygen -t ed25519 -N '' -f ~/\.ssh/loqua", is_plain),
    (r"pip install boto3|apt-get install postgresql|kill -9", is_plain),
)
"""How each command is checked; the first that matches all of it counts."""


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_exists_and_parses(command: Command, tmp_path: Path) -> None:
    check = next((how for rule, how in RULES if re.fullmatch(rule, command.text)), None)
    assert check is not None, f"{command}: no rule in RULES says how it is checked"
    check(command, tmp_path)


def test_dvc_can_set_every_list_of_params(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    write_params(path, ())
    apply_overrides(path, ["train.momentum=0.8"])
    written = path.read_text()
    for name in lists(YAML(typ="safe").load(written)):
        path.write_text(written)
        apply_overrides(path, [f"{name}=[]"])
        found = YAML(typ="safe").load(path.read_text())
        for part in name.split("."):
            found = found[part]
        assert found == [], name


def lists(value: Any, name: str = "") -> list[str]:
    """Return the dotted names of all lists, as `-S` can say them."""
    if isinstance(value, dict):
        parts = [lists(v, f"{name}.{k}".strip(".")) for k, v in value.items() if "." not in k]
        return [found for part in parts for found in part]
    return [name] if isinstance(value, list) else []


def test_every_rule_is_needed() -> None:
    for rule, _ in RULES:
        assert any(re.fullmatch(rule, command.text) for command in COMMANDS), rule


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_are_commands_or_parts_of_params(page: Path, tmp_path: Path) -> None:
    parts: list[dict[str, Any]] = []
    for block in blocks(page):
        if block.language:
            assert block.page == "CONTRIBUTING.md", f"{block.page}:{block.line}: in no recipe"
            continue
        if (part := block.params) is not None:
            parts.append(part)
            write_params(tmp_path / "params.yaml", tuple(parts))
            load_params(tmp_path / "params.yaml")
        else:
            other = any(block.page == p and block.text.startswith(b) for p, b in OTHER_BLOCKS)
            kinds = [other, block.python, block.commands is not None]
            assert sum(kinds) == 1, f"{block.page}:{block.line}: {kinds}"
        if block.python:
            check_imports(block.text)


def check_imports(code: str) -> None:
    """What Python code imports is there."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for name in node.names:
                assert importlib.util.find_spec(name.name), name.name
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists() or is_measured_later(target), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}: no such heading"


def is_measured_later(path: Path) -> bool:
    """Whether a file is what a benchmark of the project writes, which was not run yet."""
    return path.suffix == ".json" and path.with_suffix(".py").is_file()


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        found = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        waiting += [p for p in found if p.suffix == ".md" and p not in reached and p in PAGES]
    assert set(PAGES) <= reached


def test_the_index_lists_every_page_once() -> None:
    listed = [link for link in links(REPOSITORY / "docs/README.md") if "/" not in link]
    pages = {page.name for page in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}
    assert sorted(listed) == sorted(pages)


def test_the_tree_of_contributing_has_every_folder() -> None:
    [tree] = [b.text for b in blocks(REPOSITORY / "CONTRIBUTING.md") if b.language == "text"]
    paths, parents = set(), []
    for line in tree.splitlines():
        space, name, _ = re.fullmatch(r"( *)(\S+) +(\S.*)", line).groups()
        parents = [*parents[: len(space) // 2], name.rstrip("/")]
        paths.add("/".join(parents))
    assert not {path for path in paths if not (REPOSITORY / path).exists()}
    command = ["git", "ls-files", "*/*"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    files = [Path(name).parts for name in listed.stdout.splitlines() if name[0] != "."]
    folders = {parts[0] for parts in files}
    folders |= {f"pipeline/{parts[1]}" for parts in files if parts[0] == "pipeline"}
    assert folders - {"pipeline/__init__.py"} <= paths


def test_the_reference_lists_every_command() -> None:
    page = (REPOSITORY / "docs/commands.md").read_text()
    for words in all_commands():
        assert f"| `loqua {' '.join(words)}" in page, words


def test_every_make_target_has_help_and_is_in_the_docs() -> None:
    named = {command.words[1] for command in COMMANDS if command.words[0] == "make"}
    for target in TARGETS:
        assert re.search(rf"^{target}:.* ## \S", MAKEFILE, re.M), f"{target} has no help"
        assert target in named, f"make {target} is in no page"
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", MAKEFILE, re.M)
    assert phony is not None
    assert set(phony[1].replace("\\\n", " ").split()) == set(TARGETS)
