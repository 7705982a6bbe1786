"""What tasks find prints as a table, in notebooks as one of HTML."""

# Nothing heavy is imported here: the command line looks at functions that return such results.
import csv
import html
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_toolkit.errors import UsageError
from ssl_toolkit.files import make_folder, write_atomic
from ssl_toolkit.tasks.settings import AnyPath


@dataclass(frozen=True)
class Table:
    """Cells of text in columns.

    Attributes:
        head: Names of the columns; may be empty.
        rows: Cells, a list a row, which may end early; a long one may hold the places where its lines end.
        formats: How text lays out each column: ``<16`` from the left, ``>12`` from the right, that many letters wide.
        notes: Paragraphs below.
        warned: Rows, from 0, that are shown in another colour, where there are any.
        below: Another table, above the paragraphs.

    Examples:
        >>> print(Table(["", "a<b"], [["x", "1"]], ["<3", ">5"], ["Done."]))
             a<b
        x      1
        <BLANKLINE>
        Done.
        >>> "<th>a&lt;b</th>" in Table(["", "a<b"], [], []).html()
        True
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    formats: Sequence[str]
    notes: Sequence[str] = ()
    warned: Collection[int] = ()
    below: "Table | None" = None

    def __str__(self) -> str:
        return self.text()

    def text(self, colour: bool = False) -> str:
        """The table, that below, then the paragraphs; with `colour` as a terminal takes it."""
        lines = [self._line(self.head)] if self.head else []
        for number, row in enumerate(self.rows):
            line = self._line(row)
            lines.append(f"\x1b[31m{line}\x1b[0m" if colour and number in self.warned else line)
        return "\n\n".join(["\n".join(lines), *([self.below.text(colour)] if self.below else []), *self.notes])

    def _line(self, row: Sequence[str]) -> str:
        lines = itertools.zip_longest(*(cell.split("\n") for cell in row), fillvalue="")
        return "\n".join("".join(map(format, cells, self.formats)).rstrip() for cells in lines)

    def html(self) -> str:
        """The table, that below, then the paragraphs."""
        rows = [_row("th", self.head)] if self.head else []
        rows += [_row("td", row, "#c2410c" if number in self.warned else "") for number, row in enumerate(self.rows)]
        below = self.below.html() if self.below else ""
        return f"<table>{''.join(rows)}</table>{below}" + "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)


class Found:
    """What a task found, a mapping or a list of plain values, which prints as its table."""

    def table(self) -> Table:
        """The table."""
        raise NotImplementedError

    def text(self, colour: bool = False) -> str:
        """What is printed; with `colour` as a terminal takes it."""
        return self.table().text(colour)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return self.table().html()


def _row(tag: str, cells: Sequence[str], colour: str = "") -> str:
    style = f' style="color:{colour}"' if colour else ""
    shown = (html.escape(cell).replace("\n", "<wbr>") for cell in cells)
    return f"<tr{style}>{''.join(f'<{tag}>{cell}</{tag}>' for cell in shown)}</tr>"


def write_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], out: AnyPath) -> None:
    """Write rows, each a mapping from columns to values, to the file of ``--csv``; names may be any bytes.

    Raises:
        UsageError: `out` cannot be written.
    """

    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    make_folder(Path(out).parent, "--csv")
    try:
        write_atomic(out, write)
    except OSError as error:
        raise UsageError(f"--csv {out} cannot be written: {error.strerror}") from error
