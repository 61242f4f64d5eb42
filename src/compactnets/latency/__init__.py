"""The latency benchmark: networks in their runtimes, measured in turns against the CPU's limit."""
