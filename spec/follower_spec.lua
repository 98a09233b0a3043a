--- The follower of a state file: which batches it applies, skips and refuses, over restarts and leaders; its notes and locks. What
--- happens when something fails, stopping, sleeping and status: follower_failure_spec.lua. Verdicts: follower_verdict_spec.lua.

local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local StateTarget = require "tidemark.state_target"
local epochs = require "tidemark.epochs"
local fake = require "spec.support.fake_source"
local sandbox = require "spec.support.sandbox"

local batch, text = fake.batch, epochs.text

local function differs(seqno, known, epoch, common)
  return ("record %d was applied under epoch %s, but in the log it is of epoch %s; %s"):format(seqno, text(known), text(epoch),
    common == 0 and "no record is proved to be the same in both histories"
      or ("both histories are the same up to record %d"):format(common))
end

-- "0/1:4 0/1:5 ..." for the records of one batch
local function names(first, last, epoch, shard)
  local list = {}
  for seqno = first, last do
    list[#list + 1] = ("%d/%d:%d"):format(shard or 0, epoch or 1, seqno)
  end
  return table.concat(list, " ")
end

describe("a follower", function()
  local path, closing

  -- A follower on the files at `path`, as after a restart.
  local function start(options)
    local state = assert(ReplicationState.open(path, { 0, 1, 2, 3 }))
    closing[#closing + 1] = state
    local rig = assert(fake.rig(state, options))
    table.insert(closing, 1, rig.follower)
    return rig
  end

  local function close_all()
    for _, object in ipairs(closing) do
      object:close()
    end
    closing = {}
  end

  local function restart(options)
    close_all()
    return start(options)
  end

  -- A stopped shard: its state, code and message, and that nothing of the last batch was applied.
  local function assert_stopped(rig, status, state, code, message)
    assert.same({ state, code }, { status.state, status.code })
    assert.equal("shard 0: " .. message, status.error)
    assert.truthy(table.concat(rig.log, "\n"):find(message, 1, true))
    local applied = #rig.applied
    rig:feed(batch(status.applied + 1, status.applied + 1)) -- it stays so
    assert.equal(applied, #rig.applied)
  end

  before_each(function()
    path, closing = sandbox.tempdir() .. "/state", {}
  end)

  after_each(close_all)
  teardown(sandbox.cleanup)

  describe("with batches of one epoch", function()
    it("applies each record once, in order, and advances", function()
      local rig = start()
      local status = rig:feed(batch(1, 3), batch(4, 4), batch(5, 9))
      assert.equal(names(1, 9), table.concat(rig.applied, " "))
      assert.same({ 9, 3, 0 }, { status.applied, status.batches_applied, status.batches_skipped })
      assert.equal(9, rig.state:applied_seqno(0))
      assert.same({ "0 0", "1 0", "2 0", "3 0" }, rig.source.subscribed)
    end)

    it("goes on after the mark after a restart", function()
      local rig = start()
      rig:feed(batch(1, 5))
      rig = restart()
      rig:feed(batch(6, 7))
      assert.equal(names(6, 7), table.concat(rig.applied, " "))
      assert.equal("0 5", rig.source.subscribed[1])
    end)

    it("skips and counts duplicates", function()
      local rig = start()
      local status = rig:feed(batch(1, 5), batch(1, 5), batch(2, 3), batch(5, 5), batch(6, 6))
      assert.equal(names(1, 6), table.concat(rig.applied, " "))
      assert.same({ 6, 2, 3 }, { status.applied, status.batches_applied, status.batches_skipped })
    end)

    it("applies only the records above the mark of a batch that was cut differently", function()
      local rig = start()
      rig:feed(batch(1, 3))
      rig:feed(batch(1, 5))
      rig = restart()
      rig:feed(batch(5, 6), batch(3, 8))
      assert.equal(names(6, 6) .. " " .. names(7, 8), table.concat(rig.applied, " "))
    end)

    it("follows each shard by itself", function()
      local rig = start()
      rig.source:send(batch(1, 2))
      rig.source:send(batch(1, 4, 3, 0, { shard = 3 }))
      assert.equal(2, rig.follower:step(0))
      assert.equal(names(1, 2) .. " " .. names(1, 4, 3, 3), table.concat(rig.applied, " "))
      assert.same({ [0] = 2, [1] = 0, [2] = 0, [3] = 4 }, rig.state:snapshot())
    end)
  end)

  describe("stops a shard", function()
    it("for a batch of another shard", function()
      local rig = start()
      local wrong = batch(1, 2, 1, 0, { shard = 1 })
      rig.source:send(0, wrong)
      rig.follower:step(0)
      assert_stopped(rig, rig.follower:status()[0], "foreign", "FOREIGN", "records 1..2 of shard 1 came")
    end)

    it("for what its source finds damaged or foreign", function()
      local rig = start()
      assert_stopped(rig, rig:feed { "segment x, offset 64: bad CRC", "CORRUPT" }, "corrupt", "CORRUPT", "segment x, offset 64: bad CRC")
      rig = restart()
      assert_stopped(rig, rig:feed { "segment x of shard 9", "FOREIGN" }, "foreign", "FOREIGN", "segment x of shard 9")
      assert.equal("live", rig.follower:status()[1].state)
    end)

    it("for a gap, naming what is missing", function()
      local rig = start()
      local message = "records 11..14 are missing: record 10 is the last one applied, records 15..20 came"
      assert_stopped(rig, rig:feed(batch(1, 10), batch(15, 20)), "gap", "GAP", message)
      assert.equal(names(1, 10), table.concat(rig.applied, " "))
      rig = restart()
      message = "record 11 is missing: record 10 is the last one applied, record 12 came"
      assert_stopped(rig, rig:feed(batch(12, 12)), "gap", "GAP", message)
      rig = restart()
      message = "record 11 is missing: record 10 is the last one applied, record 12 came"
      assert_stopped(rig, rig:feed(batch(12, 12, 2, 1)), "gap", "GAP", message)
      assert.equal(1, #select(2, epochs.decode(rig.state:note(0)))) -- an epoch that was not entered is not noted
    end)

    it("for records that the source no longer has", function()
      local rig = start()
      rig:feed(batch(1, 10))
      assert_stopped(rig, rig:feed { "the log begins at 31", "PRUNED" }, "gap", "PRUNED",
        "the records after 10 are missing: the log begins at 31")
      rig = restart()
      rig.source.refuse = { "the log begins at 31", "PRUNED" }
      assert.equal("PRUNED", rig:feed().code)
    end)

    it("for the gap first, also where the epochs differ", function()
      local rig = start()
      rig:feed(batch(1, 2))
      assert.equal("GAP", rig:feed(batch(4, 5, 3, 3)).code)
    end)

    it("for an old leader whose history is another one, also after a restart", function()
      local rig = start()
      local status = rig:feed(batch(1, 2), batch(3, 3, 3, 1), batch(4, 5))
      assert_stopped(rig, status, "diverged", "DIVERGED", differs(3, 3, 1, 0))
      for _ = 1, 2 do
        rig = restart()
        assert_stopped(rig, rig:feed(batch(4, 5)), "diverged", "DIVERGED", differs(3, 3, 1, 0))
      end
      rig = restart()
      assert_stopped(rig, rig:feed(batch(2, 5, 2, 1)), "diverged", "DIVERGED", differs(3, 3, 2, 1)) -- the mark inside
      assert.equal(1, rig.follower:status()[0].common)
      rig = restart()
      rig:feed(batch(4, 5, 3))
      assert.equal(names(4, 5, 3), table.concat(rig.applied, " "))
    end)

    it("for a duplicate of another epoch, higher or lower", function()
      local rig = start()
      local status = rig:feed(batch(1, 2), batch(3, 6, 3, 1), batch(1, 2), batch(5, 6, 3))
      assert.same({ 2, nil }, { status.batches_skipped, status.code })
      assert_stopped(rig, rig:feed(batch(4, 6, 4, 3)), "diverged", "DIVERGED", differs(6, 3, 4, 3))
      rig = restart()
      assert_stopped(rig, rig:feed(batch(4, 5, 2, 2)), "diverged", "DIVERGED", differs(3, 3, 2, 0))
      rig = restart()
      assert_stopped(rig, rig:feed(batch(1, 2, 2, 0)), "diverged", "DIVERGED", differs(2, 1, 2, 0))
    end)

    it("for another epoch before the first record or inside a batch", function()
      local rig = start()
      rig:feed(batch(1, 10))
      assert_stopped(rig, rig:feed(batch(11, 12, 3, 2)), "diverged", "DIVERGED", differs(10, 1, 2, 0))
      assert.equal(10, #rig.applied)
      rig = restart()
      assert_stopped(rig, rig:feed(batch(9, 12, 2, 1)), "diverged", "DIVERGED", differs(10, 1, 2, 8))
      rig = restart()
      assert_stopped(rig, rig:feed(batch(11, 12, 2, 2)), "diverged", "DIVERGED", differs(10, 1, 2, 0))
      assert.equal(0, #rig.applied)
    end)

    it("for a batch of one epoch in which an epoch begins here", function()
      local rig = start()
      rig:feed(batch(1, 4), batch(5, 8, 2, 1), batch(9, 10, 3, 2))
      for _, case in ipairs {
        { batch(4, 6, 2, 1), 4, 1, 2, 3 },
        { batch(4, 4, 2, 1), 4, 1, 2, 3 },
        { batch(1, 8, 2, 0), 1, 1, 2, 0 },
        { batch(5, 12, 3, 1), 5, 2, 3, 4 },
        { batch(5, 12, 2, 1), 10, 3, 2, 8 },
      } do
        rig = restart()
        assert_stopped(rig, rig:feed(case[1]), "diverged", "DIVERGED", differs(table.unpack(case, 2)))
      end
      rig = restart()
      assert.is_nil(rig:feed(batch(1, 4), batch(5, 8, 2, 1), batch(6, 7, 2, 2), batch(9, 12, 3, 2)).code)
      assert.equal(names(11, 12, 3), table.concat(rig.applied, " "))
    end)

    it("that begins with a record before record 1", function()
      local rig = start()
      assert.equal("DIVERGED", rig:feed(batch(1, 2, 2, 1)).code)
      assert.same({}, rig.applied)
    end)

    it("and the others go on", function()
      local rig = start()
      rig.source:send(batch(2, 2))
      for shard = 1, 3 do
        rig.source:send(batch(1, 1, 1, 0, { shard = shard }), batch(2, 4, 1, 1, { shard = shard }))
      end
      assert.equal(3, rig.follower:step(0))
      assert.equal(3, rig.follower:step(0))
      assert.same({ [0] = 0, [1] = 4, [2] = 4, [3] = 4 }, rig.state:snapshot())
      local status = rig.follower:status()
      assert.same({ "gap", "live", "live", "live" }, { status[0].state, rig:feed() and rig.follower:status()[1].state, "live", "live" })
      assert.equal(3, rig.source.open)
    end)
  end)

  describe("over leaders", function()
    it("enters epochs, also when it has seen no record of one", function()
      local rig = start()
      rig:feed(batch(1, 4), batch(5, 6, 2, 1), batch(7, 7, 5, 2))
      rig = restart()
      local status = rig:feed(batch(6, 6, 2), batch(8, 8, 5, 5), batch(9, 9, 6, 5))
      assert.same({ 9, nil, 1 }, { status.applied, status.code, status.batches_skipped })
    end)

    it("notices a leader that lost the last 10 records it has", function()
      for _, sent in ipairs { batch(91, 91, 2, 1), batch(91, 100, 2, 1), batch(91, 120, 2, 1), batch(101, 102, 2, 2) } do
        os.remove(path)
        local rig = start()
        rig:feed(batch(1, 80), batch(81, 100))
        rig = restart()
        local status = rig:feed(sent)
        assert.same({ "diverged", "DIVERGED", 100 }, { status.state, status.code, status.applied })
        assert.same({}, rig.applied)
        close_all()
      end
    end)

    it("notices that between its epoch and the leader's stands one that it never saw", function()
      local rig = start()
      rig:feed(batch(1, 10))
      rig = restart()
      assert.equal("DIVERGED", rig:feed(batch(11, 12, 3, 2)).code) -- record 10 is epoch 2's
      rig = restart()
      local status = rig:feed(batch(11, 12, 2, 1), batch(13, 14, 3, 2)) -- with it all is well
      assert.same({ 14, nil }, { status.applied, status.code })
    end)

    for _, flush in ipairs { false, true } do
      local how = flush and " with a flush" or ""
      local options = flush and { flush = function() return true end } or nil

      it("goes on after a kill between the note of an epoch and its first batch" .. how, function()
        local rig = start(options)
        rig:feed(batch(1, 10))
        local failing = { apply = function() error "killed" end, flush = options and options.flush }
        rig = restart(failing)
        if flush then
          assert.equal(0, rig.state:applied_seqno(0)) -- it had not been flushed
          rig = restart(options)
          rig:feed(batch(1, 10))
          rig.follower:stop()
          rig = restart(failing)
        end
        rig:feed(batch(11, 12, 3, 1))
        assert.equal(10, rig.state:applied_seqno(0))
        rig = restart(options)
        assert.equal("DIVERGED", rig:feed(batch(11, 12, 3, 3)).code) -- epoch 3 has no record 10
        rig = restart(options)
        rig:feed(batch(8, 10), batch(11, 12, 3, 1))
        assert.equal(names(11, 12, 3), table.concat(rig.applied, " "))
        rig.follower:stop()
        rig = restart(options)
        assert.equal("DIVERGED", rig:feed(batch(13, 13, 4, 1)).code)
        rig = restart(options)
        assert.is_nil(rig:feed(batch(13, 13, 4, 3)).code)
      end)
    end

    for what, case in pairs {
      ["of a leader whose clock is behind"] = { 2, { { epoch = 1, first_seqno = 1 }, { epoch = 2, first_seqno = 11 } } },
      ["of a later leader"] = { 4, { { epoch = 1, first_seqno = 1 }, { epoch = 4, first_seqno = 11 } } },
      ["which goes on"] = { 1, { { epoch = 1, first_seqno = 1 } } },
    } do
      local epoch, expected = table.unpack(case)

      it("lets an epoch of which nothing was applied give way to another " .. what, function()
        local rig = start()
        rig:feed(batch(1, 10))
        rig = restart { apply = function() error "killed" end }
        rig:feed(batch(11, 12, 3, 1))
        rig = restart()
        assert.is_nil(rig:feed(batch(11, 12, epoch, 1)).error) -- epoch 3's writer lost them before they were durable
        assert.equal(names(11, 12, epoch), table.concat(rig.applied, " "))
        assert.same({ ("shard 0: epoch %s was noted and gives way to epoch %s: effects of its records may be there, from record 11 on")
          :format(text(3), text(epoch)) }, rig.log)
        local _, list = epochs.decode(rig.state:note(0))
        assert.same(expected, list)
        rig = restart()
        assert.equal("DIVERGED", rig:feed(batch(13, 13, 5, 3)).code)
        rig = restart()
        assert.is_nil(rig:feed(batch(13, 13, 5, epoch)).code)
        assert.same({}, rig.log)
      end)
    end

    it("keeps epochs and marks together over a power failure", function()
      local rig = start { checkpoint_every = 1000000, checkpoint_seconds = 1000000 }
      rig:feed(batch(1, 10), batch(11, 20, 2, 1), batch(21, 30, 2))
      close_all()
      assert(os.remove(path .. ".live")) -- what the last checkpoint does not have is lost
      rig = start()
      assert.equal(10, rig.state:applied_seqno(0))
      rig:feed(batch(11, 20, 2, 1), batch(21, 30, 2))
      assert.equal(names(11, 30, 2), table.concat(rig.applied, " "))
    end)
  end)

  describe("has a note that", function()
    it("has the bytes of docs/formats.md", function()
      local rig = start()
      local log = { log_id = 0xfffefdfc }
      rig:feed(batch(1, 2, 1, 0, log), batch(3, 5, 0x4000000000010203, 1, log))
      assert.equal("TMEP\2\2\0\0\xfc\xfd\xfe\xff" .. "\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0"
        .. "\3\2\1\0\0\0\0\x40\3\0\0\0\0\0\0\0", rig.state:note(0))
      assert.is_nil(rig.state:note(1))
    end)

    it("keeps the last 7 epochs", function()
      local rig = start()
      for epoch = 1, 30 do
        rig:feed(batch(epoch, epoch, epoch, epoch - 1))
        local _, list = epochs.decode(rig.state:note(0))
        assert.equal(math.min(epoch, 7), #list)
        assert.equal(math.max(epoch - 6, 1), list[1].epoch)
      end
      assert.equal(124, #rig.state:note(0))
      local _, list = epochs.decode(rig.state:note(0))
      assert.same({ 7, 24, 30 }, { #list, list[1].epoch, list[7].epoch })
      rig = restart()
      assert.equal(30, rig:feed(batch(25, 25, 25, 24), batch(30, 30, 30, 29), batch(20, 20, 9, 8)).applied) -- of 20 it knows nothing
      assert.is_nil(rig:feed(batch(31, 31, 31, 30)).code)
      rig = restart()
      assert.equal("DIVERGED", rig:feed(batch(25, 25, 24, 24)).code) -- the lowest that it knows
    end)

    it("is durable before the first batch of an epoch is applied", function()
      local rig, noted
      rig = start { apply = function(sent)
        local _, list = epochs.decode(rig.state:note(0))
        noted = list[#list]
        assert(noted.epoch == sent.epoch and rig.state:applied_seqno(0) == sent.first_seqno - 1)
        return true
      end }
      assert.is_nil(rig:feed(batch(1, 3)).error)
      assert.is_nil(rig:feed(batch(4, 6, 5, 1)).error)
      assert.same({ epoch = 5, first_seqno = 4 }, noted)
    end)

    it("is refused when it is somebody else's, damaged, newer or does not go with the mark", function()
      local function entry(epoch, first_seqno)
        return ("<i8i8"):pack(epoch, first_seqno)
      end
      local function note(count, entries, zero, log_id)
        return ("<c4BBI2I4"):pack("TMEP", 2, count, zero or 0, log_id or 7) .. entries
      end
      local state = assert(ReplicationState.open(path, { 0 }))
      closing[1] = state
      state:advance(0, 5)
      local beyond = ("CORRUPT its note has epoch %s begin at record"):format(text(3)) .. " %d, which does not go with its mark 5"
      for bytes, expected in pairs {
        ["offset 17 of topic x"] = "CORRUPT its note is not a follower's",
        [""] = "CORRUPT its note is not a follower's",
        ["TME"] = "CORRUPT its note is not a follower's",
        ["TMEP"] = "CORRUPT its note has a wrong length",
        ["TMEP\2"] = "CORRUPT its note has a wrong length",
        ["TMEP\1" .. ("\0"):rep(21)] = "UNSUPPORTED its note has version 1, this program reads version 2",
        ["TMEP\3"] = "UNSUPPORTED its note has version 3, this program reads version 2",
        [note(0, "")] = "CORRUPT its note has a wrong length",
        [note(2, entry(1, 1))] = "CORRUPT its note has a wrong length",
        [note(1, entry(1, 1) .. "x")] = "CORRUPT its note has a wrong length",
        [note(1, entry(1, 1), 1)] = "CORRUPT its note has a damaged header",
        [note(1, entry(1, 1), 0, 0)] = "CORRUPT its note has a damaged header",
        [note(2, entry(1, 1) .. entry(1, 1))] = "CORRUPT its note has epochs that do not ascend",
        [note(2, entry(1, 1) .. entry(2, 1))] = "CORRUPT its note has epochs that do not ascend",
        [note(2, entry(2, 1) .. entry(1, 2))] = "CORRUPT its note has epochs that do not ascend",
        [note(1, entry(0, 1))] = "CORRUPT its note has epochs that do not ascend",
        [note(1, entry(-1, 1))] = "CORRUPT its note has epochs that do not ascend",
        [note(1, entry(1, 0))] = "CORRUPT its note has epochs that do not ascend",
        [note(1, entry(3, 6))] = beyond:format(6),
        [note(2, entry(1, 1) .. entry(3, 7))] = beyond:format(7),
      } do
        assert(state:checkpoint { [0] = bytes })
        local rig, message, code = fake.rig(state)
        assert.is_nil(rig)
        assert.equal(expected, code .. " " .. message:gsub("^shard 0: ", ""))
        assert.equal(bytes, state:note(0))
        assert.is_true(state:lock_shard(0)) -- nothing stays locked
        state:unlock_shard(0)
      end
      assert(state:checkpoint { [0] = note(2, entry(1, 1) .. entry(3, 6)) })
      assert(fake.rig(state)).follower:close()
      local unreadable = fake.state(state, { note = function() return nil, "bad disk", "IO" end })
      assert.same({ nil, "bad disk", "IO" }, { fake.rig(unreadable) })
    end)

    it("is made from the first batch that goes on where a mark has none", function()
      for _, case in ipairs {
        { batch(6, 7, 4, 2), { { epoch = 2, first_seqno = 5 }, { epoch = 4, first_seqno = 6 } }, names(6, 7, 4) },
        { batch(6, 7, 4, 4), { { epoch = 4, first_seqno = 5 } }, names(6, 7, 4) },
        { batch(3, 7, 4, 2), { { epoch = 4, first_seqno = 5 } }, names(6, 7, 4) },
      } do
        os.remove(path)
        local state = assert(ReplicationState.open(path, { 0 }))
        state:advance(0, 5)
        state:close()
        local rig = start()
        rig:feed(batch(1, 5, 9)) -- a duplicate tells nothing
        assert.is_nil(rig:feed(case[1]).error)
        assert.equal(case[3], table.concat(rig.applied, " "))
        assert.same(case[2], select(2, epochs.decode(rig.state:note(0))))
        rig = restart()
        assert.is_nil(rig:feed(batch(8, 8, 4)).error)
        close_all()
      end
    end)

    it("is kept in memory where the state is in memory", function()
      local rig = fake.rig(ReplicationState.new { 0 })
      rig:feed(batch(1, 3), batch(4, 5, 2, 1))
      assert.equal("DIVERGED", rig:feed(batch(6, 6)).code)
      assert.equal(5, rig.state:applied_seqno(0))
      rig.follower:stop()
      assert.is_nil(rig.follower:status()[0].error:find "checkpoint")
    end)
  end)

  describe("is the only one", function()
    it("of a shard of a state in memory", function()
      local state = ReplicationState.new { 0, 1 }
      local rig = assert(fake.rig(state))
      local second, message, code = fake.rig(state)
      assert.same({ nil, "shard 0 has a follower in this process", "LOCKED" }, { second, message, code })
      assert.equal("LOCKED", select(3, fake.rig(state, { shards = { 1 } })))
      rig.follower:close()
      rig = assert(fake.rig(state, { shards = { 1, 1 } }))
      local other = assert(fake.rig(state, { shards = { 0 } }))
      other.follower:close()
      assert.equal("LOCKED", select(3, fake.rig(state))) -- and gives shard 0 free again
      assert(fake.rig(state, { shards = { 0 } })).follower:close()
      rig.follower:close()
      rig.follower:close()
    end)

    it("of a shard of files, by one handle or two", function()
      local rig = start { shards = { 0, 1 } }
      assert.equal("LOCKED", select(3, fake.rig(rig.state, { shards = { 1 } })))
      local state = assert(ReplicationState.open(path, {}))
      closing[#closing + 1] = state
      local _, message, code = fake.rig(state, { shards = { 2, 1 } })
      assert.same({ path .. ": shard 1 has another follower", "LOCKED" }, { message, code })
      assert(fake.rig(state, { shards = { 2, 3 } })).follower:close()
      rig.state:close()
      assert(fake.rig(state)).follower:close()
      rig.follower:close()
    end)

    it("of a shard of files, in another process, until that ends", function()
      local rig = start { shards = { 0 } }
      local child = sandbox.start([[
        local state = assert(require("tidemark.replication_state").open(..., {}))
        io.stdout:setvbuf "line"
        for line in io.lines() do print(select(3, state:lock_shard(tonumber(line))) or "ok") end
      ]], path)
      local function ask(shard)
        assert(child:write(shard))
        return child:read_line()
      end
      assert.same({ "LOCKED", "ok" }, { ask "0", ask "1" })
      assert.equal("LOCKED", select(3, fake.rig(rig.state, { shards = { 1 } })))
      rig.follower:close()
      assert.equal("ok", ask "0")
      child:kill()
      child:wait()
      assert(fake.rig(rig.state)).follower:close()
    end)

    it("until it is collected", function()
      local state = ReplicationState.new { 0 }
      fake.rig(state)
      collectgarbage()
      collectgarbage()
      assert(fake.rig(state)).follower:close()
    end)

    it("and takes no part in a read-only state or an unknown shard", function()
      start()
      local reader = assert(ReplicationState.open(path, nil, { readonly = true }))
      closing[#closing + 1] = reader
      assert.equal("READONLY", select(3, fake.rig(reader)))
      assert.equal("UNKNOWN_SHARD", select(3, fake.rig(ReplicationState.new {}, { shards = { 9 } })))
    end)
  end)

  it("checks its options", function()
    local good = { state = ReplicationState.new { 0 }, source = fake.source(), apply = print }
    local target = StateTarget.new { state = good.state, apply = print }
    for name, case in pairs {
      state = { false, "option 'state' must be a ReplicationState" },
      source = { "x", "option 'source' must be a source of batches" },
      apply = { {}, "option 'apply' must be a function" },
      flush = { {}, "option 'flush' must be a function" },
      log = { io.stderr, "option 'log' must be a function" },
      checkpoint_every = { 0, "option 'checkpoint_every' must be an integer >= 1" },
      checkpoint_seconds = { -1, "option 'checkpoint_seconds' must be a number of seconds >= 0" },
      clock = { print, "option 'clock' must be a table with now and sleep" },
      target = { {}, "option 'target' goes without 'state'" },
      shards = { {}, "option 'shards' must be an array of shard ids, at least one" },
      checkpoint_seconds_ = { 1, "no such option: 'checkpoint_seconds_'" },
    } do
      local given = {}
      for key, value in pairs(good) do
        given[key] = value
      end
      given[name] = case[1]
      local ok, message = pcall(Follower.new, given)
      assert.is_false(ok)
      assert.truthy(message:find("bad argument #1 to 'new' (" .. case[2] .. ")", 1, true), message)
    end
    assert.error_matches(function() Follower.new() end, "table expected, got nil")
    assert.error_matches(function() Follower.new { source = {}, apply = print } end, "option 'state'")
    for _, name in ipairs { "apply", "flush" } do
      local given = { source = good.source, target = target, [name] = print }
      assert.error_matches(function() Follower.new(given) end, ("option 'target' goes without '%s'"):format(name))
    end
    for option, names_of in pairs { source = { "subscribe", "head", "wait", "log_id", "epoch" },
      target = { "state", "log_id", "epoch", "apply" } } do
      for _, name in ipairs(names_of) do
        local given = { source = good.source, target = target }
        given[option] = setmetatable({}, { __index = function(_, key)
          return key ~= name and ({ source = good.source, target = target })[option][key] or nil
        end })
        local ok, message = pcall(Follower.new, given)
        assert.is_false(ok)
        assert.truthy(message:find(("bad argument #1 to 'new' (option '%s' has no method '%s')"):format(option, name), 1, true), message)
      end
    end
    for _, shards in ipairs { { 0.5 }, { -1 }, { 65536 }, { "0" } } do
      good.shards = shards
      assert.error_matches(function() Follower.new(good) end, "option 'shards'")
    end
    good.shards = nil
    Follower.new(good):close() -- and nothing was locked
  end)

  -- Random deliveries, cuts, overlaps, duplicates, epochs, failures and restarts: each record takes effect once, in order, and the
  -- shard never stops; now and then a delivery that must stop it.
  it("agrees with a model", function()
    local seed = tonumber(os.getenv "TIDEMARK_SEED") or os.time()
    math.randomseed(seed)
    for round = 1, 60 do
      local context = ("TIDEMARK_SEED=%d, round %d"):format(seed, round)
      os.remove(path)
      -- the leader's log: the epoch of each record
      local log, epoch = {}, 1
      for seqno = 1, math.random(5, 60) do
        epoch = epoch + (math.random(6) == 1 and math.random(3) or 0)
        log[seqno] = epoch
      end
      local function cut(first) -- a batch from `first` on, of one epoch
        local last = first
        while log[last + 1] == log[first] and math.random(4) ~= 1 do
          last = last + 1
        end
        return batch(first, last, log[first], log[first - 1] or 0)
      end
      local with_flush = math.random(2) == 1
      local effects, flushed = {}, 0 -- the records that took effect, durably up to `flushed`
      local options = {
        checkpoint_every = math.random(5),
        apply = function(sent)
          if math.random(8) == 1 then
            return nil, "busy"
          end
          for seqno, record in sent:records() do
            assert(seqno == #effects + 1, "applied out of order")
            effects[seqno] = record
          end
          flushed = with_flush and flushed or #effects
          return true
        end,
        flush = with_flush and function()
          if math.random(8) == 1 then
            return nil, "busy"
          end
          flushed = #effects
          return true
        end or nil,
      }
      local rig = start(options)
      local steps = 0
      while rig.state:applied_seqno(0) < #log do
        steps = steps + 1
        assert(steps < 5000, context)
        local mark = rig.state:applied_seqno(0)
        local dice = math.random(12)
        if dice == 1 then -- a crash: what was not flushed is gone
          close_all()
          for seqno = flushed + 1, #effects do
            effects[seqno] = nil
          end
          rig = start(options)
          assert(rig.state:applied_seqno(0) <= flushed, context)
        elseif dice <= 4 and mark > 0 then -- something old, perhaps with something new in it
          rig.source:send(cut(math.random(mark)))
        elseif #(rig.source.queues[0] or {}) == 0 and #effects < #log then
          rig.source:send(cut(#effects + 1))
        end
        rig.follower:step(math.random(0, 1))
        local status = rig.follower:status()[0]
        assert(status.state == "live" or status.state == "catching_up", context .. ": " .. tostring(status.error))
        assert(status.applied <= flushed, context)
      end
      for seqno = 1, #log do
        assert.equal(("%d:%d"):format(log[seqno], seqno), effects[seqno], context)
      end
      -- and now a leader that has written the end of it again, as far as this follower knows epochs
      local _, known = epochs.decode(rig.state:note(0))
      local lost = math.random(known[1].first_seqno, #log)
      for seqno = lost, #log + 5 do
        log[seqno] = epoch + 1
      end
      rig = restart { apply = function() error "applied" end }
      rig.source:send(cut(lost))
      rig.follower:step(0)
      assert.equal("diverged", rig.follower:status()[0].state, context)
      close_all()
    end
  end)
end)
