"""The stores and the coordination of the control plane in memory, with the promises of the real ones."""
