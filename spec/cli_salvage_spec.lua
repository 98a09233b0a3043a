--- tidemark salvage: what comes of a damaged log, with and without other logs that have what is missing, and what its followers see then.

local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local crc32c = require "spec.support.crc32c"
local salvage = require "spec.support.salvage"
local sandbox = require "spec.support.sandbox"
local uv = require "luv"

local run, expect = command_line.run, command_line.expect
local LAST, FOLLOWED = 24, 8 -- seqnos: of each shard's last record, and of the last one that the followers have

local function segment(directory, shard, first)
  return ("%s/%05d-%020d.wal"):format(directory, shard, first)
end

local function remove(path)
  assert(os.remove(path))
end

local function zero(directory, shard, seqno)
  local place = salvage.place(directory, shard, seqno)
  command_line.patch(place.path, place.offset, ("\0"):rep(place.size))
end

-- ---- the matrix ----

-- What is done to the log, which records it loses by that, and with which seqnos its shards begin then.
local DAMAGES = {
  { "a flipped bit in a payload", function(log) salvage.flip(log, 0, 7, -1) end, { [0] = { { 7, 8 } } } },
  { "a flipped bit in a header", function(log) salvage.flip(log, 0, 7, 20) end, { [0] = { { 7, 8 } } } },
  { "a flipped bit in the first header of a segment", function(log) salvage.flip(log, 0, 13, 33) end, { [0] = { { 13, 14 } } } },
  { "a flipped bit in the last batch", function(log) salvage.flip(log, 3, 24, 70) end, { [3] = { { 23, 24 } } } },
  { "a flipped bit in the very first batch", function(log) salvage.flip(log, 0, 1, 66) end, { [0] = { { 1, 2 } } } },
  { "a lost first segment", function(log) remove(segment(log, 0, 1)) end, {}, { [0] = 5 } },
  { "a lost segment in the middle", function(log) remove(segment(log, 0, 9)) end, { [0] = { { 9, 12 } } } },
  { "a lost last segment", function(log) remove(segment(log, 3, 21)) end, { [3] = { { 21, 24 } } } },
  { "two lost segments, of two epochs", function(log)
    remove(segment(log, 0, 5))
    remove(segment(log, 0, 9))
  end, { [0] = { { 5, 12 } } } },
  { "all segments of a shard lost", function(log)
    for first = 1, LAST, 4 do
      remove(segment(log, 3, first))
    end
  end, { [3] = { { 1, 24 } } } },
  { "two damaged ranges in a shard", function(log)
    salvage.flip(log, 0, 3, -2)
    salvage.flip(log, 0, 20, 17)
  end, { [0] = { { 3, 4 }, { 19, 20 } } } },
  { "two damaged batches, one after the other", function(log)
    salvage.flip(log, 0, 5, 40)
    salvage.flip(log, 0, 7, 40)
  end, { [0] = { { 5, 8 } } } },
  { "damage in two shards", function(log)
    salvage.flip(log, 0, 7, -1)
    salvage.flip(log, 3, 13, 50)
  end, { [0] = { { 7, 8 } }, [3] = { { 13, 14 } } } },
  { "a hole", function(log) zero(log, 0, 9) end, { [0] = { { 9, 10 } } } },
  { "a segment that was cut", function(log)
    local place = salvage.place(log, 0, 15)
    local data = command_line.read(place.path)
    command_line.write(place.path, data:sub(1, place.offset + place.size - 3))
  end, { [0] = { { 15, 16 } } } },
}

-- Which records another log has of the same history.
local OTHERS = {
  none = function() return false end,
  healthy = function() return true end,
  archive = function() return true end, -- without heads
  ahead = function() return true end, -- was opened again, and has more
  behind = function(seqno) return seqno <= 16 end,
  diverged = function(seqno) return seqno <= 16 end, -- has other records after 16
  damaged = function(seqno) return seqno >= 5 and seqno ~= 21 and seqno ~= 22 end,
}

describe("tidemark salvage", function()
  local base -- a directory with the log as it was, the other logs and the marks of followers
  local directory, log, new

  setup(function()
    base = sandbox.tempdir()
    local whole = base .. "/whole"
    salvage.append(whole, 1, salvage.PER_EPOCH)
    salvage.follow(whole, base .. "/marks") -- has all of epoch 1
    salvage.append(whole, 2, salvage.PER_EPOCH)
    salvage.copy(whole, base .. "/behind")
    salvage.copy(whole, base .. "/diverged")
    salvage.append(base .. "/diverged", 5, salvage.PER_EPOCH, { record = function() return "diverged" end })
    salvage.append(whole, 3, salvage.PER_EPOCH)
    for _, name in ipairs { "healthy", "archive", "ahead", "damaged" } do
      salvage.copy(whole, base .. "/" .. name)
    end
    remove(base .. "/archive/heads")
    salvage.append(base .. "/ahead", 4, 4)
    for _, shard in ipairs(salvage.SHARDS) do
      remove(segment(base .. "/damaged", shard, 1))
      salvage.flip(base .. "/damaged", shard, 21, 100 - 64)
    end
  end)
  teardown(sandbox.cleanup)

  before_each(function()
    directory = base .. "/case"
    assert(os.execute(("rm -rf '%s' && mkdir '%s'"):format(directory, directory)))
    log, new = directory .. "/log", directory .. "/new"
    salvage.copy(base .. "/whole", log)
  end)

  -- What must come of each record: "own", the name of the other log, or "missing"; by shard and seqno. And where the shards begin.
  local function expected(lost, begins, other)
    local fate, first = {}, {}
    for _, shard in ipairs(salvage.SHARDS) do
      fate[shard], first[shard] = {}, begins and begins[shard] or 1
      for seqno = first[shard], LAST do
        fate[shard][seqno] = "own"
      end
      for _, range in ipairs(lost[shard] or {}) do
        -- of a shard without segments the log knows the last epoch only: what was written before it may have been another history
        local is_unproved = range[2] - range[1] == LAST - 1 and (other == "behind" or other == "diverged")
        for seqno = range[1], range[2] do
          fate[shard][seqno] = OTHERS[other](seqno) and not is_unproved and other or "missing"
        end
      end
      -- of a shard without segments nobody knows where it began: the other log says it
      if lost[shard] and lost[shard][1][2] - lost[shard][1][1] == LAST - 1 and other == "damaged" then
        fate[shard][1], fate[shard][2], fate[shard][3], fate[shard][4], first[shard] = nil, nil, nil, nil, 5
      end
    end
    return fate, first
  end

  local function has_missing(fate)
    for _, seqnos in pairs(fate) do
      for _, what in pairs(seqnos) do
        if what == "missing" then
          return true
        end
      end
    end
    return false
  end

  -- Ranges of one shard with the same fate.
  local function ranges(fate, first)
    local list = {}
    for seqno = first, LAST do
      local before = list[#list]
      local what = fate[seqno] == "missing" and "missing" or "there"
      if before and before.what == what then
        before.last = seqno
      else
        list[#list + 1] = { what = what, first = seqno, last = seqno }
      end
    end
    return list
  end

  -- The new log is the old one: every record from `begins` on, up to LAST or `last`, and followers go on.
  local function check_same(begins, last)
    last = last or LAST
    local was, is = salvage.records(base .. "/whole"), salvage.records(new)
    for _, shard in ipairs(salvage.SHARDS) do
      for seqno = 1, last + 1 do
        local there = seqno >= (begins and begins[shard] or 1) and seqno <= last
        assert.same(there and was[shard][seqno] or nil, is[shard][seqno])
      end
    end
    assert.equal(salvage.log_id(base .. "/whole"), salvage.log_id(new))
    expect(0, run("verify", new))
    assert.falsy(command_line.list(new):find "salvaged")

    salvage.copy(base .. "/marks", directory .. "/marks")
    local applied, status = salvage.follow(new, directory .. "/marks")
    local wal = assert(Wal.open(new, { epoch = 50 }))
    assert.same({}, wal:recovery())
    for _, shard in ipairs(salvage.SHARDS) do
      assert.same({ "ok", "live" }, { status[shard].verdict, status[shard].state }, status[shard].error)
      for seqno = 1, last do
        assert.equal(seqno > FOLLOWED and was[shard][seqno].record or nil, (applied[shard] or {})[seqno])
      end
      assert.equal(last + 1, assert(wal:append(shard, { "more" })))
    end
    assert(wal:close())
    applied, status = salvage.follow(new, directory .. "/marks")
    for _, shard in ipairs(salvage.SHARDS) do
      assert.same({ [last + 1] = "more" }, applied[shard], status[shard].error)
    end
  end

  -- The new log is another one, with all that is not missing, renumbered; followers of the old one do not go on.
  local function check_new(fate, first, was)
    was = was or salvage.records(base .. "/whole")
    local is, old_id, new_id = salvage.records(new), salvage.log_id(base .. "/whole"), salvage.log_id(new)
    local lines = { "tidemark salvaged 1", ("log %08x"):format(old_id) }
    assert.not_equal(old_id, new_id)
    for _, shard in ipairs(salvage.SHARDS) do
      local to = 0
      for _, range in ipairs(ranges(fate[shard], first[shard])) do
        if range.what == "missing" then
          lines[#lines + 1] = ("shard %d: %d..%d missing"):format(shard, range.first, range.last)
        else
          lines[#lines + 1] = ("shard %d: %d..%d -> %d..%d"):format(
            shard, range.first, range.last, to + 1, to + range.last - range.first + 1)
          for seqno = range.first, range.last do
            to = to + 1
            local old, record = was[shard][seqno], is[shard][to]
            assert.equal(old.record, record.record)
            assert.same(old.origin or { old_id, old.epoch, seqno }, record.origin)
          end
        end
      end
      assert.equal(to, #is[shard])
    end
    assert.equal(table.concat(lines, "\n") .. "\n", command_line.read(new .. "/salvaged"))
    expect(0, run("verify", new))
    local wal = assert(Wal.open(new))
    assert.same({}, wal:recovery())
    assert(wal:close())

    salvage.copy(base .. "/marks", directory .. "/marks")
    local applied, status = salvage.follow(new, directory .. "/marks")
    assert.same({}, applied)
    for _, shard in ipairs(salvage.SHARDS) do
      assert.same({ "foreign", "FOREIGN" }, { status[shard].verdict, status[shard].code })
    end
  end

  for _, damage in ipairs(DAMAGES) do
    for other in pairs(OTHERS) do
      it(("of a log with %s, %s"):format(damage[1], other == "none" and "alone" or "with one that is " .. other), function()
        damage[2](log)
        local before = salvage.fingerprint(log)
        local fate, first = expected(damage[3], damage[4], other)
        local result
        if other == "none" then
          result = run("salvage", log, new)
        else
          result = run("salvage", log, new, "--from", base .. "/" .. other)
        end
        if has_missing(fate) then
          assert.equal(3, result.code, result.err)
          assert(result.err:find("is a NEW log", 1, true) and result.err:find("must begin again", 1, true), result.err)
          check_new(fate, first)
        else
          assert.equal(0, result.code, result.err)
          check_same(first)
        end
        for _, shard in ipairs(salvage.SHARDS) do
          for _, range in ipairs(ranges(fate[shard], first[shard])) do
            local text = ("shard %d: %d..%d missing"):format(shard, range.first, range.last)
            assert.equal(range.what == "missing", result.err:find(text, 1, true) ~= nil, result.err)
          end
          for _, range in ipairs(damage[3][shard] or {}) do
            if fate[shard][range[1]] == other then
              assert(result.out:find(("shard %d: %d.."):format(shard, range[1]), 1, true), result.out)
              assert(result.out:find("taken from " .. base .. "/" .. other, 1, true), result.out)
            end
          end
        end
        assert.equal(before, salvage.fingerprint(log))
        assert.equal(directory .. "/new", uv.fs_realpath(new))
        assert.falsy(command_line.list(directory):find "salvaging")
      end)
    end
  end

  -- ---- other logs ----

  it("takes from several logs what each of them has", function()
    salvage.flip(log, 0, 3, -1)
    salvage.flip(log, 0, 22, -1)
    local result = run("salvage", log, new, "--from", base .. "/damaged", base .. "/behind", base .. "/ahead")
    expect(0, result)
    assert(result.out:find("shard 0: 3..4 taken from " .. base .. "/behind\n", 1, true), result.out)
    assert(result.out:find("shard 0: 21..22 taken from " .. base .. "/ahead\n", 1, true), result.out)
    check_same()
  end)

  it("takes a part of a batch where another log has cut its batches elsewhere", function()
    -- the same history in other batches: 1, 2..5, 6..8 in place of 1..2, 3..4, 5..6, 7..8
    local one = directory .. "/one"
    local whole = salvage.batches(base .. "/whole")
    os.execute(("mkdir '%s'"):format(one))
    local Batch = require "tidemark.batch"
    local batches = whole[0]
    local function join(first, last)
      local records, from = {}, nil
      for _, batch in ipairs(batches) do
        for seqno, record in batch:records() do
          if seqno >= first and seqno <= last then
            records[#records + 1], from = record, from or batch
          end
        end
      end
      return Batch.encode {
        shard = 0, epoch = 1, prev_epoch = first == 1 and 0 or 1, first_seqno = first, durable_seqno = first - 1,
        written_ms = from.written_ms, log_id = from.log_id, records = records,
      }:bytes()
    end
    command_line.write(segment(one, 0, 1), join(1, 1) .. join(2, 5) .. join(6, 8))
    salvage.flip(log, 0, 3, -1)
    expect(0, run("salvage", log, new, "--from", one))
    local was, is = salvage.records(base .. "/whole"), salvage.records(new)
    for seqno = 1, LAST do
      local old, record = was[0][seqno], is[0][seqno]
      assert.same({ old.record, old.epoch, old.prev_epoch }, { record.record, record.epoch, record.prev_epoch })
    end
    assert.same(was[3], is[3])
    local cut = {}
    for _, place in ipairs(salvage.places(new, 0)) do
      cut[#cut + 1] = place.first
    end
    assert.same({ 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 }, cut)
  end)

  it("goes on as far as another log does in an epoch that the damaged one has", function()
    -- the writer of epoch 7 goes on after this copy of its log
    local writer = directory .. "/writer"
    salvage.copy(base .. "/whole", writer)
    local wal = assert(Wal.open(writer, { epoch = 7 }))
    assert(wal:append(0, { "25", "26" }))
    os.execute(("rm -r '%s'"):format(log))
    salvage.copy(writer, log)
    assert(wal:append(0, { "27", "28" }))
    assert(wal:append(3, { "25" }))
    assert(wal:close())
    salvage.flip(log, 0, 5, -1)
    local result = run("salvage", log, new, "--from", writer)
    expect(0, result)
    assert.same(salvage.records(writer), salvage.records(new))
    assert(result.out:find("shard 0: 27..28 taken from", 1, true) and result.out:find("shard 3: 25..25 taken from", 1, true), result.out)
  end)

  it("takes no record of an epoch that the damaged log did not have, if nothing after it proves it", function()
    remove(segment(log, 0, 17))
    remove(segment(log, 0, 21))
    remove(segment(log, 3, 21))
    local result = run("salvage", log, new, "--from", base .. "/diverged")
    expect(3, result, "shard 0: 17..24 missing", "shard 3: 21..24 missing")
    assert.falsy(command_line.read(new .. "/salvaged"):find "diverged")
    for _, records in pairs(salvage.records(new)) do
      for _, record in pairs(records) do
        assert.not_equal("diverged", record.record)
      end
    end
  end)

  it("says which log has another history", function()
    salvage.flip(log, 0, 19, -1)
    local result = run("salvage", log, new, "--from", base .. "/diverged")
    expect(3, result, base .. "/diverged: shard 0: not used for records from 19 on", "another history (DIVERGED)")
  end)

  it("refuses another log, and segments of two logs", function()
    local other = directory .. "/other"
    salvage.append(other, 1, 8)
    local ids = { ("%08x"):format(salvage.log_id(other)), ("%08x"):format(salvage.log_id(log)) }
    salvage.flip(log, 0, 7, -1)
    expect(1, run("salvage", log, new, "--from", other), "(FOREIGN)", other, ids[1], ids[2])
    assert(os.execute(("cp '%s' '%s'"):format(segment(other, 0, 1), segment(log, 0, 9))))
    expect(1, run("salvage", log, new), "(FOREIGN)", segment(log, 0, 9), log .. "/heads", ids[1], ids[2])
    remove(log .. "/heads")
    expect(1, run("salvage", log, new), "(FOREIGN)", segment(log, 0, 9), segment(log, 0, 1))
    assert.is_nil(uv.fs_stat(new))
  end)

  it("refuses segments of two histories of one log", function()
    for first = 17, 21, 4 do
      assert(os.execute(("cp '%s' '%s'"):format(segment(base .. "/diverged", 0, first), segment(log, 0, first))))
    end
    assert(os.execute(("cp '%s' '%s'"):format(segment(base .. "/whole", 0, 21), segment(log, 0, 21))))
    expect(1, run("salvage", log, new), "(DIVERGED)", segment(log, 0, 21))
    assert.is_nil(uv.fs_stat(new))
  end)

  -- ---- heads ----

  -- The epoch of the log and its own epoch, of the note.
  local function epochs_of(heads)
    local epoch, own_epoch = ("<i8i8"):unpack(heads:note(0), 17)
    return epoch, own_epoch
  end

  local function check_without_heads(reason)
    -- all that the segments show is there, but nobody knows what they do not show
    local out = expect(3, run("salvage", log, new), reason, "nor which shards had no records")
    assert.truthy(out:find("nothing is missing as far as the segments show", 1, true))
    check_same()
    local other = directory .. "/filled"
    salvage.flip(log, 3, 5, 50)
    expect(3, run("salvage", log, other, "--from", base .. "/healthy"), reason)
    assert.same(salvage.records(base .. "/whole"), salvage.records(other))
    expect(3, run("salvage", log, directory .. "/renumbered"), reason, "shard 3: 5..6 missing")
  end

  it("does without heads", function()
    remove(log .. "/heads")
    check_without_heads "there is no file heads"
  end)

  it("does with damaged heads", function()
    for slot = 0, 1 do
      command_line.patch(log .. "/heads", 4096 + slot * 16777216 + 70, "\xff\xff\xff")
    end
    os.remove(log .. "/heads.live")
    check_without_heads "the file heads is damaged"
  end)

  it("takes no shard that has neither heads nor a segment from another log, for nothing proves that it was the same", function()
    remove(log .. "/heads")
    for first = 1, LAST, 4 do
      remove(segment(log, 3, first))
    end
    expect(3, run("salvage", log, new, "--from", base .. "/healthy"), "there is no file heads",
      ("%s/healthy: shard 3: 1..24 not taken: nothing in %s proves that these were its records"):format(base, log))
    local records = salvage.records(new)
    assert.same(salvage.records(base .. "/whole")[0], records[0])
    assert.same({}, records[3]) -- the shard is there, for the heads of the other log have it
  end)

  it("keeps epoch and own epoch of the log, so that a new epoch is above all", function()
    assert(Wal.open(log, { epoch = 9 })):close() -- an epoch without a record
    salvage.flip(log, 0, 7, -1)
    expect(0, run("salvage", log, new, "--from", base .. "/healthy"))
    local heads = assert(Wal.heads(new))
    assert.same({ 9, 1 }, { epochs_of(heads) })
    heads:close()
    local _, _, code = Wal.open(new, { epoch = 9 })
    assert.equal("FENCED", code)
    remove(log .. "/heads")
    expect(3, run("salvage", log, directory .. "/again", "--from", base .. "/healthy"), "there is no file heads")
    heads = assert(Wal.heads(directory .. "/again"))
    assert.same({ 3, 3 }, { epochs_of(heads) })
    heads:close()
  end)

  -- ---- logs of another kind ----

  it("leaves a pruned beginning as it is", function()
    for _, shard in ipairs(salvage.SHARDS) do
      assert.equal(2, Wal.prune(log, shard, 8))
    end
    salvage.flip(log, 0, 9, 30) -- the first batch that is left
    salvage.flip(log, 3, 19, -1)
    local result = run("salvage", log, new, "--from", base .. "/healthy")
    expect(0, result)
    assert(result.out:find("shard 0: begins with record 9: ", 1, true), result.out)
    check_same { [0] = 9, [3] = 9 }
    expect(3, run("salvage", log, directory .. "/alone"), "shard 0: 9..10 missing", "shard 3: 19..20 missing")
    local text = command_line.read(directory .. "/alone/salvaged")
    assert(text:find("shard 3: 9..18 -> 1..10\nshard 3: 19..20 missing\nshard 3: 21..24 -> 11..14\n", 1, true), text)
  end)

  it("keeps shards without a record", function()
    local empty = directory .. "/empty"
    local wal = assert(Wal.open(empty, { shards = { 1, 2, 7 } }))
    assert(wal:append(2, { "a" }))
    assert(wal:append(2, { "b" }))
    assert(wal:close())
    expect(0, run("salvage", empty, new))
    local heads = assert(Wal.heads(new))
    assert.same({ [1] = 0, [2] = 2, [7] = 0 }, heads:snapshot())
    heads:close()
    salvage.flip(empty, 2, 1, -1)
    expect(3, run("salvage", empty, directory .. "/second"))
    heads = assert(Wal.heads(directory .. "/second"))
    assert.same({ [1] = 0, [2] = 1, [7] = 0 }, heads:snapshot())
    heads:close()
  end)

  it("keeps the first origin of a record over two salvages", function()
    local first, second = directory .. "/first", directory .. "/second"
    local old_id = salvage.log_id(log)
    salvage.append(log, 10, 2, { origin = { log_id = 77, epoch = 5, first_seqno = 1001 } })
    salvage.flip(log, 0, 5, -1)
    expect(3, run("salvage", log, first))
    salvage.flip(first, 0, 7, -1) -- which was 9 and 10
    expect(3, run("salvage", first, second))
    local records = salvage.records(second)
    local was = salvage.records(base .. "/whole")
    local to = 0
    for seqno = 1, LAST do
      if seqno ~= 5 and seqno ~= 6 and seqno ~= 9 and seqno ~= 10 then
        to = to + 1
        assert.same({ was[0][seqno].record, { old_id, was[0][seqno].epoch, seqno } }, { records[0][to].record, records[0][to].origin })
      end
    end
    assert.same({ { 77, 5, 1001 }, { 77, 5, 1002 } }, { records[0][to + 1].origin, records[0][to + 2].origin })
    assert.equal(to + 2, #records[0])
    local text = ("tidemark salvaged 1\nlog %08x\nshard 0: 1..6 -> 1..6\nshard 0: 7..8 missing\n"):format(salvage.log_id(first))
    assert.equal(text, command_line.read(second .. "/salvaged"):sub(1, #text))
  end)

  it("fills what has an origin byte by byte", function()
    salvage.append(log, 10, 2, { origin = { log_id = 77, epoch = 5, first_seqno = 1001 } })
    local other = directory .. "/other"
    salvage.copy(log, other)
    salvage.flip(log, 0, 25, -1)
    expect(0, run("salvage", log, new, "--from", other))
    assert.same(salvage.records(other), salvage.records(new))
    assert.same({ 77, 5, 1002 }, salvage.records(new)[0][26].origin)
  end)

  it("begins a segment with each epoch, and at 64 MiB", function()
    local big, record = directory .. "/big", ("x"):rep(9000000)
    for epoch = 1, 2 do
      local wal = assert(Wal.open(big, { shards = { 0 }, epoch = epoch, sync = false }))
      for _ = 1, 5 do
        assert(wal:append(0, { record }))
      end
      assert(wal:close())
    end
    expect(0, run("salvage", big, new))
    assert(command_line.list(new):find("00000-00000000000000000001.wal 00000-00000000000000000006.wal heads", 1, true))
    local wal = assert(Wal.open(big, { epoch = 3, segment_bytes = 1 << 40 }))
    for _ = 1, 8 do
      assert(wal:append(0, { record }))
    end
    assert(wal:close())
    expect(0, run("salvage", big, directory .. "/second"))
    local names = command_line.list(directory .. "/second")
    assert(names:find("00000-00000000000000000011.wal 00000-00000000000000000018.wal heads", 1, true), names)
    expect(0, run("verify", directory .. "/second"))
  end)

  -- ---- advice ----

  it("is what a command that meets damage advises, as it is to be typed", function()
    salvage.flip(log, 0, 7, -1)
    local follow = { "follow", log, "--state", directory .. "/state", "--exec", "cat >/dev/null", "--once" }
    for _, arguments in ipairs { { "verify", log }, follow } do
      local result = run(table.unpack(arguments))
      if result.code == 3 then -- the first step
        result = command_line.run_shell(assert(result.err:match "type ([^\n]+ verify [^\n]+), which says what to do"))
      end
      assert.equal(1, result.code)
      local advised = result.err:match "then type: ([^\n]- salvage [^\n]-) %(add %-%-from COPY if a copy or a replica has the rest%)"
      assert(advised, result.err)
      expect(0, command_line.run_shell(("%s --from '%s'"):format(advised, base .. "/healthy")))
      assert(os.rename(log .. ".salvaged", new))
      check_same()
      assert(os.execute(("rm -r '%s' '%s/marks'*"):format(new, directory)))
    end
  end)

  -- ---- refusals ----

  it("refuses another version of a batch or note, and makes nothing", function()
    local place = salvage.place(log, 0, 1)
    local header = command_line.read(place.path):sub(1, 60)
    for _, version in ipairs { 2, 4 } do
      local changed = header:sub(1, 4) .. string.char(version) .. header:sub(6)
      command_line.patch(place.path, place.offset, changed .. ("<I4"):pack(crc32c(changed)))
      local result = run("salvage", log, new)
      expect(1, result, "(UNSUPPORTED)", ("version %d, this tidemark reads version 3"):format(version), place.path)
      expect(1, run("salvage", base .. "/healthy", new, "--from", log), "(UNSUPPORTED)")
    end
    local old = directory .. "/old"
    salvage.copy(base .. "/whole", old)
    local heads = assert(ReplicationState.open(old .. "/heads", nil, { create = false }))
    local note = heads:note(0)
    assert(heads:checkpoint { [0] = note:sub(1, 4) .. "\3" .. note:sub(6) })
    heads:close()
    expect(1, run("salvage", old, new), "(UNSUPPORTED)", "version 3, this tidemark reads version 2", old .. "/heads")
    assert.equal("log old", command_line.list(directory))
  end)

  it("refuses a place that is taken, and says so", function()
    assert(uv.fs_mkdir(new, 448))
    command_line.write(new .. "/file", "mine")
    expect(1, run("salvage", log, new), new .. ": is not empty")
    assert.equal("file", command_line.list(new))
    remove(new .. "/file")
    expect(1, run("salvage", log, log .. "/new"), "is in the log that is salvaged")
    expect(1, run("salvage", log, log), "is the log that is salvaged")
    expect(1, run("salvage", log, directory .. "/no/such"), directory .. "/no")
    command_line.write(directory .. "/plain", "")
    expect(1, run("salvage", log, directory .. "/plain"), directory .. "/plain")
    assert.equal("log new plain", command_line.list(directory))
    expect(0, run("salvage", log, new .. "/")) -- empty: it is taken
    check_same()
  end)

  it("refuses what is no log, or has nothing whole", function()
    assert(uv.fs_mkdir(directory .. "/nothing", 448))
    expect(1, run("salvage", directory .. "/nothing", new), "(NOT_FOUND)")
    expect(1, run("salvage", directory .. "/no", new), "(IO)", directory .. "/no")
    local broken = directory .. "/broken"
    local wal = assert(Wal.open(broken, { shards = { 0 } }))
    assert(wal:append(0, { "a" }))
    assert(wal:close())
    remove(broken .. "/heads")
    salvage.flip(broken, 0, 1, -1)
    expect(1, run("salvage", broken, new), "(LOST)", "nothing in it is whole")
    assert.is_nil(uv.fs_stat(new))
  end)

  it("has no place on a full disk: it fails, and leaves nothing", function()
    salvage.flip(log, 0, 7, -1)
    local before = salvage.fingerprint(log)
    for _, other in ipairs { "healthy", "behind" } do
      remove(segment(log, 0, other == "healthy" and 13 or 21))
      before = other == "healthy" and before or salvage.fingerprint(log)
      local command = command_line.shell("salvage", log, new, "--from", base .. "/" .. other)
      -- no file can grow beyond 64 KiB, so that heads cannot be made
      local result = command_line.run_shell("trap '' XFSZ; ulimit -f 64; " .. command)
      expect(1, result, "(IO)")
      assert(other == "healthy" or salvage.fingerprint(log) == before)
      assert.equal("log", command_line.list(directory))
    end
  end)

  -- ---- being killed ----

  -- Lua source that ends the process with SIGKILL at the N-th change that it makes to files itself.
  local KILL = [[
    local uv, left = require "luv", %d
    for _, name in ipairs { "fs_mkdir", "fs_open", "fs_write", "fs_fsync", "fs_rename", "fs_rmdir", "fs_unlink" } do
      local call = uv[name]
      uv[name] = function(path, flags, ...)
        if name ~= "fs_open" or flags == "wx" then
          left = left - 1
          if left == 0 then
            uv.kill(uv.getpid and uv.getpid() or uv.os_getpid(), "sigkill")
          end
        end
        return call(path, flags, ...)
      end
    end]]

  for _, other in ipairs { "healthy", "none" } do
    it("leaves nothing that could be taken for a log when it is killed, " .. (other == "none" and "alone" or "with another log"), function()
      salvage.flip(log, 0, 7, -1)
      salvage.flip(log, 3, 21, -1)
      local words = { "salvage", log, new }
      if other ~= "none" then
        table.move({ "--from", base .. "/" .. other }, 1, 2, 4, words)
      end
      local kills, before = 0, salvage.fingerprint(log)
      while true do
        local result = command_line.run_words(command_line.words(KILL:format(kills + 1), table.unpack(words)))
        if result.code ~= "signal 9" then
          assert.equal(other == "none" and 3 or 0, result.code, result.err)
          break
        end
        kills = kills + 1
        local aside = new .. ".salvaging"
        if uv.fs_stat(aside) then
          assert.is_nil(uv.fs_stat(new))
          expect(1, command_line.run(table.unpack(words)), aside, "remove it")
          assert(os.execute(("rm -r '%s'"):format(aside)))
        elseif uv.fs_stat(new) then -- renamed: then it is whole
          expect(0, run("verify", new))
          assert.equal(other == "none", command_line.read(new .. "/salvaged") ~= nil)
          assert(os.execute(("rm -r '%s'"):format(new)))
        end
      end
      assert(kills > (other == "none" and 5 or 20), kills)
      assert.equal(before, salvage.fingerprint(log))
      if other == "none" then
        check_new(expected({ [0] = { { 7, 8 } }, [3] = { { 21, 22 } } }, nil, "none"))
      else
        check_same()
      end
    end)
  end

  it("ends at a signal and leaves nothing", function()
    local words = command_line.words("require('luv').new_timer():start(0, 0, function() require('luv').kill(require('luv').os_getpid(), "
      .. "'sigterm') end)", "salvage", log, new)
    local result = command_line.run_words(words)
    expect(1, result, "ended by a signal: nothing was made")
    assert.equal("log", command_line.list(directory))
  end)
end)
