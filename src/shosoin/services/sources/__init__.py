"""Where the secret bits of a link come from, behind one port (``port``).

=============  ==========================================================================================
``simulated``  the simulated quantum channel: bits drawn at one end and sent to the other
``pull014``    a vendor's KMEs, by ETSI GS QKD 014
``pull004``    a vendor's key managers, by ETSI GS QKD 004
``push``       QKD modules that deliver to both KMEs
``replay``     a recorded run
=============  ==========================================================================================

All but the first are supplies of ``coordinated``, where the two ends agree by name on what makes a block.
``docs/specs/key-sources.md`` says what a source must do, and what it may do wrong.
"""
