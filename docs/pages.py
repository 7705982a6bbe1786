"""The site's pages: those of `docs/` as they are, and those that are made of code, recipes and results.

    python docs/pages.py            # docs/methods/NAME.md, of docs/methods.yaml, code, recipes and results
    python docs/pages.py --site     # the same, and all that the site is built from, into build/

`make docs` does the second and builds the site with Zensical.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ssl_toolkit import _HOMES
from ssl_toolkit.methods import installed_methods, method_class

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
OURS = ("ssl_toolkit.contrastive", "ssl_toolkit.pretext")
ARGUMENT = re.compile(r"^    (\w+): (.*?)(?=^    \w+: |\n\n|\Z)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
PICTURE = re.compile(r"(\]\([./]*images/\w+)\.(?:jpg|png)\)")
FUNCTIONS = {
    "training": ["pretrain", "check", "doctor", "sweep", "recommend", "open_images", "pack", "draw_views"],
    "evaluation": ["evaluate", "finetune", "segment", "propagate", "compare", "report", "plot", "load_classifier"],
    "search": ["embed", "index", "search", "merge", "duplicates", "outliers", "retrieval", "explore", "serve"],
    "weights": ["export", "load_encoder"],
}
"""Functions of the package by pages of the reference, none of which shall be heavy."""


# Pages of the methods, kept in the repository


def method_pages() -> dict[str, str]:
    """The page of each method of ours, by its name."""
    cards: dict[str, dict[str, str]] = yaml.safe_load((DOCS / "methods.yaml").read_text(encoding="utf-8"))
    names = [name for name, place in installed_methods().items() if place.startswith(OURS)]
    if names != sorted(cards):
        raise SystemExit(f"docs/methods.yaml and the installed methods differ: {sorted({*names} ^ {*cards})}")
    return {name: method_page(name, cards[name]) for name in names}


def method_page(name: str, card: dict[str, str]) -> str:
    """What it is for, its recipes and figures, its options."""
    found = method_class(name)
    text = inspect.getdoc(found) or ""
    summary, source = text.partition("\n")[0], paragraph(text, "Source:")
    code = found.__module__.replace("ssl_toolkit.", "").replace(".", "/") + ".py"
    parts = [
        f"<!-- made by docs/pages.py of docs/methods.yaml, {code}, configs/ and docs/results.md -->",
        f"# {name}",
        f"{summary} *{source}*" if source else summary,
        f"![{picture_text(card['picture'])}](../images/{card['picture']})",
        card["idea"].strip(),
        f"**When.** {card['use'].strip()}",
        f"**When not.** {card['avoid'].strip()}",
        "## Recipes",
        *recipes(name),
        *figures(name),
        "## Options",
        f"Those of the class in [`{code}`](../../{code}), as `--method.NAME` on the command line"
        + (f"; its loss is `{card['loss'].rpartition('.')[2]}`." if "loss" in card else "."),
        options(found),
    ]
    return "\n\n".join(parts) + "\n"


def picture_text(picture: str) -> str:
    """What a picture shows, for those who do not see it."""
    kind, _, name = Path(picture).stem.partition("_")
    return f"The views of {name}" if kind == "views" else f"The task {name}: what is asked, and answered"


def paragraph(text: str, start: str) -> str:
    """The paragraph of a docstring that starts with a word, without it, in one line."""
    found = re.search(rf"^{start}(.*?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def recipes(name: str) -> Iterator[str]:
    """A command and what to expect for each recipe of a method."""
    rows = []
    for file in sorted((ROOT / "configs").glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        method = yaml.safe_load(text).get("method")
        if (method.get("name") if isinstance(method, dict) else method) == name:
            comment = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
            about = " ".join(line for line in comment if not line.startswith("ssl-toolkit "))
            command = next((line for line in comment if line.startswith("ssl-toolkit ")), "")
            rows.append((file.stem, command, about))
    if not rows:
        yield f"    ssl-toolkit pretrain --method {name} --data photos/ --out runs/{name}"
    for stem, command, about in rows:
        yield f"[`{stem}`](../../configs/{stem}.yaml): {about}"
        yield f"    {command}"


def figures(name: str) -> Iterator[str]:
    """The rows of the tables of docs/results.md that are about a method, under the table's head and random weights."""
    section, lines = "", (DOCS / "results.md").read_text(encoding="utf-8").splitlines()
    head: list[str] = []
    made: dict[str, list[str]] = {}
    for number, line in enumerate(lines):
        section = line.lstrip("# ") if line.startswith(("## ", "### ")) else section
        if line.startswith("|") and not lines[number - 1].startswith("|"):
            head = lines[number : number + 2]
        first = line.strip("|").split("|")[0].strip()
        about = re.search(rf"`{name}(_[a-z0-9]+)?[` ]", first) or first == name
        if line.startswith("|") and first.startswith("random weights"):
            head.append(line)
        if line.startswith("|") and about and "kNN" in head[0]:
            made.setdefault(section, head.copy()).append(line)
    if made:
        yield "## Figures"
        yield "From the [results](../results.md), which say how each was measured and what stands beside it."
    for section, rows in made.items():
        yield f"{section}:"
        yield "\n".join(rows)


def options(found: type) -> str:
    """A table of the constructor's options: what each is, by its class or one above it, and its default."""
    about = {
        name: " ".join(words.split())
        for base in reversed(found.__mro__)
        for name, words in ARGUMENT.findall(inspect.cleandoc(base.__doc__ or ""))
    }
    rows = [
        f"| `{key}` | {about.get(key, '')} | `{value.default!r}` |"
        for key, value in inspect.signature(found).parameters.items()
        if key not in ("encoder", "views", "optimizer")
    ]
    return "\n".join(["| option | what it is | default |", "|---|---|---|", *rows]) if rows else "It has none."


# What the site alone has


def write_site(build: Path) -> None:
    """Everything that the site is built from, into a folder: pages, pictures, configuration."""
    shutil.rmtree(build / "docs", ignore_errors=True)
    shutil.copytree(DOCS, build / "docs", ignore=shutil.ignore_patterns("*.py", "*.yaml", "*.json"))
    for name in ("CHANGELOG", "CONTRIBUTING"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8").replace("](docs/", "](")
        (build / "docs" / f"{name.lower()}.md").write_text(text, encoding="utf-8")
    notebooks(build / "docs" / "examples")
    lighten(build / "docs" / "images")
    for page in (build / "docs").rglob("*.md"):
        page.write_text(PICTURE.sub(r"\1.webp)", without_code_links(page, build / "docs")), encoding="utf-8")
    reference = build / "docs" / "reference"
    reference.mkdir()
    for name, text in references().items():
        (reference / f"{name}.md").write_text(text, encoding="utf-8")
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {
        "METHODS": [f"methods/{path.name}" for path in sorted((DOCS / "methods").glob("*.md"))],
        "EXAMPLES": [f"examples/{path.stem}.md" for path in sorted((ROOT / "examples").glob("*.ipynb"))],
        "REFERENCE": [f"reference/{name}.md" for name in references()],
    }
    for word, paths in pages.items():
        config = config.replace(f"[{word}]", f"[{', '.join(paths)}]")
    (build / "mkdocs.yml").write_text(config, encoding="utf-8")


def notebooks(folder: Path) -> None:
    """The notebooks of `examples/` as pages, with their outputs and pictures."""
    from nbconvert import MarkdownExporter  # the pages of the methods need no more than the package

    for file in sorted((ROOT / "examples").glob("*.ipynb")):
        text, kept = MarkdownExporter().from_filename(str(file), resources={"output_files_dir": f"{file.stem}_files"})
        (folder / f"{file.stem}_files").mkdir(parents=True)
        for name, content in kept["outputs"].items():
            (folder / name).write_bytes(content)
        (folder / f"{file.stem}.md").write_text(text.replace(".ipynb)", ".md)"), encoding="utf-8")


def lighten(folder: Path) -> None:
    """Pictures as WebP: half the bytes, and a page of many is one of them."""
    for file in (*folder.glob("*.jpg"), *folder.glob("*.png")):
        with Image.open(file) as image:
            image.convert("RGB").save(file.with_suffix(".webp"), quality=80, lossless=file.suffix == ".png")
        file.unlink()


def without_code_links(page: Path, docs: Path) -> str:
    """A page's text, where links to files that are no pages are their words alone."""

    def kept(link: re.Match[str]) -> str:
        target = link[2]
        if not target or "://" in target or (page.parent / target).resolve().is_relative_to(docs.resolve()):
            return link[0]
        home = (page.parent / target).name.lower()
        return f"[{link[1]}]({home}{link[3] or ''})" if (docs / home).exists() else link[1]

    return LINK.sub(kept, page.read_text(encoding="utf-8"))


def references() -> dict[str, str]:
    """Pages for mkdocstrings: the functions and classes of the package, and the modules that are used by themselves."""
    functions = {name for name in _HOMES if name[0].islower()}
    if functions != {name for names in FUNCTIONS.values() for name in names}:
        raise SystemExit("FUNCTIONS in docs/pages.py and the functions of ssl_toolkit differ")
    modules = {
        "losses": ["ssl_toolkit.contrastive.losses"],
        "augmentations": ["ssl_toolkit.augment.recipes", "ssl_toolkit.augment.views"],
        "scores": [
            f"ssl_toolkit.eval.scores.{name}" for name in ("knn", "linear_probe", "low_shot", "sweep", "metrics")
        ],
        "health": ["ssl_toolkit.eval.health.collapse", "ssl_toolkit.eval.health.findings"],
        "heads": ["ssl_toolkit.heads", "ssl_toolkit.distributed"],
    }
    pages = {
        **{
            page: (f"Functions: {page}", [f"{_HOMES[name]}.{name}" for name in names])
            for page, names in FUNCTIONS.items()
        },
        "classes": ("Classes", [home_of(name) for name in sorted({*_HOMES} - functions)]),
        **{name: (name.capitalize(), places) for name, places in modules.items()},
    }
    return {
        name: f"# {title}\n\n" + "\n\n".join(f"::: {place}" for place in places) + "\n"
        for name, (title, places) in pages.items()
    }


def home_of(name: str) -> str:
    """Where a class is written: a package may hand on what one of its modules defines."""
    found: Any = getattr(__import__(_HOMES[name], fromlist=[name]), name)
    return f"{found.__module__}.{name}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=ast.get_docstring(ast.parse(Path(__file__).read_text())))
    parser.add_argument("--site", action="store_true", help="also what the site is built from, into build/")
    site = parser.parse_args().site
    folder = DOCS / "methods"
    folder.mkdir(exist_ok=True)
    pages = method_pages()
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    if site:
        write_site(ROOT / "build")


if __name__ == "__main__":
    main()
