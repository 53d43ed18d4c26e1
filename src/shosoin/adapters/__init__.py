"""The outside world behind the ports: clock, entropy, files, databases, TLS, HTTP."""
