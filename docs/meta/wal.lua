---@meta tidemark.wal
--- Types of the C classes for language servers (LuaCATS). Never loaded at run time. Results and errors: docs/reference.md. `heads` is
--- written in Lua and has its types there.

---The writer of a log. One thread at a time.
---@class tidemark.Wal
local Wal = {}

---@class tidemark.WalOptions
---@field shards? integer[] to be there, besides those that the log has
---@field epoch? integer above the last one, 1..2^62-1; without it one from the clock and random bits
---@field accept_loss? table<integer, integer> for each shard that LOST names, the seqno at which it ends
---@field segment_bytes? integer a segment is closed when the next batch would make it longer; 64 MiB
---@field sync? boolean false: appends are durable only after `sync`

---Opens the log in `directory` for writing and begins a new epoch.
---@param directory string made if need be
---@param opts tidemark.WalOptions?
---@return tidemark.Wal? wal
---@return string? message
---@return tidemark.ErrorCode? code
function Wal.open(directory, opts) end

---@class tidemark.Origin where records were first written
---@field log_id integer 1..2^32-1
---@field epoch integer
---@field first_seqno integer

---@class tidemark.AppendOptions
---@field origin? tidemark.Origin

---Writes one batch.
---@param shard integer
---@param records string[] at least one
---@param opts tidemark.AppendOptions?
---@return integer? first_seqno
---@return integer|string last_seqno or the message
---@return tidemark.ErrorCode? code
function Wal:append(shard, records, opts) end

---Makes all appends durable. Blocks the OS thread.
---@return true? done
---@return string? message
---@return tidemark.ErrorCode? code
function Wal:sync() end

---@param shard integer
---@return integer? head the last durable seqno, nil for a shard that the log does not have
function Wal:head(shard) end

---@return integer epoch
function Wal:epoch() end

---@return integer log_id 1..2^32-1
function Wal:log_id() end

---@return string[] sentences the repairs made by this opening
function Wal:recovery() end

---Idempotent.
---@return true? done
---@return string? message
---@return tidemark.ErrorCode? code
function Wal:close() end

---Removes segments whose records are all <= `upto`, never the newest.
---@param directory string
---@param shard integer
---@param upto integer
---@return integer? removed
---@return string? message
---@return tidemark.ErrorCode? code
function Wal.prune(directory, shard, upto) end

---The epoch as people see it, such as "2026-11-27T10:04:11Z#1f3a09c2".
---@param epoch integer
---@return string
function Wal.epoch_text(epoch) end

---@class tidemark.WalReport
---@field shards integer
---@field segments integer
---@field batches integer
---@field records integer
---@field bytes integer of all batches
---@field unknown integer bytes after the last whole batch

---@param directory string
---@return tidemark.WalReport? report
---@return string? message names file and offset
---@return tidemark.ErrorCode? code
function Wal.verify(directory) end

---@class tidemark.WalReaderOptions
---@field archive? boolean true: nobody writes the log any more; read it to its heads or to its last whole batch

---@param directory string
---@param shard integer
---@param after_seqno integer? 0 if left out
---@param opts tidemark.WalReaderOptions?
---@return tidemark.WalReader? reader
---@return string? message
---@return tidemark.ErrorCode? code
function Wal.reader(directory, shard, after_seqno, opts) end

---A reader of one shard. One thread at a time.
---@class tidemark.WalReader
local Reader = {} -- luacheck: ignore 241

---Blocks the OS thread until the next batch is durable.
---@param timeout number? seconds; 0 does not wait, nil is for ever
---@return tidemark.Batch? batch
---@return string? message
---@return tidemark.ErrorCode? code "TIMEOUT", "END", ...
function Reader:next(timeout) end

---@return integer? head nil in an archive
function Reader:head() end

---Idempotent.
function Reader:close() end

---The log in `directory` as the source of a follower.
---@param directory string
---@return tidemark.WalSource? source
---@return string? message
---@return tidemark.ErrorCode? code
function Wal.source(directory) end

---A log as its readers share it. Source and readers: one thread at a time.
---@class tidemark.WalSource : tidemark.Source
local Source = {} -- luacheck: ignore 241

---@param shard integer
---@param after_seqno integer? 0 if left out
---@return tidemark.WalReader? subscription
---@return string? message
---@return tidemark.ErrorCode? code
function Source:subscribe(shard, after_seqno) end

---@param shard integer
---@return integer? head the last durable seqno, nil for a shard that the log does not have
function Source:head(shard) end

---@return integer? log_id nil while the first writer is just making the log
function Source:log_id() end

---The epoch of a record: 0 for seqno 0, known from the seqno before the first record up to the head.
---@param shard integer
---@param seqno integer
---@return integer? epoch
---@return string? message
---@return tidemark.ErrorCode? code "PRUNED", "AHEAD", "UNKNOWN_SHARD", ...
function Source:epoch(shard, seqno) end

---@return integer[] shards ascending
function Source:shards() end

---Sleeps until some shard's head is above `marks[shard]`. Blocks the OS thread.
---@param marks table<integer, integer>
---@param timeout number? seconds; nil is for ever
---@return boolean? moved false when the time is over
---@return string? message
---@return tidemark.ErrorCode? code "INTERRUPTED"
function Source:wait(marks, timeout) end

---Ends the next wait of the source, or of one of its readers, that would sleep.
function Source:interrupt() end

---Idempotent; readers stay open.
function Source:close() end

return Wal
