"""The tables of our LDPC codes, built by ``scripts/build_ldpc_codes.py``."""
