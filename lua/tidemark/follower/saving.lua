--- How a follower makes durable what it has applied: flush, marks, checkpoint.

local call = require "tidemark.follower.call"
local shards = require "tidemark.follower.shards"

local saving = {}

local function mark_of(self, shard)
  return self.state:applied_seqno(shard.id)
end

--- Moves the shard's mark.
function saving.advance(self, shard, seqno)
  local moved, message = self.state:advance(shard.id, seqno)
  if moved == nil then
    error(message, 0) -- the shard is tracked and locked by us: somebody has changed the state under us
  end
end

-- Moves every mark as far as the target says that it is flushed: false if that has to wait.
local function flush_applied(self)
  local waiting = {}
  for _, shard in ipairs(self.shards) do
    if mark_of(self, shard) < shard.position then
      waiting[#waiting + 1] = shard
    end
  end
  if #waiting == 0 then
    self.flush_retry = { count = 0 } -- the target may have flushed before a new epoch
    return true
  elseif shards.is_pausing(self, self.flush_retry) then
    return false
  end
  local flushed, message = call.target("flush", self.target)
  if flushed then
    self.flush_retry = { count = 0 }
    for _, shard in ipairs(waiting) do
      local seqno = flushed == true and shard.position or flushed[shard.id]
      if seqno then
        saving.advance(self, shard, math.min(seqno, shard.position))
      end
    end
    return true
  end
  shards.report(self, message)
  if shards.exhausted(self, self.flush_retry, message, "APPLY_FAILED") then
    self.flush_retry = { count = 0 }
    for _, shard in ipairs(waiting) do
      shard.position = mark_of(self, shard) -- a later flush does not speak for these
      shards.stop(self, shard, message, "APPLY_FAILED")
    end
  end
  return false
end

--- True, also for a state in memory, or nil, message, code. Only a failed system call may be better the next time; after any other
--- failure no mark will ever be durable again, so everything stops.
function saving.checkpoint(self)
  local ok, message, code = self.state:checkpoint()
  if ok or code == "UNSUPPORTED" then
    self.checkpoint_failure = nil
    return true
  end
  message = "checkpoint failed: " .. message
  self.checkpoint_failure = { error = message, code = code }
  shards.report(self, message)
  if code ~= "IO" then
    for _, shard in ipairs(self.shards) do
      shards.stop(self, shard, message, code)
    end
  end
  return nil, message, code
end

-- Whether records are applied that no mark has yet.
local function is_flush_outstanding(self)
  for _, shard in ipairs(self.shards) do
    if mark_of(self, shard) < shard.position then
      return true
    end
  end
  return false
end

--- Flushes and checkpoints.
function saving.save(self)
  if flush_applied(self) then
    local again = not saving.checkpoint(self) or self.target.flush ~= nil and is_flush_outstanding(self)
    self.unsaved = 0
    self.save_at = again and self.clock.now() + self.checkpoint_seconds or nil
  end
end

--- Notes that a batch was applied.
function saving.note_applied(self)
  self.unsaved = self.unsaved + 1
  self.save_at = self.save_at or self.clock.now() + self.checkpoint_seconds
end

--- When save() is to be called, if nothing more is applied, or nil.
function saving.due_at(self)
  return self.flush_retry.due or self.save_at
end

function saving.is_due(self)
  local due = saving.due_at(self)
  return self.unsaved >= self.checkpoint_every or due ~= nil and self.clock.now() >= due
end

return saving
