--- The follower when apply, flush, the checkpoint or the source fails; stopping, sleeping, status, the clock.

local ReplicationState = require "tidemark.replication_state"
local clock = require("tidemark.core").clock
local fake = require "spec.support.fake_source"
local sandbox = require "spec.support.sandbox"

local batch = fake.batch

-- An apply or flush that gives these results, one a call ("error" raises), then true; `.calls` is how often it was called.
local function scripted(...)
  local results = { ... }
  return setmetatable({ calls = 0 }, { __call = function(script)
    script.calls = script.calls + 1
    local result = results[script.calls]
    if result == "error" then
      error("out of luck", 0)
    elseif result == "yield" then
      coroutine.yield()
    elseif result == "nothing" then
      return
    elseif type(result) == "string" then
      return nil, result
    elseif result ~= nil then
      return result
    end
    return true
  end })
end

local function as_function(script)
  return function(...)
    return script(...)
  end
end

local function always(result)
  local list = {}
  for i = 1, 1000 do
    list[i] = result
  end
  return scripted(table.unpack(list))
end

local function one(shard, first, last, epoch, prev_epoch)
  return batch(first, last, epoch, prev_epoch, { shard = shard })
end

describe("a follower", function()
  local path, closing

  local function rig_of(state, options)
    closing[#closing + 1] = state
    local rig = assert(fake.rig(state, options))
    table.insert(closing, 1, rig.follower)
    return rig
  end

  local function start(options)
    return rig_of(ReplicationState.new { 0, 1, 2, 3 }, options)
  end

  local function start_on_files(options, overrides)
    local state = assert(ReplicationState.open(path, { 0, 1, 2, 3 }))
    return rig_of(overrides and fake.state(state, overrides) or state, options)
  end

  before_each(function()
    path, closing = sandbox.tempdir() .. "/state", {}
  end)

  after_each(function()
    for _, object in ipairs(closing) do
      object:close()
    end
  end)

  teardown(sandbox.cleanup)

  describe("whose apply fails", function()
    for result, expected in pairs {
      ["disk full"] = "apply failed: disk full",
      [false] = "apply failed: it gave no message",
      error = "apply raised an error: out of luck",
      yield = "apply yielded: it must do its work before it returns",
      nothing = "apply returned nothing: it must return true once its effect is durable",
      [1] = "apply returned a number: it must return true once its effect is durable",
    } do
      it(("once (%s) tries the same batch again after a pause"):format(tostring(result)), function()
        local apply = scripted(result)
        local rig = start { apply = as_function(apply) }
        rig.source:send(batch(1, 2), batch(3, 3))
        assert.equal(0, rig.follower:step(0))
        local status = rig.follower:status()[0]
        assert.same({ 0, "APPLY_FAILED", "shard 0: records 1..2: " .. expected }, { status.applied, status.code, status.error })
        assert.equal("catching_up", status.state)
        assert.truthy(rig.log[1]:find(expected, 1, true))
        assert.equal(0, rig.follower:step(0))
        assert.equal(1, apply.calls) -- the pause is not over
        rig.clock.time = rig.clock.time + 0.1
        assert.equal(1, rig.follower:step(0))
        status = rig.follower:status()[0]
        assert.same({ 2, nil, nil }, { status.applied, status.code, status.error })
        assert.equal(1, rig.follower:step(0))
        status = rig.follower:status()[0]
        assert.same({ 3, nil, nil }, { status.applied, status.code, status.error })
        assert.same({}, rig.clock.sleeps)
      end)
    end

    it("always stops that shard after growing pauses, and the others go on meanwhile", function()
      local times = {}
      local rig
      rig = start { apply = function(sent)
        if sent.shard == 2 then
          times[#times + 1] = rig.clock.time
          return nil, "disk full"
        end
        return true
      end }
      rig.source:send(one(2, 1, 1))
      for seqno = 1, 30 do
        rig.source:send(one(1, seqno, seqno))
      end
      for _ = 1, 30 do
        assert.equal(1, rig.follower:step(0)) -- shard 2 holds nobody up
      end
      assert.equal(1, #times)
      rig.follower:step(100)
      local status = rig.follower:status()
      assert.same({ "failed", "APPLY_FAILED", "shard 2: record 1: apply failed: disk full", 0 },
        { status[2].state, status[2].code, status[2].error, status[2].applied })
      assert.same({ "live", 30 }, { status[1].state, status[1].applied })
      assert.equal(9, #times)
      for i, pause in ipairs { 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8 } do
        assert.is_true(math.abs(times[i + 1] - times[i] - pause) < 1e-6)
      end
      rig.source:send(one(2, 1, 1))
      rig.follower:step(100)
      assert.equal(9, #times)
    end)

    it("counts failures in a row only", function()
      local results = {}
      for i = 1, 60 do
        results[i] = i % 4 == 0 or "busy"
      end
      local rig = start { apply = as_function(scripted(table.unpack(results))) }
      for seqno = 1, 15 do
        rig.source:send(batch(seqno, seqno))
      end
      for _ = 1, 15 do
        assert.equal(1, rig.follower:step(10))
      end
      rig.follower:step(0)
      assert.equal("live", rig.follower:status()[0].state)
    end)

    it("with the code of a batch that does not fit stops that shard at once", function()
      for code, state in pairs { GAP = "gap", FENCED = "failed", DIVERGED = "diverged", CORRUPT = "corrupt", FOREIGN = "foreign" } do
        local rig = start { apply = function()
          return nil, "no", code
        end }
        local status = rig:feed(one(0, 1, 3))
        assert.same({ state, code, 0 }, { status.state, status.code, status.applied })
        assert.equal(1, status.error:find("shard 0: records 1..3: apply failed: no", 1, true))
        rig.follower:close()
      end
    end)

    it("with any other third result is tried again", function()
      for _, code in ipairs { "END", "PRUNED", "BUSY", 5 } do
        local calls = 0
        local rig = start { apply = function()
          calls = calls + 1
          return calls > 1 or nil, "no", code
        end }
        rig.source:send(one(0, 1, 3))
        rig.follower:step(10)
        assert.same({ 2, 3 }, { calls, rig.follower:status()[0].applied })
        rig.follower:close()
      end
    end)

    it("in a coroutine of the host's, does not take the host's yield", function()
      local rig = start { apply = as_function(scripted "yield") }
      rig.source:send(batch(1, 1))
      local thread = coroutine.create(function()
        return rig.follower:step(0), rig.follower:step(1)
      end)
      assert.same({ true, 0, 1 }, { coroutine.resume(thread) })
    end)

    it("may find that the state stands further already", function()
      local rig
      rig = start { apply = function(sent)
        return rig.state:advance(0, sent.last_seqno)
      end }
      assert.equal(4, rig:feed(batch(1, 2), batch(3, 4)).applied)
    end)

    it("cannot step or close from inside", function()
      local rig
      rig = start { apply = function()
        rig.follower:step(0)
        return true
      end }
      assert.truthy(rig:feed(batch(1, 1)).error:find("step is called from inside apply", 1, true))
      local other
      other = start { apply = function()
        other.follower:close()
        return true
      end }
      assert.truthy(other:feed(batch(1, 1)).error:find("close is called from inside apply", 1, true))
    end)
  end)

  describe("with a flush", function()
    it("moves marks only after it, in batches or seconds", function()
      local flush = scripted()
      local rig = start { flush = as_function(flush), checkpoint_every = 3, checkpoint_seconds = 5 }
      assert.equal(0, rig:feed(batch(1, 2), one(1, 1, 1)).applied)
      rig:feed(batch(1, 2)) -- a duplicate of what is applied, but not flushed
      assert.same({ 0, 0, 1 }, { flush.calls, rig.state:applied_seqno(1), rig.follower:status()[0].batches_skipped })
      assert.same({ "0/1:1", "0/1:2", "1/1:1" }, rig.applied)
      rig:feed(batch(3, 3))
      assert.same({ 1, 3, 1 }, { flush.calls, rig.state:applied_seqno(0), rig.state:applied_seqno(1) })
      rig:feed(batch(4, 4))
      assert.equal(3, rig.state:applied_seqno(0))
      rig.follower:step(4.9)
      assert.equal(3, rig.state:applied_seqno(0))
      rig.follower:step(0.2)
      assert.equal(4, rig.state:applied_seqno(0))
      rig.follower:step(100)
      assert.equal(2, flush.calls) -- nothing more to flush
    end)

    it("calls it before a new epoch", function()
      local flush, noted = scripted(), {}
      local rig = start_on_files({ flush = as_function(flush) }, { checkpoint = function(state, notes)
        noted[#noted + 1] = state:applied_seqno(0)
        return state:checkpoint(notes)
      end })
      rig:feed(batch(1, 5), batch(6, 7))
      assert.same({ 0, { 0 } }, { flush.calls, noted })
      rig:feed(batch(8, 9, 2, 1))
      assert.same({ 1, { 0, 7 } }, { flush.calls, noted })
      assert.equal(7, rig.state:applied_seqno(0))
      rig:feed(one(1, 1, 1)) -- of a shard that has nothing to flush
      assert.equal(1, flush.calls)
    end)

    it("moves marks as far as it says, which is no failure, and calls it again", function()
      local answers = { { [0] = 2 }, { [0] = 1, [1] = 100 }, {}, { [0] = 3 } }
      local calls = 0
      local rig = start { checkpoint_every = 1, checkpoint_seconds = 5, flush = function()
        calls = calls + 1
        return answers[calls]
      end }
      rig.source:send(batch(1, 3))
      rig.source:send(one(1, 1, 2))
      rig.follower:step(0)
      assert.same({ 2, 0 }, { rig.state:applied_seqno(0), rig.state:applied_seqno(1) })
      rig.follower:step(5.1)
      assert.same({ 2, 2 }, { rig.state:applied_seqno(0), rig.state:applied_seqno(1) }) -- never above what was applied
      rig.follower:step(5.1)
      assert.same({ 3, 2 }, { calls, rig.state:applied_seqno(0) })
      rig.follower:step(5.1)
      assert.same({ 4, 3 }, { calls, rig.state:applied_seqno(0) })
      rig.follower:step(100)
      assert.equal(4, calls) -- nothing more to flush
      assert.same({}, rig.log)
      assert.is_nil(rig.follower:status()[0].error)
    end)

    it("takes a seqno that is a float of that value", function()
      local rig = start { checkpoint_every = 1, flush = function()
        return { [0] = 2.0 }
      end }
      rig.source:send(batch(1, 3))
      rig.follower:step(0)
      assert.equal(2, rig.state:applied_seqno(0))
    end)

    for value, shown in pairs { [1.5] = "1.5", [-1] = "-1", [1e300] = "1e+300", ["2"] = '"2"', [{}] = "a table", [true] = "a boolean",
      [false] = "a boolean" } do
      it(("fails with a message where it returns %s for a shard, also before a new epoch and at the end"):format(shown), function()
        local answer = { [0] = 1, [1] = value }
        local rig = start { checkpoint_every = 1, flush = function()
          return answer
        end }
        local message = ("flush returned %s for shard 1: a seqno expected"):format(shown)
        rig.source:send(one(1, 1, 2))
        rig.follower:step(0)
        assert.same({ message }, rig.log)
        assert.same({ 0, message, "APPLY_FAILED" }, { rig.state:applied_seqno(1), rig.follower:status()[1].error,
          rig.follower:status()[1].code })
        rig.source:send(one(1, 3, 3, 2, 1)) -- a new epoch, before which it flushes
        rig.follower:step(0)
        assert.equal("shard 1: record 3: " .. message .. "; trying again", rig.log[#rig.log])
        rig.follower:stop()
        assert.same({ nil, message, "APPLY_FAILED" }, { rig.follower:run() })
        assert.equal(0, rig.state:applied_seqno(1))
      end)
    end

    it("fails with a message where it returns a table that has something else than shards", function()
      local answer = { [0] = 3, zero = 3 }
      local rig = start { checkpoint_every = 1, flush = function()
        return answer
      end }
      rig.source:send(batch(1, 3))
      rig.follower:step(0)
      assert.same({ 'flush returned a table with the key "zero": shard ids expected' }, rig.log)
      assert.equal(0, rig.state:applied_seqno(0))
      answer.zero = nil
      rig.follower:step(1)
      assert.equal(3, rig.state:applied_seqno(0))
      assert.is_nil(rig.follower:status()[0].error)
    end)

    it("that failed and then worked before a new epoch leaves nothing to try again", function()
      local flush = scripted "disk full"
      local rig = start { flush = as_function(flush), checkpoint_every = 1, shards = { 0 } }
      rig:feed(batch(1, 2))
      assert.same({ 1, "flush failed: disk full" }, { flush.calls, rig.follower:status()[0].error })
      rig.source:send(batch(3, 3, 2, 1))
      rig.clock.time = rig.clock.time + 0.05 -- before the next attempt
      rig.follower:step(0)
      assert.same({ 2, 2 }, { flush.calls, rig.state:applied_seqno(0) })
      rig.follower:stop()
      assert.is_true(rig.follower:run())
      rig = start { flush = as_function(scripted "disk full"), checkpoint_every = 1, shards = { 0 },
        apply = as_function(scripted(true, "busy", "busy", "busy", "busy", "busy", "busy", "busy", "busy", "busy")) }
      rig:feed(batch(1, 2))
      rig.source:send(batch(3, 3, 2, 1)) -- flushes, and is then not applied
      rig.follower:step(100)
      assert.equal(2, rig.state:applied_seqno(0))
      assert.same({ "failed", "shard 0: record 3: apply failed: busy" },
        { rig.follower:status()[0].state, rig.follower:status()[0].error })
    end)

    it("that fails once tries it again after a pause", function()
      local flush = scripted("disk full", "error")
      local rig = start { flush = as_function(flush), checkpoint_every = 1 }
      local status = rig:feed(batch(1, 2))
      assert.same({ 0, "APPLY_FAILED", "flush failed: disk full" }, { status.applied, status.code, status.error })
      rig:feed(batch(3, 4))
      assert.same({ 1, 0 }, { flush.calls, rig.state:applied_seqno(0) })
      rig.follower:step(0.1)
      assert.equal("flush raised an error: out of luck", rig.follower:status()[0].error)
      rig.follower:step(0.2)
      status = rig.follower:status()[0]
      assert.same({ 3, 4, nil }, { flush.calls, status.applied, status.error })
    end)

    it("that fails at a new epoch applies nothing of it until it is done", function()
      local flush = scripted "disk full"
      local rig = start { flush = as_function(flush) }
      rig:feed(batch(1, 2), batch(3, 3, 2, 1))
      assert.same({ "0/1:1", "0/1:2" }, rig.applied)
      rig.source.heads[0] = 3
      assert.equal(1, rig.follower:step(0.2))
      assert.same({}, rig.clock.sleeps) -- one sleep on the source: what it has of this shard is here already
      assert.same({ "0/1:1", "0/1:2", "0/2:3" }, rig.applied)
      assert.same({ 2, 2 }, { flush.calls, rig.state:applied_seqno(0) })
    end)

    it("that always fails stops the shards that wait for it, the others go on", function()
      local works = false
      local rig = start { checkpoint_every = 1, flush = function()
        return works or nil, "disk full"
      end }
      rig.source:send(batch(1, 2))
      rig.source:send(one(1, 1, 1))
      rig.follower:step(0)
      rig.follower:step(1000)
      local status = rig.follower:status()
      for shard = 0, 1 do
        assert.same({ "failed", "APPLY_FAILED", ("shard %d: flush failed: disk full"):format(shard), 0 },
          { status[shard].state, status[shard].code, status[shard].error, status[shard].applied })
      end
      assert.is_nil(status[2].error)
      works = true
      rig.source:send(one(2, 1, 3))
      rig.follower:step(0)
      assert.same({ [0] = 0, [1] = 0, [2] = 3, [3] = 0 }, rig.state:snapshot()) -- its success speaks for shard 2 only
    end)

    it("covers what was applied before a shard stopped", function()
      local rig = start { flush = as_function(scripted()) }
      rig:feed(batch(1, 2), batch(9, 9))
      assert.equal(0, rig.follower:status()[0].applied)
      rig.follower:stop()
      assert.same({ 2, "gap" }, { rig.follower:status()[0].applied, rig.follower:status()[0].state })
    end)
  end)

  describe("whose checkpoint fails", function()
    local function failing(results)
      local calls = {}
      return { calls = calls, checkpoint = function(state, notes)
        calls[#calls + 1] = notes and "note" or "marks"
        local code = results[#calls]
        if code then
          return nil, "no space", code
        end
        return state:checkpoint(notes)
      end }
    end

    it("goes on, says so and tries again at the next cadence", function()
      local script = failing { nil, "IO", "IO" }
      local rig = start_on_files({ checkpoint_every = 2, checkpoint_seconds = 10 }, script)
      local status = rig:feed(batch(1, 1), batch(2, 2))
      assert.same({ 2, "live", "IO", "checkpoint failed: no space" }, { status.applied, rig:feed().state, status.code, status.error })
      assert.equal("checkpoint failed: no space", rig.follower:status()[3].error)
      assert.same({ "note", "marks" }, script.calls)
      rig:feed(batch(3, 3))
      assert.equal(2, #script.calls)
      rig:feed(batch(4, 4))
      assert.equal(3, #script.calls)
      rig.follower:step(10)
      assert.equal(4, #script.calls)
      status = rig.follower:status()[0]
      assert.same({ 4, nil, nil }, { status.applied, status.code, status.error })
      assert(os.remove(path .. ".live"))
      rig.follower:close()
      rig.state:close()
      assert.equal(4, assert(ReplicationState.open(path, {})):applied_seqno(0))
    end)

    it("at a new epoch applies nothing of it, tries again, and stops the shard in the end", function()
      local script = failing { "IO", "IO" }
      local rig = start_on_files(nil, script)
      assert.same({ 0, "IO", "shard 0: records 1..2: checkpoint failed: no space" },
        (function(s) return { s.applied, s.code, s.error } end)(rig:feed(batch(1, 2))))
      assert.same({}, rig.applied)
      assert.equal(1, rig.follower:step(1))
      assert.same({ "note", "note", "note" }, script.calls)
      local results = {}
      for i = 3, 100 do
        results[i] = "IO"
      end
      local other = ReplicationState.open(path .. "2", { 0, 1 })
      local worse = rig_of(fake.state(other, failing(results)))
      worse.source:send(batch(1, 1))
      worse.source:send(one(1, 1, 1))
      worse:feed()
      worse.source:send(batch(2, 2, 2, 1))
      worse.follower:step(100)
      local status = worse.follower:status()
      assert.same({ "failed", "IO", 1 }, { status[0].state, status[0].code, status[0].applied })
      assert.same({ "live", 1 }, { status[1].state, status[1].applied })
    end)

    for _, code in ipairs { "POISONED", "REPLACED" } do
      it("for good (" .. code .. ") stops everything", function()
        for _, results in ipairs { { nil, code, code }, { code, code } } do
          local state = ReplicationState.new { 0, 1 }
          local rig = rig_of(fake.state(state, failing(results)), { checkpoint_every = 1 })
          rig.source:send(one(0, 1, 1))
          rig.follower:step(0)
          for _, status in pairs(rig.follower:status()) do
            assert.same({ "failed", code }, { status.state, status.code })
          end
          assert.equal(0, rig.source.open)
          local applied, message, why = rig.follower:step(0)
          assert.same({ nil, "shard 0: checkpoint failed: no space", code }, { applied, message, why })
          assert.same({ nil, message, code }, { rig.follower:run() })
          assert.equal(#rig.applied, state:applied_seqno(0))
          local failed = results[1] and 1 or 2 -- checkpoints; the last one is tried where there are marks to save
          assert.equal(failed + 2, #rig.log) -- and each shard once
        end
      end)
    end

    it("because its files were deleted stops everything", function()
      local rig = start_on_files { checkpoint_every = 1 }
      rig:feed(batch(1, 1))
      assert(os.remove(path))
      rig:feed(batch(2, 2))
      local status = rig.follower:status()
      assert.same({ "REPLACED", "REPLACED", 2 }, { status[0].code, status[3].code, status[0].applied })
    end)
  end)

  describe("whose source fails", function()
    it("subscribes again after a pause, and stops in the end", function()
      local rig = start { shards = { 0 } }
      local status = rig:feed(batch(1, 2), { "connection lost", "IO" }, batch(3, 3))
      assert.same({ 2, "catching_up", "IO", "shard 0: connection lost", 0 },
        { status.applied, status.state, status.code, status.error, rig.source.open })
      assert.equal(1, rig.follower:step(0.1))
      assert.same({ "0 0", "0 2" }, rig.source.subscribed)
      assert.is_nil(rig.follower:status()[0].error)
      rig.source:send { "connection lost", "IO" }
      rig:feed()
      rig.follower:step(1)
      assert.is_nil(rig.follower:status()[0].error) -- there is nothing new, but it answers
      rig.source:send { "connection lost", "IO" }
      rig:feed()
      rig.source.refuse = { "no route" }
      rig.follower:step(100)
      status = rig.follower:status()[0]
      assert.same({ "failed", "shard 0: no route", nil, 3 }, { status.state, status.error, status.code, status.applied })
      assert.equal(3 + 8, #rig.source.subscribed)
      assert.same({ nil, "shard 0: no route" }, { rig.follower:run() })
    end)

    it("passes on what it raises and can go on", function()
      local rig = start()
      rig.source.head = function() error "bug" end
      assert.has_error(function() rig.follower:step(0) end)
      rig.source.head = nil
      assert.equal(1, rig:feed(batch(1, 1)).applied)
      rig.follower:close()
    end)
  end)

  describe("at its end", function()
    it("finishes the running batch, flushes and checkpoints when stopped from apply", function()
      local flush, rig = scripted(), nil
      rig = start_on_files { flush = as_function(flush), apply = function(sent)
        if sent.first_seqno == 2 then
          rig.follower:stop()
          assert.equal(0, flush.calls)
        end
        return true
      end }
      rig.source:send(batch(1, 1), batch(2, 3), batch(4, 4))
      rig.source:send(one(1, 1, 1), one(1, 2, 2))
      assert.is_true(rig.follower:run())
      assert.same({ 1, 3, 1 }, { flush.calls, rig.state:applied_seqno(0), rig.state:applied_seqno(1) })
      assert.equal(0, rig.source.open)
      assert.same({ nil, "the follower has stopped" }, { rig.follower:step(0) })
      assert.is_true(rig.follower:run())
      rig.follower:stop()
      assert.equal(1, flush.calls)
      assert(os.remove(path .. ".live"))
      rig.follower:close()
      rig.state:close()
      assert.equal(3, assert(ReplicationState.open(path, {})):applied_seqno(0))
    end)

    it("does so at once when stopped between steps", function()
      local rig = start_on_files { checkpoint_seconds = 1000 }
      rig:feed(batch(1, 2))
      rig.follower:stop()
      rig.follower:close()
      rig.state:close()
      assert(os.remove(path .. ".live"))
      assert.equal(2, assert(ReplicationState.open(path, {})):applied_seqno(0))
    end)

    it("and when stopped while it sleeps", function()
      local rig = start()
      rig.source.on_wait = function()
        rig.source:send(batch(1, 1))
        rig.follower:stop()
      end
      assert.equal(0, rig.follower:step(10))
      assert.same({}, rig.applied)
      assert.is_true(rig.follower:run())
    end)

    it("flushes also when a flush that failed waits for another attempt", function()
      local rig = start { flush = as_function(scripted "busy"), checkpoint_every = 1 }
      assert.equal(0, rig:feed(batch(1, 2)).applied)
      rig.follower:stop()
      assert.is_true(rig.follower:run())
      assert.equal(2, rig.state:applied_seqno(0))
    end)

    it("drops a batch that waits for another attempt", function()
      local rig = start { apply = as_function(always "busy") }
      rig:feed(batch(1, 1))
      rig.follower:stop()
      assert.is_true(rig.follower:run())
      assert.equal(0, rig.state:applied_seqno(0))
    end)

    it("tells that the last flush or checkpoint failed", function()
      local rig = start { flush = function() return nil, "disk full" end }
      rig:feed(batch(1, 1))
      rig.follower:stop()
      assert.same({ nil, "flush failed: disk full", "APPLY_FAILED" }, { rig.follower:run() })
      assert.equal(0, rig.state:applied_seqno(0))
      rig = start_on_files(nil, { checkpoint = function(state, notes)
        if not notes then
          return nil, "no space", "IO"
        end
        return state:checkpoint(notes)
      end })
      rig:feed(batch(1, 1))
      rig.follower:stop()
      assert.same({ nil, "checkpoint failed: no space", "IO" }, { rig.follower:run() })
      assert.same({ nil, "checkpoint failed: no space", "IO" }, { rig.follower:step(0) })
    end)

    it("runs until every shard has stopped, and tells the first trouble", function()
      local rig = start { shards = { 1, 3 } }
      rig.source:send(one(3, 5, 5))
      rig.source:send(one(1, 1, 1), one(1, 2, 2, 2, 2))
      assert.same({ nil, "DIVERGED" }, { (rig.follower:run()), (select(3, rig.follower:run())) })
      assert.equal("GAP", rig.follower:status()[3].code)
    end)

    it("of archived logs has no trouble", function()
      local rig = start { shards = { 0, 1 }, flush = as_function(scripted()) }
      rig.source:send(batch(1, 3), { "the end", "END" })
      rig.source:send(1, { "the end", "END" })
      assert.is_true(rig.follower:run())
      assert.equal(3, rig.state:applied_seqno(0))
      local status = rig.follower:status()
      assert.same({ "live", "END", "live" }, { status[0].state, status[0].code, status[1].state })
      assert.is_nil(status[0].error)
      assert.same({}, rig.log)
    end)

    it("is closed, which ends nothing else", function()
      local rig = start()
      rig:feed(batch(1, 1))
      rig.follower:close()
      rig.follower:close()
      assert.equal(0, rig.source.open)
      for _, name in ipairs { "step", "run", "stop", "status" } do
        assert.error_matches(function() rig.follower[name](rig.follower, 0) end, "bad argument #1 to '" .. name .. "' %(closed Follower%)")
      end
      assert(rig.state:advance(0, 2))
      if _VERSION ~= "Lua 5.3" then
        local state = ReplicationState.new { 0 }
        load("local f <close> = ...")(fake.rig(state).follower)
        assert(fake.rig(state)).follower:close()
      end
    end)
  end)

  describe("that waits", function()
    it("never sleeps in step(0)", function()
      local rig = start { apply = as_function(always "busy"), flush = as_function(always "busy"), checkpoint_every = 1 }
      rig:feed(batch(1, 2), batch(1, 2))
      rig.source:send(1, { "connection lost", "IO" })
      for _ = 1, 20 do
        rig.follower:step(0)
      end
      assert.same({ {}, {} }, { rig.clock.sleeps, rig.source.waits })
    end)

    it("sleeps on the source, and no longer than asked", function()
      local rig = start()
      assert.equal(0, rig.follower:step(7.5))
      assert.same({ {}, { 7.5 } }, { rig.clock.sleeps, rig.source.waits })
      rig.source.on_wait = function()
        rig.clock.time = rig.clock.time + 3
        rig.source:send(one(2, 1, 1))
      end
      assert.equal(1, rig.follower:step(100))
      assert.equal(1010.5, rig.clock.time)
    end)

    it("wakes for what is due", function()
      local rig = start { apply = as_function(scripted "busy"), shards = { 0 } }
      rig.source:send(batch(1, 1))
      assert.equal(1, rig.follower:step(100))
      assert.is_true(math.abs(rig.clock.time - 1000.1) < 1e-6) -- another attempt
      assert.equal(1, #rig.clock.sleeps) -- not on the source, which may have more
      local calls, other = 0, nil
      other = start { checkpoint_seconds = 2, flush = function()
        calls = calls + 1
        assert(other.clock.time == 1002)
        return true
      end }
      other:feed(batch(1, 1))
      other.follower:step(100)
      assert.same({ 1, 1100 }, { calls, other.clock.time })
    end)

    it("does not spin when a head is further than what can be read", function()
      local rig = start()
      rig.source.heads[0] = 5
      assert.equal(0, rig.follower:step(1))
      assert.is_true(#rig.source.waits <= 101 and #rig.clock.sleeps <= 101)
      assert.is_true(math.abs(rig.clock.time - 1001) < 1e-6)
      assert.equal("catching_up", rig.follower:status()[0].state)
    end)

    it("checks the timeout", function()
      local rig = start()
      for _, timeout in ipairs { -1, 0 / 0, math.huge, "1", {} } do
        assert.error_matches(function() rig.follower:step(timeout) end, "bad argument #1 to 'step'")
      end
      assert.error_matches(function() rig.follower:step() end, "bad argument #1 to 'step'")
    end)
  end)

  describe("'s status", function()
    it("has what is known, and nil for what is not", function()
      local rig = start { shards = { 0, 2 } }
      local unknown = { applied = 0, state = "catching_up", verdict = "unknown", since = 1000, batches_applied = 0, batches_skipped = 0 }
      assert.same({ [0] = unknown, [2] = unknown }, rig.follower:status())
      rig.clock.time = 1005
      rig.source.heads[2] = 7
      rig.follower:step(0)
      rig.clock.time = 1006
      rig.source:send(one(2, 1, 4), one(2, 1, 4))
      rig:feed()
      assert.same({ applied = 0, state = "live", verdict = "ok", since = 1005, batches_applied = 0, batches_skipped = 0 },
        rig.follower:status()[0])
      assert.same({ applied = 4, head = 7, lag = 3, state = "catching_up", verdict = "ok", since = 1000, batches_applied = 1,
        batches_skipped = 1 }, rig.follower:status()[2])
      rig.source:send(one(2, 5, 7))
      rig:feed()
      local status = rig.follower:status()[2]
      assert.same({ 7, 0, "live", 1006 }, { status.applied, status.lag, status.state, status.since })
      rig.clock.time = 1009
      rig.source:send(one(2, 9, 9))
      rig:feed()
      assert.same({ "gap", 1009 }, { rig.follower:status()[2].state, rig.follower:status()[2].since })
    end)
  end)
end)

describe("the clock", function()
  it("goes on and sleeps", function()
    local before = clock.now()
    assert.equal("float", math.type(before))
    clock.sleep(0.01)
    assert.is_true(clock.now() - before >= 0.01)
    clock.sleep(0)
    for _, seconds in ipairs { -1, 0 / 0, -math.huge, "x" } do
      assert.error_matches(function() clock.sleep(seconds) end, "bad argument #1 to '.*sleep'")
    end
  end)

  it("is woken by a signal", function()
    local child = sandbox.start [[
      local uv = require "luv"
      local signal = uv.new_signal()
      signal:start("sigusr1", print)
      io.stdout:setvbuf "no"
      print "ready"
      require("tidemark.core").clock.sleep(1e300)
      print "awake"
      os.exit(true)
    ]]
    assert.equal("ready", child:read_line())
    repeat
      child.process:kill "sigusr1"
      child.uv.run "nowait"
      clock.sleep(0.01)
    until child.unread ~= "" or child.exit_code
    assert.equal("awake", child:read_line())
    child:wait()
  end)
end)
