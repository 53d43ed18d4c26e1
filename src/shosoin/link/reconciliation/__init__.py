"""Reconciliation: Alice discloses syndromes, Bob corrects his bits, and what was disclosed is counted to the bit.

One way, LDPC codes, so that the leak is the size of what Alice sends (Tupkary and Lutkenhaus, arXiv 2307.00576, on
what goes wrong when two-way traffic is counted as if it were one-way).

>>> from shosoin.link.reconciliation import plan_frame
>>> plan = plan_frame(0.03)
>>> plan.leak_bits < plan.payload_bits
True
"""

from shosoin.link.reconciliation.frames import Correction, Disclosure, correct, correct_many, disclose
from shosoin.link.reconciliation.plan import FramePlan, plan_block, plan_frame

__all__ = ["Correction", "Disclosure", "FramePlan", "correct", "correct_many", "disclose", "plan_block", "plan_frame"]
