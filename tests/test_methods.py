import pytest

from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.errors import UsageError
from ssl_toolkit.methods import installed_methods, method_class


def test_short_names_and_class_paths() -> None:
    assert {"simclr", "rotation"} <= set(installed_methods())
    assert method_class("simclr") is SimCLR
    assert method_class("ssl_toolkit.contrastive.simclr.SimCLR") is SimCLR


def test_every_installed_method_can_be_imported() -> None:
    for name in installed_methods():
        assert method_class(name).__doc__


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("simclear", "unknown method 'simclear': did you mean simclr"),
        ("no.such.module.Method", "--method no.such.module.Method cannot be imported"),
        ("ssl_toolkit.contrastive.simclr.SimCLRR", "cannot be imported"),
        ("torch.nn.Linear", "--method torch.nn.Linear is no ssl_toolkit.method.Method"),
    ],
)
def test_what_is_no_method_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        method_class(name)
