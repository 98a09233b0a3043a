--- Batch: encoding and decoding, fields, iteration, cutting, and every way in which bytes can be wrong.

local Batch = require "tidemark.batch"
local sandbox = require "spec.support.sandbox"

-- The fields of a good batch, with those of `changes` in place of its own.
local function fields(changes)
  local result = {
    shard = 7,
    epoch = 3,
    prev_epoch = 2,
    first_seqno = 101,
    durable_seqno = 99,
    written_ms = 1700000000123,
    log_id = 42,
    records = { "one", "", "th\0ree" },
  }
  for name, value in pairs(changes or {}) do
    result[name] = value
  end
  return result
end

local function list(batch)
  local result = {}
  for seqno, record in batch:records() do
    result[#result + 1] = { seqno, record }
  end
  return result
end

local FIELDS = { "shard", "epoch", "prev_epoch", "first_seqno", "last_seqno", "durable_seqno", "written_ms", "log_id" }

local function assert_same_batch(expected, batch)
  for _, name in ipairs(FIELDS) do
    assert.equal(expected[name], batch[name], name)
  end
  assert.same(list(expected), list(batch))
  assert.equal(#expected, #batch)
end

describe("a batch", function()
  it("has the fields and records that it was made of, also after decoding", function()
    local batch = Batch.encode(fields())
    for name, value in pairs(fields()) do
      if name ~= "records" then
        assert.equal(value, batch[name], name)
        assert.equal("integer", math.type(batch[name]))
      end
    end
    assert.equal(103, batch.last_seqno)
    assert.equal(3, #batch)
    assert.same({ { 101, "one" }, { 102, "" }, { 103, "th\0ree" } }, list(batch))
    assert.equal(64 + 4 * 3 + 9, #batch:bytes())
    assert.equal("Batch(shard 7, records 101..103)", tostring(batch))
    local decoded = assert(Batch.decode(batch:bytes()))
    assert_same_batch(batch, decoded)
    assert.equal(batch:bytes(), decoded:bytes())
  end)

  it("carries numbers up to their limits", function()
    local most = fields {
      shard = 65535, epoch = math.maxinteger, prev_epoch = math.maxinteger, first_seqno = math.maxinteger - 2,
      durable_seqno = math.maxinteger - 3, written_ms = math.maxinteger, log_id = 0xFFFFFFFF,
    }
    local batch = Batch.encode(most)
    assert.equal(math.maxinteger, batch.last_seqno)
    assert.equal(math.maxinteger, list(batch)[3][1])
    assert_same_batch(batch, assert(Batch.decode(batch:bytes())))
    local least = fields {
      shard = 0, epoch = 1, prev_epoch = 0, first_seqno = 1, durable_seqno = 0, written_ms = 0, log_id = 1, records = { "" },
    }
    batch = Batch.encode(least)
    assert.same({ { 1, "" } }, list(batch))
    assert.equal(1, batch.log_id)
    assert_same_batch(batch, assert(Batch.decode(batch:bytes())))
  end)

  it("needs no durable_seqno and written_ms", function()
    local without = fields()
    without.durable_seqno, without.written_ms = nil, nil
    local batch = Batch.encode(without)
    assert.equal(0, batch.durable_seqno)
    assert.equal(0, batch.written_ms)
    without.first_seqno = 0xFFFFFFFF + 8 -- the header has 32 bits for the records that are not durable
    assert.equal(7, Batch.encode(without).durable_seqno)
  end)

  it("says in its origin where its records were first written", function()
    assert.is_nil(Batch.encode(fields()).origin)
    local origin = { log_id = 0xFFFFFFFF, epoch = math.maxinteger, first_seqno = math.maxinteger - 2 }
    local batch = Batch.encode(fields { origin = origin })
    assert.same(origin, batch.origin)
    assert.equal(64 + 24 + 4 * 3 + 9, #batch:bytes())
    local decoded = assert(Batch.decode(batch:bytes()))
    assert.same(origin, decoded.origin)
    assert_same_batch(batch, decoded)
    local rest = decoded:after(101)
    assert.same({ log_id = 0xFFFFFFFF, epoch = math.maxinteger, first_seqno = math.maxinteger - 1 }, rest.origin)
    assert.same({ { 102, "" }, { 103, "th\0ree" } }, list(rest))
    assert.same(math.maxinteger, decoded:after(102).origin.first_seqno)
    assert.equal("integer", math.type(batch.origin.epoch))
  end)

  it("survives records of many random lengths and bytes", function()
    math.randomseed(1)
    for _ = 1, 100 do
      local records = {}
      for i = 1, math.random(1, 50) do
        local bytes = {}
        for j = 1, math.random(0, 40) do
          bytes[j] = string.char(math.random(0, 255))
        end
        records[i] = table.concat(bytes)
      end
      local batch = assert(Batch.decode(Batch.encode(fields { records = records }):bytes()))
      for i, record in ipairs(records) do
        assert.equal(record, batch:record(i))
      end
      assert.equal(#records, #batch)
    end
  end)

  it("gives record i, and nil outside", function()
    local batch = Batch.encode(fields())
    assert.equal("one", batch:record(1))
    assert.equal("th\0ree", batch:record(3))
    for _, position in ipairs { 0, 4, -1, math.maxinteger, math.mininteger, 4294967297 } do
      assert.is_nil(batch:record(position))
    end
    assert.error_matches(function()
      batch:record(1.5)
    end, "bad argument #1 to 'record'")
  end)

  it("iterates in order, and stops wherever its iterator is called", function()
    local next_record, state, before = Batch.encode(fields()):records()
    assert.equal(100, before)
    assert.same({ 102, "" }, { next_record(state, 101) })
    for _, seqno in ipairs { 103, 99, math.mininteger, math.maxinteger } do
      assert.same({}, { next_record(state, seqno) })
    end
    local one = Batch.encode(fields { first_seqno = math.maxinteger, durable_seqno = math.maxinteger - 1, records = { "last" } })
    assert.same({ { math.maxinteger, "last" } }, list(one))
    next_record, state = one:records()
    for _, seqno in ipairs { math.mininteger, -1, 0, math.maxinteger } do
      assert.same({}, { next_record(state, seqno) })
    end
  end)

  it("calls a function with each record, and lets its errors through", function()
    local batch, seen = Batch.encode(fields()), {}
    batch:each(function(...)
      assert.equal(2, select("#", ...))
      local record, seqno = ...
      seen[#seen + 1] = { seqno, record }
    end)
    assert.same(list(batch), seen)
    assert.equal(3, #seen)
    assert.error_matches(function()
      batch:each(function(_, seqno)
        error("at " .. seqno)
      end)
    end, "at 101$")
    assert.error_matches(function()
      batch:each()
    end, "bad argument #1 to 'each'")
    assert.is_false(coroutine.resume(coroutine.create(batch.each), batch, coroutine.yield))
  end)

  it("knows nothing of other fields and cannot be changed", function()
    local batch = Batch.encode(fields())
    assert.is_nil(batch.seqno)
    assert.is_nil(batch[1])
    assert.has_error(function()
      batch.shard = 1
    end)
  end)
end)

describe("after", function()
  local batch = Batch.encode(fields())

  it("gives the batch itself below its first record", function()
    for _, seqno in ipairs { 0, 1, 100 } do
      assert.equal(batch, batch:after(seqno))
    end
  end)

  it("gives nothing at or above its last record", function()
    for _, seqno in ipairs { 103, 104, math.maxinteger } do
      assert.is_nil(batch:after(seqno))
    end
  end)

  it("cuts in between, as if the leader had begun there", function()
    local cut = batch:after(101)
    assert.same({ { 102, "" }, { 103, "th\0ree" } }, list(cut))
    assert.equal(102, cut.first_seqno)
    assert.equal(3, cut.prev_epoch) -- of record 101, which is of this batch
    for _, name in ipairs { "shard", "epoch", "durable_seqno", "written_ms", "log_id", "last_seqno" } do
      assert.equal(batch[name], cut[name], name)
    end
    assert_same_batch(cut, assert(Batch.decode(cut:bytes())))
    assert.same({ { 103, "th\0ree" } }, list(cut:after(102)))
    assert.equal(3, #batch)
  end)

  it("wants a seqno", function()
    for _, wrong in ipairs { -1, 0.5, {}, false } do
      assert.error_matches(function()
        batch:after(wrong)
      end, "bad argument #1 to 'after'")
    end
  end)
end)

describe("encode", function()
  local function assert_refused(changes, message)
    local ok, why = pcall(Batch.encode, fields(changes))
    assert(not ok, "was accepted")
    assert.truthy(why:find "bad argument #1 to '[%a.]*encode'", why)
    assert.truthy(why:find(message, 1, true), why)
  end

  it("refuses numbers out of their range", function()
    for name, wrong in pairs {
      shard = { -1, 65536, 1.5, "1" },
      epoch = { -1, 1.5, "1" },
      prev_epoch = { -1, 1.5, {} },
      first_seqno = { -1, 1.5, "1" },
      durable_seqno = { -1, false },
      written_ms = { -1, "now" },
    } do
      for _, value in ipairs(wrong) do
        assert_refused({ [name] = value }, name)
      end
    end
    for _, value in ipairs { 0.5, "1", -1, 4294967296 } do
      assert_refused({ log_id = value }, "log_id")
      assert_refused({ origin = { log_id = value, epoch = 1, first_seqno = 1 } }, "log_id")
    end
    for _, value in ipairs { 0.5, "1", -1 } do
      assert_refused({ origin = { log_id = 1, epoch = value, first_seqno = 1 } }, "epoch")
      assert_refused({ origin = { log_id = 1, epoch = 1, first_seqno = value } }, "first_seqno")
    end
    assert_refused({ origin = 1 }, "origin must be a table, not a number")
    assert_refused({ origin = {} }, "log_id must be an integer, not a nil")
  end)

  it("refuses what does not fit together", function()
    assert_refused({ epoch = 0, prev_epoch = 0, first_seqno = 1, durable_seqno = 0 }, "epoch out of range")
    assert_refused({ prev_epoch = 4 }, "prev_epoch is above epoch")
    assert_refused({ prev_epoch = 0 }, "prev_epoch must be 0 exactly when first_seqno is 1")
    assert_refused({ first_seqno = 1, durable_seqno = 0 }, "prev_epoch must be 0 exactly when first_seqno is 1")
    assert_refused({ first_seqno = 0, prev_epoch = 0, durable_seqno = 0 }, "seqnos out of range")
    assert_refused({ first_seqno = math.maxinteger - 1, durable_seqno = math.maxinteger - 2 }, "seqnos out of range")
    assert_refused({ first_seqno = 0xFFFFFFFF + 8, durable_seqno = 6 }, "durable seqno out of range")
    assert_refused({ origin = { log_id = 0, epoch = 1, first_seqno = 1 } }, "origin: log id 0")
    assert_refused({ origin = { log_id = 1, epoch = 0, first_seqno = 1 } }, "origin: epoch out of range")
    assert_refused({ origin = { log_id = 1, epoch = 1, first_seqno = 0 } }, "origin: seqnos out of range")
    assert_refused({ origin = { log_id = 1, epoch = 1, first_seqno = math.maxinteger - 1 } }, "origin: seqnos out of range")
    assert_refused({ durable_seqno = 101 }, "durable seqno")
    assert_refused({ log_id = 0 }, "log id 0")
  end)

  it("refuses what is missing", function()
    for _, name in ipairs { "shard", "epoch", "prev_epoch", "first_seqno", "log_id", "records" } do
      local without = fields()
      without[name] = nil
      local ok, why = pcall(Batch.encode, without)
      assert(not ok and why:find "bad argument #1 to '[%a.]*encode'", name .. ": " .. tostring(why))
    end
    assert.error_matches(function()
      Batch.encode()
    end, "bad argument #1 to 'encode' %(table expected")
  end)

  it("refuses what is no array of strings", function()
    assert_refused({ records = "record" }, "array of records expected")
    assert_refused({ records = {} }, "at least one record")
    assert_refused({ records = { "a", 2 } }, "record 2 must be a string, not a number")
    assert_refused({ records = { "a", n = 1 } }, "an array of records expected")
    assert_refused({ records = { [1] = "a", [3] = "c" } }, "an array of records expected")
    assert_refused({ records = { "a", nil, "c" } }, "an array of records expected")
    assert_refused({ records = { [0] = "a" } }, "an array of records expected")
  end)

  it("takes a batch of 64 MiB and not a byte more", function()
    local bytes = ("x"):rep(67108864 - 64 - 4)
    local batch = Batch.encode(fields { records = { bytes } })
    assert(#batch:bytes() == 67108864)
    assert(bytes == batch:record(1))
    assert.truthy(Batch.decode(batch:bytes()))
    assert_refused({ records = { bytes .. "x" } }, "64 MiB")
    assert_refused({ records = { bytes, "" } }, "64 MiB")
  end)
end)

describe("decode", function()
  local bytes = Batch.encode(fields()):bytes()

  it("refuses every truncation and a byte too many", function()
    for length = 0, #bytes - 1 do
      local batch, message, code = Batch.decode(bytes:sub(1, length))
      assert.is_nil(batch)
      assert.equal("CORRUPT", code, length)
      assert.truthy(message:find "^batch", message)
    end
    assert.equal("CORRUPT", select(3, Batch.decode(bytes .. "\0")))
    assert.equal("CORRUPT", select(3, Batch.decode(bytes .. bytes)))
  end)

  it("refuses every flipped bit", function()
    for i = 1, #bytes do
      for bit = 0, 7 do
        local flipped = bytes:sub(1, i - 1) .. string.char(bytes:byte(i) ~ 1 << bit) .. bytes:sub(i + 1)
        local batch, _, code = Batch.decode(flipped)
        assert.is_nil(batch)
        assert.equal("CORRUPT", code, i)
      end
    end
  end)

  it("refuses every byte replaced, and random bytes", function()
    math.randomseed(2)
    for i = 1, #bytes do
      local other = (bytes:byte(i) + math.random(1, 255)) % 256
      assert.is_nil((Batch.decode(bytes:sub(1, i - 1) .. string.char(other) .. bytes:sub(i + 1))))
    end
    for _ = 1, 1000 do
      local random = {}
      for i = 1, math.random(0, 100) do
        random[i] = string.char(math.random(0, 255))
      end
      assert.is_nil((Batch.decode("TMWB" .. table.concat(random))))
    end
  end)

  it("wants a string", function()
    for _, wrong in ipairs { 1, {}, false } do
      assert.error_matches(function()
        Batch.decode(wrong)
      end, "bad argument #1 to 'decode' %(string expected")
    end
  end)
end)

describe("what is no batch", function()
  it("is refused by every method", function()
    local batch = Batch.encode(fields())
    for _, name in ipairs { "record", "records", "bytes", "after" } do
      for _, wrong in ipairs { {}, 1, "batch", io.stdout, false } do
        local ok, message = pcall(batch[name], wrong, 1)
        assert(not ok and message:find("Batch expected", 1, true), name .. ": " .. tostring(message))
      end
    end
  end)
end)

describe("a finalizer", function()
  teardown(sandbox.cleanup)

  -- In a child, for what is wrong here is a crash or freed memory that is read. The collector wakes up when the batch's
  -- memory is allocated, which is much, after the records were looked at.
  it("that empties the records while they are encoded changes nothing", function()
    local ok, output = sandbox.lua [[
      local Batch = require "tidemark.batch"
      if _VERSION == "Lua 5.3" then collectgarbage("setstepmul", 1 << 30) else collectgarbage("incremental", 200, 1000, 40) end
      local LENGTH, COUNT = 100000, 100
      local ran, records, others = false, {}, {}
      do
        local record = ("r"):rep(LENGTH)
        for i = 1, COUNT do records[i] = record end
      end
      collectgarbage()
      do
        setmetatable({}, {__gc = function()
          for i = 1, COUNT do records[i] = nil end
          collectgarbage()
          for i = 1, 10 do others[i] = ("o"):rep(LENGTH) .. i end
          ran = true
        end})
      end
      local fields = {shard = 0, epoch = 1, prev_epoch = 0, first_seqno = 1, log_id = 1, records = records}
      local batch = Batch.encode(fields)
      assert(ran, "the finalizer did not run")
      assert(#records == 0)
      assert(#batch == COUNT)
      for i = 1, COUNT do assert(batch:record(i) == ("r"):rep(LENGTH), i) end
      print "fine"
    ]]
    assert(ok, output)
    assert.equal("fine\n", output)
  end)
end)
