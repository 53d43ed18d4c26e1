"""Simulated twins of the adapters, public so that users can test what they build on Shosoin.

>>> from shosoin.testing.memory_store import MemorySiteStore
>>> MemorySiteStore().staged
0
"""
