"""Post-processing."""
