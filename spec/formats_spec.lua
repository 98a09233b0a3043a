--- docs/formats.md matches the bytes: state files are read here by its tables alone.

local crc32c = require "spec.support.crc32c"
local markdown = require "spec.support.markdown"
local sandbox = require "spec.support.sandbox"
local Batch = require "tidemark.batch"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"

local page = markdown.read "docs/formats.md"
local path_section = page:match "\n## State file: `PATH`.-\n## "
local live_section = page:match "\n## Live file: `PATH.live`.-\n## "
local log_section = page:match "\n## The log: a directory.-\n## "
local batch_section = page:match "\n## Batch, version 3.-\n## "

local function number(cell)
  return math.tointeger(tonumber((cell:gsub(",", ""))))
end

-- {field text = {offset, size}} of the table after `marker`
local function fields(section, marker)
  local result = {}
  for _, row in ipairs(markdown.table_after(section, marker)) do
    if number(row[1]) then
      result[row[3]] = { number(row[1]), number(row[2]) }
    end
  end
  return result
end

-- The field whose text starts so, as bytes of `data` from `base`.
local function get(data, base, table_fields, text)
  for name, place in pairs(table_fields) do
    if name:sub(1, #text) == text then
      return data:sub(base + place[1] + 1, base + place[1] + place[2])
    end
  end
  error("docs/formats.md has no field: " .. text)
end

local function integer(bytes)
  return (("<I" .. #bytes):unpack(bytes))
end

local function read(path, length)
  local file = assert(io.open(path, "rb"))
  local data = file:read(length or "a")
  file:close()
  return data
end

describe("docs/formats.md", function()
  local path, state, data

  setup(function()
    path = sandbox.tempdir() .. "/state"
    state = assert(ReplicationState.open(path, { 0, 7, 300, 65535 }))
    state:advance(7, 42)
    assert(state:checkpoint())
    state:advance_all { [0] = 9007199254740993, [65535] = math.maxinteger }
    assert(state:checkpoint { [7] = "a\0b", [300] = "", [0] = ("n"):rep(128) })
    data = read(path)
  end)

  teardown(function()
    state:close()
    sandbox.cleanup()
  end)

  it("gives the CRC's check value", function()
    assert.equal(0xE3069283, crc32c "123456789")
    assert.truthy(page:find("0xE3069283", 1, true))
  end)

  it("describes PATH and its header", function()
    local parts = markdown.table_after(path_section, "## State file")
    local size = 0
    for _, row in ipairs(parts) do
      assert.equal(size, number(row[1]))
      size = size + number(row[2])
    end
    assert.equal(size, #data)
    assert.truthy(page:find("has 33,558,528 bytes", 1, true))

    local header = fields(path_section, "Header.")
    assert.equal("TIDEMARK", get(data, 0, header, "magic"))
    assert.equal(1, integer(get(data, 0, header, "version")))
    assert.equal(crc32c(data:sub(1, 60)), integer(get(data, 0, header, "CRC32C")))
    assert.equal(("\0"):rep(4096 - 64), data:sub(65, 4096))
  end)

  it("describes slots, checkpoint bytes and notes", function()
    local slot = fields(path_section, "Slot.")
    local header = fields(path_section, "Header.")
    local newest, generations = nil, {}
    for _, base in ipairs { 4096, 16781312 } do
      assert.equal("TMCKPT01", get(data, base, slot, "magic"))
      assert.equal(get(data, 0, header, "file id"), get(data, base, slot, "file id"))
      local generation = integer(get(data, base, slot, "generation"))
      local c, n = integer(get(data, base, slot, "C,")), integer(get(data, base, slot, "N,"))
      local covered = data:sub(base + 1, base + 60) .. data:sub(base + 65, base + 64 + c + n)
      assert.equal(crc32c(covered), integer(get(data, base, slot, "CRC32C")))
      generations[#generations + 1] = generation
      if not newest or generation > newest.generation then
        newest = { generation = generation, c = c, n = n, payload = data:sub(base + 65, base + 64 + c + n) }
      end
    end
    table.sort(generations)
    assert.same({ 2, 3 }, generations)
    assert.equal('{"0":9007199254740993,"7":42,"300":0,"65535":9223372036854775807}', newest.payload:sub(1, newest.c))

    local notes = newest.payload:sub(newest.c + 1)
    local count = ("<I4"):unpack(notes)
    assert.equal(3, count)
    local expected = { { 0, ("n"):rep(128) }, { 7, "a\0b" }, { 300, "" } }
    for i = 0, count - 1 do
      local shard, length, start = ("<I2I2I4"):unpack(notes, 5 + 8 * i)
      local first = 4 + 8 * count + start
      assert.same(expected[i + 1], { shard, notes:sub(first + 1, first + length) })
    end
    assert.equal(4 + 8 * 3 + 131, newest.n)
  end)

  it("describes the live file", function()
    local live = read(path .. ".live")
    local size = 0
    for _, row in ipairs(markdown.table_after(live_section, "## Live file")) do
      assert.truthy(number(row[1]) >= size)
      size = number(row[1]) + number(row[2])
    end
    assert.equal(size, #live)
    local header, slot = fields(live_section, "Header."), fields(live_section, "Slot.")
    assert.equal("TMLIVE01", get(live, 0, header, "magic"))
    assert.equal(1, integer(get(live, 0, header, "version")))
    assert.equal(data:sub(17, 32), get(live, 0, header, "file id"))
    local boot = read("/proc/sys/kernel/random/boot_id", 36):gsub("%-", ""):gsub("%x%x", function(digits)
      return string.char(tonumber(digits, 16))
    end)
    assert.equal(boot, get(live, 0, header, "boot id"))
    local pipe = io.popen(("stat -c '%%d %%i' '%s.live'"):format(path))
    local device, inode = pipe:read("n", "n")
    pipe:close()
    assert.equal(device, integer(get(live, 0, header, "device")))
    assert.equal(inode, integer(get(live, 0, header, "inode")))
    assert.equal(3, integer(get(live, 0, header, "generation of the last")))
    assert.equal(3, integer(get(live, 0, header, "generation that is being")))
    -- generation 1 stands in slot 0, and each save takes the other one
    assert.equal(0, integer(get(live, 0, header, "slot (0 or 1)")))
    assert.equal(0, integer(get(live, 0, header, "1: poisoned")))
    assert.equal(0, integer(get(live, 0, header, "1: the checkpoint was loaded")))
    assert.equal(4096, integer(get(live, 0, header, "bytes of slot 0")))
    assert.equal(4096, integer(get(live, 0, header, "the same of slot 1")))
    for shard = 0, 65535 do
      local word = ("<I8"):unpack(live, 4096 + 1 + shard // 64 * 8)
      assert.equal(state:applied_seqno(shard) ~= nil, word >> shard % 64 & 1 == 1)
    end
    for shard, mark in pairs(state) do
      assert.equal(mark, integer(get(live, 65536 + 64 * shard, slot, "mark")))
    end
  end)

  it("bounds the longest checkpoint text", function()
    local shards, marks = {}, {}
    for shard = 0, 65535 do
      shards[shard + 1], marks[shard] = shard, math.maxinteger
    end
    local all = ReplicationState.new(shards)
    assert.equal(65536, all:advance_all(marks))
    assert.truthy(page:find("has 1,823,899 bytes", 1, true))
    assert.equal(1823899, #all:to_checkpoint_bytes())
  end)
end)

-- A batch, taken apart by the tables of docs/formats.md alone: its header by field text, and its records.
local function take_apart(data, base)
  local header = fields(batch_section, "64 MiB")
  local function number_of(text)
    return integer(get(data, base, header, text))
  end
  local count, length = number_of "record count", number_of "payload length"
  local payload = data:sub(base + 65, base + 64 + length)
  local flags, origin = number_of "flags", nil
  local rest = payload
  if flags == 1 then
    local origin_fields = fields(batch_section, "An origin says")
    origin = {
      log_id = integer(get(payload, 0, origin_fields, "log id")),
      epoch = integer(get(payload, 0, origin_fields, "epoch")),
      first_seqno = integer(get(payload, 0, origin_fields, "first seqno")),
    }
    assert.equal("\0\0\0\0", get(payload, 0, origin_fields, "zeros"))
    rest = payload:sub(25)
  end
  local records, start = {}, 4 * count
  for i = 0, count - 1 do
    local finish = 4 * count + ("<I4"):unpack(rest, 4 * i + 1)
    records[i + 1] = rest:sub(start + 1, finish)
    start = finish
  end
  assert.equal(#rest, start)
  assert.equal("TMWB", get(data, base, header, "magic"))
  assert.equal(3, number_of "version")
  assert.equal(crc32c(payload), number_of "CRC32C of the payload")
  assert.equal(crc32c(data:sub(base + 1, base + 60)), number_of "CRC32C of bytes 0..59")
  return number_of, records, base + 64 + length, origin
end

describe("docs/formats.md on the log", function()
  teardown(sandbox.cleanup)

  it("has a header table without holes", function()
    local at = 0
    for _, row in ipairs(markdown.table_after(batch_section, "64 MiB")) do
      assert.equal(at, number(row[1]))
      at = at + number(row[2])
    end
    assert.equal(64, at)
  end)

  it("describes a batch", function()
    local values = {
      shard = 65534, epoch = math.maxinteger, prev_epoch = math.maxinteger - 1, first_seqno = 0x7000000000000001,
      durable_seqno = 0x7000000000000000 - 0xFFFFFFFF, written_ms = 1700000000123, log_id = 0xFFFFFFFE, records = { "one", "", "t\0o" },
    }
    for _, origin in ipairs { false, { log_id = 0xFFFFFFFF, epoch = 1 << 62, first_seqno = 77 } } do
      values.origin = origin or nil
      local bytes = Batch.encode(values):bytes()
      local number_of, records, finish, found = take_apart(bytes, 0)
      assert.equal(#bytes, finish)
      assert.same(values.records, records)
      assert.same(values.origin, found)
      assert.equal(values.shard, number_of "shard")
      assert.equal(values.epoch, number_of "epoch of the records")
      assert.equal(values.prev_epoch, number_of "epoch of the record before")
      assert.equal(values.first_seqno, number_of "first seqno")
      assert.equal(0xFFFFFFFF, number_of "undurable")
      assert.equal(values.written_ms, number_of "written_ms")
      assert.equal(values.log_id, number_of "log id")
    end
    assert.truthy(batch_section:find("67,108,864", 1, true))
  end)

  it("is enough to write one", function()
    local ends, text = ("<I4I4"):pack(2, 5), "abcde"
    local payload = ends .. text
    local header = ("<c4I1I1I2I4I4I8I8I8I8I4I4I4"):pack("TMWB", 3, 0, 7, 2, #payload, 3, 2, 41, 99, 1234, 5, crc32c(payload))
    local batch = assert(Batch.decode(header .. ("<I4"):pack(crc32c(header)) .. payload))
    assert.same({ 7, 2, 3, 2, 41, 42, 35, 99, 1234 }, {
      batch.shard, #batch, batch.epoch, batch.prev_epoch, batch.first_seqno, batch.last_seqno, batch.durable_seqno,
      batch.written_ms, batch.log_id,
    })
    assert.same({ "ab", "cde" }, { batch:record(1), batch:record(2) })
  end)

  it("describes a directory: names, what follows what, zeros, the note of the heads", function()
    local directory = sandbox.tempdir() .. "/log"
    local wal = assert(Wal.open(directory, { shards = { 5, 12 }, segment_bytes = 300, epoch = 9 }))
    for i = 1, 7 do
      wal:append(12, { ("r" .. i):rep(10), "second" })
    end
    wal:append(5, { "" })
    local pattern = "^" .. log_section:match("`(S+%-N+%.wal)`"):gsub("%p", "%%%0"):gsub("[SN]", "%%d") .. "$"
    local pipe, names = io.popen(("ls '%s'"):format(directory)), {}
    for name in pipe:lines() do
      if name:match(pattern) then
        names[#names + 1] = name
      else
        assert.truthy(name == "heads" or name == "heads.live" or name == "lock", name)
      end
    end
    pipe:close()
    assert.truthy(#names > 3)
    local last = {}
    for i, name in ipairs(names) do
      local shard, first = name:match "^(%d+)%-(%d+)"
      shard = math.tointeger(tonumber(shard))
      assert.equal((last[shard] or 0) + 1, math.tointeger(tonumber(first)))
      local bytes, base = read(directory .. "/" .. name), 0
      local newest = i == #names or names[i + 1]:sub(1, 5) ~= name:sub(1, 5)
      while base < #bytes and bytes:byte(base + 1) ~= 0 do
        local number_of, records, finish = take_apart(bytes, base)
        assert.equal((last[shard] or 0) + 1, number_of "first seqno")
        assert.equal(0, number_of "undurable") -- each was durable before the next was written
        assert.equal(shard, number_of "shard")
        assert.equal(9, number_of "epoch of the records")
        assert.equal(last[shard] and 9 or 0, number_of "epoch of the record before")
        assert.equal(wal:log_id(), number_of "log id")
        last[shard], base = (last[shard] or 0) + #records, finish
      end
      assert.equal(("\0"):rep(#bytes - base), bytes:sub(base + 1))
      assert(newest or base == #bytes, name .. " has something behind its last batch")
    end
    assert.same({ [5] = 1, [12] = 14 }, last)
    local heads = assert(Wal.heads(directory))
    assert.same(last, heads:snapshot())

    local note, table_fields = heads:note(5), fields(log_section, "names the log. It has 36")
    assert.is_nil(heads:note(12))
    assert.equal(36, #note)
    assert.equal("TMLG", get(note, 0, table_fields, "magic"))
    assert.equal(2, integer(get(note, 0, table_fields, "version")))
    assert.equal(wal:log_id(), integer(get(note, 0, table_fields, "log id")))
    assert.equal(9, integer(get(note, 0, table_fields, "epoch of the last writer")))
    assert.equal(9, integer(get(note, 0, table_fields, "own epoch")))
    assert.equal(("\0"):rep(4), get(note, 0, table_fields, "CRC32C of the router"))
    heads:close()
    wal:close()
    assert.equal(69 - 1, #read(directory .. "/" .. names[1])) -- cut behind its last batch: a header and the end of ""
  end)
end)
