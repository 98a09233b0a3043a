--- The contract of a follower's target, on the targets that there are, and on some that break it.

local ReplicationState = require "tidemark.replication_state"
local StateTarget = require "tidemark.state_target"
local contract = require "spec.support.target_contract"
local sandbox = require "spec.support.sandbox"
local has_sqlite, FollowerDb = pcall(require, "tidemark.follower_db")

local SHARDS = { 0, 1 }

-- Notes what takes effect in `effects`, a list of seqnos, unless it is to fail.
local function user(effects)
  local self = { failing = false }
  function self.apply(seqno, shard)
    if self.failing then
      self.failing = false
      return nil, "no room", "FULL"
    end
    if shard == 0 then
      effects[#effects + 1] = seqno
    end
    return true
  end
  return self
end

-- ---- a state file ----

local function state_subject(with_flush, in_memory)
  local path, state, effects = sandbox.tempdir() .. "/state", nil, {}
  local one = user(effects)
  return {
    in_memory = in_memory,
    open = function()
      if state then
        state:close()
      end
      state = in_memory and ReplicationState.new(SHARDS) or assert(ReplicationState.open(path, SHARDS))
      for i = #effects, state:applied_seqno(0) + 1, -1 do
        effects[i] = nil -- what comes again replaces it
      end
      return StateTarget.new {
        state = state,
        flush = with_flush and function()
          return true
        end or nil,
        apply = function(batch)
          for seqno in batch:records() do
            local ok, message, code = one.apply(seqno, batch.shard)
            if not ok then
              return nil, message, code
            end
          end
          return true
        end,
      }
    end,
    effects = function()
      return table.concat(effects, " ")
    end,
    fail = function()
      one.failing = true
    end,
    close = function()
      if state then
        state:close()
      end
    end,
  }
end

-- ---- a database ----

local function database_subject()
  local path, db = sandbox.tempdir() .. "/db", nil
  local one = user {}
  return {
    open = function()
      if db then
        db:close()
      end
      db = assert(FollowerDb.open(path, SHARDS))
      assert(db:exec "CREATE TABLE IF NOT EXISTS effect (seqno INTEGER, record)")
      return db:target(function(given, record, seqno)
        local ok, message, code = one.apply(seqno)
        if not ok then
          return nil, message, code
        end
        return given:exec("INSERT INTO effect VALUES (?, ?)", seqno, record)
      end)
    end,
    effects = function()
      local list = {}
      for seqno in assert(db:rows "SELECT seqno FROM effect ORDER BY rowid") do
        list[#list + 1] = seqno
      end
      return table.concat(list, " ")
    end,
    fail = function()
      one.failing = true
    end,
    close = function()
      db:close()
    end,
  }
end

-- ---- a fake: one that keeps all in memory over its restarts ----

-- `break_it(target, disk)` changes the target that was made.
local function fake_subject(break_it)
  local disk = { effects = {}, marks = { [0] = 0, [1] = 0 }, epochs = { [0] = {}, [1] = {} } }
  local one = user(disk.effects)
  return {
    open = function()
      local state = ReplicationState.new(SHARDS)
      state:advance_all(disk.marks)
      local target = {}
      function target.state()
        return state
      end
      function target.log_id()
        return disk.log_id
      end
      function target.epoch(_, shard, seqno)
        return seqno == 0 and 0 or disk.epochs[shard][seqno]
      end
      function target.apply(_, batch)
        local ok, message, code = one.apply(batch.first_seqno, batch.shard)
        if not ok then
          return nil, message, code
        end
        for seqno in batch:records() do
          if seqno > batch.first_seqno and batch.shard == 0 then
            table.insert(disk.effects, seqno)
          end
          disk.epochs[batch.shard][seqno] = batch.epoch
        end
        disk.marks[batch.shard], disk.log_id = batch.last_seqno, batch.log_id
        return true
      end
      if break_it then
        break_it(target, disk)
      end
      return target
    end,
    effects = function()
      return table.concat(disk.effects, " ")
    end,
    fail = function()
      one.failing = true
    end,
    close = function() end,
  }
end

local function run(check, subject)
  local ok, message = pcall(check.run, subject)
  subject.close()
  return ok, message
end

local SUBJECTS = {
  ["a state file"] = state_subject,
  ["a state file with a flush"] = function()
    return state_subject(true)
  end,
  ["a state in memory"] = function()
    return state_subject(false, true)
  end,
  ["a FollowerDb"] = has_sqlite and database_subject or nil,
  ["a fake"] = fake_subject,
}

for name, make in pairs(SUBJECTS) do
  describe("the target " .. name, function()
    teardown(sandbox.cleanup)
    for _, check in ipairs(contract.checks) do
      it(check.name, function()
        local ok, message = run(check, make())
        if not ok then
          error(message, 0)
        end
      end)
    end
  end)
end

-- ---- targets that break it ----

local BROKEN = {
  ["forgets epochs over a restart"] = function(_, disk)
    disk.epochs = { [0] = {}, [1] = {} }
  end,
  ["forgets its log over a restart"] = function(_, disk)
    disk.log_id = nil
  end,
  ["knows no epoch of seqno 0"] = function(target)
    local epoch = target.epoch
    function target.epoch(self, shard, seqno)
      return seqno > 0 and epoch(self, shard, seqno) or nil
    end
  end,
  ["knows epochs above what it has"] = function(target)
    local epoch = target.epoch
    function target.epoch(self, shard, seqno)
      return epoch(self, shard, seqno) or 9
    end
  end,
  ["gives the newest epoch for all records"] = function(target, disk)
    function target.epoch(_, shard, seqno)
      return seqno == 0 and 0 or seqno <= #disk.epochs[shard] and disk.epochs[shard][#disk.epochs[shard]] or nil
    end
  end,
  ["moves the mark before the effect"] = function(target, disk)
    function target.apply(_, batch)
      disk.marks[batch.shard], disk.log_id = batch.last_seqno, batch.log_id
      for seqno in batch:records() do
        disk.epochs[batch.shard][seqno] = batch.epoch
      end
      return true
    end
  end,
  ["notes the epoch after the mark has moved"] = function(target, disk)
    local apply, shown = target.apply, disk.epochs
    disk.epochs = { [0] = table.move(shown[0], 1, disk.noted or 0, 1, {}), [1] = {} }
    function target.apply(self, batch)
      disk.noted = batch.first_seqno - 1
      return apply(self, batch)
    end
  end,
  ["says true where it failed"] = function(target)
    local apply = target.apply
    function target.apply(self, batch)
      apply(self, batch)
      return true
    end
  end,
  ["says nothing where it failed"] = function(target)
    local apply = target.apply
    function target.apply(self, batch)
      return apply(self, batch) or nil
    end
  end,
  ["lets no noted epoch give way to a lower one"] = function(target)
    local apply, newest = target.apply, 0
    function target.apply(self, batch)
      if batch.epoch < newest then
        return nil, "an old leader", "FENCED"
      end
      newest = batch.epoch
      return apply(self, batch)
    end
  end,
  ["has one epoch for all shards"] = function(target, disk)
    function target.epoch(_, _, seqno)
      return seqno == 0 and 0 or disk.epochs[1][seqno] or disk.epochs[0][seqno]
    end
  end,
}

describe("the contract of a target", function()
  for name, break_it in pairs(BROKEN) do
    it("is failed by one that " .. name, function()
      local failed = 0
      for _, check in ipairs(contract.checks) do
        failed = failed + (run(check, fake_subject(break_it)) and 0 or 1)
      end
      assert.is_true(failed > 0, "it passes every check")
    end)
  end
end)
