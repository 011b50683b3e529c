"""Fleet tokens: the control plane signs, the worker verifies, and older terms are refused.

The public keys come with the heartbeat's answer and are kept on disk with the
newest term, so a restarted worker serves before its first heartbeat.
"""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import KeySet

from sandfleet.model.errors import Conflict, NotReady, Unauthorised
from sandfleet.ports.clock import Clock

ISSUER = "sandfleet"
_ALGORITHMS = ("EdDSA", "Ed25519")
_LEEWAY_S = 10
_VERIFIED_MAX = 1024
_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Verified:
    """What a good token says."""

    expires_at_s: float
    term: int


class FleetTokens:
    """Verifies tokens for one worker; identical ones only once."""

    def __init__(self, *, worker_id: str, clock: Clock, file: Path) -> None:
        self._worker_id = worker_id
        self._clock = clock
        self._file = file
        self._jwks: Mapping[str, Any] = {}
        self._keys: KeySet | None = None
        self._verified: OrderedDict[str, Verified] = OrderedDict()
        self.term = 0
        self._load()

    def learn(self, *, public_keys: Mapping[str, Any], term: int) -> None:
        """Take over what the control plane says, and keep it if it is new."""
        is_news = term > self.term
        self.term = max(self.term, term)
        if public_keys and public_keys != self._jwks:
            self._use_keys(public_keys)
            is_news = True
        if is_news:
            self._save()

    def verify(self, authorization: str | None) -> Verified:
        """Return what the token says, or raise Unauthorised, or Conflict `stale_term`."""
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthorised("no fleet token", code="invalid_token")
        token = authorization[len(_SCHEME) :]
        known = self._verified.get(token)
        if known is None:
            known = self._decode(token)
            self._verified[token] = known
            while len(self._verified) > _VERIFIED_MAX:
                self._verified.popitem(last=False)
        if self._clock.now().timestamp() > known.expires_at_s + _LEEWAY_S:
            self._verified.pop(token, None)
            raise Unauthorised("the fleet token has expired", code="invalid_token")
        self.require_term(known.term)
        return known

    def require_term(self, term: int) -> None:
        """Refuse an older term than the newest that was seen; 0 says that no leader speaks."""
        if term and term < self.term:
            raise Conflict(f"term {term} is over, this is term {self.term}", code="stale_term")
        self.term = max(self.term, term)

    def _decode(self, token: str) -> Verified:
        if self._keys is None:
            raise NotReady("the worker has not heard from the control plane yet")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)
                claims = jwt.decode(token, self._keys, algorithms=_ALGORITHMS).claims
        except (JoseError, ValueError, TypeError) as error:
            raise Unauthorised("the fleet token is not valid", code="invalid_token") from error
        audience = claims.get("aud")
        if claims.get("iss") != ISSUER or self._worker_id not in (
            audience if isinstance(audience, list) else [audience]
        ):
            raise Unauthorised("the fleet token is for somebody else", code="invalid_token")
        expires_at_s, term = claims.get("exp"), claims.get("term", 0)
        if not isinstance(expires_at_s, int | float) or not isinstance(term, int):
            raise Unauthorised("the fleet token has no expiry", code="invalid_token")
        return Verified(expires_at_s=float(expires_at_s), term=term)

    def _use_keys(self, public_keys: Mapping[str, Any]) -> None:
        self._jwks = dict(public_keys)
        self._keys = KeySet.import_key_set({"keys": list(public_keys.get("keys", []))})
        self._verified.clear()

    def _load(self) -> None:
        try:
            kept = msgspec.json.decode(self._file.read_bytes())
            self._use_keys(kept["public_keys"])
            self.term = int(kept["term"])
        except FileNotFoundError:
            return
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, JoseError):
            self._keys, self._jwks = None, {}  # the next heartbeat brings them again

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".new")
        with draft.open("wb") as file:
            file.write(msgspec.json.encode({"public_keys": self._jwks, "term": self.term}))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)
