--- How a follower's shards compare with their source: what each verdict does to a shard, and that all shards are of one log.

local shards = require "tidemark.follower.shards"
local verdict = require "tidemark.follower.verdict"

local standing = {}

--- Whether a log id that was seen at the source is not the one of every shard of which the target has something. Then all shards stop.
---@param seen integer
---@return boolean
function standing.is_foreign(self, seen)
  for _, shard in ipairs(self.shards) do
    if shard.log_id and shard.log_id ~= seen then
      shards.stop_foreign(self, verdict.describe_foreign(shard.log_id, seen))
      return true
    end
  end
  return false
end

--- The same for the log id that the source has now, if it knows one.
---@return boolean
function standing.is_source_foreign(self)
  local seen = self.source:log_id()
  return seen ~= nil and standing.is_foreign(self, seen)
end

-- The shard goes on, or waits, or stops: whether it goes on.
local function take(self, shard, result)
  local before = shard.verdict
  shard.verdict = result.verdict
  if verdict.GOES_ON[result.verdict] then
    if shard.waiting then
      shard.waiting = nil
      shards.set_state(self, shard, "catching_up")
      shards.report(self, ("shard %d: the source has reached record %d, and the shard goes on"):format(shard.id, shard.position))
    end
    return true
  end
  if result.verdict ~= "ahead_of_source" then
    shard.common = result.common
    local message = result.message
    if result.verdict == "behind_retention" then
      message = ("the records after %d are missing: %s"):format(shard.position, message)
    end
    shards.stop(self, shard, message, result.code)
    return false
  end
  shards.close_subscription(shard)
  shards.end_retry(shard)
  shards.set_state(self, shard, "ahead_of_source")
  shard.waiting = { error = ("shard %d: %s"):format(shard.id, result.message), code = result.code, head = result.head }
  if before ~= "ahead_of_source" then
    shards.report(self, shard.waiting.error .. "; the shard waits")
  end
  return false
end

--- Compares the shard's history with the source's: whether the shard goes on; or nil, message, code.
---@return boolean? goes_on
---@return string? message
---@return string? code
function standing.compare(self, shard)
  local result, message, code = verdict.at(self.source, self.target, shard.id, shard.position)
  if not result then
    return nil, message, code
  end
  return take(self, shard, result)
end

--- Whether there is nothing new for a shard that waits for its source.
function standing.is_waiting(self, shard)
  return shard.waiting ~= nil and shard.waiting.head == (self.source:head(shard.id))
end

--- A batch has shown that the histories differ, or that it is of another log or shard: the shard stops.
---@param seqno integer? at which they differ
function standing.refuse(self, shard, batch, message, code, seqno)
  if code == "DIVERGED" then
    local most = math.max((seqno or math.min(shard.position, batch.last_seqno) + 1) - 1, 0)
    shard.common = verdict.last_common(self.source, self.target, shard.id, most, batch)
    message = verdict.add_common(message, shard.common)
  end
  shards.stop(self, shard, message, code)
end

--- A batch has been applied: it continues the history that the target has.
function standing.note_applied(self, shard, batch)
  shard.verdict = "ok"
  if shard.log_id ~= batch.log_id then
    for _, one in ipairs(self.shards) do -- the follower now belongs to this log
      one.log_id = one.log_id or batch.log_id
    end
  end
end

return standing
