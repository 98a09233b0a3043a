---@meta tidemark.replication_state
--- Types of the C class for language servers (LuaCATS). Never loaded at run time. Results and errors: docs/reference.md.

---One high-water mark per shard. A shard id is an integer 0..65535, a seqno or mark an integer 0..2^63-1.
---@class tidemark.ReplicationState
---@operator len: integer
local ReplicationState = {}

---@alias tidemark.ErrorCode
---| "IO"
---| "UNKNOWN_SHARD"
---| "CORRUPT"
---| "UNSUPPORTED"
---| "NOT_FOUND"
---| "DENIED"
---| "READONLY"
---| "BUSY"
---| "REPLACED"
---| "POISONED"
---| "FORKED"
---| "LOCKED"
---| "TIMEOUT"
---| "FENCED"
---| "LOST"
---| "FOREIGN"
---| "PRUNED"
---| "END"
---| "GAP"
---| "DIVERGED"
---| "APPLY_FAILED"
---| "INTERRUPTED"

---@class tidemark.OpenOptions
---@field create? boolean false: the file must be there
---@field readonly? boolean true: follow the marks, change nothing

---A state in memory, every mark 0.
---@param shards integer[] shard ids; one given twice counts once
---@return tidemark.ReplicationState
function ReplicationState.new(shards) end

---`new {0}`.
---@return tidemark.ReplicationState
function ReplicationState.single() end

---A state in memory with exactly these shards, marks from the bytes, 0 where they have none.
---@param bytes string
---@param shards integer[]
---@return tidemark.ReplicationState? state
---@return string? message names the byte offset
---@return tidemark.ErrorCode? code "CORRUPT"
function ReplicationState.from_checkpoint_bytes(bytes, shards) end

---A state backed by `path` and `path.live`, shared by all who open the path.
---@param path string
---@param shards integer[]? nil only with `create = false` or `readonly = true`
---@param opts tidemark.OpenOptions?
---@return tidemark.ReplicationState? state
---@return string? message
---@return tidemark.ErrorCode? code
function ReplicationState.open(path, shards, opts) end

---What is in the files of a state, without opening it.
---@param path string
---@return table? info see docs/reference.md
---@return string? message
---@return tidemark.ErrorCode? code
function ReplicationState.inspect(path) end

---@param shard integer
---@return integer? mark nil for a shard that is not tracked
function ReplicationState:applied_seqno(shard) end

---@param shard integer
---@param seqno integer
---@return boolean? moved false if the mark already stood there or further
---@return string? message
---@return tidemark.ErrorCode? code
function ReplicationState:advance(shard, seqno) end

---Checks all, then advances each.
---@param marks table<integer, integer> shard to seqno
---@return integer? moved how many marks
---@return string? message
---@return tidemark.ErrorCode? code
function ReplicationState:advance_all(marks) end

---@return table<integer, integer> marks shard to mark, a copy
function ReplicationState:snapshot() end

---@return integer[] shards ascending
function ReplicationState:shards() end

---@return tidemark.ReplicationState
function ReplicationState:clone() end

---Two closures for hot loops, which outlive the handle.
---@param shard integer
---@return (fun(seqno: integer): boolean)? advance
---@return (fun(): integer)|string applied or the message
---@return tidemark.ErrorCode? code
function ReplicationState:bind(shard) end

---Blocks the OS thread until the mark is `seqno` or above.
---@param shard integer
---@param seqno integer
---@param timeout number? seconds; 0 only looks, nil is for ever
---@return true? reached
---@return string? message
---@return tidemark.ErrorCode? code "TIMEOUT", "INTERRUPTED", "UNKNOWN_SHARD"
function ReplicationState:wait_for(shard, seqno, timeout) end

---Blocks the OS thread until the mark of some shard is above its seqno in `marks`.
---@param marks table<integer, integer> shard to seqno
---@param timeout number? seconds; 0 only looks, nil is for ever
---@return integer? shard
---@return string? message
---@return tidemark.ErrorCode? code "TIMEOUT", "INTERRUPTED", "UNKNOWN_SHARD"
function ReplicationState:wait_any(marks, timeout) end

---Ends the waits of this process through this state; if there is none, the next one that would sleep.
function ReplicationState:interrupt() end

---A mark to wait for without blocking.
---@param shard integer
---@param seqno integer
---@return tidemark.Watch? watch
---@return string? message
---@return tidemark.ErrorCode? code "UNKNOWN_SHARD"
function ReplicationState:watch(shard, seqno) end

---@return string bytes
function ReplicationState:to_checkpoint_bytes() end

---Makes the marks durable. Blocks the OS thread.
---@param notes table<integer, string>? shard to note, at most 128 bytes each
---@return true? done
---@return string? message
---@return tidemark.ErrorCode? code
function ReplicationState:checkpoint(notes) end

---@param shard integer
---@return string? note nil if there is none
---@return string? message
---@return tidemark.ErrorCode? code
function ReplicationState:note(shard) end

---Lowers a mark, durably, and cuts the follower's note to it. Nobody else may use the state.
---@param shard integer
---@param seqno integer at most the mark; 0, or one whose epoch the follower's note knows
---@return true? done
---@return string? message
---@return tidemark.ErrorCode? code "NOT_FOUND" where the epoch is not known, "BUSY", "LOCKED", ...
function ReplicationState:reset(shard, seqno) end

---Makes the caller the only follower of the shard. Never blocks.
---@param shard integer
---@return true? done
---@return string? message
---@return tidemark.ErrorCode? code "LOCKED" where there is one
function ReplicationState:lock_shard(shard) end

---Only for who has the lock.
---@param shard integer
function ReplicationState:unlock_shard(shard) end

---Whether the files on disk are still those that are open.
---@return boolean? current
---@return string? message
---@return tidemark.ErrorCode? code
function ReplicationState:is_current() end

---Idempotent. Does not checkpoint.
function ReplicationState:close() end

return ReplicationState
