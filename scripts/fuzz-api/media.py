"""Bodies that are octets, which schemathesis leaves to us to write."""

import schemathesis


@schemathesis.serializer("application/wasm", "application/x-tar")
def octets(context, value):
    """As they are; what is no text or octets, a negative case, goes as its JSON."""
    if isinstance(value, bytes):
        return value
    if hasattr(value, "data") and isinstance(value.data, bytes):
        return value.data
    return str(value).encode("utf-8", errors="replace")
