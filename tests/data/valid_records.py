"""The records of a listing of which no file is bad."""

from pldmlt_jax.data.records import Listing, RawRecord
from pldmlt_jax.errors import raise_all


def valid_records(listing: Listing) -> dict[str, list[RawRecord]]:
    """Returns the records, or raises all errors of the listing at once."""
    raise_all(listing.errors)
    return listing.records
