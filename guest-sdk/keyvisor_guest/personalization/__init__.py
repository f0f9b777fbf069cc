"""How a generic guest becomes one user's: requests are sorted, handed over, the store is locked, then the guest is furnished."""

from keyvisor_guest.personalization.description import Description, PlacedSecret, load, parse
from keyvisor_guest.personalization.personalizing import Fate, Outcome, Personalized, personalize
from keyvisor_guest.personalization.sorting import Candidate, Named, Verdict, sort_out

__all__ = [
    "Candidate",
    "Description",
    "Fate",
    "Named",
    "Outcome",
    "Personalized",
    "PlacedSecret",
    "Verdict",
    "load",
    "parse",
    "personalize",
    "sort_out",
]
