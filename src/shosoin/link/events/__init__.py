"""Pulse by pulse: what both ends of a decoy BB84 link record, simulated, watched and written down."""
