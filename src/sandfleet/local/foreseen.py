"""Errors of the local fleet whose message is all that a person needs."""

from __future__ import annotations

from sandfleet.local.configuration import ConfigurationBroken
from sandfleet.local.lock import AlreadySupervised
from sandfleet.local.service_process import ServiceFailed
from sandfleet.local.up import FleetFailed

FORESEEN: tuple[type[Exception], ...] = (
    AlreadySupervised,
    ConfigurationBroken,
    FleetFailed,
    PermissionError,
    ServiceFailed,
)
