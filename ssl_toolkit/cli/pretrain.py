"""``ssl-toolkit pretrain``: images in, a run folder with an encoder out."""

import time

from ssl_toolkit.cli.parser import Parser, config_file, normalize, option_value, read_config, with_config_to_resume
from ssl_toolkit.errors import UsageError
from ssl_toolkit.methods import installed_methods, method_class
from ssl_toolkit.objects import refuse_objects
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.progress import say
from ssl_toolkit.runs import launched_rank
from ssl_toolkit.tasks.pretraining import pretrain, train
from ssl_toolkit.tasks.run import Run
from ssl_toolkit.tasks.settings import EncoderOptions

GROUPS = ("method", "encoder", "optimizer")
NESTED = (*GROUPS, "views")
OBJECTS = (*NESTED, "data", "out", "callbacks", "logger")  # in Python more than words


def make_parser(method: str | None, parser: Parser | None = None) -> Parser:
    """The command's parser, with the options of `method` and of its views; without one, only the common options.

    Args:
        method: Name or class path.
        parser: Of another command that trains the same way, with the common options.
    """
    if parser is None:
        parser = Parser("pretrain", pretrain, skip=OBJECTS)
        parser.add_argument("--out", type=str, required=True, help="the run folder to make")
    about = (
        "images: a folder, a .csv manifest, an .npz or .npy array, or a word like cifar10:train, wds:shards/ or "
        "hf:NAME:train; or clips of 8 frames of video, every second one, clips:PATH:8:2"
    )
    parser.add_argument("--data", type=str, required=True, help=about)
    about = "where metrics go besides metrics.csv; auto: tensorboard, if it is installed"
    # Without a type, for a run that is resumed may have a list of them; `check_logger` refuses what is none.
    parser.add_argument("--logger", default="auto", metavar="{auto,csv,tensorboard,wandb,mlflow}", help=about)
    found = None if method is None else method_class(method)
    names = ", ".join(installed_methods())
    about = f"the method: {names}, or a class path; with it, --help also lists the method's own options"
    parser.add_argument("--method.name", type=str, required=True, metavar="NAME", help=about)
    parser.add_argument(
        "--encoder.name",
        type=str | None,
        default=None,
        metavar="NAME",
        help="a timm architecture, its weights by their tag (resnet18.a1_in1k) or from the hub (hf-hub:...), convnet "
        "(small, for CPUs), or a run folder or encoder file to start from; if not given, on a CPU a small one, else "
        f"{found.default_encoder if found else 'resnet18'}",
    )
    parser.add_class_arguments(EncoderOptions, "encoder")
    parser.add_class_arguments(OptimizerConfig, "optimizer")
    if found is not None:
        parser.add_class_arguments(found, "method", skip={"encoder", "views", "optimizer"})
        about = "Height and width of a view, pixels; if not given, image_size"
        parser.add_argument("--views.size", type=int | None, default=None, help=about)
        parser.add_function_arguments(found.default_views, "views", skip={"size", "channels"})
        parser.left_open = "views"
    for group in GROUPS:
        parser.add_named_group(group)
    return parser


def main(argv: list[str]) -> None:
    """The command."""
    began = time.perf_counter()
    argv = normalize(argv, GROUPS)
    argv = with_config_to_resume(argv)
    config = config_file(argv)
    if config is not None:
        refuse_objects({k: v for k, v in read_config(config, GROUPS).items() if option_value(argv, k) is None})
    settings = make_parser(chosen_method(argv)).parse(argv)
    if settings is not None:
        made = train(settings, began)
        if launched_rank() == 0:
            for path in [made] if isinstance(made, Run) else made:
                say(f"done: {path}. Next: ssl-toolkit evaluate {path} --train DATA --test DATA")
                print(path)


def chosen_method(argv: list[str]) -> str | None:
    """The method that normalised arguments or their config file name; None if only help was asked for.

    Raises:
        UsageError: If there is none.
    """
    method, config = option_value(argv, "method.name"), config_file(argv)
    if method is None and config is not None:
        method = (read_config(config, GROUPS).get("method") or {}).get("name")
    if method is None and not {"-h", "--help"} & set(argv):
        raise UsageError(f"--method is missing: one of {', '.join(installed_methods())}, or a class path")
    return method
