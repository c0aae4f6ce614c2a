"""Weights and models of other libraries; each submodule is imported by name, and needs the library of its name."""
