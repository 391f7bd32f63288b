"""A check that code never waits for a device."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from sunlab.diffusion.grid import constant


@contextmanager
def no_host_reads() -> Iterator[None]:
    """Tensors made inside have no values, so that code that reads one on the host fails: `.item()`, `bool(tensor)`,
    `.tolist()`, indexing by a mask. On a GPU each of these waits for the device.

    Raises:
        AssertionError: a value was read.
    """
    constant.cache_clear()  # of real tensors, and afterwards of those without values
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    except DataDependentOutputException as error:
        raise AssertionError(f"a tensor's value was read on the host ({error.func}), which waits for the device") from error
    finally:
        constant.cache_clear()
