"""``--help``: short usage, options by topic, each with its kind and default once."""

from __future__ import annotations

import re

import pytest

from ssl_toolkit.cli import COMMANDS, TOPICS, dispatch, usage
from ssl_toolkit.cli.help import TOPICS as OPTION_TOPICS


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    with pytest.raises(SystemExit) as end:
        dispatch([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_short_and_says_things_once(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(capsys, command)
    assert lines.index("") <= 5  # of usage
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    for word in ("(type:", "null", "Literal", "class '", "`", "SUPPRESS"):
        assert word not in text
    topics = [line.removesuffix(":") for line in lines if re.fullmatch(r"[A-Z][\w ]+:", line)]
    assert topics == [topic for topic in OPTION_TOPICS if topic in topics]
    assert "Help and settings" in topics
    options = [line.split()[0] for line in lines if re.match(r"  --", line)]
    assert len(options) == len(set(options))
    assert not [option for option in options if "_" in option]


def test_a_methods_own_options_are_topics(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(help_of(capsys, "pretrain", "--method", "simclr"))
    assert text.startswith(
        "usage: ssl-toolkit pretrain --out TEXT --data TEXT --method NAME [options]\n\nPretrain an enc"
    )
    assert "\nMethod:\n  --method.temperature NUMBER\n" in text
    assert "  --epochs NUMBER           Passes over the images; if not given, 100" in text
    assert "  --labels {auto,folder,none}\n" in text
    assert "Only --knn-every" in text  # an option of Python's name in the text of another
    assert "\n  --resume   " in text  # which is only said
    assert "\n  --doctor {true,false}" in text  # which is the default
    assert "(default: [0.08,1])" in text.replace("\n" + " " * 28, " ")
    assert "The run folder to make (required)" in text
    assert text.index("\nInput:") < text.index("\nTraining:") < text.index("\nViews:") < text.index("\nHelp and")


def test_the_same_name_may_mean_something_else_to_another_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(help_of(capsys, "sweep"))
    assert text.index("Several runs:") < text.index("  --grid TEXT ...") < text.index("Output:")
    text = "\n".join(help_of(capsys, "search"))
    assert text.index("Output:") < text.index("  --grid TEXT")


def test_commands_are_listed_by_topic() -> None:
    assert len(COMMANDS) == sum(map(len, TOPICS.values()))  # none is in two
    lines = usage().splitlines()
    assert [line.removesuffix(":") for line in lines if re.fullmatch(r"\w+:", line)] == list(TOPICS)
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)
    assert max(map(len, lines)) <= 100
