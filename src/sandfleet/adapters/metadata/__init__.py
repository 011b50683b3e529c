"""What clouds tell a machine about itself (port: `ports.announcements`)."""
