"""Which transactions of servers that never were a primary are the cluster's own, and in no replica a divergence.

A failover in async refuses replicas with transactions of such servers that are not in the record's `base`
(`failover.errant`): somebody wrote them there, past the primary. Those that the primary itself has, by a channel of
its own (docs/moving-in.md) or by a person's `gtid_next`, every replica gets from it. So `base` follows the primary.

**Why no errant transaction gets into it.** It is written by the node that holds PRIMARY_KEY, in a transaction that
checks its session, at the index of the record by which it is open. It consists of

1. what was in it already and this primary has executed;
2. what this primary has executed of other servers. That was read while it was open by this record, so it is in the
   binlog from which the replicas get everything: it is what they are compared with;
3. while one of its own further channels runs, and only then, all that the sources of this channel may still commit.
   A failover would else be refused nearly always, since replicas have the latest of it before the record does.

Only 3 names what the primary does not have yet. Orders of events that were considered, X being such a source:

* A replica has X:9 and the primary has not. It did not come from the primary, whose binlog holds what it has executed,
  or executes when it recovers. So it came by a channel of the replica's own, which its health stops (PART), and then
  it is the very transaction that the primary gets too; or somebody set `gtid_next` on the replica to a number of X,
  which nothing can tell from that.
* X is a node of this cluster, and a channel leads back from it: a person's statement on it, while it is a replica, is
  errant. Nodes have an account on the primary that is named from their uuid: none of them is in 3.
* The channel ends, or its primary does. The first run of a primary without one takes 3 back to what that primary has
  executed. So X:10, committed on X after the change-over, is none of the cluster's, wherever it gets to.
* The channel of the old primary goes on while that is closed, and brings X:11 when its replicas are frozen already. A
  return compares it with the new primary's set, without `base`: it has diverged, unless X:11 has come there too. A
  switchover is refused while a channel runs, a node that is stopped stops its channels first, and so does a replica.
* Two primaries. The former's write is refused, for its session is gone or the index has moved. One that lands late
  lands at the index at which it was made: nobody was promoted in between. A runner that has read the record before it
  is refused in its turn, and looks again.
* The set is older than the write. It is a lower bound: a server forgets nothing that it has executed, and one that
  was rebuilt is not open by this record.
* Two servers give one number to different statements: GTIDs do not tell, here or anywhere.

In semisync a failover chooses by what the members have received, and does not ask for `base`.
"""

from __future__ import annotations

from collections.abc import Collection

from manager.decide.failover import errant
from manager.discovery.record import Record
from manager.gtid import GtidSet
from manager.mysql.semisync import account
from manager.mysql.state import ServerState


def base(record: Record, primary: ServerState, accounts: Collection[str]) -> GtidSet:
    """Return what `base` is to be, as its open primary is now; `accounts` are those of the nodes there. Pure."""
    found = GtidSet.parse(record.base) & primary.executed | errant(primary.executed, record)
    for channel in primary.channels:
        if channel.runs:
            others = channel.retrieved.uuids - set(record.primaries)
            sources = {uuid for uuid in others if account(uuid) not in accounts}
            found |= channel.retrieved.of_sources(sources).whole()
    return found
