"""What lies between the two users: fibre with traffic beside it, free space, platforms and satellites.

Every model answers two questions: how much light is lost, as ``attenuation_db``, and how much light arrives that
nobody sent, as photons per second. The rate models take both. All of it is simulated physics.

>>> from shosoin.link.channels import Fibre
>>> 9.5 < float(Fibre(length_km=50.0).attenuation_db(1550.0)) < 10.5
True
"""

from shosoin.link.channels.fibre import G652B, G652D, Fibre, FlatLoss, SilicaLoss

__all__ = ["G652B", "G652D", "Fibre", "FlatLoss", "SilicaLoss"]
