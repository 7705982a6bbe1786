"""What results print as: text in columns, and HTML that nothing in a name can break."""

from __future__ import annotations

import json

from ssl_toolkit.tasks.tables import Found, Table


class Pair(Found, dict[str, int]):
    """A result of one row."""

    def table(self) -> Table:
        return Table(
            ["name", "a<b"], [[name, str(value)] for name, value in self.items()], ["<6", ">5"], ["It's <so>."]
        )


def test_a_result_prints_as_its_table_and_stays_a_mapping() -> None:
    found = Pair(x=1, longer_than_six=2)
    assert str(found).splitlines() == ["name    a<b", "x         1", "longer_than_six    2", "", "It's <so>."]
    assert repr(found) == str(found)
    assert found["x"] == 1
    assert found == {"x": 1, "longer_than_six": 2}
    assert json.loads(json.dumps(found)) == found


def test_html_is_escaped() -> None:
    page = Pair({"<script>": 1})._repr_html_()
    assert page == (
        "<table><tr><th>name</th><th>a&lt;b</th></tr><tr><td>&lt;script&gt;</td><td>1</td></tr></table>"
        "<p>It&#x27;s &lt;so&gt;.</p>"
    )


def test_a_table_without_a_head_and_rows_that_end_early() -> None:
    table = Table([], [["a", "b"], ["c"]], ["<3", ">3"])
    assert str(table) == "a    b\nc"
    assert "<th>" not in table.html()
