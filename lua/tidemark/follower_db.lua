--- FollowerDb: an SQLite database that takes each record of a leader's log exactly once.
---
--- The effect of a batch and the shard's progress are one transaction, so they are both there or neither is, whatever happens between
--- any two instructions. The table `tidemark_progress` (docs/formats.md) is the only authority: each batch is judged by the shard's row
--- as it stands inside the transaction. The state in memory follows it; nothing is decided by it.

local ReplicationState = require "tidemark.replication_state"
local epochs = require "tidemark.epochs"
local options = require "tidemark.options"
local protected = require "tidemark.protected"
local sqlite = require "tidemark.sqlite"

local VERSION = "1" -- stands in the table's own text, which SQLite keeps
local FIND_TABLE = "SELECT sql FROM main.sqlite_schema WHERE name = 'tidemark_progress' COLLATE NOCASE"
local CREATE_TABLE = [[
CREATE TABLE IF NOT EXISTS tidemark_progress ( -- version 1
  shard INTEGER PRIMARY KEY CHECK (shard BETWEEN 0 AND 65535),
  applied INTEGER NOT NULL CHECK (applied > 0),
  epoch INTEGER NOT NULL CHECK (epoch BETWEEN 1 AND 4294967295),
  log_id INTEGER NOT NULL
) STRICT]]
local ALL_ROWS = "SELECT shard, applied FROM main.tidemark_progress"
local ONE_ROW = "SELECT applied, epoch, log_id FROM main.tidemark_progress WHERE shard = ?"
local MOVE_ROW = "REPLACE INTO main.tidemark_progress (shard, applied, epoch, log_id) VALUES (?, ?, ?, ?)"

---@class tidemark.FollowerDb
local FollowerDb = {}
FollowerDb.__index = FollowerDb

-- ---- the progress table ----

-- The first row of a query, an array, empty where there is none; or nil, message, code.
local function first_row(database, sql, ...)
  local next_row, message, code, rows = database:rows(sql, ...)
  if not next_row then
    return nil, message, code
  end
  local row = table.pack(next_row())
  rows:close()
  return row
end

-- Makes the table where there is none: true where it is there and of this version, false where a database that may only be read has
-- none; or nil, message, code.
local function find_table(database, path, readonly)
  local row, message, code = first_row(database, FIND_TABLE)
  if row and not row[1] then
    if readonly then
      return false
    end
    row, message, code = database:exec(CREATE_TABLE)
    if row then -- again, for another program may have made it meanwhile
      row, message, code = first_row(database, FIND_TABLE)
    end
  end
  if not row then
    return nil, message, code
  end
  local version = row[1]:match "%-%- version (%d+)\n"
  if version == VERSION then
    return true
  elseif version then
    message = ("%s: tidemark_progress has version %s, this program reads %s"):format(path, version, VERSION)
  else
    message = ("%s: its table tidemark_progress is not tidemark's"):format(path)
  end
  return nil, message, "UNSUPPORTED"
end

-- The state in memory of all rows and of the shards asked for, or nil, message, code.
local function load_marks(database, shards)
  local next_row, message, code = database:rows(ALL_ROWS)
  if not next_row then
    return nil, message, code
  end
  local ids, marks = { table.unpack(shards) }, {}
  for shard, applied in next_row do
    ids[#ids + 1], marks[shard] = shard, applied
  end
  local state = ReplicationState.new(ids)
  state:advance_all(marks)
  return state
end

-- ---- one batch ----

-- What the tests of a batch need to know of the shard, from its row.
local function shard_of(id, row)
  local applied, epoch, log_id = table.unpack(row, 1, 3)
  if not applied then
    return { id = id, position = 0, epochs = {} }
  end
  return { id = id, position = applied, log_id = log_id, epochs = { { epoch = epoch, first_seqno = applied } } }
end

-- Calls fn for each record: true, or nil, message, code.
local function run(self, batch, fn)
  local current = batch.first_seqno
  local returned, ok, message, code = protected(function()
    for seqno, record in batch:records() do
      current = seqno
      local result, why, word = fn(self, record, seqno)
      if result == false or result == nil and why ~= nil then
        return false, why or "fn returned false", word
      end
    end
    if not self[1]:in_transaction() then -- SQLite rolled back as a statement failed, and fn went on
      return false, "the transaction has ended"
    end
    return true
  end)
  if not returned then
    ok, message, code = false, "fn " .. ok, nil
  end
  if ok then
    return true
  end
  message = ("%s: record %d: %s"):format(self.path, current, tostring(message))
  return nil, message, type(code) == "string" and code or "APPLY_FAILED"
end

-- Begins a transaction and, if all goes well, commits it: the shard's mark, or nil, message, code. The caller rolls back what is left
-- open. The row moves first, so that a database that cannot be written is told before fn runs. Between BEGIN and COMMIT the transaction
-- is guarded: wherever memory is taken a finalizer may run, and its commit, like fn's, would make half a batch durable; after a rollback
-- each further statement would be a transaction of its own.
local function apply(self, batch, fn)
  local database = self[1]
  local row
  local ok, message, code = database:exec "BEGIN IMMEDIATE"
  if ok then
    database:guard(true)
    row, message, code = first_row(database, ONE_ROW, batch.shard)
  end
  if not row then
    return nil, message, code
  end
  local shard = shard_of(batch.shard, row)
  local verdict
  verdict, message, code = epochs.check(shard, batch)
  if verdict == "skip" then
    return shard.position
  elseif not verdict then
    return nil, ("%s: %s"):format(self.path, message), code
  end
  ok, message, code = database:exec(MOVE_ROW, batch.shard, batch.last_seqno, batch.epoch, batch.log_id)
  if ok then
    ok, message, code = run(self, batch:after(shard.position), fn)
  end
  if ok then
    database:guard(false)
    ok, message, code = database:exec "COMMIT"
  end
  if not ok then
    return nil, message, code
  end
  return batch.last_seqno
end

-- Undoes what apply has left open: true, or nil, message, code. Where that fails nobody can commit it either, and the next apply tries
-- again.
local function undo(self)
  self.stuck = true
  local undone, message, code = self[1]:rollback()
  self.stuck = not undone
  return undone, message, code
end

-- ---- the class ----

-- sqlite.open, for the caller of FollowerDb.open to be told of a wrong argument as one of that.
local function open_database(path, opts)
  local returned, database, message, code = pcall(sqlite.open, path, opts)
  if returned then
    return database, message, code
  end
  local number, why = tostring(database):match "bad argument #(%d) to '.-' (%b())$"
  error(number and ("bad argument #%d to 'open' %s"):format(number == "1" and 1 or 3, why) or database, 3)
end

--- Opens a database, makes it and its progress table if need be.
---@param path string
---@param shards integer[]? at least one id; the state tracks these and all that the database knows; may be nil with `readonly`
---@param opts tidemark.sqlite.Options?
---@return tidemark.FollowerDb? db
---@return string? message
---@return tidemark.ErrorCode|tidemark.sqlite.Code? code "UNSUPPORTED" for a newer progress table, and all that sqlite.open gives
function FollowerDb.open(path, shards, opts)
  if shards == nil and type(opts) == "table" and opts.readonly then
    shards = {}
  elseif not options.is_shards(shards) then
    error("bad argument #2 to 'open' (an array of shard ids, integers from 0 to 65535, at least one, expected)", 2)
  end
  local database, message, code = open_database(path, opts)
  if not database then
    return nil, message, code
  end
  local found, marks
  found, message, code = find_table(database, path, opts and opts.readonly)
  if found then
    marks, message, code = load_marks(database, shards)
  elseif found == false then
    marks = ReplicationState.new(shards)
  end
  if not marks then
    database:close()
    return nil, message, code
  end
  return setmetatable({ database, path = path, marks = marks, applying = false, stuck = false, closed = false }, FollowerDb)
end

--- Applies the records of the batch that the database does not have yet: all or nothing, each exactly once. A batch that it has
--- altogether is no error. `fn` runs inside the transaction; it fails by raising an error, or by returning nil or false and a message.
---@param batch tidemark.Batch
---@param fn tidemark.FollowerDbFunction
---@return true? done the records are durably applied
---@return string? message
---@return string? code "FOREIGN", "DIVERGED", "FENCED", "GAP", "UNKNOWN_SHARD", "APPLY_FAILED", fn's own, or SQLite's
function FollowerDb:apply(batch, fn)
  if self.closed then
    error("calling 'apply' on bad self (closed database)", 2)
  elseif not options.is_object(batch) then
    error(("bad argument #1 to 'apply' (Batch expected, got %s)"):format(type(batch)), 2)
  elseif type(fn) ~= "function" then
    error(("bad argument #2 to 'apply' (function expected, got %s)"):format(type(fn)), 2)
  elseif self.applying or not self.stuck and self[1]:in_transaction() then
    error("apply is called inside a transaction, or inside fn", 2)
  end
  local shard = batch.shard
  if not self.marks:applied_seqno(shard) then
    return nil, ("%s: shard %d is not tracked"):format(self.path, shard), "UNKNOWN_SHARD"
  end
  if self.stuck then
    local undone, why, word = undo(self)
    if not undone then
      return nil, ("shard %d: the batch before could not be undone: %s"):format(shard, why), word
    end
  end
  self.applying = true
  local returned, applied, message, code = pcall(apply, self, batch, fn)
  self.applying = false
  undo(self)
  if not returned then -- no memory, or not a Batch
    error(applied, 0)
  elseif not applied then
    return nil, ("shard %d: %s"):format(shard, message), code
  end
  self.marks:advance(shard, applied)
  return true
end

--- The marks: a ReplicationState in memory, read when the database was opened and advanced by each apply. Always the same one.
---@return tidemark.ReplicationState
function FollowerDb:state()
  return self.marks
end

--- Runs one statement on the user's own tables, as tidemark.sqlite does. Raises inside fn if it would end the transaction or it has
--- ended.
---@param sql string
---@param ... tidemark.sqlite.Value
---@return integer? changed rows
---@return string? message
---@return tidemark.sqlite.Code? code
FollowerDb.exec = sqlite.exec

--- Iterates over the rows of one statement, as tidemark.sqlite does. Raises as exec does.
---@param sql string
---@param ... tidemark.sqlite.Value
---@return (fun(): ...: nil|integer|number|string)? iterator
---@return string? message
---@return tidemark.sqlite.Code? code
---@return tidemark.sqlite.Rows? rows the loop's closing value
FollowerDb.rows = sqlite.rows

--- Closes the database. The state stays readable. Idempotent.
function FollowerDb:close()
  if self.applying then
    error("close is called from inside fn", 2)
  end
  self.closed = true
  self[1]:close()
end

FollowerDb.__close = FollowerDb.close

return FollowerDb
