"""The edge of each process: HTTP and the channels between KMEs."""
