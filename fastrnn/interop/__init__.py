"""Weights and models from elsewhere, and back: each library's part is a module of its own, imported by its name.

`fastrnn.interop.torch`: PyTorch's state dicts and modules. `fastrnn.interop.keras`: Keras's weights and models.
`fastrnn.interop.onnx`: ONNX files. The libraries themselves are imported where they are needed.
"""
