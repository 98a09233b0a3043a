--- What a follower is given, for specs: batches made by hand, a source that gives what it is told to give, a clock that stands still.

local Follower = require "tidemark.follower"

local fake = {}

-- ---- batches ----

local Batch = {}
Batch.__index = Batch
Batch.__len = function(batch)
  return batch.last_seqno - batch.first_seqno + 1
end

function Batch:record(i)
  return self.list[i]
end

function Batch:records()
  local i = 0
  return function()
    i = i + 1
    if self.list[i] then
      return self.first_seqno + i - 1, self.list[i]
    end
  end
end

function Batch:after(seqno)
  if seqno < self.first_seqno then
    return self
  end
  assert(seqno < self.last_seqno)
  local rest = {}
  for name, value in pairs(self) do
    rest[name] = value
  end
  rest.list = { table.unpack(self.list, seqno - self.first_seqno + 2) }
  rest.first_seqno, rest.prev_epoch = seqno + 1, self.epoch
  return setmetatable(rest, Batch)
end

--- Records `first`..`last` of a shard, each the text "epoch:seqno".
---@param first integer
---@param last integer
---@param epoch? integer default 1
---@param prev_epoch? integer default: the same epoch, 0 before record 1
---@param fields? table shard (default 0), log_id (default 7)
function fake.batch(first, last, epoch, prev_epoch, fields)
  local batch = { shard = 0, log_id = 7, first_seqno = first, last_seqno = last, epoch = epoch or 1, timestamp = 0, list = {} }
  batch.prev_epoch = prev_epoch or (first == 1 and 0 or batch.epoch)
  for name, value in pairs(fields or {}) do
    batch[name] = value
  end
  for i = 1, last - first + 1 do -- not over the seqnos: Lua 5.3 would count on beyond the last integer
    batch.list[i] = ("%d:%d"):format(batch.epoch, first + i - 1)
  end
  return setmetatable(batch, Batch)
end

-- ---- clock ----

--- A clock that moves only when somebody sleeps; `.sleeps` is what was slept, `.time` may be set.
function fake.clock()
  local clock = { time = 1000, sleeps = {} }
  function clock.now()
    return clock.time
  end
  function clock.sleep(seconds)
    assert(seconds > 0)
    clock.sleeps[#clock.sleeps + 1] = seconds
    clock.time = clock.time + seconds
  end
  return clock
end

-- ---- source ----

local Source = {}
Source.__index = Source

--- `.heads[shard]`, `.id` (the log id), `.waits` (seconds waited), `.subscribed` ("shard after" for each subscription), `.open` (how many
--- are open), `.on_wait` (called in a wait, may send), `.asked` (how often an epoch was asked for) may be looked at and set. It knows
--- epochs only of the shards of which it has a log.
function fake.source(clock)
  local source = { clock = clock, queues = {}, heads = {}, logs = {}, waits = {}, subscribed = {}, open = 0, asked = 0 }
  return setmetatable(source, Source)
end

--- Queues each batch for its shard, and failures, `{ message, code }`, for that of the batch before them (0 if there is none). Each
--- is given once. An integer in front: all are for that shard.
function Source:send(...)
  local items, shard = { ... }, 0
  local given = math.type(items[1]) == "integer" and table.remove(items, 1)
  for _, item in ipairs(items) do
    shard = given or item.shard or shard
    self.queues[shard] = self.queues[shard] or {}
    table.insert(self.queues[shard], item)
  end
end

--- Gives a shard a log: the epoch of each record, such as fake.history(10, 1, 5, 2). It is read after what was sent.
---@param history integer[]
---@param first integer? the first record that was not pruned, default 1
---@param log_id integer? default 7
function Source:serve(shard, history, first, log_id)
  self.id = log_id or 7
  self.logs[shard] = { history = history, first = first or 1, log_id = self.id }
  self.heads[shard] = #history
end

local function next_of_log(log, shard, after_seqno)
  local history, first = log.history, after_seqno + 1
  if first < log.first then
    return nil, ("the log begins at record %d"):format(log.first), "PRUNED"
  elseif first > #history then
    return nil, "nothing yet", "TIMEOUT"
  end
  local last = first
  while history[last + 1] == history[first] do
    last = last + 1
  end
  return fake.batch(first, last, history[first], history[first - 1] or 0, { shard = shard, log_id = log.log_id })
end

function Source:subscribe(shard, after_seqno)
  self.subscribed[#self.subscribed + 1] = ("%d %d"):format(shard, after_seqno)
  if self.refuse then
    return nil, table.unpack(self.refuse)
  end
  self.open = self.open + 1
  local source, closed, position = self, false, after_seqno
  local subscription = {}
  function subscription.next(_, timeout)
    assert(timeout == 0 and not closed)
    local item = table.remove(source.queues[shard] or {}, 1)
    if not item and source.logs[shard] then
      local batch, message, code = next_of_log(source.logs[shard], shard, position)
      position = batch and batch.last_seqno or position
      return batch, message, code
    elseif not item then
      return nil, "nothing yet", "TIMEOUT"
    elseif item.first_seqno then
      return item
    end
    return nil, table.unpack(item)
  end
  function subscription.close()
    source.open = source.open - (closed and 0 or 1)
    closed = true
  end
  return subscription
end

function Source:head(shard)
  return self.heads[shard]
end

function Source:log_id()
  return self.id
end

function Source:epoch(shard, seqno)
  self.asked = self.asked + 1
  local log = self.logs[shard]
  if seqno == 0 then
    return 0
  elseif not log then
    return nil
  elseif seqno < log.first - 1 then
    return nil, ("the log begins at record %d"):format(log.first), "PRUNED"
  elseif seqno > #log.history then
    return nil, ("the log ends at record %d"):format(#log.history), "AHEAD"
  end
  return log.history[seqno]
end

function Source:wait(marks, timeout)
  assert(next(marks) and timeout > 0)
  self.waits[#self.waits + 1] = timeout
  self.waited_for = marks
  assert(#self.waits < 10000, "the follower goes on for ever")
  if self.on_wait then
    self.on_wait()
  end
  for shard, mark in pairs(marks) do
    if (self.heads[shard] or 0) > mark or #(self.queues[shard] or {}) > 0 then
      return
    end
  end
  self.clock.time = self.clock.time + timeout
end

--- A history: `count` records of an epoch, then so many of the next one, ...: the epoch of each record.
---@param ... integer count, epoch, count, epoch, ...
---@return integer[]
function fake.history(...)
  local pieces, history = { ... }, {}
  for i = 1, #pieces, 2 do
    for _ = 1, pieces[i] do
      history[#history + 1] = pieces[i + 1]
    end
  end
  return history
end

-- ---- a follower with all of it ----

--- A state whose calls are those of `state`, but for the functions in `overrides`, which get the state.
function fake.state(state, overrides)
  return setmetatable({}, {
    __index = function(_, name)
      return function(_, ...)
        return (overrides[name] or state[name])(state, ...)
      end
    end,
  })
end

--- A follower of `state` with a new source and clock and an apply that keeps what it got: `rig.follower`, `.source`, `.clock`,
--- `.applied` ("shard/epoch:seqno" each), `.log`. `options` go to Follower.new;
--- with a `target` the state and apply are its own.
function fake.rig(state, options)
  local rig = { clock = fake.clock(), applied = {}, log = {}, state = state }
  rig.source = fake.source(rig.clock)
  local given = {
    state = state,
    source = rig.source,
    clock = rig.clock,
    log = function(message)
      rig.log[#rig.log + 1] = message
    end,
    apply = function(batch)
      for seqno, record in batch:records() do
        assert(record == ("%d:%d"):format(batch.epoch, seqno))
        rig.applied[#rig.applied + 1] = ("%d/%s"):format(batch.shard, record)
      end
      return true
    end,
  }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  if given.target then
    given.state, given.apply = nil, nil
  end
  local message, code
  rig.follower, message, code = Follower.new(given)
  if not rig.follower then
    return nil, message, code
  end
  --- Sends, then steps until nothing more comes: the status of shard 0, or of the first batch's.
  function rig:feed(...)
    if select("#", ...) > 0 then
      self.source:send(...)
    end
    repeat
      local before = self:left()
      local applied = self.follower:step(0)
    until self:left() == before and (applied or 0) == 0
    local first = ...
    return self.follower:status()[type(first) == "table" and first.shard or 0]
  end
  function rig:left()
    local count = 0
    for _, queue in pairs(self.source.queues) do
      count = count + #queue
    end
    return count
  end
  return rig
end

return fake
