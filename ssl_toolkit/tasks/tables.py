"""What tasks find prints as a table, in notebooks as one of HTML."""

# Nothing heavy is imported here: the command line looks at functions that return such results.
import html
from collections.abc import Sequence
from dataclasses import dataclass


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
