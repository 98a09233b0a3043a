--- ReplicationState and Lua's collector: finalizers that interfere, and the memory that dropped states take.

local ReplicationState = require "tidemark.replication_state"
local sandbox = require "spec.support.sandbox"

local function all_shards()
  local shards = {}
  for shard = 0, 65535 do
    shards[#shards + 1] = shard
  end
  return shards
end

-- The collector may run at every allocation, and a finalizer may do anything. In a child, for what is wrong here is a crash.
describe("a finalizer", function()
  -- `during(finalizer, f, ...)` is pcall(f, ...), and the first allocation in it runs the finalizer
  local PRELUDE = [[
    local ReplicationState = require "tidemark.replication_state"
    local shards = {}
    for shard = 0, 65535 do shards[#shards + 1] = shard end
    if _VERSION == "Lua 5.3" then collectgarbage("setstepmul", 1 << 30) else collectgarbage("incremental", 100, 1000, 40) end
    local ran
    local function during(finalizer, f, ...)
      collectgarbage()
      collectgarbage "stop"
      ran = false
      do setmetatable({}, {__gc = function() ran = true; finalizer() end}) end
      collectgarbage "restart"
      return pcall(f, ...)
    end
  ]]

  local function child(script)
    local ok, output, how, code = sandbox.lua(PRELUDE .. script)
    assert.same({ true, "exit", 0, "" }, { ok, how, code, output })
  end

  teardown(sandbox.cleanup)

  it("that closes the state in the middle of a method makes it raise", function()
    child [[
      local arguments = { bind = 7, advance_all = {[7] = 1}, checkpoint = {[7] = "note"} }
      for _, name in ipairs {"snapshot", "shards", "clone", "to_checkpoint_bytes", "bind", "advance_all", "checkpoint"} do
        local state = ReplicationState.new(shards)
        local function close() state:close() end
        local ok, message = during(close, state[name], state, arguments[name])
        assert(ran, name)
        assert(not ok and message:find("closed ReplicationState", 1, true), name .. ": " .. tostring(message))
      end
    ]]
  end)

  it("that adds to the table of advance_all or checkpoint makes it raise", function()
    child [[
      for name, value in pairs {advance_all = 1, checkpoint = "note"} do
        local state = ReplicationState.new(shards)
        local t = {}
        for shard = 0, 99 do t[shard] = value end
        local function grow() for shard = 0, 65535 do t[shard] = value end end
        local ok, message = during(grow, state[name], state, t)
        assert(ran)
        assert(not ok and message:find("the table grew while it was read", 1, true), tostring(message))
        assert(state:applied_seqno(0) == 0)
      end
    ]]
  end)

  it("that takes from the table of new or advance_all leaves a whole answer", function()
    child [[
      local function shrink() for i = 2, #shards do shards[i] = nil end end
      local ok, message = during(shrink, ReplicationState.new, shards)
      assert(ran and not ok and message:find("array of shard ids", 1, true), tostring(message))
      local marks = {[0] = 1, [1] = 1, [2] = 1}
      local state = ReplicationState.new {0, 1, 2}
      local _, moved = during(function() marks[1] = nil end, state.advance_all, state, marks)
      assert(ran and moved == 2 and state:applied_seqno(1) == 0)
    ]]
  end)

  it("that runs after that of a bound closure finds it closed", function()
    child [[
      local results = {}
      local function finalize(holder)
        results[1], results[2] = pcall(holder.advance, 5)
        results[3], results[4] = pcall(holder.applied)
      end
      local function make()
        local holder = setmetatable({}, {__gc = finalize})   -- before the closures, so it is finalized after them
        local state = ReplicationState.new(shards)
        holder.advance, holder.applied = state:bind(7)
        state:close()
        return holder
      end
      make()
      collectgarbage()
      collectgarbage()
      assert(results[1] == false and results[2] == "closed ReplicationState", tostring(results[2]))
      assert(results[3] == false and results[4] == "closed ReplicationState", tostring(results[4]))
      kept = make()   -- and the same when the Lua state is closed
      os.exit(0, true)
    ]]
  end)
end)

describe("dropped states", function()
  -- AddressSanitizer keeps what was freed for a while, on purpose
  local sanitized = (os.getenv "TIDEMARK_CFLAGS" or ""):find("sanitize=address", 1, true)

  local function peak_kib(script)
    local ok, output = sandbox.lua([[
      local ReplicationState = require "tidemark.replication_state"
      local shards = {}
      for shard = 0, 65535 do shards[#shards + 1] = shard end
    ]] .. script .. [[
      for line in io.lines "/proc/self/status" do
        local kib = line:match "^VmHWM:%s*(%d+) kB"
        if kib then print(kib) end
      end
    ]])
    assert.is_true(ok, output)
    return math.tointeger(output)
  end

  teardown(sandbox.cleanup)

  if not sanitized then
    for name, script in pairs {
      ["100,000 small ones"] = "for _ = 1, 100000 do ReplicationState.new {0, 1, 1000} end",
      ["300 of 65,536 shards"] = "for _ = 1, 300 do ReplicationState.new(shards) end",
      ["300 clones"] = "local state = ReplicationState.new(shards) for _ = 1, 300 do state:clone() end",
      ["300 from bytes"] = "for _ = 1, 300 do ReplicationState.from_checkpoint_bytes('{}', shards) end",
      ["300 that were bound"] = "for _ = 1, 300 do ReplicationState.new(shards):bind(7) end",
    } do
      it("take less than 64 MiB: " .. name, function()
        local kib = peak_kib(script)
        assert(kib < 64 * 1024, kib)
      end)
    end
  end

  it("do not disturb a program that has stopped the collector", function()
    collectgarbage "stop"
    local collected = false
    do
      setmetatable({}, { __gc = function()
        collected = true
      end })
    end
    for _ = 1, 20 do
      ReplicationState.new(all_shards())
    end
    local before, running = collected, collectgarbage "isrunning"
    collectgarbage "restart"
    assert.is_false(before)
    assert.is_false(running)
  end)
end)
