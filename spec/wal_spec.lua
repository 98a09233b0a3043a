--- The log as a Lua program sees it: writing, reading, other processes, kill -9, damaged files. The faults of disks and system calls
--- are in spec/c/wal_*.c.

local Batch = require "tidemark.batch"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local sandbox = require "spec.support.sandbox"

local directory, handles

local function keep(handle, ...)
  handles[#handles + 1] = handle
  return handle, ...
end

local function open(options)
  return keep(Wal.open(directory, options))
end

local function read(shard, after_seqno, options)
  return keep(Wal.reader(directory, shard, after_seqno, options))
end

local function lines(command)
  local pipe = io.popen(command)
  local result = {}
  for line in pipe:lines() do
    result[#result + 1] = line
  end
  pipe:close()
  return result
end

local function segments()
  return lines(("ls '%s' 2>/dev/null | grep '[.]wal$'"):format(directory))
end

local function bytes_of(name)
  local file = assert(io.open(directory .. "/" .. name, "rb"))
  local data = file:read "a"
  file:close()
  return data
end

local function write(name, data)
  local file = assert(io.open(directory .. "/" .. name, "wb"))
  file:write(data)
  file:close()
end

-- Changes the byte at `offset` of a file.
local function flip(name, offset)
  local data = bytes_of(name)
  write(name, data:sub(1, offset) .. string.char(data:byte(offset + 1) ~ 255) .. data:sub(offset + 2))
end

local function segment_name(shard, first_seqno)
  return ("%05d-%020d.wal"):format(shard, first_seqno)
end

-- Seqnos and records that a reader gives without waiting, as one list, and the code with which it ended.
local function drain(reader)
  local result = {}
  while true do
    local batch, _, code = reader:next(0)
    if not batch then
      return result, code
    end
    for seqno, record in batch:records() do
      result[#result + 1] = seqno .. "=" .. record
    end
  end
end

-- A pattern that matches `text` itself.
local function plain(text)
  return (text:gsub("%p", "%%%0"))
end

local function assert_failure(code, pattern, result, message, got)
  assert.is_nil(result)
  assert.equal(code, got, message)
  assert(message:find(pattern), message)
end

-- A child that opens the log with these options (Lua source) and then runs each line that it is sent, with `wal` in scope, and
-- answers with its results. `later(wal)` is `wal` after a pause.
local WRITER = [[
  local directory, options = ...
  local Wal = require "tidemark.wal"
  local wal = assert(Wal.open(directory, load("return " .. options)()))
  io.stdout:setvbuf "line"
  print "open"
  local function later(value)
    require("tidemark.core").clock.sleep(0.2)
    return value
  end
  for line in io.lines() do
    local results = table.pack(assert(load("local wal, later = ...; return " .. line))(wal, later))
    for i = 1, results.n do results[i] = tostring(results[i]) end
    print(table.concat(results, " "))
  end
]]

local function start(options)
  local child = sandbox.start(WRITER, directory, options)
  assert.equal("open", child:read_line())
  return child
end

-- Sends Lua source of one or more lines.
local function tell(child, source)
  assert(child:write((source:gsub("\n", " "))))
end

local function ask(child, source)
  tell(child, source)
  return child:read_line()
end

local function kill(child)
  child:kill()
  assert.same({ false, "signal", 9 }, { child:wait() })
end

before_each(function()
  directory, handles = sandbox.tempdir() .. "/log", {}
end)

after_each(function()
  for _, handle in ipairs(handles) do
    handle:close()
  end
end)

teardown(sandbox.cleanup)

describe("opening a log", function()
  it("makes it, and finds it again", function()
    local wal = assert(open { shards = { 0, 7 } })
    assert.equal(1, wal:epoch())
    assert.equal("integer", math.type(wal:log_id()))
    assert.equal(0, wal:head(0))
    assert.equal(0, wal:head(7))
    assert.is_nil(wal:head(1))
    assert.same({}, wal:recovery())
    assert.equal("Wal(epoch 1)", tostring(wal))
    assert.same({ 1, 2 }, { wal:append(7, { "a", "b" }) })
    local log_id = wal:log_id()
    assert.is_true(wal:close())

    wal = assert(open())
    assert.equal(2, wal:epoch())
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
    assert.equal(7, assert(open { shards = { 0 }, epoch = 7 }):epoch())
    handles[1]:close()
    assert_failure("FENCED", "epoch 7 is not above the last one, 7", open { epoch = 7 })
    assert_failure("FENCED", "epoch 6 is not above the last one, 7", open { epoch = 6 })
    local wal = assert(open { epoch = 4294967295 })
    assert.equal(4294967295, wal:epoch())
    wal:close()
    assert_failure("FENCED", "not above the last one, 4294967295", open())
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
      ["epoch out of range: 4294967296"] = { shards = { 0 }, epoch = 4294967296 },
      ["epoch out of range: 0"] = { shards = { 0 }, epoch = 0 },
      ["segment_bytes out of range: -1"] = { shards = { 0 }, segment_bytes = -1 },
      ["segment_bytes out of range: 0"] = { shards = { 0 }, segment_bytes = 0 },
      ["table expected, got number"] = { shards = 0 },
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
    local wal = assert(open { shards = { 5 } })
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
    assert(batch.timestamp >= before * 1000 and batch.timestamp <= (os.time() + 1) * 1000)
    batch = assert(reader:next(0))
    assert.same({ 4, 9, 1, 3 }, { batch.first_seqno, batch.epoch, batch.prev_epoch, batch.durable_seqno })
    assert.equal(batch:bytes(), assert(Batch.decode(batch:bytes())):bytes())
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
    assert.equal(3, assert(open()):epoch())
  end)

  it("gives back every descriptor and all memory", function()
    local function descriptors()
      return #lines "ls /proc/$PPID/fd"
    end
    assert(open { shards = { 0, 1 } }):close()
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
    assert.equal(2, wal:epoch())
    local recovery = wal:recovery()
    assert.equal(1, #recovery)
    assert(recovery[1]:find("shard 0: made 74 bytes above the head durable: .*offset 69$"), recovery[1])
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
    assert.equal(1, #recovery)
    assert(recovery[1]:find("shard 0: cut a torn batch: .*" .. plain(segment_name(0, 1)) .. ": offset 69: "), recovery[1])
    assert.equal(69, #bytes_of(segment_name(0, 1)))
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
    assert_failure("LOST", "the log ends at seqno 1, but 2 had been durable", open())
    os.remove(directory .. "/" .. name)
    assert_failure("LOST", "there is no segment, but seqno 2 had been durable", open())
    write(name, whole)
    assert.equal(2, assert(open()):head(0))
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

describe("a reader", function()
  local wal

  before_each(function()
    wal = assert(open { shards = { 0, 1 }, segment_bytes = 155 })
    for i = 1, 6 do -- batches of 76 to 78 bytes: 1..2, 3..4, ...; two batches a segment
      wal:append(0, { "r" .. 2 * i - 1, "r" .. 2 * i })
    end
  end)

  it("begins with the batch that holds the next record", function()
    for after_seqno = 0, 11 do
      local batch = assert(assert(read(0, after_seqno)):next(0))
      assert.equal(after_seqno // 2 * 2 + 1, batch.first_seqno)
      assert.equal("r" .. after_seqno + 1, assert(batch:after(after_seqno)):record(1))
    end
    assert.equal(1, assert(read(0)):next(0).first_seqno)
    assert.equal(1, assert(read(0, nil, nil)):next(0).first_seqno)
  end)

  it("waits for records that are not there yet", function()
    local reader, further = assert(read(0, 12)), assert(read(0, 14))
    assert_failure("TIMEOUT", "nothing after seqno 12", reader:next(0))
    assert_failure("TIMEOUT", "nothing after seqno 12", further:next(0))
    wal:append(0, { "r13", "r14" })
    assert.equal(13, reader:next(0).first_seqno)
    assert_failure("TIMEOUT", "nothing", further:next(0))
    wal:append(0, { "r15" })
    assert.equal(15, further:next(0).first_seqno)
    assert.same({ "15=r15" }, (drain(reader)))
  end)

  it("reads a shard that had no segment when it was opened", function()
    local reader, further = assert(read(1)), assert(read(1, 3))
    assert_failure("TIMEOUT", "nothing after seqno 0", reader:next(0))
    wal:append(1, { "a", "b" })
    wal:append(1, { "c", "d" })
    assert.same({ "1=a", "2=b", "3=c", "4=d" }, (drain(reader)))
    assert.same({ "3=c", "4=d" }, (drain(further)))
  end)

  it("times out after whole, fractional and no seconds", function()
    local clock = require("tidemark.core").clock
    local reader = assert(read(0, 12))
    for _, timeout in ipairs { 0, 0.02, 0.15 } do
      local before = clock.now()
      assert_failure("TIMEOUT", plain(directory) .. ": shard 0", reader:next(timeout))
      assert(clock.now() - before >= timeout)
    end
    for _, wrong in ipairs { -1, -0.001, 0 / 0, "soon", {} } do
      assert.error_matches(function()
        reader:next(wrong)
      end, "bad argument #1 to 'next'")
    end
  end)

  it("waits for ever without a timeout, until another process appends", function()
    local child = sandbox.start([[
      local reader = assert(require("tidemark.wal").reader(..., 0, 12))
      io.stdout:setvbuf "line"
      print "open"
      for _, timeout in ipairs {false, math.huge} do
        local batch = assert(reader:next(timeout or nil))
        print(batch.first_seqno, batch:record(1))
      end
    ]], directory)
    assert.equal("open", child:read_line())
    for _, timeout in ipairs { 0.2, 0.1 } do
      require("tidemark.core").clock.sleep(timeout)
      local seqno = assert(wal:append(0, { "new" }))
      assert.equal(seqno .. "\tnew", child:read_line())
    end
    assert(child:wait())
  end)

  it("knows the head, also above what it has read", function()
    local reader = assert(read(0))
    assert.equal(12, reader:head())
    assert(reader:next(0))
    assert.equal(12, reader:head())
    wal:append(0, { "r13" })
    assert.equal(13, reader:head())
    assert.equal(0, assert(read(1)):head())
  end)

  it("refuses shards that are not there, and makes nothing", function()
    assert_failure("UNKNOWN_SHARD", "the log has no shard 2", read(2))
    assert_failure("NOT_FOUND", "No such file", Wal.reader(directory .. "/none", 0))
    assert_failure("NOT_FOUND", "No such file", Wal.heads(directory .. "/none"))
    assert_failure("NOT_FOUND", "No such file", Wal.source(directory .. "/none"))
    assert_failure("NOT_FOUND", "No such file", Wal.verify(directory .. "/none"))
    assert_failure("NOT_FOUND", "No such file", Wal.prune(directory .. "/none", 0, 1))
    assert_failure("NOT_FOUND", "No such file", Wal.open(directory .. "/none"))
    assert.same({}, lines(("ls -d '%s/none' 2>/dev/null"):format(directory)))
    local empty = sandbox.tempdir()
    assert_failure("NOT_FOUND", "heads", Wal.reader(empty, 0))
    assert_failure("NOT_FOUND", "heads", Wal.prune(empty, 0, 1))
    assert_failure("NOT_FOUND", "there is no log in it", Wal.verify(empty))
    assert_failure("UNKNOWN_SHARD", "no segment of shard 0", Wal.reader(empty, 0, 0, { archive = true }))
    assert.same({}, lines(("ls '%s'"):format(empty)))
  end)

  it("refuses arguments of other types", function()
    for _, case in ipairs {
      { "#1", {}, 0 }, { "#1", "", 0 }, { "#2", directory, -1 }, { "#2", directory, 65536 }, { "#2", directory },
      { "#3", directory, 0, -1 }, { "#3", directory, 0, "x" }, { "#4", directory, 0, 0, true },
      { "#4 .*no such option: 'archived'", directory, 0, 0, { archived = true } },
      { "#4 .*option 'archive' must be a boolean", directory, 0, 0, { archive = 1 } },
      { "#4 .*no such option: 'number'", directory, 0, 0, { "archive" } },
    } do
      local ok, message = pcall(Wal.reader, table.unpack(case, 2))
      assert(not ok and message:find("bad argument " .. case[1]), tostring(message))
    end
    assert.error_matches(function()
      Wal.reader(directory, 0, math.maxinteger)
    end, "no seqno is after 9223372036854775807")
    for _, name in ipairs { "heads", "source" } do
      for _, wrong in ipairs { {}, 1, false } do
        assert.error_matches(function()
          Wal[name](wrong)
        end, "bad argument #1 to '" .. name)
      end
    end
  end)

  it("stops at damage, naming file and offset, and stays there", function()
    local reader = assert(read(0))
    flip(segment_name(0, 5), 76 + 75) -- the last record of batch 7..8
    assert.equal(1, reader:next(0).first_seqno)
    assert.equal(3, reader:next(0).first_seqno)
    assert.equal(5, reader:next(0).first_seqno)
    local pattern = plain(segment_name(0, 5)) .. ": offset 76: .*seqno 7"
    assert_failure("CORRUPT", pattern, reader:next(0))
    assert_failure("CORRUPT", pattern, reader:next(0))
    flip(segment_name(0, 5), 76 + 75)
    assert.equal(7, reader:next(0).first_seqno)
    flip(segment_name(0, 9), 8)
    assert_failure("CORRUPT", plain(segment_name(0, 9)) .. ": offset 0: .*seqno 9", reader:next(0))
  end)
end)

describe("an archive", function()
  before_each(function()
    local wal = assert(open { shards = { 0, 1 }, segment_bytes = 150 })
    for i = 1, 3 do
      wal:append(0, { "a" .. i })
    end
    wal:append(1, { "b1" })
    wal:close()
    os.execute(("rm '%s'/heads*"):format(directory))
  end)

  it("is read to its last whole batch, when asked for so", function()
    assert_failure("NOT_FOUND", "heads", read(0))
    local reader = assert(read(0, 1, { archive = true }))
    local got, code = drain(reader)
    assert.same({ "2=a2", "3=a3" }, got)
    assert.equal("END", code)
    assert_failure("END", "the archive ends at seqno 3", reader:next())
    assert.is_nil(reader:head())
    assert.same({ "1=b1" }, (drain(assert(read(1, 0, { archive = true })))))
    assert_failure("UNKNOWN_SHARD", "no segment of shard 2", read(2, 0, { archive = true }))
    assert.same({}, lines(("ls '%s' | grep heads"):format(directory)))
    assert_failure("NOT_FOUND", "heads", read(0, 1, { archive = false }))
  end)

  it("ends before a torn batch", function()
    local name = segment_name(0, 3)
    write(name, bytes_of(name) .. bytes_of(name):sub(1, 40))
    local got, code = drain(assert(read(0, 0, { archive = true })))
    assert.same({ "1=a1", "2=a2", "3=a3" }, got)
    assert.equal("END", code)
    assert.same({ shards = 2, segments = 3, batches = 4, records = 4, bytes = 280, unknown = 40 }, assert(Wal.verify(directory)))
  end)

  it("is a log again when it is opened for writing", function()
    local wal = assert(open())
    assert.same({ 3, 1 }, { wal:head(0), wal:head(1) })
    assert.equal(2, wal:epoch())
    assert.same({ 4, 4 }, { wal:append(0, { "a4" }) })
    assert.same({ "3=a3", "4=a4" }, (drain(assert(read(0, 2)))))
  end)
end)

describe("prune", function()
  local wal

  before_each(function()
    wal = assert(open { shards = { 0, 1 }, segment_bytes = 150 })
    for i = 1, 6 do -- segments 1..2, 3..4, 5..6
      wal:append(0, { "r" .. i })
    end
    wal:append(1, { "other" })
  end)

  it("removes whole segments at or below a seqno, never the newest", function()
    assert.equal(0, Wal.prune(directory, 0, 0))
    assert.equal(0, Wal.prune(directory, 0, 1))
    assert.equal(1, Wal.prune(directory, 0, 2))
    assert.equal(0, Wal.prune(directory, 0, 3))
    assert.same({ segment_name(0, 3), segment_name(0, 5), segment_name(1, 1) }, segments())
    assert.equal(1, Wal.prune(directory, 0, math.maxinteger))
    assert.equal(0, Wal.prune(directory, 0, math.maxinteger))
    assert.equal(0, Wal.prune(directory, 1, math.maxinteger))
    assert.same({ segment_name(0, 5), segment_name(1, 1) }, segments())
    assert.same({ "5=r5", "6=r6" }, (drain(assert(read(0, 4)))))
    wal:close()
    wal = assert(open())
    assert.same({ 7, 7 }, { wal:append(0, { "r7" }) })
    assert(Wal.verify(directory))
  end)

  it("is told to who still wants what is gone", function()
    Wal.prune(directory, 0, 2)
    for after_seqno = 0, 1 do
      assert_failure("PRUNED", ("records from seqno %d on were removed, the log begins with 3"):format(after_seqno + 1),
        read(0, after_seqno))
    end
    assert.equal("r3", assert(assert(read(0, 2)):next(0)):record(1))
  end)

  it("leaves a reader the segment that it reads", function()
    local reader, late = assert(read(0)), assert(read(0))
    assert.equal(1, reader:next(0).first_seqno)
    Wal.prune(directory, 0, 2)
    assert.same({ "2=r2", "3=r3", "4=r4", "5=r5", "6=r6" }, (drain(reader)))
    Wal.prune(directory, 0, 4)
    assert.same({ 1, 2 }, { late:next(0).first_seqno, late:next(0).first_seqno })
    assert_failure("PRUNED", "records from seqno 3 on were removed, the log begins with 5", late:next(0))
  end)

  it("checks its arguments", function()
    assert_failure("UNKNOWN_SHARD", "no shard 2", Wal.prune(directory, 2, 1))
    for _, case in ipairs {
      { {}, 0, 1 }, { directory, -1, 1 }, { directory, 65536, 1 }, { directory, 0, -1 }, { directory, 0 }, { directory },
    } do
      assert.error_matches(function()
        Wal.prune(table.unpack(case))
      end, "bad argument #")
    end
    assert.equal(4, #segments())
  end)
end)

describe("verify", function()
  before_each(function()
    local wal = assert(open { shards = { 0, 1, 2 }, segment_bytes = 150 })
    for i = 1, 5 do -- batches of 70 bytes, two a segment
      wal:append(0, { "r" .. i })
    end
    wal:append(1, { "one", "two" })
    wal:close()
  end)

  it("counts what it has read", function()
    assert.same({ shards = 3, segments = 4, batches = 6, records = 7, bytes = 5 * 70 + 78, unknown = 0 },
      assert(Wal.verify(directory)))
  end)

  it("reads an open log, and passes over what is not yet durable", function()
    local wal = assert(open { sync = false })
    wal:append(0, { "r6" })
    local report = assert(Wal.verify(directory))
    assert.equal(5, report.segments)
    wal:sync()
    assert.equal(8, assert(Wal.verify(directory)).records)
  end)

  it("names file and offset of every byte that is flipped", function()
    for _, name in ipairs(segments()) do
      local size = #bytes_of(name)
      local length = name:find "^00001" and 78 or 70
      for offset = 0, size - 1 do
        flip(name, offset)
        local report, message, code = Wal.verify(directory)
        assert.is_nil(report)
        assert.equal("CORRUPT", code, message)
        local where = ("%s/%s: offset %d: "):format(directory, name, offset // length * length)
        assert(message:sub(1, #where) == where, message)
        flip(name, offset)
      end
    end
    assert(Wal.verify(directory))
  end)

  it("finds what is cut off, missing or too much", function()
    local name = segment_name(0, 1)
    local whole = bytes_of(name)
    write(name, whole:sub(1, 139))
    assert_failure("CORRUPT", "offset 70: .*cut off", Wal.verify(directory))
    write(name, whole:sub(1, 70))
    assert_failure("CORRUPT", "offset 70: .*ends at seqno 1, the next one begins with 3", Wal.verify(directory))
    write(name, whole .. "x") -- what a writer that was cut off may leave
    assert.equal(1, assert(Wal.verify(directory)).unknown)
    write(name, whole)
    os.rename(directory .. "/" .. segment_name(0, 3), directory .. "/aside")
    assert_failure("CORRUPT", "ends at seqno 2, the next one begins with 5", Wal.verify(directory))
    os.rename(directory .. "/aside", directory .. "/" .. segment_name(0, 3))
    os.rename(directory .. "/" .. segment_name(0, 5), directory .. "/aside")
    assert_failure("LOST", "the log ends at seqno 4, but 5 had been durable", Wal.verify(directory))
    os.rename(directory .. "/aside", directory .. "/" .. segment_name(0, 5))
    os.rename(directory .. "/" .. segment_name(1, 1), directory .. "/aside")
    assert_failure("LOST", "shard 1: there is no segment, but seqno 2 had been durable", Wal.verify(directory))
    os.rename(directory .. "/aside", directory .. "/" .. segment_name(2, 1))
    assert_failure("FOREIGN", "offset 0: a batch of shard 1, not 2", (function(...)
      os.execute(("cp '%s/%s' '%s/%s'"):format(directory, segment_name(2, 1), directory, segment_name(1, 1)))
      return Wal.verify(...)
    end)(directory))
  end)

  it("wants a directory", function()
    for _, wrong in ipairs { {}, "", "a\0b", false } do
      assert.error_matches(function()
        Wal.verify(wrong)
      end, "bad argument #1 to '[%a.]*verify'")
    end
  end)

  it("finds nothing wrong beside a writer that is busy", function()
    local child = start "{sync = false, segment_bytes = 3000000}"
    tell(child, [[(function()
      local records = {}
      for i = 1, 1000 do records[i] = ("x"):rep(i) end
      for i = 1, 200 do
        assert(wal:append(0, records))
        if i % 3 == 0 then assert(wal:sync()) end
      end
      return "done"
    end)()]])
    local deadline = os.time() + 60
    local rounds = 0
    repeat
      local report, message = Wal.verify(directory)
      assert(report, message)
      rounds = rounds + 1
    until report.records >= 100007 or os.time() > deadline
    assert.equal("done", child:read_line())
    child:wait()
    assert(rounds > 1)
    assert.equal(200007, assert(Wal.verify(directory)).records)
  end)
end)

describe("the heads", function()
  it("are a state that follows", function()
    local wal = assert(open { shards = { 0, 3 } })
    local heads = keep(assert(Wal.heads(directory)))
    assert.same({ 0, 3 }, heads:shards())
    wal:append(3, { "a", "b" })
    assert.same({ [0] = 0, [3] = 2 }, heads:snapshot())
    assert_failure("READONLY", "", heads:advance(0, 1))
    assert.equal(0, wal:head(0))
  end)
end)

describe("a source", function()
  it("subscribes, and tells heads and shards", function()
    local wal = assert(open { shards = { 0, 3 } })
    wal:append(3, { "a" })
    wal:append(3, { "b" })
    local source = keep(assert(Wal.source(directory)))
    assert.same({ 0, 3 }, source:shards())
    assert.same({ 0, 2 }, { source:head(0), source:head(3) })
    assert.is_nil(source:head(1))
    local subscription = keep(assert(source:subscribe(3, 1)))
    assert.equal("b", assert(subscription:next(0)):record(1))
    assert_failure("UNKNOWN_SHARD", "no shard 1", source:subscribe(1, 0))
    source:close()
    source:close()
    assert.has_error(function()
      source:head(0)
    end)
    wal:append(3, { "c" })
    assert.equal("c", assert(subscription:next(0)):record(1))
  end)

  it("waits until a head moves, in whatever process", function()
    assert(open { shards = { 0, 3 } }):close()
    local source = keep(assert(Wal.source(directory)))
    local child = start "nil"
    assert.is_false(source:wait({ [0] = 0, [3] = 0 }, 0))
    assert.is_false(source:wait({ [0] = 0, [3] = 0 }, 0.03))
    tell(child, "later(wal):append(3, {'a', 'b'})")
    assert.is_true(source:wait({ [0] = 0, [3] = 0 }, 60))
    assert.equal(2, source:head(3))
    assert.is_false(source:wait({ [0] = 0, [3] = 2 }, 0.01))
    assert.is_true(source:wait({ [0] = 0, [3] = 1 }, 0))
    assert.is_false(source:wait({ [1] = 0 }, 0)) -- a shard that it does not have
    assert.equal("1 2", child:read_line())
    child:wait()
  end)

  -- The live marks of another boot are not trusted: to a reader this looks as if the file had been deleted.
  it("and a reader go on after the heads were made anew", function()
    local wal = assert(open { shards = { 0 } })
    wal:append(0, { "a" })
    wal:close()
    local source, reader = keep(assert(Wal.source(directory))), assert(read(0, 1))
    assert.is_false(source:wait({ [0] = 1 }, 0))
    os.remove(directory .. "/heads.live")
    wal = assert(open())
    wal:append(0, { "b" })
    assert.is_true(source:wait({ [0] = 1 }, 60))
    assert.equal(2, source:head(0))
    assert.equal("b", assert(reader:next(60)):record(1))
    assert.same({ 0 }, source:shards())
    wal:close()
    -- also where the log is of a writer with more shards
    os.remove(directory .. "/heads.live")
    wal = assert(open { shards = { 4 } })
    wal:append(4, { "c" })
    assert.is_true(source:wait({ [4] = 0 }, 60))
    assert.same({ 0, 4 }, source:shards())
  end)
end)

describe("two processes", function()
  -- A million records: the reader gets each of them once, in order, and none that was not durable when it was read.
  it("write and read a million records", function()
    local COUNT, BATCH = 1000000, 1000
    local child = start "{shards = {0}, sync = false, segment_bytes = 5000000}"
    local reader, heads = assert(read(0)), keep(assert(Wal.heads(directory)))
    tell(child, ([[(function()
      local seqno = 0
      for i = 1, %d // %d do
        local records = {}
        for j = 1, %d do
          seqno = seqno + 1
          records[j] = "record " .. seqno
        end
        local first, last = wal:append(0, records)
        assert(last == seqno, last)
        if i %% 7 == 0 then assert(wal:sync()) end
      end
      assert(wal:sync())
      return seqno
    end)()]]):format(COUNT, BATCH, BATCH))
    local expected, batches = 1, 0
    while expected <= COUNT do
      local batch, message = reader:next(120)
      local head = heads:applied_seqno(0)
      assert(batch, message)
      assert(batch.first_seqno == expected and #batch == BATCH)
      assert(batch.last_seqno <= head, "read beyond the head")
      for seqno, record in batch:records() do
        assert(seqno == expected and record == "record " .. seqno, record)
        expected = expected + 1
      end
      batches = batches + 1
    end
    assert.equal(COUNT // BATCH, batches)
    assert.equal(tostring(COUNT), child:read_line())
    assert_failure("TIMEOUT", "", reader:next(0))
    child:wait()
    assert.equal(COUNT, assert(Wal.verify(directory)).records)
  end)

  it("follow each other with a state, over kill -9 of the follower", function()
    local wal = assert(open { shards = { 0 } })
    local path = directory .. ".state"
    for i = 1, 50 do
      wal:append(0, { "r" .. i })
    end
    local script = [[
      local directory, path = ...
      local Wal = require "tidemark.wal"
      local state = assert(require("tidemark.replication_state").open(path, {0}))
      local reader = assert(Wal.reader(directory, 0, state:applied_seqno(0)))
      io.stdout:setvbuf "line"
      while true do
        local batch = assert(reader:next())
        for seqno, record in batch:records() do
          print(seqno, record)
          state:advance(0, seqno)
        end
      end
    ]]
    local applied = 0
    for round = 1, 3 do
      local child = sandbox.start(script, directory, path)
      local line = child:read_line()
      local seqno = tonumber(line:match "^%d+")
      assert(seqno == applied or seqno == applied + 1, line) -- killed between print and advance: once more
      for _ = 1, 10 do
        applied = seqno
        seqno = tonumber(child:read_line():match "^%d+")
        assert.equal(applied + 1, seqno)
      end
      child:kill()
      child:wait()
      applied = assert(ReplicationState.open(path, nil, { create = false })):applied_seqno(0)
      for i = 1, 50 do
        wal:append(0, { "r" .. 50 * round + i })
      end
    end
    assert(applied >= 30)
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
      for name, arguments in pairs {append = {0, records}, recovery = {}} do
        local wal = assert(Wal.open(directory))
        if name == "recovery" then assert(#wal:recovery() == 2) end
        local ok, message = during(function() wal:close() end, wal[name], wal, table.unpack(arguments))
        assert(ran, name)
        assert(not ok and message:find("closed Wal", 1, true), name .. ": " .. tostring(message))
        if name == "append" then assert(Wal.heads(directory):applied_seqno(0) <= 1) end
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
