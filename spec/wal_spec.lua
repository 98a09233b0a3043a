--- The writer of a log as a Lua program sees it: opening, appending, closing, kill -9, finalizers. The faults of disks and system
--- calls are in spec/c/wal_*.c.

local Batch = require "tidemark.batch"
local Wal = require "tidemark.wal"
local log = require "spec.support.log"
local sandbox = require "spec.support.sandbox"

local open, read, lines = log.open, log.read, log.lines
local segments, bytes_of, write = log.segments, log.bytes_of, log.write
local flip, segment_name, drain = log.flip, log.segment_name, log.drain
local plain, assert_failure, start = log.plain, log.assert_failure, log.start
local ask, kill = log.ask, log.kill

local directory

before_each(function()
  directory = log.new()
end)

after_each(log.close)

teardown(sandbox.cleanup)

describe("opening a log", function()
  it("makes it, and finds it again", function()
    local wal = assert(open { shards = { 0, 7 } })
    local epoch = wal:epoch()
    assert.is_true(math.abs((epoch >> 30) - os.time()) < 600)
    assert.equal("integer", math.type(wal:log_id()))
    assert.is_true(wal:log_id() > 0 and wal:log_id() < 1 << 32)
    assert.equal(0, wal:head(0))
    assert.equal(0, wal:head(7))
    assert.is_nil(wal:head(1))
    assert.same({}, wal:recovery())
    local text = os.date("!%Y-%m-%dT%H:%M:%SZ", epoch >> 30) .. ("#%08x"):format(epoch & (1 << 30) - 1)
    assert.equal(text, Wal.epoch_text(epoch))
    assert.equal(("Wal(epoch %s)"):format(text), tostring(wal))
    assert.same({ 1, 2 }, { wal:append(7, { "a", "b" }) })
    local log_id = wal:log_id()
    assert.is_true(wal:close())

    wal = assert(open())
    assert.is_true(wal:epoch() > epoch)
    assert.equal(log_id, wal:log_id())
    assert.equal(2, wal:head(7))
    assert.same({}, wal:recovery())
    assert.same({ 3, 3 }, { wal:append(7, { "c" }) })
    assert.is_true(wal:close())
    local got, code = drain(assert(read(7, 0)))
    assert.same({ "1=a", "2=b", "3=c" }, got)
    assert.equal("TIMEOUT", code)
  end)

  it("adds shards to those that are there", function()
    assert(open { shards = { 3 } }):close()
    local wal = assert(open { shards = { 1, 65535 } })
    for _, shard in ipairs { 1, 3, 65535 } do
      assert.equal(0, wal:head(shard))
    end
    assert.same({ 1, 1 }, { wal:append(65535, { "" }) })
  end)

  it("takes the epoch that is given, if it is above the last one", function()
    local wal = assert(open { shards = { 0 }, epoch = 7 })
    assert.equal(7, wal:epoch())
    wal:close()
    local seven, six = plain(Wal.epoch_text(7)), plain(Wal.epoch_text(6))
    assert_failure("FENCED", "epoch " .. seven .. " is not above the last one, " .. seven, open { epoch = 7 })
    assert_failure("FENCED", "epoch " .. six .. " is not above the last one, " .. seven, open { epoch = 6 })
    local most = (1 << 62) - 1
    wal = assert(open { epoch = most })
    assert.equal(most, wal:epoch())
    wal:close()
    assert_failure("FENCED", "not above the last one", open { epoch = most })
    wal = assert(open()) -- the largest one does not close the log
    assert.is_true(wal:epoch() > most)
    wal:close()
  end)

  it("shows an epoch as its second and its random part", function()
    assert.equal("1970-01-01T00:00:00Z#00000000", Wal.epoch_text(0))
    assert.equal("2026-11-27T10:04:11Z#1f3a09c2", Wal.epoch_text(1795773851 << 30 | 0x1f3a09c2))
    assert.equal("2242-03-16T12:56:31Z#3fffffff", Wal.epoch_text(math.maxinteger))
    for _, wrong in ipairs { -1, 0.5, "x", {} } do
      assert.error_matches(function()
        Wal.epoch_text(wrong)
      end, "bad argument #1 to 'epoch_text'")
    end
  end)

  it("begins a new segment when the next batch would make one too long", function()
    local wal = assert(open { shards = { 0 }, segment_bytes = 200 })
    for _ = 1, 4 do -- batches of 78 bytes
      wal:append(0, { ("x"):rep(10) })
    end
    wal:append(0, { ("y"):rep(1000) })
    wal:append(0, { "z" })
    wal:close()
    local names = segments()
    assert.same({ segment_name(0, 1), segment_name(0, 3), segment_name(0, 5), segment_name(0, 6) }, names)
    assert.same({ 156, 156, 1068, 69 }, { #bytes_of(names[1]), #bytes_of(names[2]), #bytes_of(names[3]), #bytes_of(names[4]) })
  end)

  it("refuses options that do not exist or are of another type", function()
    for message, options in pairs {
      ["no such option: 'shard'"] = { shard = { 0 } },
      ["no such option: 'number'"] = { 0 },
      ["option 'sync' must be a boolean"] = { shards = { 0 }, sync = 1 },
      ["epoch must be an integer, not a string"] = { shards = { 0 }, epoch = "1" },
      ["epoch has no integer representation: 1.5"] = { shards = { 0 }, epoch = 1.5 },
      ["epoch out of range: 4611686018427387904"] = { shards = { 0 }, epoch = 1 << 62 },
      ["a table of shards and seqnos expected, got number"] = { shards = { 0 }, accept_loss = 1 },
      ["seqno out of range: -1"] = { shards = { 0 }, accept_loss = { [0] = -1 } },
      ["epoch out of range: 0"] = { shards = { 0 }, epoch = 0 },
      ["segment_bytes out of range: -1"] = { shards = { 0 }, segment_bytes = -1 },
      ["segment_bytes out of range: 0"] = { shards = { 0 }, segment_bytes = 0 },
      ["an array of shard ids expected, got number"] = { shards = 0 },
      ["shard id out of range: 65536"] = { shards = { 65536 } },
      ["shard id must be an integer, not a string"] = { shards = { "0" } },
      ["an array of shard ids expected"] = { shards = { [2] = 0 } },
    } do
      local ok, why = pcall(Wal.open, directory, options)
      assert(not ok, message)
      assert(why:find "bad argument #2" and why:find(message, 1, true), why)
    end
    for _, wrong in ipairs { 1, "shards", true } do
      assert.error_matches(function()
        Wal.open(directory, wrong)
      end, "bad argument #2 .*table expected")
    end
    for _, wrong in ipairs { "", "a\0b", {}, false } do
      assert.error_matches(function()
        Wal.open(wrong, { shards = { 0 } })
      end, "bad argument #1")
    end
    assert.same({}, lines(("ls -d '%s' 2>/dev/null"):format(directory))) -- none has made anything
  end)

  it("wants a shard for a new log", function()
    assert_failure("NOT_FOUND", "cannot open it: No such file or directory", open())
    assert_failure("NOT_FOUND", "cannot open it: No such file or directory", open { shards = {} })
    os.execute(("mkdir '%s'"):format(directory))
    assert.error_matches(function()
      open()
    end, "a new log needs at least one shard")
    assert.same({}, lines(("ls '%s'"):format(directory)))
  end)

  it("does not make more than one directory, and no file into one", function()
    assert_failure("IO", "cannot make the directory: No such file or directory",
      Wal.open(directory .. "/a/b", { shards = { 0 } }))
    local path = directory .. ".txt"
    assert(io.open(path, "w")):close()
    assert_failure("IO", "Not a directory", Wal.open(path, { shards = { 0 } }))
  end)

  it("gives LOCKED to the second writer, in this process and others", function()
    local wal = assert(open { shards = { 0 } })
    assert_failure("LOCKED", plain(directory), open { shards = { 0 } })
    local ok, output = sandbox.lua([[print(select(3, require("tidemark.wal").open(...)))]], directory)
    assert(ok, output)
    assert.equal("LOCKED\n", output)
    assert.same({ 1, 1 }, { wal:append(0, { "a" }) })
    wal:close()
    local child = start "nil"
    assert_failure("LOCKED", plain(directory), open())
    assert.equal("2 2", ask(child, "wal:append(0, {'b'})"))
    kill(child)
    assert.equal(2, assert(open()):head(0))
  end)
end)

describe("appending", function()
  it("numbers the records of each shard without holes", function()
    local wal = assert(open { shards = { 0, 9 } })
    assert.same({ 1, 3 }, { wal:append(0, { "a", "", "c\0c" }) })
    assert.same({ 1, 1 }, { wal:append(9, { "other" }) })
    assert.same({ 4, 4 }, { wal:append(0, { "d" }) })
    assert.equal(4, wal:head(0))
    assert.equal(1, wal:head(9))
    assert.same({ "1=a", "2=", "3=c\0c", "4=d" }, (drain(assert(read(0)))))
    assert.same({ "1=other" }, (drain(assert(read(9)))))
  end)

  it("writes who, when and after what into the batch", function()
    local wal = assert(open { shards = { 5 }, epoch = 1 })
    wal:append(5, { "a" })
    local before = os.time()
    wal:append(5, { "b", "c" })
    wal:close()
    wal = assert(open { epoch = 9 })
    wal:append(5, { "d" })
    local reader = assert(read(5, 1))
    local batch = assert(reader:next(0))
    assert.same({ 5, 2, 3, 1, 1, 1 },
      { batch.shard, batch.first_seqno, batch.last_seqno, batch.epoch, batch.prev_epoch, batch.durable_seqno })
    assert.equal(wal:log_id(), batch.log_id)
    assert(batch.written_ms >= before * 1000 and batch.written_ms <= (os.time() + 1) * 1000)
    batch = assert(reader:next(0))
    assert.same({ 4, 9, 1, 3 }, { batch.first_seqno, batch.epoch, batch.prev_epoch, batch.durable_seqno })
    assert.equal(batch:bytes(), assert(Batch.decode(batch:bytes())):bytes())
  end)

  it("says in the batch where the records were first written", function()
    local wal = assert(open { shards = { 0 } })
    local origin = { log_id = 7, epoch = 1 << 61, first_seqno = 100 }
    assert.same({ 1, 2 }, { wal:append(0, { "a", "b" }, { origin = origin }) })
    assert.same({ 3, 3 }, { wal:append(0, { "c" }, {}) })
    local reader = assert(read(0))
    local batch = assert(reader:next(0))
    assert.same(origin, batch.origin)
    assert.same({ "a", "b" }, { batch:record(1), batch:record(2) })
    assert.equal(101, batch:after(1).origin.first_seqno)
    assert.is_nil(assert(reader:next(0)).origin)
    for message, options in pairs {
      ["no such option: 'origins'"] = { origins = origin },
      ["origin must be a table, not a number"] = { origin = 7 },
      ["epoch must be an integer, not a nil"] = { origin = { log_id = 7 } },
      ["origin: log id 0"] = { origin = { log_id = 0, epoch = 1, first_seqno = 1 } },
    } do
      local ok, why = pcall(wal.append, wal, 0, { "d" }, options)
      assert(not ok and why:find(message, 1, true), tostring(why))
    end
    assert.equal(3, wal:head(0))
    assert(Wal.verify(directory))
  end)

  it("refuses what is no array of records, and changes nothing", function()
    local wal = assert(open { shards = { 0 } })
    for _, case in ipairs {
      { {}, "at least one record" },
      { { 1 }, "record 1 must be a string, not a number" },
      { { "a", false }, "record 2 must be a string, not a boolean" },
      { { "a", nil, "c" }, "an array of records expected" },
      { { [1] = "a", [3] = "c" }, "an array of records expected" },
      { { "a", name = "b" }, "an array of records expected" },
      { { [0] = "a", "b" }, "an array of records expected" },
      { "a", "array of records expected, got string" },
      { 1, "array of records expected, got number" },
    } do
      local ok, why = pcall(wal.append, wal, 0, case[1])
      assert(not ok, "was accepted: " .. case[2])
      assert(why:find(case[2], 1, true), why)
    end
    assert.error_matches(function()
      wal:append(0)
    end, "bad argument #2 to 'append' %(array of records expected, got n")
    assert.equal(0, wal:head(0))
    assert.same({}, segments())
    assert.same({ 1, 1 }, { wal:append(0, { "good" }) })
  end)

  it("refuses a batch of more than 64 MiB, and goes on", function()
    local wal = assert(open { shards = { 0 }, sync = false })
    local most = ("x"):rep(67108864 - 64 - 4)
    assert.error_matches(function()
      wal:append(0, { most .. "x" })
    end, "longer than 64 MiB")
    assert.error_matches(function()
      wal:append(0, { most, "" })
    end, "longer than 64 MiB")
    assert.same({ 1, 1 }, { wal:append(0, { "small" }) })
    assert.same({ 2, 2 }, { wal:append(0, { most }) })
    assert.is_true(wal:sync())
    local reader = assert(read(0, 1))
    local batch = assert(reader:next(0))
    assert(batch:record(1) == most)
    assert.same({ segment_name(0, 1), segment_name(0, 2) }, segments())
  end)

  it("refuses a shard that the log does not have", function()
    local wal = assert(open { shards = { 0 } })
    assert_failure("UNKNOWN_SHARD", "the log has no shard 1", wal:append(1, { "a" }))
    for _, wrong in ipairs { -1, 65536, 0.5, {} } do
      assert.error_matches(function()
        wal:append(wrong, { "a" })
      end, "bad argument #1 to 'append'")
    end
  end)

  it("with sync = false is durable, and seen, only after sync", function()
    local wal = assert(open { shards = { 0, 1 }, sync = false })
    assert.same({ 1, 2 }, { wal:append(0, { "a", "b" }) })
    assert.same({ 1, 1 }, { wal:append(1, { "c" }) })
    assert.equal(0, wal:head(0))
    local reader = assert(read(0, 0))
    assert_failure("TIMEOUT", "nothing after seqno 0", reader:next(0))
    assert.is_true(wal:sync())
    assert.same({ 2, 1 }, { wal:head(0), wal:head(1) })
    assert.same({ "1=a", "2=b" }, (drain(reader)))
    assert.is_true(wal:sync())
    wal:append(0, { "d" })
    assert.same({}, (drain(reader)))
    assert.is_true(wal:close())
    assert.same({ "3=d" }, (drain(reader)))
  end)

  it("goes round more shards than files are kept open", function()
    local shards = {}
    for shard = 0, 99 do
      shards[#shards + 1] = shard
    end
    local wal = assert(open { shards = shards, sync = false, segment_bytes = 250 })
    for round = 1, 4 do
      for shard = 0, 99 do
        assert.same({ round, round }, { wal:append(shard, { round .. "/" .. shard }) })
      end
    end
    assert(wal:sync())
    for shard = 0, 99, 11 do
      local expected = {}
      for round = 1, 4 do
        expected[round] = ("%d=%d/%d"):format(round, round, shard)
      end
      assert.same(expected, (drain(assert(read(shard)))))
    end
    assert(wal:close())
    assert.same({ 100, 400, 0 }, (function(report)
      return { report.shards, report.records, report.unknown }
    end)(assert(Wal.verify(directory))))
  end)
end)

describe("closing", function()
  it("may be done again; later use raises", function()
    local wal = assert(open { shards = { 0 } })
    wal:append(0, { "a" })
    local reader = assert(read(0))
    assert.is_true(wal:close())
    assert.is_true(wal:close())
    assert.equal("Wal(closed)", tostring(wal))
    local arguments = { append = { 0, { "a" } }, sync = {}, head = { 0 }, epoch = {}, log_id = {}, recovery = {} }
    for name, list in pairs(arguments) do
      local ok, message = pcall(wal[name], wal, table.unpack(list))
      assert(not ok and message:find("closed Wal", 1, true), name .. ": " .. tostring(message))
    end
    reader:close()
    reader:close()
    for _, name in ipairs { "next", "head" } do
      local ok, message = pcall(reader[name], reader, 0)
      assert(not ok and message:find("closed reader", 1, true), name .. ": " .. tostring(message))
    end
  end)

  it("is done by the collector, and by the end of the program", function()
    local wal = Wal.open(directory, { shards = { 0 }, sync = false })
    wal:append(0, { "a" })
    wal = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    wal = assert(open())
    assert.equal(1, wal:head(0))
    assert.same({}, wal:recovery())
    wal:close()
    local ok, output = sandbox.lua([[
      local wal = assert(require("tidemark.wal").open(..., {sync = false}))
      wal:append(0, {"b"})
    ]], directory)
    assert(ok, output)
    wal = assert(open())
    assert.equal(2, wal:head(0))
    assert.same({}, wal:recovery())
  end)

  it("is done at the end of a block", function()
    if _VERSION == "Lua 5.3" then
      return
    end
    local script = assert(load [[
      local Wal, directory = ...
      do
        local wal <close> = assert(Wal.open(directory, {shards = {0}}))
        wal:append(0, {"a"})
      end
      local wal <close> = assert(Wal.open(directory))
      local reader <close> = assert(Wal.reader(directory, 0))
      local source <close> = assert(Wal.source(directory))
      return reader, source, wal:head(0)
    ]])
    local reader, source, head = script(Wal, directory)
    assert.equal(1, head)
    assert.has_error(function()
      reader:next(0)
    end)
    assert.has_error(function()
      source:head(0)
    end)
    assert.equal(1, assert(open()):head(0))
  end)

  it("gives back every descriptor and all memory", function()
    local function descriptors()
      return #lines "ls /proc/$PPID/fd"
    end
    assert(open { shards = { 0, 1 } }):close()
    collectgarbage() -- the handles that other tests have left
    local before = descriptors()
    for _ = 1, 20 do
      local wal = assert(Wal.open(directory))
      wal:append(0, { "a" })
      local reader, source = assert(Wal.reader(directory, 0, wal:head(0) - 1)), assert(Wal.source(directory))
      assert(reader:next(0))
      assert.is_nil((Wal.open(directory)))
      assert.is_nil((Wal.reader(directory, 2)))
      assert(Wal.verify(directory))
      assert(Wal.prune(directory, 0, 100))
      source:close()
      reader:close()
      wal:close()
    end
    assert.equal(before, descriptors())
  end)
end)

describe("a log whose writer was killed", function()
  it("keeps what was durable and what was written whole", function()
    local child = start "{shards = {0}, sync = false}"
    assert.equal("1 1", ask(child, "wal:append(0, {'a'})"))
    assert.equal("true", ask(child, "wal:sync()"))
    assert.equal("2 3", ask(child, "wal:append(0, {'b', 'c'})"))
    assert.equal("1", ask(child, "wal:head(0)"))
    kill(child)
    assert.same({ "1=a" }, (drain(assert(read(0)))))
    local wal = assert(open())
    assert.equal(3, wal:head(0))
    local recovery = wal:recovery()
    assert.equal(1, #recovery)
    assert(recovery[1]:find("shard 0: kept 74 bytes that were written but not yet acknowledged: .*offset 69$"), recovery[1])
    assert.same({ 4, 4 }, { wal:append(0, { "d" }) })
    assert.same({ "1=a", "2=b", "3=c", "4=d" }, (drain(assert(read(0)))))
    assert.equal(2, #segments()) -- a writer never appends to a segment that it did not make
  end)

  it("loses a torn tail, and says so", function()
    local child = start "{shards = {0}, sync = false}"
    ask(child, "wal:append(0, {'a'})")
    ask(child, "wal:sync()")
    ask(child, "wal:append(0, {'torn'})")
    kill(child)
    flip(segment_name(0, 1), 69 + 70) -- in the record of the second batch
    local wal = assert(open())
    assert.equal(1, wal:head(0))
    local recovery = wal:recovery()
    assert.equal(2, #recovery)
    assert(recovery[1]:find("shard 0: cut a torn batch: .*" .. plain(segment_name(0, 1)) .. ": offset 69$"), recovery[1])
    assert.equal(69, #bytes_of(segment_name(0, 1)))
    local kept = recovery[2]:match "kept the %d+ bytes of a torn tail as .*/(.-)$"
    assert.equal(("%s.cut-69-%016x"):format(segment_name(0, 1), wal:epoch()), kept)
    assert.equal("TMWB", bytes_of(kept):sub(1, 4))
    assert.same({ 2, 2 }, { wal:append(0, { "b" }) })
    assert.same({ "1=a", "2=b" }, (drain(assert(read(0)))))
  end)

  it("is refused where what had been durable is damaged or gone, and left as it is", function()
    local child = start "{shards = {0}}"
    ask(child, "wal:append(0, {'a'})")
    ask(child, "wal:append(0, {'b'})")
    kill(child)
    local name = segment_name(0, 1)
    local whole = bytes_of(name)
    flip(name, 69 + 65)
    local damaged = bytes_of(name)
    assert_failure("CORRUPT", plain(name) .. ": offset 69: ", open())
    assert.equal(damaged, bytes_of(name))
    write(name, whole:sub(1, 69))
    local message = "shard 0 ends at seqno 1, but 2 had been durable: " .. plain(name) .. ": offset 69.* ends at 0:1 "
    assert_failure("LOST", message, open())
    os.remove(directory .. "/" .. name)
    assert_failure("LOST", "shard 0 ends at seqno 0, but 2 had been durable, and there is no segment.* ends at 0:0 ", open())
    write(name, whole)
    assert.equal(2, assert(open()):head(0))
  end)

  it("goes on without lost records when the caller repeats where it ends", function()
    local wal = assert(open { shards = { 0, 1 } })
    wal:append(1, { "other" })
    wal:append(0, { "a" })
    wal:append(0, { "b" })
    wal:close()
    local name = segment_name(0, 1)
    write(name, bytes_of(name):sub(1, 69))
    local reader = assert(read(0, 1))
    assert_failure("LOST", "0:1 ", open { accept_loss = { [0] = 2 } })
    assert_failure("LOST", "0:1 ", open { accept_loss = { [1] = 1 } })
    wal = assert(open { accept_loss = { [0] = 1 } })
    assert.same({ 1, 1 }, { wal:head(0), wal:head(1) })
    assert.equal("shard 0: continues after seqno 1; later records are lost", wal:recovery()[1])
    local kept = table.concat(wal:recovery(), "\n"):match "kept the old heads as (%S+)"
    assert.equal(("%s/heads.lost-%016x"):format(directory, wal:epoch()), kept)
    assert.truthy(require("tidemark.replication_state").inspect(kept).checkpoint)
    assert.same({ 2, 2 }, { wal:append(0, { "c" }) })
    assert_failure("REPLACED", "was replaced", reader:next(0))
    assert.same({ "1=a", "2=c" }, (drain(assert(read(0)))))
    assert.is_true(wal:close())
    assert(Wal.verify(directory))
    wal = assert(open { accept_loss = { [0] = 1 } }) -- nothing is lost any more: the old numbers do nothing
    assert.equal(2, wal:head(0))
    assert.same({}, wal:recovery())
  end)

  it("refuses a segment of another log", function()
    local wal = assert(open { shards = { 0 } })
    wal:append(0, { "a" })
    wal:close()
    local other = directory .. ".other"
    wal = assert(Wal.open(other, { shards = { 0 } }))
    wal:append(0, { "a" })
    wal:close()
    os.execute(("cp '%s'/*.wal '%s'"):format(other, directory))
    assert_failure("FOREIGN", "offset 0: a batch of log", open())
    assert_failure("FOREIGN", "offset 0: a batch of log", Wal.verify(directory))
    assert_failure("FOREIGN", "offset 0: a batch of log", assert(read(0)):next(0))
  end)
end)

-- The collector may run at every allocation, and a finalizer may do anything. In a child, for what is wrong here is a crash.
describe("a finalizer", function()
  local PRELUDE = [[
    local Wal = require "tidemark.wal"
    local directory = ...
    if _VERSION == "Lua 5.3" then collectgarbage("setstepmul", 1 << 30) else collectgarbage("incremental", 100, 1000, 40) end
    local ran
    local function during(finalizer, f, ...)
      collectgarbage()
      collectgarbage "stop"
      ran = false
      do setmetatable({}, {__gc = function() ran = true; finalizer() end}) end
      collectgarbage "restart"
      return pcall(f, ...)
    end
  ]]

  local function child(script)
    local ok, output, how, code = sandbox.lua(PRELUDE .. script, directory)
    assert.same({ true, "exit", 0, "" }, { ok, how, code, output })
  end

  it("that closes the log in the middle of a method makes it raise", function()
    local writer = start "{shards = {0, 1}, sync = false}"
    ask(writer, "wal:append(0, {'a'}) and wal:append(1, {'b'})")
    kill(writer)
    child [[
      local records = {}
      for i = 1, 10000 do records[i] = "record" end
      for _, name in ipairs {"recovery", "append"} do
        local wal = assert(Wal.open(directory))
        local arguments = name == "append" and {0, records} or {}
        if name == "recovery" then assert(#wal:recovery() == 2) end
        local ok, message = during(function() wal:close() end, wal[name], wal, table.unpack(arguments))
        assert(ran, name)
        assert(not ok and message:find("closed Wal", 1, true), name .. ": " .. tostring(message))
        if name == "append" then assert(Wal.heads(directory):applied_seqno(0) == 1) end
      end
    ]]
  end)

  it("that closes the reader or reads on in the middle of next makes it raise", function()
    local wal = assert(open { shards = { 0 } })
    for i = 1, 5 do
      wal:append(0, { ("x"):rep(1000000 * i) })
    end
    child [[
      local reader = assert(Wal.reader(directory, 0))
      local ok, message = during(function() reader:close() end, reader.next, reader, 0)
      assert(ran and not ok and message:find("closed reader", 1, true), tostring(message))

      reader = assert(Wal.reader(directory, 0))
      local inner
      ok, message = during(function() inner = reader:next(0) end, reader.next, reader, 0)
      assert(ran and not ok and message:find("finalizer", 1, true), tostring(message))
      assert(inner.first_seqno == 1)
      assert(reader:next(0).first_seqno == 2)
    ]]
  end)
end)
