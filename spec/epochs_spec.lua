--- Histories as pure functions: the epoch of a seqno, what a batch may be, the last common seqno.

local epochs = require "tidemark.epochs"
local fake = require "spec.support.fake_source"

local batch, history = fake.batch, fake.history

-- The history of a list of epochs, the epoch of each record.
local function pack(records)
  local result = {}
  for seqno, epoch in ipairs(records) do
    if epoch ~= records[seqno - 1] then
      result[#result + 1] = { epoch = epoch, first_seqno = seqno }
    end
  end
  return result
end

-- An epoch function that knows nothing below `lowest`.
local function knowing(records, lowest)
  return function(seqno)
    if seqno == 0 then
      return 0
    end
    return seqno >= (lowest or 1) and records[seqno] or nil
  end
end

describe("a history", function()
  it("has the epoch of each record", function()
    local packed = pack(history(3, 5, 2, 7, 1, 1))
    for seqno, epoch in pairs { [0] = 0, 5, 5, 5, 7, 7, 1, 1 } do
      assert.equal(epoch, epochs.at(packed, seqno))
    end
    table.remove(packed, 1)
    assert.same({ nil, 7 }, { epochs.at(packed, 3), epochs.at(packed, 4) })
    assert.is_nil(epochs.at({}, 1))
    assert.equal(0, epochs.at({}, 0))
  end)

  it("is cut, and goes on with a batch", function()
    local packed = pack(history(3, 5, 2, 7, 1, 9))
    assert.same(pack(history(3, 5, 1, 7)), epochs.cut(packed, 4))
    assert.same({}, epochs.cut(packed, 0))
    assert.same(packed, epochs.entered(packed, batch(7, 8, 9)))
    assert.same(pack(history(3, 5, 2, 7, 1, 9, 1, 11)), epochs.entered(packed, batch(7, 8, 11, 9)))
    assert.same(pack(history(3, 5, 2, 7, 1, 8)), epochs.entered(packed, batch(6, 8, 8, 7))) -- 9 gives way
    assert.same(pack(history(3, 5, 2, 7)), epochs.entered(packed, batch(6, 8, 7)))
    assert.same({ { epoch = 9, first_seqno = 6 }, { epoch = 11, first_seqno = 7 } }, epochs.entered(packed, batch(7, 8, 11, 9), 2))
    assert.same({ { epoch = 3, first_seqno = 6 }, { epoch = 4, first_seqno = 7 } }, epochs.entered({}, batch(7, 8, 4, 3)))
    assert.same({ { epoch = 4, first_seqno = 6 } }, epochs.entered({}, batch(7, 8, 4)))
    assert.same({ { epoch = 4, first_seqno = 1 } }, epochs.entered({}, batch(1, 8, 4)))
  end)

  it("is written in words", function()
    assert.equal("2026-11-27T10:04:11Z#1f3a09c2", epochs.text(1795773851 << 30 | 0x1f3a09c2))
  end)
end)

describe("the tests of a batch", function()
  local function check(records, sent, lowest, log_id)
    local _, _, code, seqno = epochs.check({ id = 0, position = #records, log_id = log_id, epoch = knowing(records, lowest) }, sent)
    local result = epochs.check({ id = 0, position = #records, log_id = log_id, epoch = knowing(records, lowest) }, sent)
    return result or code, seqno
  end

  it("are made in their order", function()
    local records = history(5, 3)
    local wrong = { shard = 1, log_id = 8 }
    assert.equal("FOREIGN", check(records, batch(9, 9, 4, 4, wrong), 1, 7))
    assert.equal("FOREIGN", check(records, batch(9, 9, 4, 4, { log_id = 8 }), 1, 7))
    assert.equal("GAP", check(records, batch(9, 9, 4, 4), 1, 7))
    assert.equal("DIVERGED", check(records, batch(1, 2, 4, 0), 1, 7)) -- before it is skipped
    assert.equal("skip", check(records, batch(1, 2, 3, 0), 1, 7))
    assert.equal("apply", check(records, batch(6, 6, 4, 3), 1, 7))
    assert.equal("apply", check(records, batch(6, 6, 3, 3, { log_id = 8 }))) -- of no log yet
  end)

  it("know that nothing comes before record 1", function()
    local result, message, code = epochs.check({ id = 0, position = 0, epoch = knowing {} }, batch(1, 2, 5, 3))
    assert.same({ "DIVERGED" }, { code, result })
    assert.equal("nothing comes before record 1, but in the log it continues epoch 1970-01-01T00:00:00Z#00000003", message)
  end)

  it("pass on that an epoch cannot be found out", function()
    local function failing()
      return nil, "locked", "BUSY"
    end
    assert.same({ nil, "locked", "BUSY" }, { epochs.check({ id = 0, position = 5, epoch = failing }, batch(6, 6)) })
  end)

  it("pass on that the last of many questions cannot be answered", function()
    local asked, last
    local function epoch()
      asked = asked + 1
      if asked == last then
        return nil, "locked", "BUSY"
      end
      return 1
    end
    local function send()
      asked = 0
      return epochs.check({ id = 0, position = 5, epoch = epoch }, batch(2, 6))
    end
    assert.equal("apply", (send()))
    last = asked
    assert(last > 2)
    assert.same({ nil, "locked", "BUSY" }, { send() })
  end)

  -- Every batch of every pair of histories: refused if and only if it differs in what is known.
  it("agree with a comparison of record by record", function()
    local seed = tonumber(os.getenv "TIDEMARK_SEED") or os.time()
    math.randomseed(seed)
    local seen = {}
    for _ = 1, 3000 do
      local ours, theirs, common = {}, {}, math.random(0, 6)
      local epoch = 1
      for seqno = 1, math.random(common, 9) do
        epoch = epoch + math.random(0, 1)
        ours[seqno] = epoch
      end
      for seqno = 1, 12 do
        local before = theirs[seqno - 1] or 0
        local other = seqno == common + 1 or math.random(3) == 1
        -- each epoch is drawn once, so these are no epochs of ours; lower or higher as it happens
        theirs[seqno] = seqno <= common and ours[seqno] or other and 100 * seqno + math.random(0, 1) * 10000 or before
      end
      if common == 0 and theirs[1] == 0 then
        theirs[1] = 50
      end
      local position, lowest = #ours, math.random(1, #ours + 1)
      local first = math.random(1, position + 1)
      local last = first
      while theirs[last + 1] == theirs[first] and math.random(4) > 1 do
        last = last + 1
      end
      local expected = last <= position and "skip" or "apply"
      for seqno = first - 1, math.min(last, position) do
        if seqno > 0 and seqno >= lowest and ours[seqno] ~= theirs[seqno] then
          expected = "DIVERGED"
        end
      end
      local result, differs_at = check(ours, batch(first, last, theirs[first], theirs[first - 1] or 0), lowest)
      assert.equal(expected, result, seed)
      if result == "DIVERGED" then
        assert.is_true(ours[differs_at] ~= theirs[differs_at])
      end
      seen[result] = (seen[result] or 0) + 1
    end
    assert.is_true(seen.DIVERGED > 100 and seen.apply > 100 and seen.skip > 100)
  end)
end)

describe("the last common seqno", function()
  it("is found in all histories of 12 records, with any part known", function()
    for common = 0, 12 do
      local ours, theirs = {}, {}
      for seqno = 1, 12 do
        ours[seqno] = 1 + seqno // 4
        theirs[seqno] = seqno <= common and ours[seqno] or 20
      end
      for one = 1, 13 do
        for other = 1, 13 do
          for most = 0, 12 do
            local lowest, expected = math.max(one, other), 0
            for seqno = lowest, math.min(common, most) do
              expected = seqno
            end
            assert.equal(expected, epochs.last_common(knowing(ours, one), knowing(theirs, other), most))
          end
        end
      end
    end
  end)

  it("is found by bisection", function()
    local asked = 0
    local function ours(seqno)
      asked = asked + 1
      return seqno > 0 and 5 or 0
    end
    local function theirs(seqno)
      return seqno == 0 and 0 or seqno <= (1 << 61) + 12345 and 5 or 6
    end
    assert.equal((1 << 61) + 12345, epochs.last_common(ours, theirs, math.maxinteger))
    assert.is_true(asked <= 64)
    assert.equal(0, epochs.last_common(ours, function() end, math.maxinteger))
    assert.equal(math.maxinteger, epochs.last_common(ours, ours, math.maxinteger))
  end)
end)
