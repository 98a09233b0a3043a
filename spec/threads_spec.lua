--- OS threads with a lua_State each that open one path: luv's and cqueues'. Marks are exact maxima and never seen to decrease.

local ReplicationState = require "tidemark.replication_state"
local cqueues_thread = require "cqueues.thread"
local sandbox = require "spec.support.sandbox"
local uv = require "luv"

-- What each thread does. Its arguments are strings (luv turns integers into floats), its result is a file (an error that leaves a
-- luv thread ends the process): "done", or what went wrong.
local WORK = [[
  local path, own, steps = ...
  own, steps = math.tointeger(tonumber(own)), math.tointeger(tonumber(steps))

  local function work()
    local state = assert(require("tidemark.replication_state").open(path, {0, 1, 2, 3, 9, 10 + own}))
    local advance, applied = state:bind(9)
    local seen = {}
    for step = 1, steps do
      -- one shard for all, with seqnos that every thread tries; neighbours of its own
      advance(step)
      state:advance(own, step)
      state:advance_all {[10 + own] = step, [9] = step - 1}
      for shard, mark in pairs(state) do
        if mark < (seen[shard] or 0) then error(("shard %d fell from %d to %d"):format(shard, seen[shard], mark)) end
        seen[shard] = mark
      end
      if applied() < step or state:applied_seqno(own) ~= step then error("a mark is not what was set") end
      if step % (steps // 4) == 0 then assert(state:checkpoint {[own] = "step " .. step}) end
    end
    state:close()
    if advance(0) ~= false then error "a bound closure is dead" end
  end

  local ok, message = pcall(work)
  local file = assert(io.open(path .. ".thread" .. own, "w"))
  file:write(ok and "done" or tostring(message))
  file:close()
]]

local STEPS = 4000

describe("four threads on one path", function()
  local path, state

  before_each(function()
    path = sandbox.tempdir() .. "/state"
    state = assert(ReplicationState.open(path, { 0 }))
  end)

  after_each(function()
    state:close()
  end)

  teardown(sandbox.cleanup)

  local function check()
    for own = 0, 3 do
      local file = assert(io.open(path .. ".thread" .. own))
      assert.equal("done", file:read "a")
      file:close()
    end
    local expected = { [0] = STEPS, STEPS, STEPS, STEPS, [9] = STEPS, [10] = STEPS, [11] = STEPS, [12] = STEPS, [13] = STEPS }
    assert.same(expected, state:snapshot())
    for own = 0, 3 do
      assert.equal("step " .. STEPS, state:note(own))
    end
    state:close()
    assert(os.remove(path .. ".live")) -- the last checkpoints, too, had the maxima of their moment
    state = assert(ReplicationState.open(path, {}))
    for own = 0, 3 do
      assert.equal(STEPS, state:applied_seqno(own))
    end
    assert.equal(STEPS, state:applied_seqno(9))
  end

  it("by luv", function()
    local threads = {}
    local entry = assert(load(WORK))
    for own = 0, 3 do
      threads[#threads + 1] = assert(uv.new_thread(entry, path, tostring(own), tostring(STEPS)))
    end
    for _, thread in ipairs(threads) do
      assert(thread:join())
    end
    check()
  end)

  it("by cqueues", function()
    local threads = {}
    for own = 0, 3 do
      threads[#threads + 1] = assert(cqueues_thread.start(function(_, source, ...)
        load(source)(...)
      end, WORK, path, tostring(own), tostring(STEPS)))
    end
    for _, thread in ipairs(threads) do
      assert(thread:join())
    end
    check()
  end)
end)
