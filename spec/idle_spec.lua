--- Waiting for a log costs next to nothing: sleeps, descriptors; and it can be interrupted.

local Batch = require "tidemark.batch"
local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local log = require "spec.support.log"
local sandbox = require "spec.support.sandbox"

local directory

before_each(function()
  directory = log.new()
end)

after_each(log.close)

teardown(sandbox.cleanup)

-- What each child does for a second. It prints how often it went to sleep meanwhile, by the kernel's count: a wait that polls, every
-- 5 ms or more often, is right in everything else. (Processor time would depend on what else the machine does.)
local WAITS = {
  ["state:wait_for"] = "assert(select(3, state:wait_for(0, 100, 1)) == 'TIMEOUT')",
  ["state:wait_any"] = "assert(select(3, state:wait_any({ [0] = 100, [3] = 100 }, 1)) == 'TIMEOUT')",
  ["wait_any of the heads"] = "assert(select(3, heads:wait_any({ [0] = 1, [3] = 1 }, 1)) == 'TIMEOUT')",
  ["reader:next"] = "assert(select(3, reader:next(1)) == 'TIMEOUT')",
  ["source:wait"] = "assert(source:wait({ [0] = 1, [3] = 1 }, 1) == false)",
  ["follower:step"] = "assert(follower:step(1) == 0)",
}

local CHILD = [[
  local directory, path, wait = ...
  local Wal = require "tidemark.wal"
  local state = assert(require("tidemark.replication_state").open(path, { 0, 3 }))
  local heads, source, reader = Wal.heads(directory), Wal.source(directory), Wal.reader(directory, 0, 1)
  local follower = assert(require("tidemark.follower").new {
    state = state, source = source, apply = function() return true end, checkpoint_seconds = 1000,
  })
  while follower:step(0) > 0 do end
  wait = assert(load("local state, heads, source, reader, follower = ...; " .. wait))
  collectgarbage()
  local function sleeps()
    for line in io.lines "/proc/self/status" do
      local count = line:match "^voluntary_ctxt_switches:%s*(%d+)"
      if count then return math.tointeger(tonumber(count)) end
    end
  end
  local clock = require("tidemark.core").clock
  local began, before, used = clock.now(), sleeps(), os.clock()
  wait(state, heads, source, reader, follower)
  local count = sleeps() - before
  assert(clock.now() - began >= 1 and os.clock() - used < 0.25) -- nor does it compute
  print(count)
]]

describe("a wait of a second", function()
  it("is no more than a few sleeps", function()
    local wal = assert(log.open { shards = { 0, 3 } })
    wal:append(0, { "a" })
    wal:append(3, { "b" })
    local children = {}
    for name, wait in pairs(WAITS) do
      children[name] = sandbox.start(CHILD, directory, ("%s.%s"):format(directory, name:gsub("%W", "_")), wait)
    end
    for name, child in pairs(children) do
      local sleeps = child:read_line()
      assert.is_true(child:wait())
      assert.truthy(tonumber(sleeps) < 60, ("%s: %s sleeps"):format(name, sleeps))
    end
  end)
end)

-- A log of so many shards with a record each, made without a writer: one syncs each segment that it makes.
local function make_log(shards)
  local marks = {}
  assert(os.execute(("mkdir '%s'"):format(directory)))
  for _, shard in ipairs(shards) do
    local batch = Batch.encode { shard = shard, epoch = 1, prev_epoch = 0, first_seqno = 1, log_id = 7, records = { "r" .. shard } }
    log.write(log.segment_name(shard, 1), batch:bytes())
    marks[shard] = 1
  end
  local heads = assert(ReplicationState.open(directory .. "/heads", shards))
  heads:advance_all(marks)
  assert(heads:checkpoint { [shards[1]] = ("<c4BBI2I4I4i8i8I4"):pack("TMLG", 2, 0, 0, 7, 0, 1, 1, 0) })
  heads:close()
end

describe("a follower of 800 shards", function()
  it("works with 1024 descriptors", function()
    local shards = {}
    for shard = 0, 799 do
      shards[#shards + 1] = shard
    end
    make_log(shards)
    local child = sandbox.spawn { "sh", "-c", [[ulimit -n 1024; exec "$@"]], "sh", table.unpack(sandbox.command([[
      local directory = ...
      local ReplicationState = require "tidemark.replication_state"
      local source = assert(require("tidemark.wal").source(directory))
      local applied = 0
      local follower = assert(require("tidemark.follower").new {
        state = assert(ReplicationState.open(directory .. ".state", source:shards())), source = source, checkpoint_every = 100000,
        apply = function(batch)
          applied = applied + #batch
          return true
        end,
      })
      io.stdout:setvbuf "line"
      while applied < 800 do assert(follower:step(10)) end
      local descriptors = -1 -- that of ls itself
      for _ in io.popen("ls /proc/$PPID/fd"):lines() do descriptors = descriptors + 1 end
      print(applied, descriptors)
      while applied < 801 do assert(follower:step(10)) end
      for shard, status in pairs(follower:status()) do
        assert(status.state == "live" and status.lag == 0, shard)
      end
      follower:stop()
      print(applied)
    ]], directory)) }
    local applied, descriptors = child:read_line():match "^(%d+)\t(%d+)$"
    assert.equal("800", applied)
    assert.truthy(tonumber(descriptors) < 830, descriptors)
    local wal = assert(log.open())
    wal:append(500, { "one more" })
    assert.equal("801", child:read_line())
    assert.is_true(child:wait())
  end)
end)

describe("an interrupt of the source", function()
  it("ends the follower's step, which goes on", function()
    local wal = assert(log.open { shards = { 0 } })
    local source = log.keep(assert(Wal.source(directory)))
    local follower = log.keep(assert(Follower.new {
      state = ReplicationState.single(),
      source = source,
      apply = function()
        return true
      end,
    }))
    source:interrupt()
    assert.equal(0, follower:step(100000))
    source:interrupt()
    wal:append(0, { "a" })
    assert.equal(1, follower:step(100000)) -- what is there counts more
    assert.equal(0, follower:step(100000))
    assert.same({ "live", 1 }, { follower:status()[0].state, follower:status()[0].applied })
  end)
end)
