--- docs/formats.md matches the bytes: state files are read here by its tables alone.

local markdown = require "spec.support.markdown"
local sandbox = require "spec.support.sandbox"
local ReplicationState = require "tidemark.replication_state"

local page = markdown.read "docs/formats.md"
local path_section = page:match "\n## State file: `PATH`.-\n## "
local live_section = page:match "\n## Live file: `PATH.live`.-\n## "

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

local function crc32c(text)
  local crc = 0xFFFFFFFF
  for i = 1, #text do
    crc = crc ~ text:byte(i)
    for _ = 1, 8 do
      crc = (crc >> 1) ~ (crc & 1 == 1 and 0x82F63B78 or 0)
    end
  end
  return crc ~ 0xFFFFFFFF
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
