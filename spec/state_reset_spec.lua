--- state:reset as a Lua program sees it: where a shard can go back to, what becomes of a follower's note, and who is in the way. The faults
--- of disks and system calls are in spec/c/state_reset.c.

local ReplicationState = require "tidemark.replication_state"
local epochs = require "tidemark.epochs"
local fake = require "spec.support.fake_source"
local sandbox = require "spec.support.sandbox"

local LOG = 7

-- Records 1..10 are of epoch 1, 11..20 of epoch 2, all above of epoch 3.
local LIST = { { epoch = 1, first_seqno = 1 }, { epoch = 2, first_seqno = 11 }, { epoch = 3, first_seqno = 21 } }

-- The note with entries `from`..`to` of the list.
local function note_of(from, to)
  return epochs.encode(LOG, { table.unpack(LIST, from, to) })
end

describe("state:reset", function()
  local path, states

  local function open(shards, opts)
    local state, message, code = ReplicationState.open(path, shards or { 0, 3 }, opts)
    states[#states + 1] = state
    return state, message, code
  end

  -- Shard 0 at `mark` with that note, shard 3 at 9 with the note "three".
  local function prepare(mark, note)
    local state = assert(open())
    state:advance(0, mark)
    state:advance(3, 9)
    assert(state:checkpoint { [0] = note, [3] = "three" })
    return state
  end

  -- What the state says, and what an opening without the live file finds.
  local function assert_is(state, mark, note)
    for _ = 1, 2 do
      assert.same({ mark, 9, "three" }, { state:applied_seqno(0), state:applied_seqno(3), state:note(3) })
      assert.equal(note, state:note(0))
      state:close()
      assert(os.remove(path .. ".live"))
      state = assert(open())
    end
    return state
  end

  -- The call is refused with that code and a message that has these words, and nothing has changed.
  local function assert_refused(state, code, words, seqno)
    local mark, note = state:applied_seqno(0), state:note(0)
    local done, message, found = state:reset(0, seqno)
    assert.same({ nil, code }, { done, found })
    assert.truthy(message:find(words, 1, true), message)
    assert.equal(mark, state:applied_seqno(0))
    assert.equal(note, state:note(0))
  end

  before_each(function()
    path, states = sandbox.tempdir() .. "/state", {}
  end)

  after_each(function()
    for _, state in ipairs(states) do
      state:close()
    end
  end)

  teardown(sandbox.cleanup)

  it("goes back to a record of a known epoch and cuts the note to it", function()
    for seqno, count in pairs { [29] = 3, [21] = 3, [20] = 2, [11] = 2, [10] = 1, [1] = 1 } do
      local state = prepare(30, note_of(1, 3))
      assert.is_true(state:reset(0, seqno))
      state = assert_is(state, seqno, note_of(1, count))
      assert.is_true(state:advance(0, seqno + 1))
      state:close()
      assert(os.remove(path))
    end
  end)

  it("goes back again and again, also after a reset", function()
    local state = prepare(30, note_of(1, 3))
    for _, step in ipairs { { 25, 3 }, { 15, 2 }, { 12, 2 }, { 3, 1 } } do
      assert.is_true(state:reset(0, step[1]))
      assert.same({ step[1], note_of(1, step[2]) }, { state:applied_seqno(0), state:note(0) })
    end
    assert_is(state, 3, note_of(1, 1))
  end)

  it("drops an epoch of which nothing was applied", function()
    local state = prepare(20, note_of(1, 3))
    assert.is_true(state:reset(0, 19))
    assert_is(state, 19, note_of(1, 2))
  end)

  it("names the lowest seqno when the epoch is not known, and that one works", function()
    local state = prepare(30, note_of(2, 3))
    assert_refused(state, "NOT_FOUND", "shard 0: the epoch of record 10 is not known", 10)
    assert_refused(state, "NOT_FOUND", "the lowest seqno to which the shard can be reset is 11, or else 0", 1)
    assert.is_true(state:reset(0, 11))
    state = assert_is(state, 11, note_of(2, 2))
    assert.is_true(state:reset(0, 0))
    assert_is(state, 0, nil)
  end)

  it("says that only 0 is possible when nothing is known, and that works", function()
    local state = prepare(30, nil)
    assert_refused(state, "NOT_FOUND", "shard 0: the epoch of record 29 is not known: the shard can only be reset to 0", 29)
    assert.is_true(state:reset(0, 0))
    state = assert_is(state, 0, nil)
    state:close()
    os.remove(path)
    -- an epoch that begins above the mark says nothing of the records below
    state = prepare(15, note_of(3, 3))
    assert_refused(state, "NOT_FOUND", "can only be reset to 0", 14)
  end)

  it("goes back to 0 and forgets the log and its epochs", function()
    local state = prepare(30, note_of(1, 3))
    assert.is_true(state:reset(0, 0))
    state = assert_is(state, 0, nil)
    -- the shard was at 0 all the time, but had a log
    assert(state:checkpoint { [0] = note_of(1, 1) })
    assert.is_true(state:reset(0, 0))
    assert_is(state, 0, nil)
  end)

  it("to the mark changes nothing, whatever the note is", function()
    for _, note in ipairs { note_of(1, 3), note_of(2, 2), "of somebody else", "" } do
      local state = prepare(20, note)
      assert.is_true(state:reset(0, 20))
      assert.is_true(state:is_current())
      assert_is(state, 20, note):close()
      os.remove(path)
    end
    local state = prepare(20, nil)
    assert.is_true(state:reset(0, 20))
    state = assert_is(state, 20, nil)
    state:close()
    os.remove(path)
    state = prepare(0, "of somebody else")
    assert.is_true(state:reset(0, 0))
    assert_is(state, 0, "of somebody else")
  end)

  it("leaves a note that is not a follower's, and the mark", function()
    local state = prepare(20, "of somebody else")
    assert_refused(state, "CORRUPT", "shard 0: its note is not a follower's", 10)
    assert_refused(state, "CORRUPT", "shard 0: its note is not a follower's", 0)
    assert(state:checkpoint { [0] = note_of(1, 3) .. "x" })
    assert_refused(state, "CORRUPT", "shard 0: its note ", 10)
  end)

  it("to 0 forgets also a follower's note that cannot be read", function()
    local other = note_of(1, 3):sub(1, 4) .. "\99" .. note_of(1, 3):sub(6)
    for _, case in ipairs { { other, "UNSUPPORTED", "version 99" }, { note_of(1, 3) .. "x", "CORRUPT", "its note " } } do
      local state = prepare(30, case[1])
      assert_refused(state, case[2], case[3], 25)
      assert.is_true(state:reset(0, 0))
      assert_is(state, 0, nil):close()
      os.remove(path)
    end
  end)

  it("raises above the mark and for arguments out of their range", function()
    local state = prepare(20, note_of(1, 2))
    for pattern, call in pairs {
      ["^bad argument #2 to 'reset' %(21 is above the mark of shard 0, which is 20%)$"] = function()
        state:reset(0, 21)
      end,
      ["#2 to 'reset' %(9223372036854775807 is above the mark of shard 3, which is 9%)"] = function()
        state:reset(3, math.maxinteger)
      end,
      ["^bad argument #2 to 'reset' %(seqno out of range: %-1%)"] = function() state:reset(0, -1) end,
      ["#1 to 'reset' %(shard id out of range: 65536%)"] = function() state:reset(65536, 0) end,
      ["#1 to 'reset' %(shard id out of range: %-1%)"] = function() state:reset(-1, 0) end,
      ["#1 to 'reset' %(number expected, got no value%)"] = function() state:reset() end,
      ["#2 to 'reset' %(number expected, got no value%)"] = function() state:reset(0) end,
      ["#2 to 'reset' %(number expected, got table%)"] = function() state:reset(0, {}) end,
      ["#2 to 'reset' %(number expected, got string%)"] = function() state:reset(0, "x") end,
      ["#2 to 'reset' %(number has no integer representation%)"] = function() state:reset(0, 1.5) end,
    } do
      assert.error_matches(call, pattern)
    end
    assert.error_matches(function() state:reset(0, 2.0 ^ 63) end, "no integer representation")
    -- the error is the caller's line
    local _, message = pcall(function() state:reset(0, 21) end)
    assert.truthy(message:find "^[^:]*state_reset_spec%.lua:%d+: bad argument")
    _, message = pcall(function() state:reset(0, -1) end)
    assert.truthy(message:find "^[^:]*state_reset_spec%.lua:%d+: bad argument")
    assert.same({ 20, note_of(1, 2) }, { state:applied_seqno(0), state:note(0) })
    -- as everywhere in Lua, an integer may come as a float or a string
    assert.is_true(state:reset(0.0, "15"))
    assert.equal(15, state:applied_seqno(0))
    state:close()
    assert.error_matches(function() state:reset(0, 0) end, "closed ReplicationState")
  end)

  it("needs a shard that is tracked and a state that is not read-only", function()
    local state = prepare(20, note_of(1, 2))
    assert.same({ nil, "shard 9 is not tracked", "UNKNOWN_SHARD" }, { state:reset(9, 0) })
    local reader = assert(open(nil, { readonly = true }))
    assert_refused(reader, "READONLY", "opened to read", 15)
    assert_refused(reader, "READONLY", "opened to read", 0)
  end)

  describe("with others in the way", function()
    it("is BUSY while bound closures and watches are in use", function()
      local state = prepare(20, note_of(1, 2))
      local advance, applied = state:bind(3)
      assert_refused(state, "BUSY", path .. ": 1 other references", 15)
      local watch = assert(state:watch(0, 100))
      assert_refused(state, "BUSY", path .. ": 2 other references", 15)
      watch:close()
      assert.is_true(advance(10))
      assert.equal(10, applied())
      advance, applied = nil, nil -- luacheck: ignore
      collectgarbage()
      assert.is_true(state:reset(0, 15))
      assert.same({ [0] = 15, [3] = 10 }, state:snapshot())
    end)

    it("is BUSY while another handle has the files open", function()
      local state, other = prepare(20, note_of(1, 2)), assert(open())
      assert_refused(state, "BUSY", path .. ": the state is open elsewhere", 15)
      assert.is_true(other:advance(0, 21))
      assert.equal(21, state:applied_seqno(0))
      other:close()
      assert.is_true(state:reset(0, 15))
    end)

    it("is BUSY while another process has the files open, and then that one sees the lower mark", function()
      local script = [[
        local state = assert(require("tidemark.replication_state").open(..., { 0 }))
        io.stdout:setvbuf "line"
        print(state:applied_seqno(0))
        io.read()
      ]]
      local state = prepare(20, note_of(1, 2))
      local child = sandbox.start(script, path)
      assert.equal("20", child:read_line())
      assert_refused(state, "BUSY", path .. ": the state is open elsewhere", 15)
      assert.is_true(child:wait())
      assert.is_true(state:reset(0, 15))
      child = sandbox.start(script, path)
      assert.equal("15", child:read_line())
      assert.is_true(child:wait())
    end)

    it("is LOCKED while a shard has a follower", function()
      local state = prepare(20, note_of(1, 2))
      for _, shard in ipairs { 0, 3 } do
        assert(state:lock_shard(shard))
        assert_refused(state, "LOCKED", ("%s: shard %d has a follower"):format(path, shard), 15)
        state:unlock_shard(shard)
      end
      assert.is_true(state:reset(0, 15))
    end)

    it("shows readers that they must open the files again", function()
      local state = prepare(20, note_of(1, 2))
      local reader = assert(open(nil, { readonly = true }))
      assert.is_true(reader:is_current())
      assert.is_true(state:reset(0, 15))
      assert.same({ false, 20 }, { reader:is_current(), reader:applied_seqno(0) })
      reader = assert(open(nil, { readonly = true }))
      assert.same({ true, 15 }, { reader:is_current(), reader:applied_seqno(0) })
      state:advance(0, 16)
      assert.equal(16, reader:applied_seqno(0))
    end)

    it("is REPLACED when the files are other ones", function()
      local state = prepare(20, note_of(1, 2))
      assert(os.rename(path .. ".live", path .. ".away"))
      assert_refused(state, "REPLACED", path, 15)
      assert(os.rename(path .. ".away", path .. ".live"))
      assert.is_true(state:reset(0, 15))
    end)
  end)

  it("lets a follower go on from the lower mark, in its log and epochs", function()
    local state = assert(open())
    local rig = assert(fake.rig(state))
    rig:feed(fake.batch(1, 5, 1), fake.batch(6, 10, 2, 1))
    assert.equal(10, state:applied_seqno(0))
    assert.same({ nil, "LOCKED" }, { state:reset(0, 7), select(3, state:reset(0, 7)) })
    rig.follower:close()

    assert.is_true(state:reset(0, 7))
    rig = assert(fake.rig(state))
    rig:feed(fake.batch(6, 10, 2, 1), fake.batch(11, 11, 2))
    assert.equal("0/2:8 0/2:9 0/2:10 0/2:11", table.concat(rig.applied, " "))
    rig.follower:close()

    -- below the beginning of epoch 2: another history may take its place
    assert.is_true(state:reset(0, 4))
    rig = assert(fake.rig(state))
    rig:feed(fake.batch(5, 6, 3, 1))
    assert.equal("0/3:5 0/3:6", table.concat(rig.applied, " "))
    rig.follower:close()

    -- but not one that had another epoch at the mark
    assert.is_true(state:reset(0, 4))
    rig = assert(fake.rig(state))
    assert.equal("DIVERGED", rig:feed(fake.batch(5, 6, 5, 2)).code)
    rig.follower:close()

    -- from 0 it may follow another log
    assert.is_true(state:reset(0, 0))
    rig = assert(fake.rig(state))
    rig:feed(fake.batch(1, 2, 1, 0, { log_id = 8 }))
    assert.equal("0/1:1 0/1:2", table.concat(rig.applied, " "))
    rig.follower:close()
  end)

  it("lowers marks in memory to any seqno", function()
    local state = ReplicationState.new { 0, 3 }
    state:advance_all { [0] = 20, [3] = 9 }
    assert.is_true(state:reset(0, 20))
    assert.is_true(state:reset(0, 11))
    assert.is_true(state:reset(0, 5))
    assert.same({ [0] = 5, [3] = 9 }, state:snapshot())
    assert.is_true(state:advance(0, 6))
    local watch = state:watch(0, 10)
    assert.same({ nil, "a state in memory: 1 other references to the state are in use in this process (handles, bound functions, watches): "
      .. "close them first", "BUSY" }, { state:reset(0, 1) })
    watch:close()
    assert(state:lock_shard(3))
    assert.equal("LOCKED", select(3, state:reset(0, 1)))
    state:unlock_shard(3)
    assert.error_matches(function() state:reset(0, 7) end, "7 is above the mark of shard 0, which is 6")
    assert.same({ nil, "shard 9 is not tracked", "UNKNOWN_SHARD" }, { state:reset(9, 0) })
    assert.is_true(state:reset(0, 0))
    assert.equal(0, state:applied_seqno(0))
  end)
end)
