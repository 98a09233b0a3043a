--- Waiting for marks as a Lua program sees it, across processes too. More in C: spec/c/wait_*.c; its model: models_spec.

local ReplicationState = require "tidemark.replication_state"
local clock = require("tidemark.core").clock
local sandbox = require "spec.support.sandbox"

-- The results of a wait that has failed.
local function failed(code, ...)
  local result, message, got = ...
  assert.is_nil(result)
  assert.equal("string", type(message))
  assert.equal(code, got)
  return message
end

describe("wait_for", function()
  local state

  before_each(function()
    state = ReplicationState.new { 0, 7 }
    state:advance(7, 42)
  end)

  after_each(function()
    state:close()
  end)

  it("is true at once for a mark that is there", function()
    for _, seqno in ipairs { 0, 1, 41, 42, 42.0 } do
      for _, timeout in ipairs { 0, 0.5, 1e300, math.huge } do
        assert.equal(1, select("#", state:wait_for(7, seqno, timeout)))
        assert.is_true(state:wait_for(7, seqno, timeout))
      end
      assert.is_true(state:wait_for(7, seqno))
      assert.is_true(state:wait_for(7, seqno, nil))
    end
  end)

  it("is over after its time, not before", function()
    for _, timeout in ipairs { 0, 0.03, 0.15, "0.01" } do
      local before = clock.now()
      assert.equal("shard 7: the mark did not come to 43 in time", failed("TIMEOUT", state:wait_for(7, 43, timeout)))
      local took = clock.now() - before
      assert.truthy(took >= tonumber(timeout) and took < 30, took)
    end
  end)

  it("knows the shards of the state only", function()
    assert.equal("shard 8 is not tracked", failed("UNKNOWN_SHARD", state:wait_for(8, 0)))
  end)

  it("ends by an interrupt, also by one that came before", function()
    assert.equal(0, select("#", state:interrupt()))
    assert.is_true(state:wait_for(7, 42))
    failed("TIMEOUT", state:wait_for(7, 43, 0)) -- does not sleep, so it leaves it
    failed("INTERRUPTED", state:wait_for(7, 43))
    failed("TIMEOUT", state:wait_for(7, 43, 0.01))
  end)

  it("raises on a closed state", function()
    state:close()
    for name, call in pairs { wait_for = { 7, 1 }, wait_any = { {} }, interrupt = {} } do
      local ok, message = pcall(state[name], state, table.unpack(call))
      assert.is_false(ok)
      assert.truthy(message:find("closed ReplicationState", 1, true), message)
    end
  end)
end)

describe("wait_any", function()
  local state

  before_each(function()
    state = ReplicationState.new { 0, 1, 65535 }
    state:advance_all { [1] = 5, [65535] = math.maxinteger }
  end)

  it("gives a shard whose mark is above", function()
    assert.equal(65535, state:wait_any { [0] = 0, [1] = 5, [65535] = math.maxinteger - 1 })
    assert.equal(1, state:wait_any({ [1] = 4 }, 0))
    state:advance(0, 1)
    assert.equal(0, state:wait_any { [0] = 0, [1] = 5 })
    assert.equal(1, select("#", state:wait_any { [0] = 0 }))
  end)

  it("is not content with a mark that stands there", function()
    failed("TIMEOUT", state:wait_any({ [0] = 0, [1] = 5, [65535] = math.maxinteger }, 0.02))
    failed("TIMEOUT", state:wait_any({}, 0.02))
    failed("UNKNOWN_SHARD", state:wait_any({ [0] = 0, [2] = 0 }, 0.02))
    state:interrupt()
    failed("TIMEOUT", state:wait_any({ [0] = 0 }, 0))
    failed("INTERRUPTED", state:wait_any { [0] = 0 })
    state:interrupt()
    failed("INTERRUPTED", state:wait_any {})
  end)
end)

-- Waits for the next mark of any shard again and again and writes it, until shard 0 stands at 1000.
local WATCH = [[
  local state = assert(require("tidemark.replication_state").open(..., {0, 1, 2}))
  local marks = {[0] = 0, [1] = 0, [2] = 0}
  print "ready"
  io.stdout:flush()
  while marks[0] < 1000 do
    local shard = assert(state:wait_any(marks))
    marks[shard] = state:applied_seqno(shard)
    print(shard, marks[shard])
    io.stdout:flush()
  end
  assert(state:wait_for(0, 1000))
]]

describe("between processes", function()
  local path, state, child

  before_each(function()
    path = sandbox.tempdir() .. "/state"
    state = assert(ReplicationState.open(path, { 0, 1, 2 }))
    child = sandbox.start(WATCH, path)
    assert.equal("ready", child:read_line())
  end)

  after_each(function()
    state:close()
  end)

  teardown(sandbox.cleanup)

  -- A 32-bit number in the live file, docs/formats.md.
  local function live(offset)
    local file = assert(io.open(path .. ".live", "rb"))
    file:seek("set", offset)
    local number = ("<I4"):unpack(file:read(4))
    file:close()
    return number
  end

  it("every way to advance wakes who waits", function()
    local advance = state:bind(1)
    local ways = {
      { 2, 7, function() return state:advance(2, 7) end },
      { 1, 8, function() return advance(8) end },
      { 0, 9, function() return state:advance_all { [0] = 9 } end },
      { 2, 1 << 33, function() return state:advance(2, 1 << 33) end },
    }
    for _, way in ipairs(ways) do
      while live(65536 + 64 * way[1] + 8) == 0 do -- the waiter's flag: without it nobody need be woken
        clock.sleep(0.001)
      end
      local event = live(128)
      assert.truthy(way[3]())
      assert.equal(event + 1, live(128)) -- or the waiter would sleep on until it looks again by itself
      assert.equal(("%d\t%d"):format(way[1], way[2]), child:read_line())
    end
    assert.is_true(state:advance(0, 1000))
    assert.equal("0\t1000", child:read_line())
    assert.is_true(child:wait())
  end)

  it("a waiter that was killed is in nobody's way", function()
    child:kill()
    child:wait()
    for seqno = 1, 1000 do
      assert.is_true(state:advance(0, seqno))
    end
    assert.is_true(state:wait_for(0, 1000))
    failed("TIMEOUT", state:wait_for(0, 1001, 0.01))
  end)

  it("a readonly state waits, too", function()
    local reader = assert(ReplicationState.open(path, nil, { readonly = true }))
    failed("TIMEOUT", reader:wait_for(0, 1000, 0.02))
    local writer = sandbox.start([[assert(require("tidemark.replication_state").open(..., {})):advance(0, 1000)]], path)
    assert.is_true(reader:wait_for(0, 1000))
    assert.is_true(writer:wait())
    assert.is_true(child:read_line() == "0\t1000" and child:wait())
    reader:close()
  end)
end)
