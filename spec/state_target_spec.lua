--- The state file as a target: when its notes are durable, and what it does where there is no note.

local ReplicationState = require "tidemark.replication_state"
local StateTarget = require "tidemark.state_target"
local epochs = require "tidemark.epochs"
local fake = require "spec.support.fake_source"
local sandbox = require "spec.support.sandbox"

local batch = fake.batch

describe("a state target", function()
  local path, opened, steps, state

  -- A target on the files, as after a restart. `steps` gets "checkpoint 1@1 2@4" (the note) and "apply 1..3", in their order. `fails` is
  -- how many checkpoints fail.
  local function open(options)
    for _, one in ipairs(opened) do
      one:close()
    end
    state = assert(ReplicationState.open(path, { 0, 1 }))
    opened, steps = { state }, {}
    local fails = options and options.fails or 0
    return StateTarget.new {
      state = fake.state(state, { checkpoint = function(real, notes)
        local parts = {}
        for shard, note in pairs(notes or {}) do
          local _, history = epochs.decode(note)
          parts[1] = ("mark %d"):format(real:applied_seqno(shard))
          for _, entry in ipairs(history) do
            parts[#parts + 1] = ("%d@%d"):format(entry.epoch, entry.first_seqno)
          end
        end
        if fails > 0 then
          fails = fails - 1
          steps[#steps + 1] = "failed checkpoint"
          return nil, "no space", "IO"
        end
        steps[#steps + 1] = "checkpoint " .. table.concat(parts, " ")
        return real:checkpoint(notes)
      end }),
      flush = options and options.flush,
      apply = function(sent)
        steps[#steps + 1] = ("apply %d..%d"):format(sent.first_seqno, sent.last_seqno)
        return true
      end,
    }
  end

  -- Applies a batch as a follower does, with the mark after it.
  local function apply(target, one)
    local result, message, code = target:apply(one)
    if result then
      state:advance(one.shard, one.last_seqno)
    end
    return result, message, code
  end

  before_each(function()
    path, opened = sandbox.tempdir() .. "/state", {}
  end)
  after_each(function()
    for _, one in ipairs(opened) do
      one:close()
    end
  end)
  teardown(sandbox.cleanup)

  it("makes the note of an epoch durable before its first record is applied, with the mark at the record before", function()
    local target = open()
    assert.is_true(apply(target, batch(1, 3)))
    assert.is_true(apply(target, batch(4, 5)))
    assert.is_true(apply(target, batch(6, 7, 9, 1)))
    assert.same({ "checkpoint mark 0 1@1", "apply 1..3", "apply 4..5", "checkpoint mark 5 1@1 9@6", "apply 6..7" }, steps)
  end)

  it("flushes first, and moves the mark to the record before", function()
    local flushes = { { [0] = 2 }, "true" }
    local target = open { flush = function()
      steps[#steps + 1] = "flush"
      local one = table.remove(flushes, 1)
      return one == "true" or one
    end }
    assert.is_true(target:apply(batch(1, 3)))
    assert.is_true(target:apply(batch(4, 5)))
    local result, message, code = target:apply(batch(6, 7, 9, 1))
    assert.same({ "APPLY_FAILED", "flush has not reached record 5, after which another epoch begins" }, { code, message })
    assert.is_nil(result)
    assert.is_true(target:apply(batch(6, 7, 9, 1)))
    assert.same({ "checkpoint mark 0 1@1", "apply 1..3", "apply 4..5", "flush", "flush", "checkpoint mark 5 1@1 9@6", "apply 6..7" }, steps)
    assert.equal(5, state:applied_seqno(0))
    assert.same({ 9, 1 }, { target:epoch(0, 7), target:epoch(0, 5) })
  end)

  it("applies nothing of a note that was loaded before it has made a checkpoint", function()
    local target = open()
    assert.is_true(apply(target, batch(1, 3)))
    -- as if it was killed between the write of the checkpoint and its sync: the note may be in the page cache only
    assert(state:checkpoint { [0] = epochs.encode(7, { { epoch = 1, first_seqno = 1 }, { epoch = 2, first_seqno = 4 } }),
      [1] = epochs.encode(7, { { epoch = 2, first_seqno = 1 } }) })
    target = open { fails = 1 }
    assert.same({ 7, 7 }, { target:log_id(0), target:log_id(1) })
    local result, message, code = apply(target, batch(4, 5, 2, 1))
    assert.same({ "IO", "checkpoint failed: no space" }, { code, message })
    assert.is_nil(result)
    assert.same({ "failed checkpoint" }, steps)
    assert.is_true(apply(target, batch(4, 5, 2, 1)))
    assert.is_true(apply(target, batch(6, 6, 2)))
    assert.is_true(apply(target, batch(1, 1, 2, 0, { shard = 1 }))) -- the same checkpoint has all notes
    assert.same({ "failed checkpoint", "checkpoint mark 3 1@1 2@4", "apply 4..5", "apply 6..6", "apply 1..1" }, steps)
    target = open()
    assert.is_true(apply(target, batch(7, 7, 2)))
    assert.same({ "checkpoint mark 6 1@1 2@4", "apply 7..7" }, steps)
  end)

  it("refuses a batch of another log than the noted one, also where nothing was applied", function()
    local target = open()
    assert.is_true(target:apply(batch(1, 3)))
    target = open()
    assert.equal("FOREIGN", (select(3, target:apply(batch(1, 3, 1, 0, { log_id = 8 })))))
    assert.same({}, steps)
  end)

  it("goes on after a reset of its state, from what is left", function()
    local target = open()
    for _, one in ipairs { batch(1, 3), batch(4, 5, 2, 1), batch(6, 6, 3, 2) } do
      assert.is_true(apply(target, one))
    end
    assert(state:reset(0, 4))
    assert.same({ 7, 2 }, { target:log_id(0), target:epoch(0, 4) })
    assert.same({}, { target:epoch(0, 5), target:epoch(0, 6) })
    assert.is_true(apply(target, batch(5, 5, 8, 2)))
    assert.same({ 2, 8 }, { target:epoch(0, 4), target:epoch(0, 5) })
    assert(state:reset(0, 0))
    assert.is_nil((target:log_id(0)))
    assert.is_true(apply(target, batch(1, 2, 5, 0, { log_id = 8 })))
    assert.equal(8, target:log_id(0))
  end)

  it("goes on after a reset of a state in memory", function()
    local memory = ReplicationState.new { 0 }
    local target = StateTarget.new { state = memory, apply = function() return true end }
    local function give(one)
      assert.is_true(target:apply(one))
      memory:advance(0, one.last_seqno)
    end
    give(batch(1, 3))
    give(batch(4, 5, 2, 1))
    assert(memory:reset(0, 3))
    assert.same({ 7, 1 }, { target:log_id(0), target:epoch(0, 3) })
    give(batch(4, 4, 6, 1))
    assert.equal(6, target:epoch(0, 4))
    assert(memory:reset(0, 0))
    assert.is_nil((target:log_id(0)))
    give(batch(1, 1, 3, 0, { log_id = 8 }))
    assert.equal(8, target:log_id(0))
  end)

  it("says that a shard is not tracked", function()
    local target = open()
    assert.equal("UNKNOWN_SHARD", (select(3, target:log_id(9))))
    assert.equal("UNKNOWN_SHARD", (select(3, target:epoch(9, 1))))
    assert.equal("UNKNOWN_SHARD", (select(3, target:apply(batch(1, 1, 1, 0, { shard = 9 })))))
  end)

  it("checks its options", function()
    local memory = ReplicationState.new { 0 }
    for message, given in pairs {
      ["option 'state' must be a ReplicationState"] = { apply = print },
      ["option 'apply' must be a function"] = { state = memory },
      ["option 'flush' must be a function"] = { state = memory, apply = print, flush = 1 },
      ["no such option: 'source'"] = { state = memory, apply = print, source = {} },
    } do
      assert.error_matches(function() StateTarget.new(given) end, message, 1, true)
    end
    assert.is_nil(StateTarget.new { state = memory, apply = print }.flush)
  end)
end)
