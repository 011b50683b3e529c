"""Snapshots in an object store: a directory, S3, Azure Blob or GCS, by URL.

Layout, all names relative to the URL:

    chunks/<first 2 digits>/<sha256>   one piece of a file, compressed; named by its bytes before that
    bases/<sha256>.json                a file that disks stand on: its size and its pieces
    uploads/<snapshot>.json            the manifest of a snapshot that is being stored
    snapshots/<snapshot>.json          the manifest of a snapshot that is complete: written last
"""
