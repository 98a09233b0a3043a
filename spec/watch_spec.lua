--- Watches as a Lua program sees them, also in luv's and cqueues' loops. More in C: spec/c/watch*.c; the model: models_spec.

local ReplicationState = require "tidemark.replication_state"
local cqueues = require "cqueues"
local sandbox = require "spec.support.sandbox"
local uv = require "luv"

-- Whether a descriptor is readable now.
local function readable(fd)
  local found = false
  local poll = assert(uv.new_poll(fd))
  poll:start("r", function(failure, events)
    found = not failure and events == "r"
  end)
  uv.run "nowait"
  poll:stop()
  poll:close()
  uv.run "nowait"
  return found
end

describe("a watch", function()
  local state

  before_each(function()
    state = ReplicationState.new { 0, 7 }
    state:advance(7, 42)
  end)

  after_each(function()
    state:close()
  end)

  teardown(sandbox.cleanup)

  it("is ready and readable once the mark is there, and then for ever", function()
    for _, seqno in ipairs { 0, 1, 42, 42.0 } do
      local watch = state:watch(7, seqno)
      assert.is_true(watch:ready())
      assert.is_true(readable(watch:fd()))
      watch:close()
    end
    for _, seqno in ipairs { 43, 44, 100, 1 << 32, (1 << 33) + 1, math.maxinteger } do
      local watch = state:watch(7, seqno)
      local fd = watch:fd()
      assert.equal("integer", math.type(fd))
      state:advance(7, seqno - 1)
      assert.is_false(watch:ready())
      assert.is_false(readable(fd))
      state:advance(7, seqno)
      for _ = 1, 2 do
        assert.is_true(watch:ready())
        assert.is_true(readable(fd))
        assert.equal(fd, watch:fd())
      end
      watch:close()
    end
  end)

  it("is made readable by every way to advance", function()
    local advance = state:bind(7)
    local ways = {
      function(seqno)
        return state:advance(7, seqno)
      end,
      function(seqno)
        return advance(seqno)
      end,
      function(seqno)
        return state:advance_all { [7] = seqno } == 1
      end,
    }
    for i, way in ipairs(ways) do
      local watch = state:watch(7, 42 + i)
      local fd = watch:fd()
      assert.is_false(readable(fd))
      assert.is_true(way(42 + i))
      assert.is_true(readable(fd))
      watch:close()
    end
  end)

  it("outlives the handle of the state", function()
    local advance = state:bind(7)
    local watch = state:watch(7, 43)
    local fd = watch:fd()
    state:close()
    assert.is_false(watch:ready() or readable(fd))
    assert.is_true(advance(43))
    assert.is_true(watch:ready() and readable(fd))
    watch:close()
  end)

  it("closes once, and is then of no use", function()
    local watch = state:watch(7, 43)
    assert.equal("Watch(shard 7, seqno 43)", tostring(watch))
    assert.equal("Watch(shard 0, seqno 9223372036854775807)", tostring(state:watch(0, math.maxinteger)))
    assert.equal(0, select("#", watch:close()))
    watch:close()
    assert.equal("Watch(closed)", tostring(watch))
    for _, name in ipairs { "ready", "fd" } do
      local ok, message = pcall(watch[name], watch)
      assert.is_false(ok)
      assert.truthy(message:find("closed Watch", 1, true), message)
    end
    if _VERSION ~= "Lua 5.3" then
      local closed = load "local watch <close> = ...; watch:fd(); return watch"(state:watch(7, 43))
      assert.equal("Watch(closed)", tostring(closed))
    end
  end)

  it("leaves no descriptor when it is collected", function()
    collectgarbage()
    local before = state:watch(0, 1)
    local lowest = before:fd()
    before:close()
    for _ = 1, 3 do
      for _ = 1, 100 do
        assert(state:watch(0, 1):fd())
      end
      collectgarbage()
      collectgarbage()
    end
    local after = state:watch(0, 1)
    assert.equal(lowest, after:fd())
    after:close()
    assert.is_true(state:advance(0, 1))
  end)

  it("knows the shards of the state only, and what a seqno is", function()
    local result, message, code = state:watch(8, 1)
    assert.same({ "nil", "shard 8 is not tracked", "UNKNOWN_SHARD" }, { tostring(result), message, code })
    for _, case in ipairs {
      { "shard id out of range", -1, 1 },
      { "seqno out of range", 7, -1 },
      { "number expected", 7 },
      { "no integer representation", 7, 1.5 },
    } do
      local ok, error_message = pcall(state.watch, state, table.unpack(case, 2))
      assert.is_false(ok)
      assert.truthy(error_message:find(case[1], 1, true), error_message)
    end
    state:close()
    local ok, closed = pcall(state.watch, state, 7, 1)
    assert.is_false(ok)
    assert.truthy(closed:find("closed ReplicationState", 1, true), closed)
  end)

  it("of a state with files has no descriptor, and is ready by another process too", function()
    local path = sandbox.tempdir() .. "/state"
    local file = assert(ReplicationState.open(path, { 0 }))
    local reader = assert(ReplicationState.open(path, nil, { readonly = true }))
    local watches = { file:watch(0, 5), reader:watch(0, 5) }
    for _, watch in ipairs(watches) do
      local fd, message, code = watch:fd()
      assert.is_nil(fd)
      assert.equal("UNSUPPORTED", code)
      assert.truthy(message:find("shard 0", 1, true))
      assert.is_false(watch:ready())
    end
    local ok, output = sandbox.lua([[assert(require("tidemark.replication_state").open(..., {}):advance(0, 5))]], path)
    assert.is_true(ok, output)
    for _, watch in ipairs(watches) do
      assert.is_true(watch:ready())
      watch:close()
    end
    reader:close()
    file:close()
  end)

  it("wakes a cqueues loop that has no time-out", function()
    local loop, seen = cqueues.new(), {}
    for seqno = 45, 43, -1 do
      loop:wrap(function()
        local watch = state:watch(7, seqno)
        cqueues.poll { pollfd = watch:fd(), events = "r" }
        seen[#seen + 1] = { seqno, state:applied_seqno(7), watch:ready() }
        loop:cancel(watch:fd())
        watch:close()
      end)
    end
    loop:wrap(function()
      for seqno = 43, 45 do
        cqueues.sleep(0.005)
        state:advance(7, seqno)
      end
    end)
    assert(loop:loop())
    table.sort(seen, function(one, other)
      return one[1] < other[1]
    end)
    for i, event in ipairs(seen) do
      assert.equal(42 + i, event[1])
      assert.is_true(event[2] >= event[1] and event[3])
    end
    assert.equal(3, #seen)
  end)
end)
