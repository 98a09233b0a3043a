--- What a follower does with the record of one of its shards: states, stopping, trying again.

local RETRIES = 8 -- after a first failure: some 25 s altogether
local FIRST_PAUSE = 0.1 -- seconds; each further pause is twice as long

-- What status() calls a shard that has stopped with this code. Any other code: "failed".
local STATE_OF = {
  GAP = "gap",
  PRUNED = "gap",
  DIVERGED = "diverged",
  CORRUPT = "corrupt",
  FOREIGN = "foreign",
  END = "live", -- of an archived log: all of it is applied
}

-- The verdict that goes with a code, whatever it was before.
local VERDICT_OF = { PRUNED = "behind_retention", DIVERGED = "diverged", FOREIGN = "foreign" }

local shards = {}

---@param id integer
---@param mark integer
---@param log_id integer?
---@return tidemark.FollowerShard
function shards.new(id, mark, log_id)
  return { id = id, position = mark, log_id = log_id, retry = { count = 0 }, stopped = false, replaced = false, verdict = "unknown",
    batches_applied = 0, batches_skipped = 0 }
end

--- Brings a message to the user's log.
function shards.report(self, message)
  if self.log then
    self.log(message)
  end
end

function shards.set_state(self, shard, state)
  if shard.state ~= state then
    shard.state, shard.since = state, self.clock.now()
  end
end

function shards.close_subscription(shard)
  local subscription = shard.subscription
  shard.subscription = nil
  if subscription then
    subscription:close()
  end
end

-- Without a message to the log.
local function halt(self, shard, code, state)
  shard.stopped, shard.code, shard.batch, shard.waiting = true, code, nil, nil
  shards.set_state(self, shard, state)
  shards.close_subscription(shard)
end

--- Stops a shard for good.
---@param message string?
---@param code string?
function shards.stop(self, shard, message, code)
  if shard.stopped then
    return
  end
  shard.verdict = VERDICT_OF[code] or shard.verdict
  halt(self, shard, code, STATE_OF[code] or "failed")
  if code ~= "END" then
    shard.error = ("shard %d: %s"):format(shard.id, message)
    shards.report(self, ("%s%s; the shard has stopped"):format(shard.error, code and (" (%s)"):format(code) or ""))
  end
end

--- Stops a shard whose target fails, whatever the code of its failure means elsewhere.
function shards.stop_failed(self, shard, message, code)
  halt(self, shard, code, "failed")
  shard.error = ("shard %d: %s"):format(shard.id, message)
  shards.report(self, ("%s (%s); the shard has stopped"):format(shard.error, code))
end

--- Stops all shards: they belong to one log, and the source is another.
function shards.stop_foreign(self, message)
  for _, shard in ipairs(self.shards) do
    shard.verdict, shard.common = "foreign", nil
    if not shard.stopped then
      halt(self, shard, "FOREIGN", "foreign")
      shard.error = message
    end
  end
  shards.report(self, message .. " (FOREIGN); the follower has stopped")
end

--- Whether the source's failure with this code ends the shard at once.
function shards.is_final(code)
  return STATE_OF[code] ~= nil
end

-- ---- trying again ----

--- Notes a failure and when to try again; whether it was the last one.
function shards.exhausted(self, retry, message, code)
  retry.count, retry.error, retry.code = retry.count + 1, message, code
  retry.due = self.clock.now() + FIRST_PAUSE * 2 ^ (retry.count - 1)
  return retry.count > RETRIES
end

function shards.is_pausing(self, retry)
  return retry.due ~= nil and self.clock.now() < retry.due
end

--- Tries again after a pause, or stops the shard after the last attempt. `stop` does that.
function shards.try_again(self, shard, message, code, stop)
  if shards.exhausted(self, shard.retry, ("shard %d: %s"):format(shard.id, message), code) then
    (stop or shards.stop)(self, shard, message, code)
  else
    shards.report(self, ("%s; trying again"):format(shard.retry.error))
  end
end

function shards.end_retry(shard)
  if shard.retry.count > 0 then
    shard.retry = { count = 0 }
  end
end

-- ---- status ----

--- A new table.
---@param trouble { error: string?, code: string? } what fails at the moment in all shards
---@return tidemark.ShardStatus
function shards.status(self, shard, trouble)
  local applied, head = self.state:applied_seqno(shard.id), (self.source:head(shard.id))
  local why = shard.stopped and shard or shard.retry.error and shard.retry or shard.waiting or trouble
  local comparable = shard.verdict == "ok" or shard.verdict == "unknown"
  return {
    applied = applied,
    head = head,
    lag = comparable and head and head - applied or nil,
    verdict = shard.verdict,
    common = shard.common,
    state = shard.state,
    since = shard.since,
    error = why.error,
    code = why.code,
    batches_applied = shard.batches_applied,
    batches_skipped = shard.batches_skipped,
  }
end

return shards
