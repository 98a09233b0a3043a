---@meta tidemark.follower_types
--- Types of what a follower is given and gives, for language servers (LuaCATS). Never loaded at run time. The class itself is
--- lua/tidemark/follower.lua; contracts: docs/reference.md.

---@class tidemark.FollowerOptions
---@field source tidemark.Source
---@field target? tidemark.Target
---@field state? tidemark.ReplicationState with `apply`, instead of a target
---@field apply? tidemark.ApplyFunction
---@field flush? tidemark.FlushFunction
---@field shards? integer[] default: all of the state
---@field checkpoint_every? integer batches, default 1000
---@field checkpoint_seconds? number default 1
---@field clock? tidemark.Clock default: the system's monotonic one
---@field log? fun(message: string) gets each failure, each shard that waits or stops; must not raise

---True once the effect is durable (with a flush: done), else nil, message, code.
---@alias tidemark.ApplyFunction fun(batch: tidemark.Batch): true?, string?, string?

---Makes durable what was applied so far: true, or {[shard] = seqno} if that is so up to these seqnos.
---@alias tidemark.FlushFunction fun(): true|table<integer, integer>|nil, string?

---@class tidemark.StateTargetOptions
---@field state tidemark.ReplicationState
---@field apply tidemark.ApplyFunction
---@field flush? tidemark.FlushFunction

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

---@return integer? log_id nil if not known
function Source:log_id() end

---@param shard integer
---@param seqno integer
---@return integer? epoch 0 for seqno 0; nil without a code where it cannot know
---@return string? message
---@return tidemark.ErrorCode? code "PRUNED" below what it has, "AHEAD" above the head
function Source:epoch(shard, seqno) end

---What batches are applied to.
---@class tidemark.Target
local Target = {}

---@return tidemark.ReplicationState state with the marks, always the same one
function Target:state() end

---@param shard integer
---@return integer? log_id nil: none yet
---@return string? message
---@return tidemark.ErrorCode? code
function Target:log_id(shard) end

---@param shard integer
---@param seqno integer
---@return integer? epoch 0 for seqno 0; nil above the last record applied and where it is not known
---@return string? message
---@return tidemark.ErrorCode? code
function Target:epoch(shard, seqno) end

---Makes the batch's epoch durable no later than its effect.
---@param batch tidemark.Batch begins with the record after the last one applied
---@param report? fun(message: string) brings a message to the follower's log
---@return true? done
---@return string? message
---@return tidemark.ErrorCode? code
function Target:apply(batch, report) end

---May be missing. With it marks follow a flush.
---@return true|table<integer, integer>|nil flushed {[shard] = seqno}: up to these
---@return string? message
---@return tidemark.ErrorCode? code
function Target:flush() end

---May give any batch: again, or one that overlaps; the follower checks.
---@class tidemark.Subscription
local Subscription = {}

---@param timeout number seconds; a follower passes 0
---@return tidemark.Batch? batch
---@return string? message
---@return tidemark.ErrorCode? code "TIMEOUT" if there is nothing yet; "PRUNED", "CORRUPT", "FOREIGN", "END" end it; "REPLACED"
function Subscription:next(timeout) end

---Idempotent.
function Subscription:close() end

---@alias tidemark.ShardState "live"|"catching_up"|"ahead_of_source"|"gap"|"diverged"|"corrupt"|"foreign"|"failed"

---@alias tidemark.Verdict "ok"|"unknown"|"ahead_of_source"|"behind_retention"|"diverged"|"foreign"

---@class tidemark.VerdictResult
---@field verdict tidemark.Verdict
---@field message string? why, unless it is "ok" or "unknown"
---@field code tidemark.ErrorCode?
---@field common integer? of "diverged"
---@field head integer? of the source when it was compared

---What is not known is nil.
---@class tidemark.ShardStatus
---@field applied integer the mark
---@field head integer? of the source
---@field lag integer? head - applied, if the verdict is "ok" or "unknown"
---@field verdict tidemark.Verdict
---@field common integer? the highest seqno that is proved common, if the verdict is "diverged"
---@field state tidemark.ShardState
---@field since number when that began, by the follower's clock
---@field error string? why it has stopped or waits, or what fails at the moment
---@field code tidemark.ErrorCode?
---@field batches_applied integer by this follower
---@field batches_skipped integer duplicates

---What a follower knows of one shard. Internal.
---@class tidemark.FollowerShard
---@field id integer
---@field position integer at least the mark, the last record applied
---@field log_id integer? of the log that the target follows; nil: none yet
---@field epoch tidemark.EpochFunction asks the target
---@field verdict tidemark.Verdict
---@field common integer?
---@field waiting { error: string, code: string, head: integer? }? of a shard that is ahead of its source
---@field replaced boolean the source has said REPLACED since it last gave something
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

return { Source, Subscription, Target }
