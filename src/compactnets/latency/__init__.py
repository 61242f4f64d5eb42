"""The latency laboratory: networks in their runtimes, measured in turns beside the limit of the CPU."""
