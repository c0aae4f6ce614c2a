"""A few kernels that compile in a moment, for what begins with an empty cache."""

from fastrnn.kernels.jit import kernel


def _make(number):
    @kernel(name=f"tiny_{number}")
    def tiny(x, out):
        for i in range(x.size):
            out[i] = x[i] * number + i

    return tiny


KERNELS = [_make(number) for number in range(2)]
