"""How the guest image is built, and how installed images are found."""
