"""Keras layers that do what the layers of fastrnn do which Keras has none for.

They are registered with Keras: import this module before a file with them is loaded.
"""

import keras


@keras.saving.register_keras_serializable(package="fastrnn")
class Last(keras.layers.Layer):
    """`fastrnn.Last`: the last step of a sequence, (B,T,F) → (B,F)."""

    def __init__(self, bidirectional: bool = False, **options):
        super().__init__(**options)
        self.bidirectional = bidirectional

    def call(self, x):
        if not self.bidirectional:
            return x[:, -1]
        half = x.shape[-1] // 2
        return keras.ops.concatenate([x[:, -1, :half], x[:, 0, half:]], -1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])

    def get_config(self):
        return {**super().get_config(), "bidirectional": self.bidirectional}


@keras.saving.register_keras_serializable(package="fastrnn")
class OneHot(keras.layers.Layer):
    """`fastrnn.OneHot`: one-hot vectors of integers, (B,T) → (B,T,num)."""

    def __init__(self, num: int, **options):
        super().__init__(**options)
        self.num = num

    def call(self, x):
        return keras.ops.one_hot(x, self.num, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.num)

    def get_config(self):
        return {**super().get_config(), "num": self.num}
