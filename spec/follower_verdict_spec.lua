--- Verdicts of a follower: what it finds when it compares its histories with those of its source, and what it does then. Every case is
--- run with a state file and with a database.

local ReplicationState = require "tidemark.replication_state"
local StateTarget = require "tidemark.state_target"
local epochs = require "tidemark.epochs"
local fake = require "spec.support.fake_source"
local sandbox = require "spec.support.sandbox"
local verdict = require "tidemark.follower.verdict"
local has_sqlite, FollowerDb = pcall(require, "tidemark.follower_db")

local batch, history, text = fake.batch, fake.history, epochs.text

local SHARDS = { 0, 1 }

-- Each opens a target on files, as after a restart, that notes in `applied` what takes effect; and what closes it.
local SUBJECTS = {
  ["into a state file"] = function(path, applied)
    local state = assert(ReplicationState.open(path, SHARDS))
    local target = StateTarget.new { state = state, apply = function(sent)
      for _, record in sent:records() do
        applied[#applied + 1] = record
      end
      return true
    end }
    return target, function()
      state:close()
    end
  end,
  ["into a database"] = has_sqlite and function(path, applied)
    local db = assert(FollowerDb.open(path, SHARDS))
    local target = db:target(function(_, record)
      applied[#applied + 1] = record
    end)
    return target, function()
      db:close()
    end
  end or nil,
}

for name, open in pairs(SUBJECTS) do
  describe("a follower " .. name, function()
    local path, rig, close

    local function stop()
      if rig then
        rig.follower:close()
        close()
        rig = nil
      end
    end

    -- A follower on the files, as after a restart.
    local function start(options)
      stop()
      local applied, target = {}
      target, close = open(path, applied)
      local given = { target = target }
      for key, value in pairs(options or {}) do
        given[key] = value
      end
      rig = assert(fake.rig(target:state(), given))
      rig.applied = applied
      return rig
    end

    -- Has the follower apply a log, given by the epoch of each record; then it is restarted.
    local function follow(records, shard)
      start()
      rig.source:serve(shard or 0, records)
      rig:feed()
      assert.equal(#records, rig.follower:status()[shard or 0].applied)
      start()
    end

    local function step(times)
      for _ = 1, times or 3 do
        rig.follower:step(0)
      end
      return rig.follower:status()[0]
    end

    -- The last line of the log, which must be the only one.
    local function only_line()
      assert.equal(1, #rig.log, table.concat(rig.log, "\n"))
      return rig.log[1]
    end

    before_each(function()
      path = sandbox.tempdir() .. "/file"
    end)
    after_each(stop)
    teardown(sandbox.cleanup)

    -- ---- the rows of the table ----

    it("has no verdict before it has compared", function()
      start()
      assert.same({ "unknown" }, { rig.follower:verdict(0) })
      assert.same({ nil, "shard 5 is not followed", "UNKNOWN_SHARD" }, { rig.follower:verdict(5) })
      assert.equal("unknown", rig.follower:status()[1].verdict)
    end)

    it("is ok where the source has the same history up to the position", function()
      follow(history(10, 1, 5, 2))
      rig.source:serve(0, history(10, 1, 7, 2, 3, 5))
      local status = step(1)
      assert.same({ "ok", 17, 3, nil }, { status.verdict, status.applied, status.lag, status.common })
      assert.same({ "ok" }, { rig.follower:verdict(0) })
      status = step()
      assert.same({ "ok", 20, 0, "live" }, { status.verdict, status.applied, status.lag, status.state })
      assert.same({}, rig.log)
    end)

    it("is unknown where the source knows no epochs; the first batch decides", function()
      follow(history(10, 1, 5, 2))
      rig.source.heads[0] = 15
      local status = step()
      assert.same({ "unknown", 0, "live" }, { status.verdict, status.lag, status.state })
      rig.source.heads[0] = 17
      status = rig:feed(batch(16, 17, 4, 2))
      assert.same({ "ok", 17, 0 }, { status.verdict, status.applied, status.lag })
      start()
      rig.source.heads[0] = 20
      status = rig:feed(batch(18, 20, 5, 3))
      assert.same({ "diverged", "DIVERGED", 17 }, { status.verdict, status.code, status.applied })
      assert.is_nil(status.lag)
    end)

    it("waits, loudly, where the source ends before the position, and goes on by itself", function()
      follow(history(20, 1))
      rig.source:serve(0, history(12, 1))
      local status = step(10)
      local why = "shard 0: record 20 is the last one applied, but the log ends at record 12: it has lost records, or nobody has opened it "
        .. "for writing since its machine went down"
      assert.same({ "ahead_of_source", "ahead_of_source", "AHEAD", why }, { status.verdict, status.state, status.code, status.error })
      assert.same({ 20, 12, nil }, { status.applied, status.head, status.lag })
      assert.equal(why .. "; the shard waits", only_line())
      assert.equal(1, rig.source.open) -- that of shard 1
      local asked = rig.source.asked
      step(10)
      assert.equal(asked, rig.source.asked) -- nothing has moved
      rig.source:serve(0, history(15, 1))
      status = step(10)
      assert.same({ "ahead_of_source", 15 }, { status.verdict, status.head })
      assert.truthy(status.error:find("ends at record 15", 1, true))
      only_line()
      rig.source:serve(0, history(23, 1))
      status = step()
      assert.same({ "ok", "live", nil, 23, 0 }, { status.verdict, status.state, status.error, status.applied, status.lag })
      assert.same({ "1:21", "1:22", "1:23" }, rig.applied)
      assert.same({ "shard 0: the source has reached record 20, and the shard goes on" }, { table.unpack(rig.log, 2) })
      rig.source:serve(0, history(22, 1)) -- and again
      status = step()
      assert.same({ "ahead_of_source", 3 }, { status.verdict, #rig.log })
    end)

    it("sleeps on the source's head while it waits, and does not spin", function()
      follow(history(20, 1))
      rig.source:serve(0, history(12, 1))
      step()
      assert.equal(0, rig.follower:step(5))
      assert.same({ 12, 0 }, { rig.source.waited_for[0], rig.source.waited_for[1] })
      assert.same({ { 5 }, {} }, { rig.source.waits, rig.clock.sleeps })
      local runs = 0
      rig.source.on_wait = function()
        runs = runs + 1
        rig.source:serve(0, history(12 + runs, 1))
        if runs == 20 then
          rig.follower:stop()
        end
      end
      assert.is_true(rig.follower:run()) -- goes on while a shard waits
      assert.equal(20, runs)
      assert.same({ "1:21", "1:31", 11 }, { rig.applied[1], rig.applied[11], #rig.applied })
      for _, seconds in ipairs(rig.clock.sleeps) do
        assert.is_true(seconds > 0)
      end
      assert.is_true(#rig.clock.sleeps <= runs)
    end)

    it("goes on where a source without epochs has reached the position again", function()
      follow(history(20, 1))
      rig.source.heads[0] = 12
      assert.equal("ahead_of_source", step().verdict)
      rig.source.heads[0] = 20
      local status = step()
      assert.same({ "unknown", "live" }, { status.verdict, status.state })
    end)

    it("stops where the next record was pruned", function()
      follow(history(20, 1))
      rig.source:serve(0, history(40, 1), 30)
      local status = step()
      assert.same({ "behind_retention", "gap", "PRUNED" }, { status.verdict, status.state, status.code })
      assert.is_nil(status.lag)
      assert.equal("shard 0: the records after 20 are missing: the log begins at record 30", status.error)
      start() -- a target that has nothing
      rig.source:serve(1, history(40, 1), 2)
      step()
      assert.equal("behind_retention", rig.follower:verdict(1))
    end)

    it("goes on where the log begins with the next record", function()
      follow(history(20, 1))
      rig.source:serve(0, history(20, 1, 20, 2), 21)
      assert.same({ "ok", 40 }, { step().verdict, rig.follower:status()[0].applied })
      start()
      rig.source:serve(0, history(40, 3, 1, 4), 41)
      local status = step()
      assert.same({ "diverged", 0 }, { status.verdict, status.common }) -- below record 40 nothing can be proved
    end)

    it("stops for another log, with one message, also shards of which the target has nothing", function()
      follow(history(20, 1))
      for _, given in ipairs { 1, 2 } do
        rig.source:serve(0, history(given == 1 and 30 or 10, 1), 1, 8)
        rig.source:serve(1, history(5, 1), 1, 8)
        step()
        for shard = 0, 1 do
          local status = rig.follower:status()[shard]
          assert.same({ "foreign", "foreign", "FOREIGN" }, { status.verdict, status.state, status.code })
          assert.is_nil(status.lag)
          assert.equal("the target follows log 00000007, the source is log 00000008", status.error)
        end
        assert.equal("the target follows log 00000007, the source is log 00000008 (FOREIGN); the follower has stopped", only_line())
        assert.same({}, rig.applied)
        assert.same({ nil, "the target follows log 00000007, the source is log 00000008", "FOREIGN" }, { rig.follower:run() })
        start()
      end
    end)

    it("stops for a batch of another log from a source that does not know its id", function()
      follow(history(5, 1))
      for _, sent in ipairs { batch(2, 3, 1, 1, { log_id = 8 }), batch(6, 6, 2, 1, { log_id = 8 }),
        batch(1, 2, 1, 0, { shard = 1, log_id = 8 }), batch(9, 9, 1, 1, { log_id = 8 }) } do
        rig:feed(sent)
        for shard = 0, 1 do
          assert.equal("FOREIGN", rig.follower:status()[shard].code)
        end
        only_line()
        assert.same({}, rig.applied)
        start()
      end
    end)

    it("stops for a second log from a source that gives two", function()
      start()
      rig.source:send(batch(1, 2))
      rig.source:send(batch(1, 2, 1, 0, { shard = 1, log_id = 8 }))
      step()
      assert.same({ "foreign", "foreign" }, { rig.follower:verdict(0), (rig.follower:verdict(1)) })
      assert.same({ "1:1", "1:2" }, rig.applied)
    end)

    -- ---- histories that differ ----

    -- Mark 20. Both histories are the same up to record `common`; the source ends before the mark, at it or after it.
    for _, common in ipairs { 0, 10, 15, 19, 20, 25 } do
      for _, length in ipairs { 12, 19, 20, 21, 30 } do
        it(("tells a source of %d records that is the same up to record %d"):format(length, common), function()
          local records = history(15, 10, 5, 30)
          follow(records)
          local theirs = {}
          for seqno = 1, length do
            theirs[seqno] = seqno <= common and (records[seqno] or 30) or 20 -- lower than ours: the order says nothing
          end
          rig.source:serve(0, theirs)
          local status = step(5)
          local same = math.min(common, length, 20)
          if same == 20 then
            assert.same({ "ok", "live", length }, { status.verdict, status.state, status.applied })
            assert.equal(length - 20, #rig.applied)
          elseif same == length then
            assert.same({ "ahead_of_source", "ahead_of_source" }, { status.verdict, status.state })
          else
            assert.same({ "diverged", "diverged", "DIVERGED", common }, { status.verdict, status.state, status.code, status.common })
            assert.same({ "diverged", common }, { rig.follower:verdict(0) })
            local proved = common == 0 and "no record is proved to be the same in both histories"
              or ("both histories are the same up to record %d"):format(common)
            assert.truthy(status.error:find(proved, 1, true), status.error)
            only_line()
          end
          if same < 20 then
            assert.same({ 20, nil, 0 }, { status.applied, status.lag, #rig.applied })
          end
        end)
      end
    end

    it("names the record, and both epochs, in words", function()
      local ours, theirs = 1795781051 << 30 | 0x1f3a09c2, 1795781052 << 30 | 5
      follow(history(10, 1, 10, ours))
      rig.source:serve(0, history(10, 1, 5, theirs))
      assert.equal(("shard 0: record 15 was applied under epoch %s, but in the log it is of epoch %s; both histories are the same up to "
        .. "record 10"):format(text(ours), text(theirs)), step().error)
      assert.truthy(text(ours):find "^2026%-11%-27T12:04:11Z#1f3a09c2$", text(ours))
    end)

    it("becomes diverged when the source begins another epoch at or below the position", function()
      for _, common in ipairs { 12, 19 } do
        follow(history(20, 1))
        rig.source:serve(0, history(common, 1))
        assert.equal("ahead_of_source", step().verdict)
        rig.source:serve(0, history(common, 1, 1, 5))
        local status = step()
        assert.same({ "diverged", common, "diverged" }, { status.verdict, status.common, status.state })
        assert.same({ 2, 0 }, { #rig.log, #rig.applied })
        rig.source:serve(0, history(20, 1)) -- it stays so
        assert.equal("diverged", step().verdict)
        os.remove(path)
      end
    end)

    it("notices a source that gets shorter or another one while it runs, before the next record comes", function()
      start()
      rig.source:serve(0, history(20, 1))
      assert.equal(20, step().applied)
      rig.source:serve(0, history(19, 1))
      assert.equal("ahead_of_source", step().verdict)
      start()
      rig.source:serve(0, history(20, 1))
      step()
      rig.source:serve(0, history(10, 1, 5, 2))
      local status = step()
      assert.same({ "diverged", 10 }, { status.verdict, status.common })
    end)

    -- ---- a source that is replaced ----

    it("subscribes again at once where the source was replaced, which is no failure, and compares", function()
      start()
      rig.source:serve(0, history(20, 1))
      step()
      rig.source:send(0, { "the log has new files", "REPLACED" })
      rig.source:serve(0, history(21, 1))
      local status = step(1)
      assert.same({ 21, nil, "ok" }, { status.applied, status.error, status.verdict })
      assert.same({ "0 0", "1 0", "0 20" }, rig.source.subscribed)
      assert.same({}, rig.log)
      rig.source:send(0, { "the log has new files", "REPLACED" })
      rig.source:serve(0, history(10, 1, 20, 2))
      status = step(1)
      assert.same({ "diverged", 10, 21 }, { status.verdict, status.common, status.applied })
      start()
      rig.source:serve(0, history(22, 1))
      step()
      rig.source:send(0, { "the log has new files", "REPLACED" })
      rig.source:serve(0, history(40, 1), 1, 8)
      step()
      assert.same({ "foreign", "foreign" }, { rig.follower:verdict(0), (rig.follower:verdict(1)) })
    end)

    it("pauses where the source is replaced again and again", function()
      start { shards = { 0 } }
      rig.source:serve(0, history(5, 1))
      step()
      for _ = 1, 1000 do
        rig.source:send(0, { "the log has new files", "REPLACED" })
      end
      step(10)
      assert.equal(2, #rig.source.subscribed)
      assert.equal("REPLACED", rig.follower:status()[0].code)
      rig.follower:step(100)
      assert.equal(2 + 8, #rig.source.subscribed)
      assert.equal("failed", rig.follower:status()[0].state)
    end)

    it("tries again where the comparison fails, and stops for damage", function()
      follow(history(5, 1))
      rig.source:serve(0, history(6, 1))
      local real = rig.source.epoch
      function rig.source.epoch()
        return nil, "the disk does not answer", "IO"
      end
      local status = step()
      assert.same({ "IO", "catching_up", 5, 0 }, { status.code, status.state, status.applied, rig.source.open })
      rig.source.epoch = real
      rig.follower:step(0.1)
      assert.equal(6, rig.follower:status()[0].applied)
      start()
      rig.source:serve(0, history(6, 1))
      function rig.source.epoch()
        return nil, "segment x: bad header", "CORRUPT"
      end
      assert.same({ "corrupt", "CORRUPT" }, { step().state, rig.follower:status()[0].code })
    end)

    it("compares without its epochs where the source fails while it waits", function()
      follow(history(20, 1))
      rig.source:serve(0, history(12, 1))
      step()
      local real = rig.source.epoch
      function rig.source.epoch()
        return nil, "the disk does not answer", "IO"
      end
      rig.source.heads[0] = 13
      assert.equal("IO", step().code)
      rig.source.epoch = real
      rig.source:serve(0, history(13, 1))
      assert.equal(0, rig.follower:step(1))
      assert.equal("AHEAD", rig.follower:status()[0].code)
      assert.is_true(#rig.source.waits < 10)
    end)
  end)
end

describe("a verdict", function()
  local source, target

  before_each(function()
    source = fake.source()
    target = StateTarget.new { state = ReplicationState.new { 0 }, apply = function() return true end }
    assert(target:apply(batch(1, 20)))
  end)

  it("is compared again where the source grows while it is asked", function()
    source:serve(0, history(12, 1))
    local epoch = source.epoch
    function source.epoch(...)
      local result, message, code = epoch(...)
      if code == "AHEAD" then
        source:serve(0, history(25, 1))
      end
      return result, message, code
    end
    assert.same({ verdict = "ok", head = 25 }, verdict.at(source, target, 0, 20))
  end)

  it("is behind_retention where the record at the position was pruned", function()
    source:serve(0, history(40, 1), 22)
    local result = verdict.at(source, target, 0, 20)
    assert.same({ "behind_retention", "PRUNED" }, { result.verdict, result.code })
  end)

  it("passes on failures of both sides", function()
    source:serve(0, history(40, 1))
    local broken = { epoch = function() return nil, "locked", "BUSY" end }
    assert.same({ nil, "locked", "BUSY" }, { verdict.at(source, broken, 0, 20) })
    broken.head, broken.log_id = function() end, function() end
    assert.same({ nil, "locked", "BUSY" }, { verdict.at(broken, target, 0, 20) })
  end)

  it("passes on that the last question of a search cannot be answered", function()
    source:serve(0, history(4, 2))
    local asked, last
    local forgetful = { -- knows no epoch where the source ends, so that the next one that it knows is looked for
      epoch = function(_, _, seqno)
        asked = asked + 1
        if asked == last then
          return nil, "locked", "BUSY"
        end
        return seqno >= 5 and 3 or nil
      end,
    }
    local function compare()
      asked = 0
      return verdict.at(source, forgetful, 0, 8)
    end
    assert.equal("ahead_of_source", compare().verdict)
    last = asked
    assert(last > 3)
    assert.same({ nil, "locked", "BUSY" }, { compare() })
  end)

  it("is ahead_of_source where the source says so and names no head", function()
    function source.epoch()
      return nil, "beyond", "AHEAD"
    end
    assert.equal("ahead_of_source", verdict.at(source, target, 0, 20).verdict)
  end)
end)

describe("a follower into a state file", function()
  local path, state, rig

  local function start(options)
    if rig then
      rig.follower:close()
      state:close()
    end
    state = assert(ReplicationState.open(path, { 0 }))
    rig = assert(fake.rig(state, options))
  end

  before_each(function()
    path, rig = sandbox.tempdir() .. "/state", nil
    start()
  end)
  after_each(function()
    rig.follower:close()
    state:close()
  end)
  teardown(sandbox.cleanup)

  for _, count in ipairs { 7, 8 } do
    it(("knows the last 7 of %d epochs"):format(count), function()
      local records = {}
      for epoch = 1, count do
        records[2 * epoch - 1], records[2 * epoch] = epoch * 10, epoch * 10
      end
      rig.source:serve(0, records)
      rig:feed()
      local oldest = 2 * (count - 7) + 1 -- the first record whose epoch it knows
      for common = 0, 2 * count - 1 do
        start()
        local theirs = {}
        for seqno = 1, 2 * count + 3 do
          theirs[seqno] = seqno <= common and records[seqno] or 10 * count + 5
        end
        rig.source:serve(0, theirs)
        rig:feed()
        local status = rig.follower:status()[0]
        assert.same({ "diverged", common >= oldest and common or 0 }, { status.verdict, status.common })
      end
      start()
      rig.source:serve(0, { table.unpack(records, 1, oldest) }) -- ends where it still knows
      rig:feed()
      assert.equal("ahead_of_source", rig.follower:verdict(0))
      if count == 8 then
        start()
        rig.source:serve(0, { 10, 15 }) -- where it does not know, nothing is wrong as far as both know
        rig:feed()
        assert.equal("ahead_of_source", rig.follower:verdict(0))
      end
    end)
  end

  it("is ok where it noted an epoch of which nothing was applied", function()
    rig.source:serve(0, history(10, 1))
    rig:feed()
    start { apply = function() error "killed" end }
    rig.source:serve(0, history(10, 1, 5, 300))
    rig:feed()
    start()
    rig.source:serve(0, history(10, 1, 5, 200))
    rig:feed()
    local status = rig.follower:status()[0]
    assert.same({ "ok", 15, "live" }, { status.verdict, status.applied, status.state })
    start()
    rig.source:serve(0, history(10, 1, 8, 300))
    rig:feed()
    assert.same({ "diverged", 10 }, { rig.follower:verdict(0) })
  end)

  it("is unknown where a mark has no note, until a batch comes", function()
    rig.follower:close()
    state:advance(0, 5)
    rig = assert(fake.rig(state))
    rig.source:serve(0, history(5, 1))
    rig:feed()
    assert.equal("unknown", rig.follower:verdict(0))
    rig.source:serve(0, history(6, 1))
    rig:feed()
    assert.equal("ok", rig.follower:verdict(0))
  end)
end)
