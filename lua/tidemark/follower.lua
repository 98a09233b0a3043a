--- Follower: applies the batches of a leader's log, each record once, and knows after any crash where to go on.
---
--- It is given everything: a state, a source of batches, a clock and a function that applies a batch. It touches no global, no signal
--- and no file.
---
--- Each shard has a mark, in the state, and a position, the follower's own: the last record that it has applied. Without `flush` they
--- are the same. With it, apply need not be durable, and the mark follows the position at each flush. What holds at any time:
---  - Every record up to the mark is durably applied; every record up to the position is applied.
---  - An epoch stands in the shard's note, durably, before its first record is applied. When that note is written, the mark stands at
---    the record before. So after a restart the epoch of the mark is known, and so is the newest epoch that was seen.
---  - A shard that has stopped stays so, and the others go on.

local core = require "tidemark.core"
local epochs = require "tidemark.epochs"
local options = require "tidemark.options"
local protected = require "tidemark.protected"

local RETRIES = 8 -- after a first failure: some 25 s altogether
local FIRST_PAUSE = 0.1 -- seconds; each further pause is twice as long
local NAP = 0.01 -- seconds between two looks at a source whose head is further than what it gives
local SLICE = 1 -- seconds that `run` asks of one step

-- What status() calls a shard that has stopped with this code. Any other code: "failed".
local STATE_OF = {
  GAP = "gap",
  PRUNED = "gap",
  FENCED = "fenced",
  DIVERGED = "diverged",
  CORRUPT = "corrupt",
  FOREIGN = "corrupt",
  END = "live", -- of an archived log: all of it is applied
}

-- With these codes apply refuses the batch itself, so there is no use in trying again.
local FINAL = { GAP = true, FENCED = true, DIVERGED = true, CORRUPT = true, FOREIGN = true }

local OPTIONS = {
  state = { options.is_object, "a ReplicationState" },
  source = { options.is_object, "a source of batches" },
  apply = { options.is_function, "a function" },
  flush = { options.is_function, "a function", optional = true },
  shards = { options.is_shards, "an array of shard ids, at least one", optional = true },
  checkpoint_every = { options.is_count, "an integer >= 1", optional = true },
  checkpoint_seconds = { options.is_seconds, "a number of seconds >= 0", optional = true },
  clock = { options.is_object, "a table with now and sleep", optional = true },
  log = { options.is_function, "a function", optional = true },
}

---@class tidemark.Follower
local Follower = {}
Follower.__index = Follower

-- ---- helpers ----

local function report(self, message)
  if self.log then
    self.log(message)
  end
end

local function set_state(self, shard, state)
  if shard.state ~= state then
    shard.state, shard.since = state, self.clock.now()
  end
end

local function close_subscription(shard)
  local subscription = shard.subscription
  shard.subscription = nil
  if subscription then
    subscription:close()
  end
end

local function stop_shard(self, shard, message, code)
  if shard.stopped then
    return
  end
  shard.stopped, shard.code, shard.batch = true, code, nil
  set_state(self, shard, STATE_OF[code] or "failed")
  close_subscription(shard)
  if code ~= "END" then
    shard.error = ("shard %d: %s"):format(shard.id, message)
    report(self, ("%s (%s); the shard has stopped"):format(shard.error, code))
  end
end

-- Notes a failure and when to try again; whether it was the last one.
local function exhausted(self, retry, message, code)
  retry.count, retry.error, retry.code = retry.count + 1, message, code
  retry.due = self.clock.now() + FIRST_PAUSE * 2 ^ (retry.count - 1)
  return retry.count > RETRIES
end

local function is_pausing(self, retry)
  return retry.due ~= nil and self.clock.now() < retry.due
end

local function retry_shard(self, shard, message, code)
  if exhausted(self, shard.retry, ("shard %d: %s"):format(shard.id, message), code) then
    stop_shard(self, shard, message, code)
  else
    report(self, ("%s; trying again"):format(shard.retry.error))
  end
end

local function end_retry(shard)
  if shard.retry.count > 0 then
    shard.retry = { count = 0 }
  end
end

-- Calls the user's `f`: true, or nil, what went wrong, and the code if it gave one.
local function call(name, f, ...)
  local results = table.pack(protected(f, ...))
  if not results[1] then
    return nil, ("%s %s"):format(name, results[2])
  elseif results.n == 1 then
    return nil, name .. " returned nothing: it must return true once its effect is durable"
  elseif results[2] and results[2] ~= true then
    return nil, ("%s returned a %s: it must return true once its effect is durable"):format(name, type(results[2]))
  elseif not results[2] then
    return nil, ("%s failed: %s"):format(name, tostring(results[3] or "it gave no message")), results[4]
  end
  return true
end

-- ---- making it durable ----

local function advance(self, shard)
  local moved, message = self.state:advance(shard.id, shard.position)
  if moved == nil then
    error(message, 0) -- the shard is tracked and locked by us: somebody has changed the state under us
  end
  shard.mark = shard.position
end

-- Moves every mark to its position, after a flush if there is one to call. False if that has to wait.
local function flush_applied(self)
  local behind = {}
  for _, shard in ipairs(self.shards) do
    if shard.mark < shard.position then
      behind[#behind + 1] = shard
    end
  end
  if #behind == 0 then
    return true
  elseif is_pausing(self, self.flush_retry) then
    return false
  end
  local ok, message = call("flush", self.flush)
  if ok then
    self.flush_retry = { count = 0 }
    for _, shard in ipairs(behind) do
      advance(self, shard)
    end
    return true
  end
  report(self, message)
  if exhausted(self, self.flush_retry, message, "APPLY_FAILED") then
    self.flush_retry = { count = 0 }
    for _, shard in ipairs(behind) do
      shard.position = shard.mark -- a later flush does not speak for these
      stop_shard(self, shard, message, "APPLY_FAILED")
    end
  end
  return false
end

-- True, also for a state in memory, or nil, message, code. Only a failed system call may be better the next time; after any other
-- failure no mark will ever be durable again, so everything stops.
local function checkpoint(self, notes)
  local ok, message, code = self.state:checkpoint(notes)
  if ok or code == "UNSUPPORTED" then
    self.checkpoint_failure = nil
    return true
  end
  message = "checkpoint failed: " .. message
  self.checkpoint_failure = { error = message, code = code }
  report(self, message)
  if code ~= "IO" then
    for _, shard in ipairs(self.shards) do
      stop_shard(self, shard, message, code)
    end
  end
  return nil, message, code
end

local function save(self)
  if flush_applied(self) then
    local ok = checkpoint(self)
    self.unsaved = 0
    self.save_at = not ok and self.clock.now() + self.checkpoint_seconds or nil
  end
end

-- When save() is to be called, if nothing more is applied, or nil.
local function next_save(self)
  return self.flush_retry.due or self.save_at
end

local function is_save_due(self)
  local due = next_save(self)
  return self.unsaved >= self.checkpoint_every or due ~= nil and self.clock.now() >= due
end

-- Makes the epoch of `batch` durable as that of the records above the position; whether it may be applied now.
local function enter_epoch(self, shard, batch)
  if shard.mark < shard.position and not flush_applied(self) then
    return false
  end
  local entered = epochs.entered(shard, batch)
  local ok, message, code = checkpoint(self, { [shard.id] = epochs.encode(batch.log_id, entered) })
  if ok then
    shard.log_id, shard.epochs = batch.log_id, entered
  elseif not shard.stopped then
    retry_shard(self, shard, message, code)
  end
  return ok
end

-- ---- one shard's turn ----

-- "live" when all that the source has is applied. `idle`: it has just said that there is nothing more.
local function see_head(self, shard, idle)
  local head = self.source:head(shard.id)
  if head then
    set_state(self, shard, shard.position >= head and "live" or "catching_up")
  elseif idle then
    set_state(self, shard, "live")
  end
end

-- The next batch if there is one now, unchecked.
local function fetch(self, shard)
  local batch, message, code
  if not shard.subscription then
    shard.subscription, message, code = self.source:subscribe(shard.id, shard.position)
  end
  if shard.subscription then
    batch, message, code = shard.subscription:next(0)
  end
  if batch or code == "TIMEOUT" then
    end_retry(shard)
    see_head(self, shard, not batch)
    return batch
  end
  if code == "PRUNED" then
    message = ("the records after %d are missing: %s"):format(shard.position, message)
  end
  if STATE_OF[code] then
    stop_shard(self, shard, message, code)
  else
    close_subscription(shard)
    retry_shard(self, shard, tostring(message), code)
  end
end

-- Takes the next batch through its tests: whether shard.batch is to be applied. Skips at most one.
local function receive(self, shard)
  local batch = fetch(self, shard)
  if not batch then
    return false, false
  end
  local verdict, message, code = epochs.check(shard, batch)
  if verdict == "apply" then
    shard.batch = batch.first_seqno <= shard.position and batch:after(shard.position) or batch
    return true, true
  elseif verdict == "skip" then
    shard.batches_skipped = shard.batches_skipped + 1
  else
    stop_shard(self, shard, message, code)
  end
  return false, true
end

local function apply(self, shard)
  local batch = shard.batch
  if epochs.is_new(shard, batch) and not enter_epoch(self, shard, batch) then
    return false
  end
  local ok, message, code = call("apply", self.apply, batch)
  if not ok then
    message = ("%s: %s"):format(epochs.name_records(batch.first_seqno, batch.last_seqno), message)
    if FINAL[code] then
      stop_shard(self, shard, message, code)
    else
      retry_shard(self, shard, message, "APPLY_FAILED")
    end
    return false
  end
  shard.batch, shard.position, shard.batches_applied = nil, batch.last_seqno, shard.batches_applied + 1
  end_retry(shard)
  if not self.flush then
    advance(self, shard)
  end
  self.unsaved = self.unsaved + 1
  self.save_at = self.save_at or self.clock.now() + self.checkpoint_seconds
  see_head(self, shard, false)
  return true
end

-- At most one batch of each shard: how many were applied, and whether anything came.
local function pass(self)
  local applied, progress = 0, false
  for _, shard in ipairs(self.shards) do
    if self.stopping then
      break
    elseif not shard.stopped and not is_pausing(self, shard.retry) then
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
  if is_save_due(self) then
    save(self)
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

-- Sleeps until the source has something, a pause is over or a save is due, for `seconds` at most. Whether it slept on the source, and
-- whether that was interrupted; `in_vain` tells that it slept there before and nothing had come.
local function sleep(self, seconds, in_vain)
  local now, marks = self.clock.now(), {}
  local due = now + seconds
  for _, shard in ipairs(self.shards) do
    if not shard.stopped and shard.retry.due then
      due = math.min(due, shard.retry.due)
    elseif not shard.stopped and not shard.batch then
      marks[shard.id] = shard.position
    end
  end
  due = math.min(due, next_save(self) or due)
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
    save(self)
  end
  for _, shard in ipairs(self.shards) do
    close_subscription(shard)
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

-- What the shard's note says, if it has one: true, or nil, message, code. A note that does not go with the mark was written by
-- somebody else or the mark was moved by hand.
local function load_note(self, shard)
  local note, message, code = self.state:note(shard.id)
  if not note then
    if code == nil or code == "UNSUPPORTED" then
      return true
    end
    return nil, message, code
  end
  local log_id, list
  log_id, list, code = epochs.decode(note)
  if not log_id then
    return nil, ("shard %d: %s"):format(shard.id, list), code
  end
  local first, newest = list[1], list[#list]
  if newest.first_seqno - 1 > shard.mark or shard.mark > 0 and first.first_seqno > shard.mark then
    message = "shard %d: its note has epoch %d begin at record %d, which does not go with its mark %d"
    return nil, message:format(shard.id, newest.epoch, newest.first_seqno, shard.mark), "CORRUPT"
  end
  shard.log_id, shard.epochs = log_id, list
  return true
end

-- Locks the shards and reads their notes: true, or nil, message, code.
local function take_shards(self, ids)
  local taken = {}
  for _, id in ipairs(ids) do
    if not taken[id] then
      local ok, message, code = self.state:lock_shard(id)
      if not ok then
        return nil, message, code
      end
      local mark = self.state:applied_seqno(id)
      local shard = { id = id, mark = mark, position = mark, epochs = {}, retry = { count = 0 }, stopped = false,
        batches_applied = 0, batches_skipped = 0 }
      set_state(self, shard, "catching_up")
      taken[id], self.shards[#self.shards + 1] = true, shard
      ok, message, code = load_note(self, shard)
      if not ok then
        return nil, message, code
      end
    end
  end
  return true
end

--- A follower of the shards of a state. It locks them: a second follower of the same state and shard gets "LOCKED", in any thread or
--- process. Options, and what happens when: docs/reference.md. A wrong or unknown option raises.
---@param given tidemark.FollowerOptions
---@return tidemark.Follower? follower
---@return string? message
---@return tidemark.ErrorCode? code "LOCKED", "UNKNOWN_SHARD", "READONLY", "CORRUPT" for a note that is not a follower's, ...
function Follower.new(given)
  options.check("new", OPTIONS, given)
  local self = setmetatable({
    state = given.state,
    source = given.source,
    apply = given.apply,
    flush = given.flush,
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
  local ok, message, code = take_shards(self, given.shards or given.state:shards())
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

--- How each shard stands, a new table. What is not known is nil.
---@return table<integer, tidemark.ShardStatus>
function Follower:status()
  check_open(self, "status")
  local trouble = self.flush_retry.error and self.flush_retry or self.checkpoint_failure or {}
  local status = {}
  for _, shard in ipairs(self.shards) do
    local applied, head = self.state:applied_seqno(shard.id), (self.source:head(shard.id))
    local why = shard.stopped and shard or shard.retry.error and shard.retry or trouble
    status[shard.id] = {
      applied = applied,
      head = head,
      lag = head and head - applied,
      state = shard.state,
      since = shard.since,
      error = why.error,
      code = why.code,
      batches_applied = shard.batches_applied,
      batches_skipped = shard.batches_skipped,
    }
  end
  return status
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
    close_subscription(shard)
    pcall(self.state.unlock_shard, self.state, shard.id) -- raises where the state is closed: then it is unlocked
  end
end

Follower.__gc = Follower.close
Follower.__close = Follower.close

return Follower
