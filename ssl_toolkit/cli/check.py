"""``ssl-toolkit check``: what can be known before a training, in a minute and without leaving files."""

import json

from ssl_toolkit.cli.parser import Parser, normalize
from ssl_toolkit.cli.pretrain import GROUPS, OBJECTS, chosen_method, make_parser
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.checking import check
from ssl_toolkit.tasks.pretraining import pretrain


def main(argv: list[str]) -> None:
    """The command: takes a command line of ``pretrain`` as it is; ``--out`` may be left out, nothing is written."""
    argv = normalize(argv, GROUPS)
    parser = Parser("check", pretrain, skip=OBJECTS)
    parser.description = (
        "Check a training before it is started: is the first loss that of a guess, can a few batches be overfitted, "
        "which learning rate, how many images a second, how much memory, how long. Takes the options of pretrain; "
        "nothing is written. Exits 1 if a check fails."
    )
    parser.add_argument("--out", type=str, default="", help="ignored: nothing is written")
    parser.add_argument("--steps", type=int, default=100, help="steps of the learning-rate range test")
    parser.add_argument("--overfit_steps", type=int, default=60, help="steps on the same few batches")
    parser.add_argument("--json", action="store_true", help="print JSON: checks, the range test, speed, memory, time")
    settings = make_parser(chosen_method(argv), parser).parse(argv)
    if settings is None:
        return
    as_json = settings.pop("json")
    found = check(**settings)
    print(json.dumps(found, indent=1) if as_json else found)
    if found.failed:
        raise ToolkitError(f"this training would not do: {' and '.join(found.failed)} failed")
    say("nothing speaks against: ssl-toolkit pretrain with the same options")
