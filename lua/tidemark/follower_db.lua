--- FollowerDb: an SQLite database that takes each record of a log exactly once.
---
--- The effect of a batch and the progress of its shard are one transaction: both are there or neither is, whatever happens between
--- any two instructions. The tables of progress (docs/formats.md) are the only authority: each batch is judged by the shard's row and
--- epochs as they are inside the transaction. The state in memory and the epochs that are kept follow them and decide nothing.

local ReplicationState = require "tidemark.replication_state"
local epochs = require "tidemark.epochs"
local options = require "tidemark.options"
local progress = require "tidemark.follower_db.progress"
local protected = require "tidemark.protected"
local sqlite = require "tidemark.sqlite"

---@class tidemark.FollowerDb
local FollowerDb = {}
FollowerDb.__index = FollowerDb

-- ---- reading ----

-- The state in memory of all rows and of the shards asked for, or nil, message, code.
local function load_marks(database, shards)
  local marks, message, code = progress.marks(database)
  if not marks then
    return nil, message, code
  end
  local ids = { table.unpack(shards) }
  for shard in pairs(marks) do
    ids[#ids + 1] = shard
  end
  local state = ReplicationState.new(ids)
  state:advance_all(marks)
  return state
end

-- The log that the shard's row names, or any other row where the shard has none: false where there is no row; or nil, message, code.
local function find_log_id(database, row)
  if row.log_id then
    return row.log_id
  end
  return progress.any_log_id(database)
end

-- What the tests of a batch need to know of the shard, from its row.
local function history_of(database, id, row, log_id)
  return {
    id = id,
    position = row.applied,
    log_id = log_id or nil,
    epoch = function(seqno)
      if seqno == row.applied and seqno > 0 then
        return row.epoch
      end
      local epoch, message, code = progress.epoch(database, id, row, seqno)
      return epoch or nil, message, code
    end,
  }
end

-- ---- one batch ----

-- Calls `work`, which calls fn: true, or nil, message, code. `at` says in which record it is.
local function run(self, work, at)
  local returned, ok, message, code = protected(function()
    local result, why, word = work()
    if result == false or result == nil and why ~= nil then
      return false, why or "fn returned false", word
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
  message = ("%s: %s%s"):format(self.path, at(), tostring(message))
  return nil, message, type(code) == "string" and code or "APPLY_FAILED"
end

-- Calls fn for each record: true, or nil, message, code.
local function run_batch(self, batch, fn)
  local current = batch.first_seqno
  return run(self, function()
    for seqno, record in batch:records() do
      current = seqno
      local result, why, word = fn(self, record, seqno, batch.shard)
      if result == false or result == nil and why ~= nil then
        return result, why, word
      end
    end
  end, function()
    return ("record %d: "):format(current)
  end)
end

-- The shard's row, or nil, message, code. A row below the mark in memory was lowered since, by somebody who took effects back.
local function current_row(self, shard)
  local row, message, code = progress.row(self[1], shard)
  local mark = self.marks:applied_seqno(shard)
  if row and mark and row.applied < mark and not self.resetting then
    message = "%s: its row says that record %d is the last one applied, but record %d was: it has been reset; open it again"
    return nil, message:format(self.path, row.applied, mark), "REPLACED"
  end
  return row, message, code
end

-- Begins a transaction: the shard's row in it, or nil, message, code.
local function begin(self, shard)
  local database = self[1]
  local ok, message, code = database:exec "BEGIN IMMEDIATE"
  if not ok then
    return nil, message, code
  end
  database:guard(true)
  return current_row(self, shard)
end

-- Begins a transaction and, if all goes well, commits it: the shard's mark, or nil, message, code. The caller rolls back what is left
-- open. The row moves first, so that the caller learns that a database cannot be written before fn runs. Between BEGIN and COMMIT the
-- transaction is guarded: wherever memory is taken a finalizer may run, and its commit, like fn's, would make half a batch durable; after
-- a rollback each further statement would be a transaction of its own.
local function apply(self, batch, fn)
  local database = self[1]
  local row, message, code = begin(self, batch.shard)
  if not row then
    return nil, message, code
  end
  local log_id
  log_id, message, code = find_log_id(database, row)
  if log_id == nil then
    return nil, message, code
  end
  local result
  result, message, code = epochs.check(history_of(database, batch.shard, row, log_id), batch)
  if result == "skip" then
    return row.applied
  elseif not result then
    return nil, ("%s: %s"):format(self.path, message), code
  end
  local rest = batch:after(row.applied)
  local ok
  ok, message, code = progress.move(database, row, rest)
  if ok then
    ok, message, code = run_batch(self, rest, fn)
  end
  if ok then
    database:guard(false)
    ok, message, code = database:exec "COMMIT"
  end
  if not ok then
    return nil, message, code
  end
  if row.epoch ~= rest.epoch then -- if another connection has committed before, the next call of epoch sees that
    self.newest[batch.shard] = { epoch = rest.epoch, first_seqno = row.applied + 1 }
  end
  return rest.last_seqno
end

-- The epoch of the record to which a shard is to be reset, or nil, message, code.
local function epoch_of_reset(self, shard, row, seqno)
  local epoch, message, code = progress.epoch(self[1], shard, row, seqno)
  if epoch == false then
    local lowest
    lowest, message, code = progress.lowest(self[1], shard)
    if lowest ~= nil then
      message = "%s: the epoch of record %d is not known: the shard can be reset to record %d or above, or to 0"
      lowest = lowest and math.min(lowest, row.applied) or row.applied
      return nil, message:format(self.path, seqno, lowest), "NOT_FOUND"
    end
  end
  return epoch or nil, message, code
end

-- Lowers the shard's row and has fn take the effects back, in one transaction: true, or nil, message, code.
local function reset(self, shard, seqno, fn)
  local database = self[1]
  local row, message, code = begin(self, shard)
  if not row then
    return nil, message, code
  end
  local epoch
  epoch, message, code = epoch_of_reset(self, shard, row, seqno)
  if not epoch then
    return nil, message, code
  end
  self.newest[shard] = nil
  local ok
  ok, message, code = progress.lower(database, shard, seqno, epoch)
  if ok then
    self.resetting = true
    ok, message, code = run(self, function()
      return fn(self)
    end, function()
      return ""
    end)
    self.resetting = false -- transact sees to it where this raises
  end
  local mark = self.marks:applied_seqno(shard)
  if ok then -- the mark first: for a moment it may be too low, never too high
    ok, message, code = self.marks:reset(shard, seqno)
  end
  if not ok then
    return nil, message, code
  end
  database:guard(false)
  ok, message, code = database:exec "COMMIT"
  if not ok then
    self.marks:advance(shard, mark)
    return nil, message, code
  end
  return true
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

-- sqlite.open. A wrong argument raises as one of FollowerDb.open, at its caller.
local function open_database(path, opts)
  local returned, database, message, code = pcall(sqlite.open, path, opts)
  if returned then
    return database, message, code
  end
  local number, why = tostring(database):match "bad argument #(%d) to '.-' (%b())$"
  error(number and ("bad argument #%d to 'open' %s"):format(number == "1" and 1 or 3, why) or database, 3)
end

--- Opens a database, makes it and its tables of progress if need be.
---@param path string
---@param shards integer[]? at least one id; the state tracks these and all that the database knows; may be nil with `readonly`
---@param opts tidemark.sqlite.Options?
---@return tidemark.FollowerDb? db
---@return string? message
---@return tidemark.ErrorCode|tidemark.sqlite.Code? code "UNSUPPORTED" for tables of another version, and all that sqlite.open gives
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
  found, message, code = progress.prepare(database, path, opts and opts.readonly)
  if found then
    marks, message, code = load_marks(database, shards)
  elseif found == false then
    marks = ReplicationState.new(shards)
  end
  if not marks then
    database:close()
    return nil, message, code
  end
  local self = { database, path = path, marks = marks, empty = not found, applying = false, resetting = false, stuck = false,
    closed = false }
  -- by shard, the newest epoch and its first seqno, as the tables had them while their version was this one
  self.newest, self.version = {}, nil
  return setmetatable(self, FollowerDb)
end

-- Raises where `name` cannot be called now. To be called by the method itself.
local function check_idle(self, name)
  if self.closed then
    error(("calling '%s' on bad self (closed database)"):format(name), 3)
  elseif self.applying or not self.stuck and self[1]:in_transaction() then
    error(name .. " is called inside a transaction, or inside fn", 3)
  end
end

-- Calls `work` of the class, which opens a transaction of the shard, and undoes what it leaves open: its result, or nil, message without
-- the shard, code.
local function transact(self, shard, work, ...)
  if not self.marks:applied_seqno(shard) then
    return nil, ("%s: shard %d is not tracked"):format(self.path, shard), "UNKNOWN_SHARD"
  end
  if self.stuck then
    local undone, message, code = undo(self)
    if not undone then
      return nil, "the batch before could not be undone: " .. message, code
    end
  end
  self.applying = true
  local returned, result, message, code = pcall(work, self, ...)
  self.applying, self.resetting = false, false
  undo(self)
  if not returned then -- no memory, or not a Batch
    error(result, 0)
  end
  return result, message, code
end

-- Applies a batch: true, or nil, message without the shard, code.
local function apply_batch(self, batch, fn)
  local applied, message, code = transact(self, batch.shard, apply, batch, fn)
  if not applied then
    return nil, message, code
  end
  self.marks:advance(batch.shard, applied)
  return true
end

local function name_shard(shard, done, message, code)
  if done then
    return true
  elseif code ~= "UNKNOWN_SHARD" then
    message = ("shard %d: %s"):format(shard, message)
  end
  return nil, message, code
end

--- Applies the records of the batch that the database does not have yet: all or nothing, each exactly once. A batch that it has
--- altogether is no error. `fn` runs inside the transaction; it fails by raising an error, or by returning nil or false and a message.
---@param batch tidemark.Batch
---@param fn tidemark.FollowerDbFunction
---@return true? done the records are durably applied
---@return string? message
---@return string? code "FOREIGN", "GAP", "DIVERGED", "REPLACED", "UNKNOWN_SHARD", "APPLY_FAILED", fn's own, or SQLite's
function FollowerDb:apply(batch, fn)
  if not self.closed and not options.is_object(batch) then
    error(("bad argument #1 to 'apply' (Batch expected, got %s)"):format(type(batch)), 2)
  elseif not self.closed and type(fn) ~= "function" then
    error(("bad argument #2 to 'apply' (function expected, got %s)"):format(type(fn)), 2)
  end
  check_idle(self, "apply")
  return name_shard(batch.shard, apply_batch(self, batch, fn))
end

--- Lowers a shard's progress to `seqno`, together with what `fn` does to the effects of the records above it: all or nothing. 0 forgets
--- the shard's log and epochs.
---@param shard integer
---@param seqno integer at most the mark
---@param fn fun(db: tidemark.FollowerDb): any?, string?, string? takes the effects back; fails as the fn of apply does
---@return true? done
---@return string? message
---@return string? code "NOT_FOUND" where the epoch at `seqno` is not known, "LOCKED" while a follower has the shard, "REPLACED", ...
function FollowerDb:reset(shard, seqno, fn)
  local function is_seqno(value)
    return math.type(value) == "integer" and value >= 0
  end
  if not self.closed and not is_seqno(shard) then
    error("bad argument #1 to 'reset' (shard id expected)", 2)
  elseif not self.closed and not is_seqno(seqno) then
    error("bad argument #2 to 'reset' (seqno expected)", 2)
  elseif not self.closed and type(fn) ~= "function" then
    error(("bad argument #3 to 'reset' (function expected, got %s)"):format(type(fn)), 2)
  end
  check_idle(self, "reset")
  local mark = self.marks:applied_seqno(shard)
  if mark and seqno > mark then
    error(("bad argument #2 to 'reset' (seqno %d is above the mark, %d)"):format(seqno, mark), 2)
  elseif mark then
    local locked, message, code = self.marks:lock_shard(shard)
    if not locked then
      return nil, ("%s: %s"):format(self.path, message), code
    end
    self.marks:unlock_shard(shard)
  end
  return name_shard(shard, transact(self, shard, reset, shard, seqno, fn))
end

-- Not for users: whether the epoch of the record is known to which a shard is to be reset. True, or nil, message, code.
function FollowerDb:__can_reset(shard, seqno)
  local row, message, code = current_row(self, shard)
  local epoch
  if row then
    epoch, message, code = epoch_of_reset(self, shard, row, seqno)
  end
  if not epoch then
    return nil, message, code
  end
  return true
end

--- The id of the log that the database follows. A shard of which it has nothing answers that of the others: a database belongs to one log.
---@param shard integer
---@return integer? log_id nil: it has nothing yet
---@return string? message
---@return string? code "REPLACED" where another handle has reset the shard, or SQLite's
function FollowerDb:log_id(shard)
  if self.empty then -- it may only be read, and nobody has made the tables
    return nil
  end
  local row, message, code = current_row(self, shard)
  if not row then
    return nil, message, code
  end
  local log_id
  log_id, message, code = find_log_id(self[1], row)
  if log_id == nil then
    return nil, message, code
  end
  return log_id or nil
end

--- The epoch of a record.
---@param shard integer
---@param seqno integer
---@return integer? epoch 0 for seqno 0, nil above the last record applied and where it is not known
---@return string? message
---@return string? code "REPLACED" where another handle has reset the shard, or SQLite's
function FollowerDb:epoch(shard, seqno)
  if self.empty then
    return seqno == 0 and 0 or nil
  end
  local version, message, code = progress.version(self[1])
  if not version then
    return nil, message, code
  elseif version ~= self.version then -- another connection may have changed the tables
    self.newest, self.version = {}, version
  end
  local newest, mark = self.newest[shard], self.marks:applied_seqno(shard)
  if newest and seqno >= newest.first_seqno and seqno <= mark then
    return newest.epoch
  end
  local row
  row, message, code = current_row(self, shard)
  if not row then
    return nil, message, code
  end
  local epoch, first_seqno
  epoch, first_seqno, code = progress.epoch(self[1], shard, row, seqno)
  if epoch == nil then
    return nil, first_seqno, code -- a message
  elseif epoch and seqno == row.applied and seqno == mark and seqno > 0 then
    self.newest[shard] = { epoch = epoch, first_seqno = first_seqno }
  end
  return epoch or nil
end

--- The database as the target of a follower, which applies each batch with `fn`.
---@param fn tidemark.FollowerDbFunction
---@return tidemark.Target
function FollowerDb:target(fn)
  if type(fn) ~= "function" then
    error(("bad argument #1 to 'target' (function expected, got %s)"):format(type(fn)), 2)
  end
  local db = self
  return {
    state = function()
      return db:state()
    end,
    log_id = function(_, shard)
      return db:log_id(shard)
    end,
    epoch = function(_, shard, seqno)
      return db:epoch(shard, seqno)
    end,
    apply = function(_, batch)
      check_idle(db, "apply")
      return apply_batch(db, batch, fn) -- the follower names the shard
    end,
  }
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
