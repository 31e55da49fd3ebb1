"""The documentation as the tests read it: code blocks, commands, parts of params.yaml, links.

A code block (indented by four, or fenced) holds commands, a part of params.yaml, Python, or
something else. A line is a command if it begins with one of `PROGRAMS`; text after ` #` is a
remark. A command continues in the next line after an open double quote, a backslash or `<<'EOF'`.
In running text, `code` that begins with a program and has more words is a command as well. Blocks
fenced with a language are not commands: they show something, or are part of a recipe.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tests.helpers.projects import REPOSITORY

PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")] + sorted(
    (REPOSITORY / "docs").glob("*.md")
)
PROGRAMS = (
    *(".", "apt-get", "cd", "cp", "curl", "docker", "du", "dvc", "export", "git", "kill"),
    *("loqua", "make", "mlflow", "nvidia-smi", "openssl", "optuna", "optuna-dashboard", "pip"),
    *("psql", "pytest", "python", "ray", "read", "rm", "rsync", "scp", "source", "ssh"),
    *("ssh-keygen", "sudo", "tar"),
)


@dataclass(frozen=True)
class Block:
    """A code block: page, number of the first line, text, and language if fenced."""

    page: str
    line: int
    text: str
    language: str = ""

    @property
    def params(self) -> dict[str, Any] | None:
        """The part of params.yaml that it is, or None."""
        if self.language:
            return None
        try:
            found = YAML(typ="safe").load(self.text)
        except YAMLError:
            return None
        sections = YAML(typ="safe").load((REPOSITORY / "params.yaml").read_text())
        return found if isinstance(found, dict) and set(found) <= set(sections) else None

    @property
    def python(self) -> bool:
        """Whether it is Python."""
        try:
            return any(isinstance(node, ast.Import | ast.ImportFrom | ast.Call)
                       for node in ast.walk(ast.parse(self.text)))  # fmt: skip
        except SyntaxError:
            return False

    @property
    def commands(self) -> list[str] | None:
        """Its commands, if all of it is commands, or None."""
        if self.language:
            return None
        found, lines = [], iter(self.text.splitlines())
        for line in lines:
            if line.strip() and line.split()[0] not in PROGRAMS:
                return None
            command = whole_command(line, lines)
            if command.strip():
                found.append(command.strip())
        return found


def whole_command(line: str, rest: Iterator[str]) -> str:
    """Return a command that begins with a line, with the lines that belong to it."""
    while line.endswith("\\"):
        line = f"{line[:-1]}{next(rest).lstrip()}"
    if line.endswith("<<'EOF'"):
        return "\n".join([line, *iter(lambda: next(rest), "EOF"), "EOF"])
    if line.count('"') % 2 == 0:
        return re.sub(r"(^|\s+)#.*$", "", line)
    while line.count('"') % 2:
        line = f"{line}\n{next(rest)}"
    return line


@dataclass(frozen=True)
class Command:
    """A command of a page, with the parts of params.yaml above it."""

    page: str
    line: int
    text: str
    params: tuple[dict[str, Any], ...] = ()

    @property
    def words(self) -> list[str]:
        """The command, split as a shell does."""
        return shlex.split(self.text)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def blocks(path: Path) -> Iterator[Block]:
    """Return the code blocks of a page; of a fenced one, what is inside."""
    page, held, start, fence = path.relative_to(REPOSITORY).as_posix(), [], 0, False
    language = ""
    lines = [*path.read_text().splitlines(), "end"]
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("```"):
            fence = not fence
            inside = False
        else:
            above = lines[number - 2].strip() if number > 1 else ""
            inside = fence or (line.startswith("    ") and (bool(held) or not above))
        if inside or (held and not line.strip() and not line.startswith("```")):
            start = start or number
            held.append(line if fence else line[4:])
        elif held:
            yield Block(page, start, "\n".join(held).strip("\n"), language)
            held, start = [], 0
        if line.lstrip().startswith("```"):
            language = line.strip().removeprefix("```") if fence else ""


def commands(path: Path) -> list[Command]:
    """Return all commands of a page, in blocks and in running text, in order."""
    page, parts, found, running = path.relative_to(REPOSITORY).as_posix(), [], [], []
    text = path.read_text().splitlines()
    for block in blocks(path):
        length = block.text.count("\n") + 1
        text[block.line - 1 : block.line - 1 + length] = [""] * length
        if (part := block.params) is not None:
            parts.append((block.line, part))
        found += [(block.line, command) for command in block.commands or ()]
    whole = "\n".join(text)
    for match in re.finditer(r"`((?:[^`\n]|\n(?!\n))+)`", whole):
        running.append((whole.count("\n", 0, match.start()) + 1, " ".join(match[1].split())))
    for number, code in running:
        words = code.split()
        if len(words) > 1 and words[0] in PROGRAMS:
            found.append((number, code))
    return [
        Command(page, number, code, tuple(part for line, part in parts if line < number))
        for number, code in sorted(found, key=lambda one: one[0])
    ]


def links(path: Path) -> list[str]:
    """Return what a page links to inside the project: `path`, `path#anchor` or `#anchor`."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("    "))
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).strip().lower() for head in heads]
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in plain}
