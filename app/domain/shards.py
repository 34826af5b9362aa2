"""Which shard has a user: arithmetic that is the same in every process and every release."""

from dataclasses import dataclass
from hashlib import blake2b


def shard_of(tenant_id: str, user_id: str, count: int) -> int:
    """The shard, 0 to `count` - 1, that has a user. Of `count` times n shards it is one that leaves the same remainder,
    so a shard can be split in n."""
    name = f"{tenant_id}\x1f{user_id}".encode(errors="replace")  # a tenant's name has no control character
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big") % count


@dataclass(frozen=True, slots=True)
class Place:
    """Which of how many shards a database is, counted from 0, the home."""

    index: int
    count: int

    def may_become(self, other: "Place") -> bool:
        """Whether all users who would be at the other place were at this one."""
        return other.count % self.count == 0 and other.index % self.count == self.index

    def __str__(self) -> str:
        """As it is kept in the database."""
        return f"shard {self.index} of {self.count}"


WHOLE = Place(0, 1)
"""A database that is no shard."""
