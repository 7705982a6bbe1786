"""The documentation: its commands can be given, its links lead somewhere, pages of methods are made of the code."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import ssl_toolkit
from ssl_toolkit.cli import dispatch
from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.methods import installed_methods

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SUITE = [ROOT / "mkdocs.yml", *sorted((ROOT / "configs").glob("*.yaml"))]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


class Parsed(Exception):  # noqa: N818 - nothing went wrong
    """The command's words are understood."""


def commands() -> list[str]:
    """What pages and recipes tell to type, each once, lines that go on joined."""
    return sorted({words for page in [*PAGES, *SUITE] for words in commands_of(page)})


def commands_of(page: Path) -> list[str]:
    found = []
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^(?:    |#   )(?:\$ |srun )?(ssl-toolkit .*)$", text, re.MULTILINE):
        for part in re.split(r" && | \| ", line.split("  #")[0]):
            words = re.split(r"\s*;\s*done", part)[0].strip()
            if words.startswith("ssl-toolkit ") and "..." not in words and "$r" not in words:
                found.append(words)
    return found


def test_there_are_commands() -> None:
    assert len(commands()) > 100
    assert any("\\" not in words and "--encoder.normalize" in words for words in commands())


def test_every_command_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parse = Parser.parse

    def only(self: Parser, argv: Sequence[str]) -> None:
        parse(self, argv)
        raise Parsed

    monkeypatch.setattr(Parser, "parse", only)
    monkeypatch.chdir(tmp_path)
    wrong = []
    for words in commands():
        argv = shlex.split(words.replace("METHOD", "simclr"))[1:]
        if {"--resume", "--help"} & {*argv} or "Class" in words or "Agree" in words:
            continue  # asks for the run, or for the user's module
        try:
            dispatch(argv)
            wrong.append(f"{words}: looked at nothing")
        except Parsed:
            pass
        except BaseException as error:
            wrong.append(f"{words}: {error}")
    assert wrong == []


def test_the_teachers_commands_read_what_earlier_ones_have_made() -> None:
    made: list[str] = []
    for words in commands_of(ROOT / "docs" / "teaching.md"):
        argv = shlex.split(words)
        out = argv[argv.index("--out") + 1] if "--out" in argv else ""
        for word in argv:
            if word.startswith(("runs/", "index")) and word not in (out, "index"):
                assert any(Path(word).is_relative_to(folder) for folder in made), words
        made += [out] if out else []
    assert len(made) > 5


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        goal = (page.parent / target).resolve() if target else page
        assert goal.exists(), target
        assert not anchor or anchor in anchors(goal), f"{target}#{anchor}"


def pages_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_of_methods_are_made_of_what_is_there() -> None:
    made = pages_script().method_pages()
    kept = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "methods").glob("*.md")}
    assert kept == made, "run python docs/pages.py"


def test_every_public_name_is_in_the_reference() -> None:
    listed = "".join(pages_script().references().values())
    assert {name for name in ssl_toolkit.__all__ if f".{name}\n" not in listed} == set()


def test_every_page_is_in_the_sites_menu() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = {page for section in menu for pages in section.values() for page in pages if isinstance(page, str)}
    there = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert there <= listed
    assert listed - there <= {"METHODS", "REFERENCE", "EXAMPLES", "contributing.md", "changelog.md"}


def test_every_method_has_a_page() -> None:
    ours = {name for name, place in installed_methods().items() if place.startswith("ssl_toolkit.")}
    assert {page.stem for page in (ROOT / "docs" / "methods").glob("*.md")} == ours
