"""The price of one parcel."""

from .rates import BANDS, SURCHARGES


def band_price(grams):
    """Returns the price of the weight band that a parcel belongs to."""
    if grams <= 0:
        raise ValueError("a parcel weighs something")
    for limit, price in BANDS:
        if grams < limit:
            return price
    raise ValueError(f"no band for {grams} g")


def quote(grams, zone="domestic"):
    """Returns the price in cents for a weight and a zone."""
    if zone not in SURCHARGES:
        raise ValueError(f"unknown zone: {zone}")
    return band_price(grams) + SURCHARGES[zone]
