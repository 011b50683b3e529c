"""Machine pools (port: `ports.machine_pool.MachinePool`)."""
