"""The inside of a VM over its virtio serial port (port: `ports/guest`)."""
