"""The data plane: find the sandbox, wait until it is ready, pass the call on to its worker."""
