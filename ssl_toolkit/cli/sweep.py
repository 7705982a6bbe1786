"""``ssl-toolkit sweep``: a run for each combination of options, compared."""

from ssl_toolkit.cli.parser import Parser, in_terminal, normalize
from ssl_toolkit.cli.pretrain import GROUPS, OBJECTS, chosen_method, make_parser
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.tasks.pretraining import pretrain
from ssl_toolkit.tasks.sweeping import OWN, sweep


def main(argv: list[str]) -> None:
    """The command: takes the options of ``pretrain``, and a recipe or file of them in the first place."""
    if argv and not argv[0].startswith("-"):
        argv = ["--config", *argv]
    argv = normalize(argv, GROUPS)
    parser = Parser("sweep", sweep, skip=("method", "data", "options"), several=("grid",))
    parser.add_parameters(pretrain, (*OBJECTS, *OWN))
    settings = make_parser(chosen_method(argv), parser).parse(argv)
    if settings is None:
        return
    found = sweep(**settings)
    print(in_terminal(found))
    if found.failed:
        count = len(found) + len(found.failed)
        raise ToolkitError(f"{len(found.failed)} of {count} runs failed: the same command tries them again")
