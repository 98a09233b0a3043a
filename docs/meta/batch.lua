---@meta tidemark.batch
--- Types of the C class for language servers (LuaCATS). Never loaded at run time. Results and errors: docs/reference.md.

---Consecutive records of one shard. Never changes.
---@class tidemark.Batch
---@field shard integer
---@field first_seqno integer
---@field last_seqno integer
---@field epoch integer of the records
---@field prev_epoch integer of the record before the first one; 0 before record 1
---@field durable_seqno integer the head of the shard when it was written
---@field written_ms integer milliseconds since 1970
---@field log_id integer 1..2^32-1
---@field origin tidemark.Origin? a new table at each access
---@operator len: integer
local Batch = {}

---@class tidemark.BatchFields
---@field shard integer
---@field epoch integer at least 1
---@field prev_epoch integer at most `epoch`; 0 before record 1, and only there
---@field first_seqno integer at least 1
---@field durable_seqno? integer less than first_seqno by at most 2^32; the lowest possible if left out
---@field written_ms? integer milliseconds since 1970; 0 if left out
---@field log_id integer 1..2^32-1
---@field origin? tidemark.Origin
---@field records string[] at least one

---Raises where the fields are out of range or do not fit together.
---@param fields tidemark.BatchFields
---@return tidemark.Batch
function Batch.encode(fields) end

---@param bytes string exactly one batch
---@return tidemark.Batch? batch
---@return string? message
---@return tidemark.ErrorCode? code "CORRUPT", "UNSUPPORTED"
function Batch.decode(bytes) end

---@param position integer from 1
---@return string? record nil outside
function Batch:record(position) end

---@return fun(batch: tidemark.Batch, seqno: integer): integer?, string? iterator over seqno and record
---@return tidemark.Batch
---@return integer
function Batch:records() end

---Calls `f` with each record and its seqno, ascending; faster than a loop over `records`. What it returns counts for nothing, an error
---goes through, a yield is an error.
---@param f fun(record: string, seqno: integer)
function Batch:each(f) end

---@return string bytes
function Batch:bytes() end

---The records above `seqno`, as a batch that the leader could have written so.
---@param seqno integer
---@return tidemark.Batch? batch itself if all are above; nil if none is
function Batch:after(seqno) end

return Batch
