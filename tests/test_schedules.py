import pytest

from ssl_toolkit.schedules import cosine, warm_up


@pytest.mark.parametrize(("progress", "value"), [(0, 0.9), (1 / 3, 0.925), (0.5, 0.95), (2 / 3, 0.975), (1, 1.0)])
def test_half_a_cosine(progress: float, value: float) -> None:
    assert cosine(0.9, 1.0, progress) == pytest.approx(value)


def test_half_a_cosine_downwards() -> None:
    assert [cosine(0.4, 0.04, progress) for progress in (0, 0.5, 1)] == pytest.approx([0.4, 0.22, 0.04])


@pytest.mark.parametrize(("progress", "value"), [(0, 0.04), (0.15, 0.055), (0.3, 0.07), (0.9, 0.07), (1, 0.07)])
def test_warm_up_in_a_straight_line(progress: float, value: float) -> None:
    assert warm_up(0.04, 0.07, progress, until=0.3) == pytest.approx(value)


def test_no_warm_up() -> None:
    assert warm_up(0.04, 0.07, 0, until=0) == 0.07


def test_warm_up_through_all_of_training() -> None:
    assert [warm_up(1, 3, progress, until=1) for progress in (0, 0.5, 1)] == [1, 2, 3]
