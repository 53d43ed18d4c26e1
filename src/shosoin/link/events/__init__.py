"""Pulse by pulse: what both ends of a decoy BB84 link record, simulated, watched and written down.

>>> from shosoin.base import SimulationRng
>>> from shosoin.link.detector import Detector
>>> from shosoin.link.events.optics import Line
>>> from shosoin.link.events.receiver import SimulatedReceiver
>>> from shosoin.link.events.records import Settings
>>> from shosoin.link.events.transmitter import SimulatedTransmitter
>>> settings = Settings((0.5, 0.1), (0.8, 0.2), 0.9, 0.9, pulse_rate_hz=1e9)
>>> line = Line(10.0, (Detector(0.2, 1e-6), Detector(0.2, 1e-6)), misalignment_error=0.01)
>>> transmitter = SimulatedTransmitter(settings, SimulationRng(1))
>>> receiver = SimulatedReceiver(transmitter.settings, line, SimulationRng(2))
>>> sent, light = transmitter.send(100_000)
>>> detected, truth = receiver.receive(light)
>>> alike = sent.bases_at(detected.pulses) == detected.bases
>>> wrong = (sent.bits_at(detected.pulses) != detected.bits)[alike]
>>> bool(0.0 < wrong.mean() < 0.03)
True

Names are imported from their modules: ``records`` has the values that both ends hold, ``monitoring`` the watch over a
link, ``recording`` and ``timetags`` what is written and read, ``attacks`` and ``study`` what only a simulation has.
"""
