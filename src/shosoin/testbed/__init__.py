"""A whole system on one machine: scenarios, certificates, processes, faults and the demonstration.

>>> from shosoin.testbed.scenario import load_scenario
>>> load_scenario("five-sites").scheme_text
'3-of-5'

Nothing is imported here on purpose: every process of a testbed passes through this package when it starts.
"""

__all__: list[str] = []
