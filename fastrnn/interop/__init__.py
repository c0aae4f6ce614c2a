"""Weights and models of other libraries; each submodule is imported by name, and needs the library that it has it of."""
