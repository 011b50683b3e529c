"""The worker service: owns the reality of the VMs on its host."""
