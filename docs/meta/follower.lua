---@meta tidemark.follower_types
--- Types of what a follower is given and gives, for language servers (LuaCATS). Never loaded at run time. The class itself is
--- lua/tidemark/follower.lua; contracts: docs/reference.md.

---@class tidemark.FollowerOptions
---@field state tidemark.ReplicationState
---@field source tidemark.Source
---@field apply fun(batch: tidemark.Batch): true?, string?, string? true once the effect is durable (with `flush`: done), else nil, message, code
---@field flush? fun(): true?, string? makes durable what was applied so far
---@field shards? integer[] default: all of the state
---@field checkpoint_every? integer batches, default 1000
---@field checkpoint_seconds? number default 1
---@field clock? tidemark.Clock default: the system's monotonic one
---@field log? fun(message: string) told of each failure; must not raise

---@class tidemark.Clock
---@field now fun(): number seconds, never going back
---@field sleep fun(seconds: number) may return early

---Where batches come from.
---@class tidemark.Source
local Source = {}

---@param shard integer
---@param after_seqno integer the last record that is not wanted
---@return tidemark.Subscription? subscription
---@return string? message
---@return tidemark.ErrorCode? code
function Source:subscribe(shard, after_seqno) end

---@param shard integer
---@return integer? head the leader's last durable seqno, nil if not known
function Source:head(shard) end

---Returns when some shard's head is above `marks[shard]`, or after `timeout` seconds.
---@param marks table<integer, integer>
---@param timeout number
---@return boolean? moved any result will do, but nil, message, "INTERRUPTED" ends the follower's step
---@return string? message
---@return tidemark.ErrorCode? code
function Source:wait(marks, timeout) end

---May give any batch: again, or one that overlaps; the follower checks.
---@class tidemark.Subscription
local Subscription = {}

---@param timeout number seconds; a follower passes 0
---@return tidemark.Batch? batch
---@return string? message
---@return tidemark.ErrorCode? code "TIMEOUT" if there is nothing yet; "PRUNED", "CORRUPT", "FOREIGN", "END" end it
function Subscription:next(timeout) end

---Idempotent.
function Subscription:close() end

---@alias tidemark.ShardState "live"|"catching_up"|"gap"|"fenced"|"diverged"|"corrupt"|"failed"

---What is not known is nil.
---@class tidemark.ShardStatus
---@field applied integer the mark
---@field head integer? of the source
---@field lag integer? head - applied
---@field state tidemark.ShardState
---@field since number when that began, by the follower's clock
---@field error string? why it has stopped, or what fails at the moment
---@field code tidemark.ErrorCode?
---@field batches_applied integer by this follower
---@field batches_skipped integer duplicates

---What a follower knows of one shard. Internal.
---@class tidemark.FollowerShard
---@field id integer
---@field mark integer as in the state
---@field position integer >= mark, the last record applied
---@field log_id integer? nil: not known yet
---@field epochs tidemark.Epoch[] ascending; the newest may begin at position + 1
---@field subscription tidemark.Subscription?
---@field batch tidemark.Batch? passed its tests, not yet applied
---@field retry tidemark.Retry
---@field stopped boolean
---@field state tidemark.ShardState
---@field since number
---@field error string? why it stopped
---@field code tidemark.ErrorCode?
---@field batches_applied integer
---@field batches_skipped integer

---Something that fails and is tried again. Internal.
---@class tidemark.Retry
---@field count integer failures in a row
---@field due number? time of the next attempt
---@field error string? the last failure
---@field code tidemark.ErrorCode?

return { Source, Subscription }
