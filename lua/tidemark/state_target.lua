--- A target of a follower: a ReplicationState and the user's functions. The state has the marks; the checkpoint's note of a shard has the
--- log id and the last epochs (docs/formats.md). What holds at any time:
---  - The note of an epoch is durable before the first record of the epoch is applied. When it is written, the mark is at the record
---    before. So after a restart the epoch of the mark is known, and so is the newest epoch of which effects may be there.
---  - A note that was loaded may be in the page cache only. So nothing is applied before this process has made a checkpoint.
--- A state in memory has no notes: its epochs are in memory, too.

local call = require "tidemark.follower.call"
local epochs = require "tidemark.epochs"
local options = require "tidemark.options"

local OPTIONS = {
  state = { options.is_object, "a ReplicationState" },
  apply = { options.is_function, "a function" },
  flush = { options.is_function, "a function", optional = true },
}

---What a target knows of a shard.
---@class tidemark.StateTargetShard
---@field id integer
---@field note string? from which it was read, or as which it was written
---@field durable boolean the note is on disk for certain, or there is none
---@field log_id integer?
---@field history tidemark.Epoch[] the newest may begin at the record after the last one applied
---@field applied integer the last record that apply has taken since it was read, or the mark then

---@class tidemark.StateTarget
local StateTarget = {}
StateTarget.__index = StateTarget

-- ---- notes ----

-- What a note says that goes with the mark: the shard, or nil, message, code. A note that does not was written by somebody else, or the
-- mark was moved by hand.
local function decode(id, note, mark)
  local log_id, history, code = epochs.decode(note)
  if not log_id then
    return nil, ("shard %d: %s"):format(id, history), code
  end
  local first, newest = history[1], history[#history]
  if newest.first_seqno - 1 > mark or mark > 0 and first.first_seqno > mark then
    local message = "shard %d: its note has epoch %s begin at record %d, which does not go with its mark %d"
    return nil, message:format(id, epochs.text(newest.epoch), newest.first_seqno, mark), "CORRUPT"
  end
  return { id = id, note = note, durable = false, log_id = log_id, history = history, applied = mark }
end

-- Reads what the state has of a shard: the shard, or nil, message, code. Of a state in memory only this object knows epochs; a mark
-- that was lowered since takes those above it back.
local function read(self, id)
  local known, mark = self.shards[id], self.given.state:applied_seqno(id)
  if not mark then
    return nil, ("shard %d is not tracked"):format(id), "UNKNOWN_SHARD"
  end
  local note, message, code = self.given.state:note(id)
  if not note and code and code ~= "UNSUPPORTED" then
    return nil, message, code
  elseif note and not (known and known.note == note) then
    known, message, code = decode(id, note, mark)
    if not known then
      return nil, message, code
    end
  elseif not note then
    local old = code and mark > 0 and known or { history = {} }
    known = { id = id, durable = true, log_id = old.log_id, history = epochs.cut(old.history, mark) }
  end
  known.applied = mark
  self.shards[id] = known
  return known
end

local function known_shard(self, id)
  local shard = self.shards[id]
  if shard then
    return shard
  end
  return read(self, id)
end

-- ---- a new epoch ----

-- Brings the mark to the record at `position`: true, or nil, message, code.
local function settle(self, shard, position)
  local state = self.given.state
  if state:applied_seqno(shard.id) >= position then
    return true
  end
  if self.given.flush then
    local ok, message, code = call.user("flush", self.given.flush)
    if type(ok) == "table" and (ok[shard.id] or 0) < position then
      ok, message = nil, ("flush has not reached record %d, after which another epoch begins"):format(position)
    end
    if not ok then
      return nil, message, code
    end
  end
  assert(state:advance(shard.id, position) ~= nil)
  return true
end

-- Makes the batch's epoch durable as that of the records from its first one on: true, or nil, message, code.
local function enter(self, shard, batch, report)
  local position = batch.first_seqno - 1
  local ok, message, code = settle(self, shard, position)
  if not ok then
    return nil, message, call.REFUSALS[code] and code or "APPLY_FAILED"
  end
  local history = epochs.entered(shard.history, batch, epochs.MOST)
  local note = epochs.encode(batch.log_id, history)
  ok, message, code = self.given.state:checkpoint { [shard.id] = note }
  if ok then
    for _, one in pairs(self.shards) do -- one checkpoint has the notes of all
      one.durable = true
    end
    shard.note = note
  elseif code ~= "UNSUPPORTED" then
    return nil, "checkpoint failed: " .. message, code
  end
  local newest = shard.history[#shard.history]
  shard.log_id, shard.history = batch.log_id, history
  if newest and newest.first_seqno > position and newest.epoch ~= batch.epoch and report then
    local text = "shard %d: epoch %s was noted and gives way to epoch %s: effects of its records may be there, from record %d on"
    report(text:format(shard.id, epochs.text(newest.epoch), epochs.text(batch.epoch), newest.first_seqno))
  end
  return true
end

-- ---- the class ----

--- A target that keeps its marks and epochs in a state, and applies with the user's functions. A wrong or unknown option raises.
---@param given tidemark.StateTargetOptions
---@return tidemark.StateTarget target
function StateTarget.new(given)
  options.check("new", OPTIONS, given)
  local self = { given = { state = given.state, apply = given.apply, flush = given.flush }, shards = {} }
  if given.flush then
    function self.flush()
      return call.user("flush", given.flush)
    end
  end
  return setmetatable(self, StateTarget)
end

---@return tidemark.ReplicationState
function StateTarget:state()
  return self.given.state
end

--- Reads the shard's note again: a follower calls it once it has locked the shard.
---@param shard integer
---@return integer? log_id nil: nothing is noted yet
---@return string? message
---@return string? code "CORRUPT" or "UNSUPPORTED" for a note that is not a follower's, ...
function StateTarget:log_id(shard)
  local known, message, code = read(self, shard)
  if not known then
    return nil, message, code
  end
  return known.log_id
end

---@param shard integer
---@param seqno integer
---@return integer? epoch 0 for seqno 0, nil above the last record applied and where it is not known
---@return string? message
---@return string? code
function StateTarget:epoch(shard, seqno)
  local known, message, code = known_shard(self, shard)
  if not known then
    return nil, message, code
  elseif seqno > known.applied and seqno > (self.given.state:applied_seqno(shard) or 0) then
    return nil
  end
  return epochs.at(known.history, seqno)
end

--- Applies a batch that begins with the record after the last one applied, which a follower has checked.
---@param batch tidemark.Batch
---@param report? fun(message: string) gets what the user has to know
---@return true? done
---@return string? message
---@return string? code
function StateTarget:apply(batch, report)
  local shard, message, code = known_shard(self, batch.shard)
  if not shard then
    return nil, message, code
  elseif shard.log_id and shard.log_id ~= batch.log_id then
    return nil, ("log %08x is noted, the batch is of log %08x"):format(shard.log_id, batch.log_id), "FOREIGN"
  end
  local newest = shard.history[#shard.history]
  if not shard.durable or not newest or newest.epoch ~= batch.epoch then
    local entered
    entered, message, code = enter(self, shard, batch, report)
    if not entered then
      return nil, message, code
    end
  end
  local ok
  ok, message, code = call.user("apply", self.given.apply, batch)
  if not ok then
    return nil, message, call.REFUSALS[code] and code or "APPLY_FAILED"
  end
  shard.applied = batch.last_seqno
  return true
end

return StateTarget
