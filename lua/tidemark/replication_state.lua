--- One high-water mark per shard, shared by threads and processes. The class is in C (docs/meta/replication_state.lua describes it); this
--- adds what needs no C.

local core = require "tidemark.core"
local epochs = require "tidemark.epochs"

local ReplicationState = core.ReplicationState

-- Argument `position` of the method `reset` as an integer 0..most, in the ways in which the methods in C take and refuse one.
local function check_integer(position, value, most, what)
  local number = type(value) == "string" and tonumber(value) or value
  local integer = math.type(number) and math.tointeger(number)
  local problem
  if not math.type(number) then
    problem = ("number expected, got %s"):format(value == nil and "no value" or type(value))
  elseif not integer then
    problem = "number has no integer representation"
  elseif integer < 0 or integer > most then
    problem = ("%s out of range: %d"):format(what, integer)
  end
  if problem then
    error(("bad argument #%d to 'reset' (%s)"):format(position, problem), 3)
  end
  return integer
end

-- The follower's note `note` (nil: there is none) without what it has of records after `seqno`, which is below the mark and above 0. Or
-- nil, message, code.
local function cut(shard, seqno, mark, note)
  local log_id, list = nil, {}
  if note then
    local code
    log_id, list, code = epochs.decode(note)
    if not log_id then
      return nil, ("shard %d: %s"):format(shard, list), code
    end
  end
  local kept = {}
  for _, entry in ipairs(list) do
    if entry.first_seqno <= seqno then
      kept[#kept + 1] = entry
    end
  end
  if #kept > 0 then
    return epochs.encode(log_id, kept)
  end
  local lowest, way = list[1] and list[1].first_seqno, "the shard can only be reset to 0"
  if lowest and lowest <= mark then
    way = ("the lowest seqno to which the shard can be reset is %d, or else 0"):format(lowest)
  end
  return nil, ("shard %d: the epoch of record %d is not known: %s"):format(shard, seqno, way), "NOT_FOUND"
end

-- What a reset to `seqno`, which is at most the mark, makes of the shard's note: {before =, after =}, or {in_memory = true} where there
-- are none; or nil, message, code.
local function plan(self, shard, seqno)
  local mark = self:applied_seqno(shard)
  local note, message, code = self:note(shard)
  if code == "UNSUPPORTED" then
    return { in_memory = true }
  elseif code then
    return nil, message, code
  elseif seqno == 0 and note and epochs.is_note(note) then
    return { before = note }
  elseif seqno == 0 and mark > 0 and note then
    return nil, ("shard %d: its note is not a follower's"):format(shard), "CORRUPT"
  elseif seqno == 0 or seqno == mark then
    return { before = note, after = note }
  end
  local after
  after, message, code = cut(shard, seqno, mark, note)
  if not after then
    return nil, message, code
  end
  return { before = note, after = after }
end

--- Lowers the mark of a shard; nothing else does. The effects of the records above it are the caller's to take back. On success the new
--- mark is durable in both slots of the file, with the follower's note cut to it.
---@param self tidemark.ReplicationState
---@param shard integer
---@param seqno integer 0: always possible, forgets log and epochs; else one whose epoch is known, at most the mark
---@return true? done
---@return string? message
---@return tidemark.ErrorCode? code
function ReplicationState.reset(...)
  ReplicationState.shards(...) -- raises unless it is called on an open state
  local self, shard, seqno = ...
  shard = check_integer(1, shard, 65535, "shard id")
  seqno = check_integer(2, seqno, math.maxinteger, "seqno")
  local moved, message, code = self:advance(shard, 0) -- moves nothing, but says whether the shard can be changed
  if moved == nil then
    return nil, message, code
  end
  local mark = self:applied_seqno(shard)
  if seqno > mark then
    error(("bad argument #2 to 'reset' (%d is above the mark of shard %d, which is %d)"):format(seqno, shard, mark), 2)
  end
  local notes
  notes, message, code = plan(self, shard, seqno)
  if not notes then
    return nil, message, code
  elseif notes.in_memory then
    return self:__reset(shard, seqno)
  end
  return self:__reset(shard, seqno, notes.before, notes.after)
end

-- Not for users: whether the note of a tracked shard is one with which it can be reset to `seqno`, which is at most the mark. True, or nil,
-- message, code.
function ReplicationState.__can_reset(...)
  ReplicationState.shards(...) -- raises unless it is called on an open state
  local self, shard, seqno = ...
  local notes, message, code = plan(self, shard, seqno)
  if not notes then
    return nil, message, code
  end
  return true
end

return ReplicationState
