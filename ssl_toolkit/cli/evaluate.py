"""``ssl-toolkit evaluate``: how good is an encoder, beside random weights and raw pixels?"""

from typing import Any

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.tasks.evaluation import evaluate


def table(summary: dict[str, Any]) -> str:
    """The results as lines of text, accuracies in percent; of several labelled sets, rows of each."""
    from ssl_toolkit.eval.pictures.words import ENCODERS, score_title
    from ssl_toolkit.eval.report.compare import sets_of
    from ssl_toolkit.eval.scores.metrics import in_percent

    sets = sets_of(summary)
    width = max(map(len, sets)) + 2 if any(sets) else 0
    protocols = next(iter(sets.values()))["protocol"]["names"]
    lines = [" " * width + f"{'top-1, %':<16}" + "".join(f"{score_title(p):>15}" for p in protocols)]
    for name, labelled in sets.items():
        for number, (key, scores) in enumerate(labelled["results"].items()):
            start = f"{'' if number else name:<{width}}{ENCODERS[key]:<16}"
            lines.append(start + "".join(f"{in_percent(scores[p]):>15}" for p in protocols))
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("evaluate", evaluate, positional=("run",), several=("sets",), skip=("train", "test"))
    about = "labelled images that vote and train the probe (a folder, a .csv, a word like cifar10:train)"
    parser.add_argument("--train", type=str | None, default=None, help=about)
    about = (
        "labelled images that are classified, once; if not given, those of train, of which kNN leaves out one at a "
        "time and the probes hold out a fifth"
    )
    parser.add_argument("--test", type=str | None, default=None, help=about)
    settings = parser.parse(argv)
    if settings is not None:
        print(table(evaluate(**settings)))
