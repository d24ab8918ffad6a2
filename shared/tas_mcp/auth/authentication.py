"""Who calls: the credential of a request, looked up. What a service is given as ``runtime.auth``.

Every request, and every message on a connection that stays open, is looked up anew: that costs less than a microsecond, and makes
a revocation hold at once. Nothing is fetched meanwhile. What was verified is remembered until any key changes.
"""

import hmac
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from tas_mcp import networks, subjects, telemetry
from tas_mcp.auth import keys
from tas_mcp.auth.certificates import Certified
from tas_mcp.auth.credentials import Verified, credential
from tas_mcp.auth.failures import AuthenticationFailed, Failure, Told
from tas_mcp.auth.issuer import Issuer, on_loopback
from tas_mcp.auth.keyring import Keyring
from tas_mcp.auth.tokens import KeySet, Tokens, UnknownKey
from tas_mcp.broker import Connection
from tas_mcp.callers import ANYBODY, Caller, Scope
from tas_mcp.documents import Document, Follower
from tas_mcp.errors import Misconfigured, Rejected, Unavailable
from tas_mcp.origin import Origin
from tas_mcp.presence import Announcer
from tas_mcp.settings import PublicSettings

log = telemetry.logger("auth")

LOAD_SECONDS = 2.0
"""How long the start waits for the keys, without which every caller with one is refused with 503."""
ADMIN_KEY_CHARACTERS = 32
"""How short the bootstrap key may be."""
REMEMBERED = 16_384
"""How many credentials are remembered as verified. To verify a token costs some 100 us, to look it up a quarter of one."""
PRESENCE = "keys"
"""As what a replica announces which revision of the keys it has in force."""

BOOTSTRAP = Caller("bootstrap", frozenset(("admin",)))
"""Who comes with the key of ``TAS_ADMIN_KEY_FILE``."""

FAILURES = telemetry.counter(
    "mcp_auth_failures", "Callers who could not say who they are, or had not the scope, by reason", ["reason"]
)


class Authentication:
    """``told`` is called with each failure; set it to keep a record of them. It must return at once."""

    def __init__(self, connection: Connection, settings: PublicSettings, clock: Callable[[], float] = time.time) -> None:
        """
        Raises:
            Misconfigured: others could reach this service, and nothing says who may come in; the bootstrap key is too short to
                be one; or the trusted proxies are no networks.
        """
        _check_open(settings)
        self._clock = clock
        self._keyring = Keyring()
        self._certified = Certified(settings.tls_callers)
        self._follower = Follower(connection, subjects.KEYS_BUCKET, self._use)
        self._announcer = Announcer(connection, PRESENCE, lambda: self._keyring.revision)
        self._admin = _admin(settings.admin_key)
        self._tokens = Tokens(settings)
        self._verified: dict[str, Verified] = {}
        self._issuer = _issuer(settings, self._use_issuer)
        self.enabled = settings.auth != "none"
        self.origin = Origin(networks.read(settings.trusted_proxies, "TAS_TRUSTED_PROXIES"), settings.forwarded_header)
        """Which address a request comes from."""
        self.told: Told = lambda _: None

    @property
    def trouble(self) -> str:
        """Why keys or tokens cannot be looked up, or ``""``."""
        if not self.enabled:
            return ""
        return self._follower.trouble or (self._issuer.trouble if self._issuer else "")

    @property
    def note(self) -> str:
        """What people should know, or ``""``."""
        return self._issuer.note if self._issuer else ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Authentication"]:
        """Follow the keys while inside."""
        if not self.enabled:
            yield self
            return
        async with AsyncExitStack() as stack:
            if self._issuer:
                await stack.enter_async_context(self._issuer.running())
            await stack.enter_async_context(self._follower.running())
            await stack.enter_async_context(self._announcer.running())
            await self._follower.first(LOAD_SECONDS)
            yield self

    def caller(
        self, headers: Iterable[tuple[str | bytes, str | bytes]], address: str = "", names: tuple[str, ...] = ()
    ) -> Caller:
        """Who sends a request with these headers (or gRPC metadata), from this client, with these names in its client
        certificate: see ``credentials`` and ``identify``."""
        if not self.enabled:
            return ANYBODY
        try:
            given = credential(headers)
        except AuthenticationFailed as error:
            self._tell(error.failure(address))
            raise
        return self.identify(given, address, names)

    def identify(self, credential: str, address: str = "", names: tuple[str, ...] = ()) -> Caller:
        """Who comes with this credential (``""``: none); without one, whom the ``names`` of the client's certificate stand for.

        Raises:
            AuthenticationFailed: it is none, unknown, revoked or expired.
            Unavailable: the keys were not read yet.
        """
        if not self.enabled:
            return ANYBODY
        known = self._verified.get(credential)
        if known is not None and self._clock() < known.until:
            return known.caller
        try:
            return self._look_up(credential) if credential else self._certify(names)
        except AuthenticationFailed as error:
            self._tell(error.failure(address))
            raise

    def permit(self, caller: Caller, scope: Scope, address: str) -> None:
        """Make sure that the caller may do what needs this scope; that it tried is told.

        Raises:
            Rejected: ``FORBIDDEN``: it may not.
        """
        try:
            caller.require(scope)
        except Rejected as error:
            self._tell(Failure("scope", error.detail, caller.name, address))
            raise

    def _certify(self, names: tuple[str, ...]) -> Caller:
        if caller := self._certified.caller(names):
            return caller
        detail = "send an API key: as `Authorization: Bearer <key>` or as `X-API-Key: <key>`"
        if names:
            detail += f"; the certificate's names ({', '.join(names)}) stand for nobody here"
        raise AuthenticationFailed("missing", detail)

    def _look_up(self, given: str) -> Caller:
        digest = keys.digest(given)
        if self._admin is not None and hmac.compare_digest(self._admin, digest):
            return BOOTSTRAP
        key_id = keys.id_of(given)
        found = self._by_key(key_id, digest) if key_id else self._by_token(given)
        if len(self._verified) >= REMEMBERED:
            self._verified.clear()
        self._verified[given] = found
        return found.caller

    def _by_key(self, key_id: str, digest: bytes) -> Verified:
        if not self._follower.loaded.is_set():
            raise Unavailable(f"the keys cannot be looked up: {self._follower.trouble}", 1.0)
        return self._keyring.verify(key_id, digest, self._clock())

    def _by_token(self, given: str) -> Verified:
        if self._issuer is None:
            raise AuthenticationFailed("malformed", "the credential is no API key")
        if not self._issuer.loaded.is_set():
            raise Unavailable(self._issuer.trouble, 1.0)
        try:
            return self._tokens.verify(given, self._clock())
        except UnknownKey:
            if self._issuer.want():
                raise Unavailable("the token's key is not known yet, and is being asked for", 1.0) from None
            raise

    def _use_issuer(self, keys: KeySet) -> None:
        """What was verified by a key that is gone lets nobody in any more."""
        self._tokens.keys = keys
        self._verified.clear()

    def _tell(self, failure: Failure) -> None:
        FAILURES.labels(failure.reason).inc()
        self.told(failure)

    async def _use(self, documents: Sequence[Document]) -> None:
        self._keyring.use(documents)
        self._verified.clear()
        self._announcer.announce()


def _admin(key: str) -> bytes | None:
    if not key:
        return None
    if len(key) < ADMIN_KEY_CHARACTERS:
        raise Misconfigured(
            f"TAS_ADMIN_KEY_FILE: the key has {len(key)} characters, and needs {ADMIN_KEY_CHARACTERS} or more: "
            "make one with `openssl rand -base64 32`"
        )
    return keys.digest(key)


def _issuer(settings: PublicSettings, use: Callable[[KeySet], None]) -> Issuer | None:
    if not settings.jwt_issuer:
        for name in ("jwt_audience", "jwt_jwks_url", "jwt_jwks_file"):
            if getattr(settings, name):
                raise Misconfigured(f"TAS_{name.upper()} is set without TAS_JWT_ISSUER, by whom tokens have to be")
        return None
    if not settings.jwt_audience:
        raise Misconfigured("TAS_JWT_AUDIENCE: say for whom tokens have to be, or those for others would be taken")
    if bool(settings.jwt_jwks_url) == bool(settings.jwt_jwks_file):
        raise Misconfigured("TAS_JWT_JWKS_URL or TAS_JWT_JWKS_FILE: say, by one of them, where the keys of the issuer are")
    return Issuer(settings.jwt_jwks_url, settings.jwt_jwks_file, use)


def knows_callers(settings: PublicSettings) -> bool:
    """Whether the settings say who may come in, besides those with keys that were made already."""
    return bool(settings.admin_key or settings.jwt_issuer or settings.tls_callers)


def _check_open(settings: PublicSettings) -> None:
    if settings.auth == "auto" and not (knows_callers(settings) or on_loopback(settings.host)):
        raise Misconfigured(
            f"TAS_HOST={settings.host} lets others in, and nothing says whom: set TAS_ADMIN_KEY_FILE to a file with a key of "
            "yours, TAS_JWT_ISSUER, TAS_AUTH=keys where keys were made already, or TAS_AUTH=none to let in everybody"
        )
    if settings.auth == "none":
        say = log.info if on_loopback(settings.host) else log.warning
        say("nobody is asked for a key (TAS_AUTH=none): whoever can connect may do everything", host=settings.host)
