--- ReplicationState in memory as a Lua program sees it: its results, and a model. Argument checks, garbage, checkpoint bytes, files and
--- threads have specs of their own.

local ReplicationState = require "tidemark.replication_state"

local MAX = math.maxinteger

local function all_shards()
  local shards = {}
  for shard = 0, 65535 do
    shards[#shards + 1] = shard
  end
  return shards
end

-- Runs `code` with these globals and gives its results. It is a chunk of one line, so messages begin with "x:1: ".
local function run(code, globals)
  return assert(load(code, "=x", "t", globals))()
end

describe("ReplicationState", function()
  local state

  before_each(function()
    state = ReplicationState.new { 7, 0, 65535, 0 }
  end)

  describe("makes a state", function()
    it("that tracks each shard once, every mark 0", function()
      assert.same({ [0] = 0, [7] = 0, [65535] = 0 }, state:snapshot())
      assert.same({ 0, 7, 65535 }, state:shards())
      assert.equal(3, #state)
    end)

    it("without shards", function()
      local empty = ReplicationState.new {}
      assert.equal(0, #empty)
      assert.same({}, empty:shards())
      assert.same({}, empty:snapshot())
      assert.is_nil(empty:applied_seqno(0))
      assert.equal(0, empty:advance_all {})
      assert.equal("{}", empty:to_checkpoint_bytes())
      assert.equal(0, #empty:clone())
      for shard in pairs(empty) do
        error("a shard: " .. shard)
      end
    end)

    it("of shard 0 alone", function()
      assert.same({ [0] = 0 }, ReplicationState.single():snapshot())
    end)

    it("of all 65,536 shards, in any order", function()
      local shards = all_shards()
      for i = 1, #shards // 2 do
        shards[i], shards[#shards + 1 - i] = shards[#shards + 1 - i], shards[i]
      end
      local full = ReplicationState.new(shards)
      assert.equal(65536, #full)
      for shard = 0, 65535 do
        assert(full:advance(shard, shard + 1) == true)
      end
      local expected = 0
      for shard, mark in pairs(full) do
        assert(shard == expected and mark == shard + 1)
        expected = expected + 1
      end
      assert.equal(65536, expected)
    end)

    it("whose untracked neighbours stay unknown", function()
      for shard = 0, 65535 do
        local tracked = shard == 0 or shard == 7 or shard == 65535
        assert(state:applied_seqno(shard) == (tracked and 0 or nil))
      end
    end)
  end)

  describe("a mark", function()
    it("moves up only", function()
      assert.is_true(state:advance(7, 42))
      assert.is_false(state:advance(7, 42))
      assert.is_false(state:advance(7, 41))
      assert.is_false(state:advance(7, 0))
      assert.equal(42, state:applied_seqno(7))
      assert.is_true(state:advance(7, 43))
      assert.equal(43, state:applied_seqno(7))
      assert.equal(0, state:applied_seqno(0))
      assert.is_false(state:advance(0, 0))
    end)

    it("is exact over the whole range, and an integer", function()
      for _, seqno in ipairs { 1, 2 ^ 31 | 0, 2 ^ 32 | 0, (2 ^ 53 | 0) + 1, MAX - 1, MAX } do
        assert.is_true(state:advance(0, seqno))
        assert.equal(seqno, state:applied_seqno(0))
        assert.equal("integer", math.type(state:applied_seqno(0)))
      end
      assert.is_false(state:advance(0, MAX))
    end)

    it("takes what Lua takes for an integer", function()
      assert.is_true(state:advance(7.0, 5.0))
      assert.is_true(state:advance("7", "6"))
      assert.is_true(state:advance(7, " 0x10 "))
      assert.equal(16, state:applied_seqno("7"))
    end)

    it("of an unknown shard is told", function()
      for _, shard in ipairs { 1, 6, 8, 65534 } do
        assert.same({ nil, ("shard %d is not tracked"):format(shard), "UNKNOWN_SHARD" }, { state:advance(shard, 1) })
        assert.same({ nil, ("shard %d is not tracked"):format(shard), "UNKNOWN_SHARD" }, { state:bind(shard) })
        assert.is_nil(state:applied_seqno(shard))
      end
      assert.same({ [0] = 0, [7] = 0, [65535] = 0 }, state:snapshot())
    end)
  end)

  describe("advance_all", function()
    it("moves many and counts those that moved", function()
      state:advance(7, 10)
      assert.equal(2, state:advance_all { [0] = 5, [7] = 10, [65535] = MAX })
      assert.same({ [0] = 5, [7] = 10, [65535] = MAX }, state:snapshot())
      assert.equal(0, state:advance_all { [0] = 4 })
      assert.equal(0, state:advance_all {})
    end)

    it("moves nothing when one shard is unknown", function()
      assert.same({ nil, "shard 8 is not tracked", "UNKNOWN_SHARD" }, { state:advance_all { [0] = 5, [7] = 5, [8] = 5 } })
      assert.same({ [0] = 0, [7] = 0, [65535] = 0 }, state:snapshot())
    end)
  end)

  it("clones marks and shards, and the copies are independent", function()
    state:advance(7, 42)
    local clone = state:clone()
    state:advance(7, 50)
    clone:advance(0, 1)
    assert.same({ [0] = 1, [7] = 42, [65535] = 0 }, clone:snapshot())
    assert.same({ [0] = 0, [7] = 50, [65535] = 0 }, state:snapshot())
    state:close()
    assert.equal(42, clone:applied_seqno(7))
  end)

  it("gives a snapshot that later advances do not change", function()
    local snapshot = state:snapshot()
    state:advance(7, 1)
    snapshot[0] = 9
    assert.equal(0, snapshot[7])
    assert.equal(0, state:applied_seqno(0))
    assert.equal("integer", math.type(next(snapshot)))
  end)

  it("iterates in ascending order, with what it finds on the way", function()
    local seen = {}
    for shard, mark in pairs(state) do
      seen[#seen + 1] = ("%d=%d"):format(shard, mark)
      state:advance(65535, 3)
    end
    assert.equal("0=0 7=0 65535=3", table.concat(seen, " "))
  end)

  it("goes on after any id, tracked or not", function()
    local next_shard = pairs(state)
    for after, expected in pairs { [0] = 7, [1] = 7, [6] = 7, [7] = 65535, [8] = 65535, [65534] = 65535 } do
      assert.equal(expected, (next_shard(state, after)))
    end
    assert.is_nil(next_shard(state, 65535))
  end)

  it("tells what it is", function()
    assert.equal("ReplicationState(3 shards)", tostring(state))
    assert.equal("ReplicationState(1 shard)", tostring(ReplicationState.single()))
    assert.equal("ReplicationState(0 shards)", tostring(ReplicationState.new {}))
    state:close()
    assert.equal("ReplicationState(closed)", tostring(state))
  end)

  it("is equal to itself alone", function()
    assert.is_true(state == state) -- luacheck: ignore 571
    assert.is_false(state == state:clone())
    assert.is_false(state == 7)
    assert.is_false(state == io.stdout)
    assert.is_false(io.stdout == state)
    local first, second = ReplicationState.single(), ReplicationState.single()
    first:close()
    second:close()
    assert.is_false(first == second)
  end)

  it("is one class by both names", function()
    assert.equal(ReplicationState, require("tidemark").ReplicationState)
    assert.equal(ReplicationState, require("tidemark.core").ReplicationState)
  end)

  it("has no file in memory", function()
    assert.same({ nil, "a state in memory has no file to checkpoint to", "UNSUPPORTED" }, { state:checkpoint() })
    assert.same({ nil, "a state in memory has no file to checkpoint to", "UNSUPPORTED" }, { state:checkpoint { [7] = "x" } })
    assert.same({ nil, "a state in memory has no checkpoint and no notes", "UNSUPPORTED" }, { state:note(7) })
  end)

  describe("bind", function()
    it("gives two closures for one shard", function()
      local advance, applied = state:bind(7)
      assert.is_true(advance(5))
      assert.is_false(advance(5))
      assert.equal(5, applied())
      assert.equal(5, state:applied_seqno(7))
      state:advance(7, 9)
      assert.equal(9, applied())
      assert.equal(0, state:applied_seqno(0))
    end)

    it("outlives its state", function()
      local advance, applied = state:bind(7)
      state:close()
      state = nil
      collectgarbage()
      collectgarbage()
      assert.is_true(advance(5))
      advance = nil -- luacheck: ignore 311
      collectgarbage()
      assert.equal(5, applied())
    end)
  end)

  describe("close", function()
    it("may come twice, later use raises", function()
      state:close()
      state:close()
      local uses = {
        "_ = state:applied_seqno(0)",
        "_ = state:advance(0, 1)",
        "_ = state:advance_all {}",
        "_ = state:clone()",
        "_ = state:snapshot()",
        "_ = state:shards()",
        "_ = state:to_checkpoint_bytes()",
        "_ = state:checkpoint()",
        "_ = state:checkpoint {[0] = 'x'}",
        "_ = state:note(0)",
        "_ = state:bind(0)",
      }
      for _, use in ipairs(uses) do
        local ok, message = pcall(run, use, { state = state })
        local expected = ("x:1: calling '%s' on bad self (closed ReplicationState)"):format(use:match ":([%w_]+)")
        assert.same({ use, false, expected }, { use, ok, message })
      end
      for _, use in ipairs { "_ = #state", "for _ in pairs(state) do end" } do
        local ok, message = pcall(run, use, { state = state, pairs = pairs })
        assert.is_false(ok)
        assert.truthy(message:find("closed ReplicationState", 1, true), message)
      end
    end)

    it("in the middle of pairs raises", function()
      assert.has_error(function()
        for _ in pairs(state) do
          state:close()
        end
      end)
    end)

    if _VERSION ~= "Lua 5.3" then
      it("comes at the end of a block", function()
        local result = run("do local s <close> = state; s:advance(7, 1) end return tostring(state)", { state = state, tostring = tostring })
        assert.equal("ReplicationState(closed)", result)
      end)
    end
  end)

  it("agrees with a model over 100,000 random steps", function()
    local seed = math.tointeger(os.getenv "TIDEMARK_SEED") or os.time()
    math.randomseed(seed)
    local shards = { 0, 1, 2, 63, 64, 65, 127, 128, 4095, 65534, 65535 }
    local model = {}
    for _, shard in ipairs(shards) do
      model[shard] = 0
    end
    local subject = ReplicationState.new(shards)

    local function random_shard()
      return math.random(20) == 1 and math.random(0, 65535) or shards[math.random(#shards)]
    end

    -- mostly about where the mark stands, at times a leap
    local function random_seqno(shard)
      local mark = model[shard] or 0
      if math.random(2000) == 1 then
        return math.random(0, MAX)
      end
      local seqno = mark + math.random(-3, 5)
      return (seqno < 0 and mark < 8) and 0 or seqno < 0 and MAX or seqno
    end

    local function advance_model(shard, seqno)
      local moved = seqno > model[shard]
      if moved then
        model[shard] = seqno
      end
      return moved
    end

    local steps = {}
    function steps.advance()
      local shard = random_shard()
      local seqno = random_seqno(shard)
      local moved, _, code = subject:advance(shard, seqno)
      if model[shard] then
        assert(moved == advance_model(shard, seqno))
      else
        assert(moved == nil and code == "UNKNOWN_SHARD")
      end
    end
    function steps.applied()
      local shard = random_shard()
      assert(subject:applied_seqno(shard) == model[shard])
    end
    function steps.bind()
      local shard = random_shard()
      local advance, applied = subject:bind(shard)
      if model[shard] then
        local seqno = random_seqno(shard)
        assert(advance(seqno) == advance_model(shard, seqno))
        assert(applied() == model[shard])
      else
        assert(advance == nil)
      end
    end
    function steps.advance_all()
      local marks, known, expected = {}, true, 0
      for _ = 1, math.random(0, 6) do
        local shard = random_shard()
        marks[shard] = random_seqno(shard)
        known = known and model[shard] ~= nil
      end
      local moved = subject:advance_all(marks)
      if not known then
        assert(moved == nil)
        return
      end
      for shard, seqno in pairs(marks) do
        expected = expected + (advance_model(shard, seqno) and 1 or 0)
      end
      assert(moved == expected)
    end
    function steps.replace()
      local old = subject
      if math.random(2) == 1 then
        subject = old:clone()
      else
        subject = assert(ReplicationState.from_checkpoint_bytes(old:to_checkpoint_bytes(), shards))
      end
      old:advance(shards[1], MAX)
      old:close()
    end
    function steps.compare()
      local snapshot, count = subject:snapshot(), 0
      for shard, mark in pairs(subject) do
        count = count + 1
        assert(shards[count] == shard and model[shard] == mark and snapshot[shard] == mark)
      end
      assert(count == #shards and #subject == count)
    end
    local names = { "replace", "compare" } -- rarer than the others
    for _, name in ipairs { "advance", "advance", "applied", "bind", "advance_all" } do
      for _ = 1, 6 do
        names[#names + 1] = name
      end
    end

    for step = 1, 100000 do
      local name = names[math.random(#names)]
      local ok, message = xpcall(steps[name], debug.traceback)
      if not ok then
        error(("TIDEMARK_SEED=%d, step %d, %s: %s"):format(seed, step, name, message))
      end
    end
  end)
end)
