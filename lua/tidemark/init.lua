--- tidemark: what a replication follower needs to know how far it has come.
--- Each class is a module of its own, `require "tidemark.replication_state"`; this one gathers them.

local core = require "tidemark.core"

return {
    _VERSION = core.VERSION,
    Batch = require "tidemark.batch",
    Follower = require "tidemark.follower",
    ReplicationState = require "tidemark.replication_state",
    StateTarget = require "tidemark.state_target",
    Wal = require "tidemark.wal",
}
