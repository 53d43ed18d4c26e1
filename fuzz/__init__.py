"""Fuzzing of every parser of outside bytes: one small harness each, run by atheris and by the test suite alike.

``harness`` is what a harness is and what it may not do; ``mutation`` changes bytes, and JSON by its structure;
``catalogue`` lists all harnesses; ``corpus`` writes their seeds; ``target`` and ``run`` are what ``make fuzz`` starts.
"""
