import pytest

from ssl_toolkit.errors import UsageError, missing_extra, require_positive, require_share


def test_what_is_above_zero_passes() -> None:
    require_positive(temperature=1e-9, queue_size=1)


@pytest.mark.parametrize("value", [0, -1, 0.0, float("nan")])
def test_what_is_not_above_zero_is_refused_by_name_and_value(value: float) -> None:
    with pytest.raises(UsageError, match=rf"^--method.queue-size is {value}: it must be above 0$"):
        require_positive(temperature=0.1, queue_size=value)


def test_shares_reach_from_zero_to_one() -> None:
    require_share(momentum=0, center_momentum=1)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_what_is_no_share_is_refused_by_name_and_value(value: float) -> None:
    with pytest.raises(UsageError, match=rf"^--method.center-momentum is {value}: it must be from 0 to 1$"):
        require_share(momentum=0.5, center_momentum=value)


def test_a_parameter_that_ends_in_an_underscore_is_named_as_it_is_typed() -> None:
    with pytest.raises(UsageError, match=r"^--method.lambda_ is 0: "):
        require_positive(lambda_=0)


def test_missing_extra_says_what_to_type() -> None:
    assert str(missing_extra("the UMAP map", "umap")) == (
        "the UMAP map needs a library that is not installed: in the folder of ssl-toolkit, pip install '.[umap]'"
    )
