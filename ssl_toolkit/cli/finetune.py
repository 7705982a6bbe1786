"""``ssl-toolkit finetune``: an encoder and labels in, a run folder with a classifier out."""

from ssl_toolkit.cli.parser import Parser, normalize, with_config_to_resume
from ssl_toolkit.cli.weights import add_weights, packed
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.tasks.finetuning import OPTIMIZER, finetune


def make_parser() -> Parser:
    """The command's parser."""
    parser = add_weights(Parser("finetune", finetune, positional=("run",), skip=("optimizer",)))
    parser.add_class_arguments(OptimizerConfig, "optimizer")
    parser.set_defaults({f"optimizer.{name}": value for name, value in vars(OPTIMIZER).items()})
    parser.add_named_group("optimizer")
    return parser


def main(argv: list[str]) -> None:
    """The command."""
    settings = make_parser().parse(with_config_to_resume(normalize(argv, ("optimizer",))))
    if settings is not None:
        print(finetune(**packed(settings)))
