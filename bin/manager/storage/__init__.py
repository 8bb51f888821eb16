"""Snapshot stores (SPEC 5): `open_store` gives the driver that BACKUP_DRIVER names."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from manager.errors import ConfigError
from manager.storage.base import Store, StoredObject

if TYPE_CHECKING:
    from manager.settings import Settings

__all__ = ["Store", "StoredObject", "open_store"]


def open_store(settings: Settings) -> Store:
    """Return the chosen driver; nothing is asked of the store itself yet.

    ConfigError if BACKUP_DRIVER names no driver, or if a setting of the driver is missing.
    """
    name = settings.backup_driver
    if name == "local":
        from manager.storage.local import LocalStore

        return LocalStore(settings)
    if name == "s3":
        from manager.storage.s3 import S3Store  # boto3 is slow to import: only who uses it pays

        return S3Store(settings)
    if name == "manta":
        from manager.storage.manta import MantaStore

        return MantaStore(settings)
    if ":" in name:
        return _own_driver(name, settings)
    raise ConfigError(f"BACKUP_DRIVER={name} is no driver; use manta, s3, local or module:Class")


def _own_driver(name: str, settings: Settings) -> Store:
    from manager.storage.own import OwnDriver

    module, _, attribute = name.partition(":")
    try:
        driver_class = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"BACKUP_DRIVER={name} cannot be loaded: {error}") from None
    try:
        driver = driver_class()
    except Exception as error:  # somebody else's code: whatever it raises is a fault of the setting
        raise ConfigError(f"BACKUP_DRIVER={name} cannot be set up: {type(error).__name__}: {error}") from None
    if isinstance(driver, Store):
        return driver
    missing = [verb for verb in ("get_backup", "put_backup") if not callable(getattr(driver, verb, None))]
    if missing:
        raise ConfigError(f"BACKUP_DRIVER={name} has no {' and no '.join(missing)}")
    return OwnDriver(settings, driver, name)
