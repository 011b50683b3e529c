"""What runs inside the guest as its first process: standard library and `sandfleet.wire` only."""
