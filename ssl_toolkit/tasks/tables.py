"""What tasks find prints as a table, in notebooks as one of HTML."""

# Nothing heavy is imported here: the command line looks at functions that return such results.
import csv
import html
from collections.abc import Iterable, Mapping, Sequence
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
        rows: Cells, a list a row, which may end early.
        formats: How text lays out each column: ``<16`` from the left, ``>12`` from the right, that many letters wide.
        notes: Paragraphs below.

    Example:
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

    def __str__(self) -> str:
        lines = [
            "".join(format(cell, layout) for cell, layout in zip(row, self.formats, strict=False)).rstrip()
            for row in ([self.head] if self.head else []) + [*self.rows]
        ]
        return "\n\n".join(["\n".join(lines), *self.notes])

    def html(self) -> str:
        """The table, then the paragraphs."""
        rows = [_row("th", self.head)] if self.head else []
        rows += [_row("td", row) for row in self.rows]
        return f"<table>{''.join(rows)}</table>" + "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)


class Found:
    """What a task found, a mapping or a list of plain values, which prints as its table."""

    def table(self) -> Table:
        """The table."""
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self.table())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return self.table().html()


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


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
