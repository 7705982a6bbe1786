"""``ssl-toolkit views``: a picture of what a recipe makes of images."""

from ssl_toolkit.cli.parser import Parser, normalize, option_value
from ssl_toolkit.tasks.viewing import draw_views, recipe_named


def main(argv: list[str]) -> None:
    """The command."""
    argv = normalize(argv)
    recipe = option_value(argv, "recipe")
    parser = Parser("views", draw_views, skip=("options",))
    if recipe is not None:
        parser.add_function_arguments(recipe_named(recipe), "views", skip={"size", "channels"})
    settings = parser.parse(argv)
    if settings is not None:
        options = settings.pop("views", None)
        print(draw_views(**settings, options=options))
