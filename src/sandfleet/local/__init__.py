"""One machine: embedded PostgreSQL and Valkey, and the processes of the fleet, supervised."""
