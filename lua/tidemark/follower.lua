--- Follower: applies the batches of a leader's log, each record once, and knows after any crash where to go on.
---
--- It is given everything: a target, a source of batches and a clock. It touches no global, no signal and no file.
---
--- Each shard has a mark, in the target's state, and a position, the follower's own: the last record that was applied. Without `flush`
--- they are the same. With it, apply need not be durable, and the mark follows the position at each flush. What holds at any time:
---  - Every record up to the mark is durably applied. Every record up to the position is applied.
---  - The records up to the position are those that the source has, as far as both know their epochs.
---  - All shards that have something are of one log.
---  - A shard that has stopped stays so, and the others go on.

local call = require "tidemark.follower.call"
local core = require "tidemark.core"
local epochs = require "tidemark.epochs"
local options = require "tidemark.options"
local saving = require "tidemark.follower.saving"
local shards = require "tidemark.follower.shards"
local setup = require "tidemark.follower.setup"
local standing = require "tidemark.follower.standing"

local NAP = 0.01 -- seconds between two looks at a source whose head is further than what it gives
local SLICE = 1 -- seconds that `run` asks of one step

-- With these codes the files of a state or a database are no longer those that are open.
local LOST_FILES = { POISONED = true, REPLACED = true }

---@class tidemark.Follower
local Follower = {}
Follower.__index = Follower

-- ---- one shard's turn ----

-- "live" when all that the source has is applied. `idle`: it has just said that there is nothing more.
local function see_head(self, shard, head, idle)
  if head then
    shards.set_state(self, shard, shard.position >= head and "live" or "catching_up")
  elseif idle then
    shards.set_state(self, shard, "live")
  end
end

-- Subscribes after the position and compares the histories there. Subscribes first: then the subscription notices if the log is replaced
-- after the comparison. Whether the shard goes on; or nil, message, code.
local function open(self, shard)
  if standing.is_source_foreign(self) then
    return false
  end
  local subscription, message, code = self.source:subscribe(shard.id, shard.position)
  if not subscription and code ~= "AHEAD" and not (code == "UNKNOWN_SHARD" and shard.position > 0) then
    return nil, message or "it cannot be read", code
  end
  shard.subscription = subscription
  local goes_on, why, word = standing.compare(self, shard)
  if goes_on and not subscription then
    return nil, message, code
  elseif goes_on == nil then
    return nil, why, word
  end
  return goes_on
end

-- The next batch if there is one now, unchecked; or nil, message, code, without a code where the shard does not go on.
local function try_fetch(self, shard)
  if not shard.subscription then
    local goes_on, message, code = open(self, shard)
    if not goes_on then
      return nil, message, code
    end
  end
  local batch, message, code = shard.subscription:next(0)
  if not batch and code ~= "TIMEOUT" then
    return nil, message or "the subscription gave nothing", code
  end
  shard.replaced = false
  shards.end_retry(shard)
  local head = self.source:head(shard.id)
  if head and head < shard.position then
    local goes_on
    goes_on, message, code = standing.compare(self, shard)
    if not goes_on then
      return nil, message, code
    end
  end
  see_head(self, shard, head, not batch)
  return batch
end

-- The next batch if there is one now, unchecked. What the source fails with stops the shard or is tried again.
local function fetch(self, shard)
  local batch, message, code = try_fetch(self, shard)
  if code == "REPLACED" and not shard.replaced then -- the log has new files: no failure
    shard.replaced = true
    shards.close_subscription(shard)
    batch, message, code = try_fetch(self, shard)
  end
  if batch or not message or code == "FOREIGN" and standing.is_source_foreign(self) then
    return batch
  elseif code == "PRUNED" then
    message = ("the records after %d are missing: %s"):format(shard.position, message)
  end
  if shards.is_final(code) then
    shards.stop(self, shard, message, code)
  else
    shards.close_subscription(shard)
    shards.try_again(self, shard, tostring(message), code)
  end
end

-- Takes the next batch through its tests: whether shard.batch is to be applied. Skips at most one.
local function receive(self, shard)
  if standing.is_waiting(self, shard) then
    return false, false
  end
  local batch = fetch(self, shard)
  if not batch then
    return false, false
  elseif batch.shard == shard.id and standing.is_foreign(self, batch.log_id) then
    return false, true
  end
  local result, message, code, seqno = epochs.check(shard, batch)
  if result == "apply" then
    shard.batch = batch.first_seqno <= shard.position and batch:after(shard.position) or batch
    return true, true
  elseif result == "skip" then
    shard.batches_skipped = shard.batches_skipped + 1
  elseif shards.is_final(code) then
    standing.refuse(self, shard, batch, message, code, seqno)
  elseif LOST_FILES[code] then -- of the target, as it said of which epoch its records are
    shards.stop_failed(self, shard, message, code)
  else -- the target cannot say what it has
    shards.close_subscription(shard)
    shards.try_again(self, shard, message, code)
  end
  return false, true
end

-- The target did not apply the batch.
local function fail(self, shard, batch, message, code)
  message = ("%s: %s"):format(epochs.name_records(batch.first_seqno, batch.last_seqno), message)
  if code == "FOREIGN" then
    shard.log_id = self.target:log_id(shard.id) or shard.log_id
    if standing.is_foreign(self, batch.log_id) then
      return
    end
  elseif LOST_FILES[code] then
    saving.checkpoint(self) -- stops everything, if it is the state that is lost
  end
  if shard.stopped then
    return
  elseif code == "DIVERGED" or code == "FOREIGN" then
    standing.refuse(self, shard, batch, message, code)
  elseif call.REFUSALS[code] then
    shards.stop(self, shard, message, code)
  elseif LOST_FILES[code] then
    shards.stop_failed(self, shard, message, code)
  else
    shards.try_again(self, shard, message, code or "APPLY_FAILED", shards.stop_failed)
  end
end

local function apply(self, shard)
  local batch = shard.batch
  local ok, message, code = call.target("apply", self.target, batch, self.report)
  if not ok then
    fail(self, shard, batch, message, code)
    return false
  end
  shard.batch, shard.position, shard.batches_applied = nil, batch.last_seqno, shard.batches_applied + 1
  standing.note_applied(self, shard, batch)
  shards.end_retry(shard)
  if not self.target.flush then
    saving.advance(self, shard, shard.position)
  end
  saving.note_applied(self)
  see_head(self, shard, self.source:head(shard.id), false)
  return true
end

-- At most one batch of each shard: how many were applied, and whether anything came.
local function pass(self)
  local applied, progress = 0, false
  for _, shard in ipairs(self.shards) do
    if self.stopping then
      break
    elseif not shard.stopped and not shards.is_pausing(self, shard.retry) then
      local ready, came = shard.batch ~= nil, false
      if not ready then
        ready, came = receive(self, shard)
      end
      progress = progress or came
      if ready and apply(self, shard) then
        applied = applied + 1
      end
    end
  end
  if saving.is_due(self) then
    saving.save(self)
  end
  return applied, progress
end

-- ---- the loop ----

local function has_active_shard(self)
  for _, shard in ipairs(self.shards) do
    if not shard.stopped then
      return true
    end
  end
  return false
end

-- Sleeps until the source has something, a pause is over or a save is due, for `seconds` at most. For a shard that waits until the source
-- moves, the source's own head is the mark. Returns whether it slept on the source, and whether that was interrupted. `in_vain`: the sleep
-- before was on the source, and nothing had come.
local function sleep(self, seconds, in_vain)
  local now, marks = self.clock.now(), {}
  local due = now + seconds
  for _, shard in ipairs(self.shards) do
    if not shard.stopped and shard.retry.due then
      due = math.min(due, shard.retry.due)
    elseif not shard.stopped and not shard.batch then
      marks[shard.id] = shard.waiting and shard.waiting.head or shard.position
    end
  end
  due = math.min(due, saving.due_at(self) or due)
  if due <= now then
    return in_vain
  elseif in_vain then
    self.clock.sleep(math.min(NAP, due - now))
    return false
  elseif next(marks) == nil then
    self.clock.sleep(due - now)
    return false
  end
  local _, _, code = self.source:wait(marks, due - now)
  return true, code == "INTERRUPTED"
end

-- The last flush and checkpoint.
local function finish(self)
  self.finished = true
  self.flush_retry.due = nil
  if self.save_at then
    saving.save(self)
  end
  for _, shard in ipairs(self.shards) do
    shards.close_subscription(shard)
  end
end

local function step(self, timeout)
  local deadline, slept_in_vain, interrupted = self.clock.now() + timeout, false, false
  while true do
    local applied, progress = pass(self)
    if self.stopping or not has_active_shard(self) then
      finish(self)
      return applied
    end
    local remaining = deadline - self.clock.now()
    if applied > 0 or remaining <= 0 or interrupted then
      return applied
    end
    if not progress then
      slept_in_vain, interrupted = sleep(self, remaining, slept_in_vain)
    end
  end
end

-- True if nothing is wrong, else nil and the first trouble.
local function outcome(self)
  local trouble = self.flush_retry.error and self.flush_retry or self.checkpoint_failure
  for i = #self.shards, 1, -1 do
    trouble = self.shards[i].error and self.shards[i] or trouble
  end
  if trouble then
    return nil, trouble.error, trouble.code
  end
  return true
end

-- ---- making and closing ----

--- A follower of the shards of a target. It locks them: a second follower of the same state and shard gets "LOCKED", in any thread or
--- process. Options, and what happens when: docs/reference.md. A wrong or unknown option raises.
---@param given tidemark.FollowerOptions
---@return tidemark.Follower? follower
---@return string? message
---@return tidemark.ErrorCode? code "LOCKED", "UNKNOWN_SHARD", "READONLY", "CORRUPT" for a note that is not a follower's, ...
function Follower.new(given)
  local target = setup.target_of(given)
  local self = setmetatable({
    target = target,
    state = target:state(),
    source = given.source,
    log = given.log,
    clock = given.clock or core.clock,
    checkpoint_every = given.checkpoint_every or 1000,
    checkpoint_seconds = given.checkpoint_seconds or 1,
    shards = {},
    flush_retry = { count = 0 },
    checkpoint_failure = nil, -- { error =, code = } of the last checkpoint
    unsaved = 0, -- batches applied since the last checkpoint
    save_at = nil, -- when they are to be saved
    stepping = false,
    stopping = false,
    finished = false,
    closed = false,
  }, Follower)
  function self.report(message)
    shards.report(self, tostring(message))
  end
  local ok, message, code = setup.take_shards(self, given.shards or self.state:shards())
  if not ok then
    self:close()
    return nil, message, code
  end
  return self
end

local function check_open(self, name)
  if self.closed then
    error(("bad argument #1 to '%s' (closed Follower)"):format(name), 3)
  end
end

--- Applies what the source has, a batch of each shard in turn, and returns as soon as something was applied. Otherwise it waits for
--- more, `timeout` seconds at most; 0 never sleeps. Not to be called from inside apply or flush.
---@param timeout number seconds, >= 0
---@return integer? applied how many batches; nil once the follower has stopped
---@return string? message why
---@return tidemark.ErrorCode? code nil after stop()
function Follower:step(timeout)
  check_open(self, "step")
  if not options.is_seconds(timeout) then
    error("bad argument #1 to 'step' (seconds >= 0 expected)", 2)
  end
  if self.stepping then
    error("step is called from inside apply or flush", 2)
  end
  if self.finished then
    local _, message, code = outcome(self)
    return nil, message or "the follower has stopped", code
  end
  self.stepping = true
  local ok, result = pcall(step, self, timeout)
  self.stepping = false
  if not ok then
    error(result, 0)
  end
  return result
end

--- Follows until stop() or until every shard has stopped.
---@return true? done after stop() or the end of an archived log, with everything flushed and checkpointed
---@return string? message the first trouble, if a shard has stopped or the last flush or checkpoint failed
---@return tidemark.ErrorCode? code
function Follower:run()
  check_open(self, "run")
  while not self.finished do
    self:step(SLICE)
  end
  return outcome(self)
end

--- Ends it: flushes, advances the marks and makes a checkpoint. From inside apply (or in whatever the source calls while it waits) the
--- running batch is finished first, and the step that is running does the rest.
function Follower:stop()
  check_open(self, "stop")
  self.stopping = true
  if not self.stepping and not self.finished then
    finish(self)
  end
end

--- What is known of each shard, a new table.
---@return table<integer, tidemark.ShardStatus>
function Follower:status()
  check_open(self, "status")
  local trouble = self.flush_retry.error and self.flush_retry or self.checkpoint_failure or {}
  local status = {}
  for _, shard in ipairs(self.shards) do
    status[shard.id] = shards.status(self, shard, trouble)
  end
  return status
end

--- Whether the history of the source goes on where that of the target is, as it was compared last (docs/reference.md).
---@param id integer a shard of the follower
---@return tidemark.Verdict? verdict
---@return integer|string|nil common the highest seqno that is proved common, if it is "diverged"; or the message
---@return string? code "UNKNOWN_SHARD"
function Follower:verdict(id)
  check_open(self, "verdict")
  for _, shard in ipairs(self.shards) do
    if shard.id == id then
      return shard.verdict, shard.common
    end
  end
  return nil, ("shard %s is not followed"):format(tostring(id)), "UNKNOWN_SHARD"
end

--- Gives the shards free. Flushes and checkpoints nothing: stop() does. Idempotent; also at the end of a `<close>` variable or when the
--- follower is collected.
function Follower:close()
  if self.closed then
    return
  end
  if self.stepping then
    error("close is called from inside apply or flush: call stop", 2)
  end
  self.closed = true
  for _, shard in ipairs(self.shards) do
    shards.close_subscription(shard)
    pcall(self.state.unlock_shard, self.state, shard.id) -- raises where the state is closed: then it is unlocked
  end
end

Follower.__gc = Follower.close
Follower.__close = Follower.close

return Follower
