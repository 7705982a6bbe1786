"""Words: any name becomes text."""

from __future__ import annotations

from ssl_toolkit.eval.pictures.words import shown


def test_shown_makes_any_name_text() -> None:
    assert shown("a\nb\x1b[31m\udc80") == "a�b�[31m�"
    assert shown("gpj.\u202egif") == "gpj.�gif"
    assert shown("straße 猫.jpg") == "straße 猫.jpg"
    assert shown("abcdefghij", 10) == "abcdefghij"
    assert shown("abcdefghijk", 10) == "abcd…ghijk"
