--- tidemark.salvage itself: records that hold batches, random damage, failing files, disks with sectors that cannot be read, and writers.

local Batch = require "tidemark.batch"
local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local files = require "tidemark.cli.files"
local salvage = require "tidemark.salvage"
local sandbox = require "spec.support.sandbox"
local support = require "spec.support.salvage"

local SEED = tonumber(os.getenv "TIDEMARK_SEED") or os.time()

-- `files` with some functions in place of its own.
local function with(replacements)
  return setmetatable(replacements, { __index = files })
end

describe("a salvage", function()
  local directory, log, new

  before_each(function()
    directory = sandbox.tempdir()
    log, new = directory .. "/log", directory .. "/new"
  end)
  after_each(sandbox.cleanup)

  local function remove(path)
    assert(os.execute(("rm -rf '%s'"):format(path)))
  end

  local function texts(list)
    local result = {}
    for seqno, record in pairs(list) do
      result[seqno] = record.record
    end
    return result
  end

  -- ---- records that hold batches ----

  describe("of a log whose records hold whole batches of the same log", function()
    local id, record, place

    before_each(function()
      local wal = assert(Wal.open(log, { shards = { 0 }, epoch = 4, sync = false }))
      id = wal:log_id()
      assert(wal:append(0, { "1", "2" }))
      -- what it holds has the right log, shard, epochs and seqnos: those of the batch itself, of the next one, and later ones
      local forged = {}
      for _, first in ipairs { 3, 4, 5, 6, 7, 50 } do
        forged[#forged + 1] = Batch.encode {
          shard = 0, epoch = 4, prev_epoch = 4, first_seqno = first, durable_seqno = first - 1, log_id = id, records = { "forged" },
        }:bytes()
      end
      record = "x" .. table.concat(forged, ".") .. "y"
      assert(wal:append(0, { record, "4" }))
      assert(wal:append(0, { "5", "6" }))
      assert(wal:append(0, { "7", "8" }))
      assert(wal:close())
      place = support.place(log, 0, 3)
    end)

    it("keeps them as they are", function()
      assert(salvage.run(files, log, new))
      assert.same({ "1", "2", record, "4", "5", "6", "7", "8" }, texts(support.records(new)[0]))
    end)

    local function check_lost(what)
      local report = assert(salvage.run(files, log, new))
      assert.same({ { shard = 0, first = 3, last = 4 } }, report.missing, what)
      assert.same({ "1", "2", "5", "6", "7", "8" }, texts(support.records(new)[0]), what)
      remove(new)
    end

    it("takes none for a batch when the payload around them is damaged", function()
      for _, at in ipairs { 64, 71, 72, 73, 140, place.size - 64, place.size - 1 } do
        support.flip(log, 0, 3, at - 64 + 64 < place.size and at or -1)
        check_lost("byte " .. at)
        support.flip(log, 0, 3, at - 64 + 64 < place.size and at or -1)
      end
    end)

    it("takes none for a batch when the header before them is damaged, whichever bit it is", function()
      local data = command_line.read(place.path)
      for bit = 0, 64 * 8 - 1, 5 do -- 5 goes through all bits of a byte, and all bytes
        local at = place.offset + bit // 8
        command_line.patch(place.path, at, string.char(data:byte(at + 1) ~ (1 << bit % 8)))
        check_lost("bit " .. bit)
        command_line.patch(place.path, at, data:sub(at + 1, at + 1))
      end
    end)

    it("takes none for a batch when it is the last one", function()
      local name = place.path
      local data = command_line.read(name)
      local function zeros(count)
        return ("\0"):rep(count)
      end
      local cut = data:sub(1, place.offset + place.size)
      for _, case in ipairs {
        { cut, { 0, 4, 8, 13, 16, 24, 32, 40, 48, 60, 64 } },
        { cut .. zeros(1), { 0, 4, 8, 13, 16, 24, 32, 40, 48, 60, 64 } },
        { cut .. zeros(100000), { 0, 4, 8, 16, 24, 32, 40, 48, 60, 64 } },
        { cut:sub(1, -2), { 64 } },
        { cut:sub(1, -100) .. zeros(5000), { 64 } },
      } do
        for _, at in ipairs(case[2]) do
          command_line.write(name, case[1])
          command_line.patch(name, place.offset + at, string.char(case[1]:byte(place.offset + at + 1) ~ 1))
          local report = assert(salvage.run(files, log, new))
          assert.same({ { shard = 0, first = 3, last = 8 } }, report.missing)
          assert.same({ "1", "2" }, texts(support.records(new)[0]))
          remove(new)
        end
      end
    end)
  end)

  it("never takes a copy of earlier batches in a record for a batch", function()
    local wal = assert(Wal.open(log, { shards = { 0 }, epoch = 4, sync = false }))
    assert(wal:append(0, { "1", "2" }))
    assert(wal:sync())
    local copy = command_line.read(support.place(log, 0, 1).path):gsub("%z+$", "")
    for first = 3, 9, 2 do
      assert(wal:append(0, { copy, tostring(first + 1) }))
    end
    assert(wal:close())
    for _, seqno in ipairs { 3, 5, 7 } do
      command_line.patch(support.place(log, 0, 1).path, support.place(log, 0, 1).size, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
      local report = assert(salvage.run(files, log, new))
      assert.same({ { shard = 0, first = 3, last = 4 } }, report.missing, seqno)
      assert.same({ "1", "2", copy, "6", copy, "8", copy, "10" }, texts(support.records(new)[0]))
      remove(new)
    end
  end)

  describe("of one segment", function()
    local path, places

    before_each(function()
      local wal = assert(Wal.open(log, { shards = { 0 }, epoch = 4, sync = false }))
      for i = 1, 6 do
        assert(wal:append(0, { ("record %d"):format(i) }))
      end
      assert(wal:close())
      places = support.places(log, 0)
      path = places[1].path
    end)

    it("saves a batch between a destroyed header and other bytes", function()
      command_line.patch(path, places[2].offset, ("\xff"):rep(64))
      command_line.patch(path, places[4].offset, ("\xff"):rep(places[4].size))
      local report = assert(salvage.run(files, log, new))
      assert.same({ { shard = 0, first = 2, last = 2 }, { shard = 0, first = 4, last = 4 } }, report.missing)
      assert.same({ "record 1", "record 3", "record 5", "record 6" }, texts(support.records(new)[0]))
    end)

    it("takes a batch once that is there twice", function()
      local data = command_line.read(path)
      local third = data:sub(places[3].offset + 1, places[4].offset)
      command_line.write(path, data:sub(1, places[4].offset) .. third .. third .. data:sub(places[4].offset + 1))
      assert(assert(salvage.run(files, log, new)).complete)
      assert.equal("record 3", texts(support.records(new)[0])[3])
      assert.equal(6, #support.records(new)[0])
    end)
  end)

  -- ---- random damage ----

  -- All batches of a log, with their shards and bytes.
  local function all_places(path)
    local places = {}
    for _, shard in ipairs(support.SHARDS) do
      for _, place in ipairs(support.places(path, shard)) do
        place.shard, place.bytes = shard, command_line.read(place.path):sub(place.offset + 1, place.offset + place.size)
        places[#places + 1] = place
      end
    end
    return places
  end

  -- Damages what is at some of these places.
  local function damage(places)
    for _ = 1, math.random(1, 6) do
      local place = places[math.random(#places)]
      local size = #(command_line.read(place.path) or "")
      local kind, at = math.random(6), size > 0 and math.random(0, size - 1) or 0
      if size == 0 then -- the segment is lost, or empty
        kind = 0
      end
      if kind <= 3 and kind > 0 then
        local byte = command_line.read(place.path):byte(at + 1)
        command_line.patch(place.path, at, string.char(byte ~ (1 << math.random(0, 7))))
      elseif kind == 4 then
        command_line.patch(place.path, at, ("\0"):rep(math.min(math.random(200), size - at)))
      elseif kind == 5 then
        command_line.write(place.path, command_line.read(place.path):sub(1, at))
      elseif kind == 6 and place.first > 4 then -- a first segment cannot be missed
        os.remove(place.path)
      end
    end
  end

  -- {["shard:seqno"] = whether the batch of the record is as it was}
  local function whole_records(places)
    local whole = {}
    for _, place in ipairs(places) do
      local data = command_line.read(place.path) or ""
      for seqno = place.first, place.last do
        whole[place.shard .. ":" .. seqno] = data:sub(place.offset + 1, place.offset + place.size) == place.bytes
      end
    end
    return whole
  end

  it("saves each batch that no damage has touched, and no record that was not there", function()
    math.randomseed(SEED)
    support.make(directory .. "/whole")
    local was = support.records(directory .. "/whole")
    local lost_any, filled_any = 0, 0
    for round = 1, 40 do
      local what = ("seed %d, round %d"):format(SEED, round)
      remove(log)
      support.copy(directory .. "/whole", log)
      local places = all_places(log)
      damage(places)
      local whole = whole_records(places)
      for _, is_whole in pairs(whole) do
        lost_any = lost_any + (is_whole and 0 or 1)
      end
      local report, message = salvage.run(files, log, new)
      assert(report, ("%s: %s"):format(what, message))
      local is = support.records(new)
      if report.complete then
        assert.same(was, is)
      else
        local seen = {}
        for shard, first, last, to in command_line.read(new .. "/salvaged"):gmatch "shard (%d+): (%d+)%.%.(%d+) %-> (%d+)" do
          for seqno = first, last do
            seqno = math.tointeger(seqno)
            local there = is[math.tointeger(tonumber(shard))][math.tointeger(tonumber(to)) + seqno - math.tointeger(tonumber(first))]
            assert.equal(was[math.tointeger(tonumber(shard))][seqno].record, there.record, what)
            seen[shard .. ":" .. seqno] = true
          end
        end
        for name, is_whole in pairs(whole) do
          assert.equal(is_whole, seen[name] or false, ("%s: record %s"):format(what, name))
        end
      end
      remove(new)

      -- with a whole log beside it all of it comes back
      report, message = salvage.run(files, log, new, { from = { directory .. "/whole" } })
      assert(report, ("%s: %s"):format(what, message))
      assert(report.complete, what)
      assert.same(was, support.records(new))
      filled_any = filled_any + #report.filled
      remove(new)
    end
    assert(lost_any > 100 and filled_any > 20, "the damage was too small")
  end)

  it("takes from damaged copies each record that one of them has", function()
    math.randomseed(SEED)
    support.make(directory .. "/whole")
    local was, completed = support.records(directory .. "/whole"), 0
    for round = 1, 20 do
      local what, whole = ("seed %d, round %d"):format(SEED, round), {}
      local paths = { log, directory .. "/second", directory .. "/third" }
      for _, path in ipairs(paths) do
        remove(path)
        support.copy(directory .. "/whole", path)
        local places = all_places(path)
        damage(places)
        if path ~= log and math.random(3) == 1 then
          os.remove(path .. "/heads")
        end
        for name, is_whole in pairs(whole_records(places)) do
          whole[name] = whole[name] or is_whole
        end
      end
      local report, message = salvage.run(files, log, new, { from = { paths[2], paths[3] } })
      assert(report, ("%s: %s"):format(what, message))
      local missing, count = {}, 0
      for _, range in ipairs(report.missing) do
        for seqno = range.first, range.last do
          missing[range.shard .. ":" .. seqno] = true
        end
      end
      for name, is_whole in pairs(whole) do
        assert.equal(not is_whole, missing[name] or false, ("%s: record %s"):format(what, name))
        count = count + (is_whole and 1 or 0)
      end
      assert.equal(count, report.records)
      if report.complete then
        completed = completed + 1
        assert.same(was, support.records(new))
      end
      remove(new)
    end
    assert(completed > 0)
  end)

  -- ---- failing files ----

  it("leaves nothing when a file operation fails, whichever it is", function()
    support.make(log)
    support.copy(log, directory .. "/whole")
    support.flip(log, 0, 7, -1)
    local before = support.fingerprint(log)
    for _, from in ipairs { {}, { directory .. "/whole" } } do
      local failed = 0
      while true do
        local left, failing = failed + 1, {}
        for _, name in ipairs { "list", "open", "size", "read", "create", "write", "sync", "sync_directory", "make_directory", "rename" } do
          failing[name] = function(...)
            left = left - 1
            if left == 0 and not (name == "list" and (...) == new) then
              return nil, "ENOSPC: no space left on device", "ENOSPC"
            end
            return files[name](...)
          end
        end
        local report, message, code = salvage.run(with(failing), log, new, { from = from })
        if report and left > 0 then
          remove(new)
          break
        end
        failed = failed + 1
        if not report then
          assert(message:find("no space left on device", 1, true), message)
          assert.equal("IO", code)
        end
        -- the name of what is made is synced last, when all is done
        if message and command_line.list(directory):find "new" then
          assert(Wal.verify(new))
        end
        remove(new)
        assert.equal("log whole", command_line.list(directory))
      end
      assert.equal(before, support.fingerprint(log))
      assert(failed > 40, failed)
    end
  end)

  it("syncs each file that it makes and then the directory, before the new log has its name", function()
    support.make(log)
    local unsynced, paths, events = {}, {}, {}
    local watching = with {
      create = function(path)
        local fd = assert(files.create(path))
        paths[fd], unsynced[path] = path, true
        return fd
      end,
      write = function(fd, bytes)
        unsynced[paths[fd]] = true
        return files.write(fd, bytes)
      end,
      sync = function(fd)
        unsynced[paths[fd]] = nil
        return files.sync(fd)
      end,
      sync_directory = function(path)
        events[#events + 1] = "sync " .. path:sub(#directory + 2)
        return files.sync_directory(path)
      end,
      rename = function(from, to)
        events[#events + 1] = ("rename %s %s"):format(from:sub(#directory + 2), to:sub(#directory + 2))
        assert.is_nil(next(unsynced))
        return files.rename(from, to)
      end,
    }
    assert(assert(salvage.run(watching, log, new)).complete)
    -- first the segments, for the heads that are made after that say that they are there
    assert.same({ "sync new.salvaging", "sync new.salvaging", "rename new.salvaging new", "sync " }, events)
    remove(new)
    support.flip(log, 0, 7, -1)
    events = {}
    assert(not assert(salvage.run(watching, log, new)).complete)
    local wanted = { "rename new.salvaging/salvaged.new new.salvaging/salvaged", "sync new.salvaging", "rename new.salvaging new", "sync " }
    assert.same(wanted, events)
  end)

  it("counts what the disk cannot read as damage", function()
    local wal = assert(Wal.open(log, { shards = { 0 }, sync = false }))
    local was = {}
    for i = 1, 100 do
      was[i] = ("%d "):format(i):rep(100)
      assert(wal:append(0, { was[i] }))
    end
    assert(wal:close())
    local bad = 8192 -- the page that cannot be read
    local broken = with {
      read = function(fd, size, offset)
        if offset < bad + 4096 and offset + size > bad and files.size(fd) > bad then
          return nil, "EIO: i/o error", "EIO"
        end
        return files.read(fd, size, offset)
      end,
    }
    local report = assert(salvage.run(broken, log, new))
    assert(#report.missing == 1 and report.missing[1].last - report.missing[1].first > 5)
    local is, missing = texts(support.records(new)[0]), report.missing[1]
    for seqno, record in ipairs(was) do
      if seqno < missing.first then
        assert.equal(record, is[seqno])
      elseif seqno > missing.last then
        assert.equal(record, is[seqno - (missing.last - missing.first + 1)])
      end
    end
    local first, last = support.place(log, 0, missing.first), support.place(log, 0, missing.last)
    assert(first.offset < bad + 4096 and first.offset + first.size > bad)
    assert(last.offset < bad + 4096 and last.offset + last.size > bad)
  end)

  it("reads a batch of 64 MiB, and what is after a damaged one", function()
    local wal = assert(Wal.open(log, { shards = { 0 }, sync = false }))
    assert(wal:append(0, { "1" }))
    assert(wal:append(0, { ("TMWB"):rep((67108864 - 68) // 4) }))
    assert(wal:append(0, { "3" }))
    assert(wal:close())
    assert(assert(salvage.run(files, log, new)).complete)
    remove(new)
    support.flip(log, 0, 2, 30)
    local report = assert(salvage.run(files, log, new))
    assert.same({ { shard = 0, first = 2, last = 2 } }, report.missing)
    assert.same({ "1", "3" }, texts(support.records(new)[0]))
  end)

  -- ---- writers ----

  describe("beside a writer", function()
    local wal, calls

    before_each(function()
      support.make(log)
      wal, calls = assert(Wal.open(log, { epoch = 9 })), 0
    end)
    after_each(function()
      wal:close()
    end)

    -- `files` that call `act()` at each reading from the `first` one to the `last` one.
    local function acting(first, last, act)
      return with {
        read = function(...)
          calls = calls + 1
          if calls >= first and calls <= last then
            act()
          end
          return files.read(...)
        end,
      }
    end

    local function check_locked(result, message, code)
      assert.is_nil(result)
      assert.equal("LOCKED", code, message)
      assert(message:find("a writer is at work: end it first", 1, true), message)
      assert.equal("log", command_line.list(directory))
    end

    it("is refused when heads move, or segments are made, while it reads", function()
      check_locked(salvage.run(acting(1, 1, function()
        assert(wal:append(0, { "more" }))
      end), log, new))
    end)

    it("is refused when heads move while it writes", function()
      local readings = 0
      assert(salvage.run(with { read = function(...)
        readings = readings + 1
        return files.read(...)
      end }, log, new))
      remove(new)
      check_locked(salvage.run(acting(readings, readings, function()
        assert(wal:append(3, { "more" }))
      end), log, new))
    end)

    it("is refused when segments are pruned while it reads", function()
      local pruned = 0
      check_locked(salvage.run(acting(5, 5, function()
        pruned = assert(Wal.prune(log, 3, 8))
      end), log, new))
      assert.equal(2, pruned)
    end)

    it("is the log as it was when the writer does nothing", function()
      assert(wal:append(0, { "more" }))
      local report = assert(salvage.run(files, log, new))
      assert(report.complete)
      assert.same(support.records(log), support.records(new))
    end)
  end)
end)
