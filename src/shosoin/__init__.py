"""Shosoin, an open quantum-secure cloud: data shared over independent sites under keys of a quantum key network."""

__all__ = ["__version__"]

__version__ = "0.1.0"
