import threading

import torch

from ssl_toolkit.augment.workspace import take

CPU = torch.device("cpu")


def test_the_same_memory_again():
    first = take("test", (3, 4), CPU)
    assert first.shape == (3, 4)
    assert take("test", (2, 5), CPU).data_ptr() == first.data_ptr()
    assert take("other", (3, 4), CPU).data_ptr() != first.data_ptr()


def test_it_grows():
    take("growing", (4,), CPU)
    assert take("growing", (100, 7), CPU).shape == (100, 7)


def test_very_large_buffers_are_not_held():
    huge = take("huge", (5 * 1024 * 1024,), CPU)
    assert take("huge", (5 * 1024 * 1024,), CPU).data_ptr() != huge.data_ptr()


def test_usable_after_inference_mode():
    with torch.inference_mode():
        take("inference", (4,), CPU).fill_(1)
    take("inference", (4,), CPU).fill_(2)


def test_threads_do_not_share():
    mine = take("thread", (4,), CPU).data_ptr()
    theirs = []
    thread = threading.Thread(target=lambda: theirs.append(take("thread", (4,), CPU).data_ptr()))
    thread.start()
    thread.join()
    assert theirs != [mine]
