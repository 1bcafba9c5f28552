"""What a turn's runner must know besides the events: kept with the turn's row, so that any runner can go on."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from gateway.auth.principal import Principal
from stores.audit_records import AuditVia

__all__ = ["TurnRequest", "decode_request", "encode_request"]


class TurnRequest(Struct, frozen=True, kw_only=True):
    """Who asked, from which session, of which model. `tools` None: all that the principal may use; `via` is how
    a direct call came in."""

    tenant: str
    subject: str
    roles: tuple[str, ...] | None
    model: str
    session_id: str | None = None
    tools: tuple[str, ...] | None = None
    via: AuditVia = "client"

    @property
    def principal(self) -> Principal:
        return Principal(tenant=self.tenant, subject=self.subject, roles=self.roles)


_decoder = msgspec.json.Decoder(TurnRequest)
decode_request = _decoder.decode
encode_request = msgspec.json.Encoder().encode
