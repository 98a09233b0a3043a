--- Checkpoint bytes: what is written, what is read and what is refused, against independent parsers and by mutation.

local ReplicationState = require "tidemark.replication_state"
local cjson = require "cjson"
local dkjson = require "dkjson"

local MAX = math.maxinteger
local LIMIT = 4 * 1024 * 1024

local function state_of(marks)
  local shards = {}
  for shard in pairs(marks) do
    shards[#shards + 1] = shard
  end
  local state = ReplicationState.new(shards)
  assert(state:advance_all(marks))
  return state
end

local function all_shards()
  local shards = {}
  for shard = 0, 65535 do
    shards[#shards + 1] = shard
  end
  return shards
end

-- Marks of a JSON object that another parser has read, by shard id as an integer.
local function by_shard(object)
  local marks = {}
  for key, mark in pairs(object) do
    marks[math.tointeger(tonumber(key))] = mark
  end
  return marks
end

-- A strict reading of the format by patterns, nothing shared with the codec: marks by shard, or nil.
local function reference(text)
  local SPACE, marks = "[ \t\r\n]*", {}
  local at = text:match("^" .. SPACE .. "{" .. SPACE .. "()")
  if not at then
    return nil
  end
  if text:find("^}" .. SPACE .. "$", at) then
    return marks
  end
  while true do
    local key, mark, stop, after = text:match('^"([0-9]+)"' .. SPACE .. ":" .. SPACE .. "([0-9]+)" .. SPACE .. "([,}])()", at)
    if not key or key:find "^0." or mark:find "^0." or #key > 5 or #mark > 19 then
      return nil
    end
    local shard = math.tointeger(tonumber(key))
    if shard > 65535 or marks[shard] or (#mark == 19 and mark > "9223372036854775807") then
      return nil
    end
    marks[shard] = math.tointeger(tonumber(mark))
    if stop == "}" then
      return text:find("^" .. SPACE .. "$", after) and marks
    end
    at = text:match("^" .. SPACE .. "()", after)
  end
end

local function corrupt_at(offset, what)
  return { nil, ("checkpoint bytes: byte %d: %s"):format(offset, what), "CORRUPT" }
end

describe("checkpoint bytes", function()
  local EXACT = { 0, 1, 9, 10, 99, 100, 2 ^ 31 | 0, 2 ^ 53 | 0, (2 ^ 53 | 0) + 1, 10 ^ 18 | 0, MAX - 1, MAX }

  it("are the documented text", function()
    local state = ReplicationState.new { 1, 0, 65535 }
    assert.equal('{"0":0,"1":0,"65535":0}', state:to_checkpoint_bytes())
    state:advance_all { [0] = 42, [1] = 7, [65535] = MAX }
    assert.equal('{"0":42,"1":7,"65535":9223372036854775807}', state:to_checkpoint_bytes())
    assert.equal("{}", ReplicationState.new({}):to_checkpoint_bytes())
  end)

  it("write and read every number of digits as it is", function()
    local power = 1
    for digits = 1, 19 do
      local most = digits == 19 and MAX or power * 10 - 1
      local middle = tonumber(("9080706050403020108"):sub(20 - digits)) -- with zeros inside
      for _, mark in ipairs { power, power + 1, middle, most - 1, most } do
        local shard = math.min(mark, 65535 - mark % 7)
        local text = ('{"%d":%d}'):format(shard, mark)
        assert.equal(text, state_of({ [shard] = mark }):to_checkpoint_bytes())
        assert.equal(mark, assert(ReplicationState.from_checkpoint_bytes(text, { shard })):applied_seqno(shard))
      end
      power = power * 10
    end
  end)

  it("take no byte but a digit for one, wherever it stands", function()
    local DIGITS = "12345678901234567"
    for place = 1, #DIGITS - 1 do
      for byte = 0, 255 do
        local char = string.char(byte)
        local text = '{"0":' .. DIGITS:sub(1, place - 1) .. char .. DIGITS:sub(place + 1) .. "}"
        local state, message = ReplicationState.from_checkpoint_bytes(text, { 0 })
        -- a space in front, or a zero, are other matters
        local is_fine = char:find(place == 1 and "[1-9 \t\r\n]" or "%d") ~= nil
        assert(is_fine == (state ~= nil), message or text)
        if state then
          assert.equal(math.tointeger(tonumber(text:match ":%s*(%d+)")), state:applied_seqno(0))
        else
          local offset = tonumber(message:match "byte (%d+)")
          -- what may stand after a number, or a leading zero: the byte after it is wrong
          local is_next = char:find(place == 1 and "0" or "[ \t\r\n,}]") ~= nil
          assert.equal(is_next and 5 + place or 4 + place, offset)
        end
      end
    end
  end)

  it("carry exact marks there and back", function()
    for _, mark in ipairs(EXACT) do
      local bytes = state_of({ [3] = mark }):to_checkpoint_bytes()
      local read = assert(ReplicationState.from_checkpoint_bytes(bytes, { 3 }))
      assert.equal(mark, read:applied_seqno(3))
      assert.equal("integer", math.type(read:applied_seqno(3)))
    end
  end)

  for _, count in ipairs { 0, 1, 16, 65536 } do
    it(("of %d shards come back whole"):format(count), function()
      local marks, shards = {}, {}
      for i = 1, count do
        local shard = count == 65536 and i - 1 or i * 4095
        shards[i] = shard
        marks[shard] = EXACT[i % #EXACT + 1]
      end
      local bytes = state_of(marks):to_checkpoint_bytes()
      local read = assert(ReplicationState.from_checkpoint_bytes(bytes, shards))
      assert.equal(count, #read)
      for shard, mark in pairs(read) do
        assert(marks[shard] == mark)
      end
      assert.equal(bytes, read:to_checkpoint_bytes())
    end)
  end

  it("give exactly the shards that were asked for", function()
    local bytes = '{"0":1,"5":2,"65535":3}'
    local read = assert(ReplicationState.from_checkpoint_bytes(bytes, { 5, 6, 5, 65534 }))
    assert.same({ [5] = 2, [6] = 0, [65534] = 0 }, read:snapshot())
    assert.equal(0, #assert(ReplicationState.from_checkpoint_bytes(bytes, {})))
    assert.same({ [0] = 0 }, ReplicationState.from_checkpoint_bytes("{}", { 0 }):snapshot())
  end)

  it("are read in any order and with white space", function()
    local text = ' \t\r\n{ \n"7" : 3 ,\t"0":1\r, "9"\n:\n4 } \t\r\n'
    assert.same({ [0] = 1, [7] = 3, [9] = 4 }, ReplicationState.from_checkpoint_bytes(text, { 0, 7, 9 }):snapshot())
    assert.same({ [0] = 0 }, ReplicationState.from_checkpoint_bytes(" { } ", { 0 }):snapshot())
  end)

  describe("and another parser", function()
    local marks = {}
    for i, mark in ipairs(EXACT) do
      marks[i * i] = mark
    end
    local shards = state_of(marks):shards()

    it("dkjson reads the same", function()
      assert.same(marks, by_shard(assert(dkjson.decode(state_of(marks):to_checkpoint_bytes()))))
    end)

    it("dkjson writes what is read the same", function()
      local object = {}
      for shard, mark in pairs(marks) do
        object[tostring(shard)] = mark
      end
      for _, text in ipairs { dkjson.encode(object), dkjson.encode(object, { indent = true }) } do
        assert.same(marks, assert(ReplicationState.from_checkpoint_bytes(text, shards)):snapshot())
      end
    end)

    it("lua-cjson agrees where its floats can carry the marks", function()
      local small, object = {}, {}
      for shard, mark in pairs(marks) do
        if mark < 10 ^ 13 then
          small[shard], object[tostring(shard)] = mark, mark
        end
      end
      for shard, mark in pairs(by_shard(cjson.decode(state_of(small):to_checkpoint_bytes()))) do
        assert.equal(small[shard], math.tointeger(mark))
        small[shard] = nil
      end
      assert.same({}, small)
      for shard, mark in pairs(assert(ReplicationState.from_checkpoint_bytes(cjson.encode(object), shards))) do
        assert.equal(object[tostring(shard)] or 0, mark)
      end
    end)
  end)

  local SHARD, QUOTE, COLON = "expected a shard id in plain digits", "expected '\"' after the shard id", "expected ':'"
  local MARK, KEY, NEXT = "expected a mark, an integer without sign", "expected '\"' and a shard id", "expected ',' or '}'"
  local OBJECT, AFTER, TWICE = "expected '{'", "bytes after the object", "shard id given twice"
  local BIG_SHARD, BIG_MARK = "shard id over 65535", "mark over 9223372036854775807"
  local END = "the text ends here: "
  local malformed = {
    { "", 0, END .. OBJECT },
    { " ", 1, END .. OBJECT },
    { "\0", 0, OBJECT },
    { "\239\187\191{}", 0, OBJECT }, -- a byte order mark
    { "\v{}", 0, OBJECT },
    { "[]", 0, OBJECT },
    { '["0",1]', 0, OBJECT },
    { "null", 0, OBJECT },
    { "true", 0, OBJECT },
    { "42", 0, OBJECT },
    { '"0"', 0, OBJECT },
    { "}", 0, OBJECT },
    { "{", 1, END .. KEY },
    { "{ ", 2, END .. KEY },
    { "{,}", 1, KEY },
    { "{{}}", 1, KEY },
    { "{0:1}", 1, KEY },
    { "{'0':1}", 1, KEY },
    { "{null:1}", 1, KEY },
    { "{\0}", 1, KEY },
    { '{"', 2, END .. SHARD },
    { '{"":1}', 2, SHARD },
    { '{" 0":1}', 2, SHARD },
    { '{"-1":1}', 2, SHARD },
    { '{"-0":1}', 2, SHARD },
    { '{"+1":1}', 2, SHARD },
    { '{"a":1}', 2, SHARD },
    { '{"\\u0030":1}', 2, SHARD },
    { '{"\195\175":1}', 2, SHARD },
    { '{"1', 3, END .. QUOTE },
    { '{"0 ":1}', 3, QUOTE },
    { '{"00":1}', 3, QUOTE },
    { '{"01":1}', 3, QUOTE },
    { '{"0x1":1}', 3, QUOTE },
    { '{"1.0":1}', 3, QUOTE },
    { '{"1e2":1}', 3, QUOTE },
    { '{"1\\u0030":1}', 3, QUOTE },
    { '{"1\0":1}', 3, QUOTE },
    { '{"65536":1}', 2, BIG_SHARD },
    { '{"65535":1,"65536":1}', 12, BIG_SHARD },
    { '{"99999":1}', 2, BIG_SHARD },
    { '{"4294967296":1}', 2, BIG_SHARD },
    { '{"18446744073709551616":1}', 2, BIG_SHARD },
    { '{"0"', 4, END .. COLON },
    { '{"0"}', 4, COLON },
    { '{"0" 1}', 5, COLON },
    { '{"0",1}', 4, COLON },
    { '{"0"=1}', 4, COLON },
    { '{"0":', 5, END .. MARK },
    { '{"0":}', 5, MARK },
    { '{"0"::1}', 5, MARK },
    { '{"0":-1}', 5, MARK },
    { '{"0":-0}', 5, MARK },
    { '{"0":+1}', 5, MARK },
    { '{"0":.5}', 5, MARK },
    { '{"0":"1"}', 5, MARK },
    { '{"0":null}', 5, MARK },
    { '{"0":true}', 5, MARK },
    { '{"0":[1]}', 5, MARK },
    { '{"0":{}}', 5, MARK },
    { '{"0":NaN}', 5, MARK },
    { '{"0":1', 6, END .. NEXT },
    { '{"0":00}', 6, NEXT },
    { '{"0":01}', 6, NEXT },
    { '{"0":0x1}', 6, NEXT },
    { '{"0":1.0}', 6, NEXT },
    { '{"0":1e3}', 6, NEXT },
    { '{"0":1E3}', 6, NEXT },
    { '{"0":1 2}', 7, NEXT },
    { '{"0":1"1":1}', 6, NEXT },
    { '{"0":1;"1":1}', 6, NEXT },
    { '{"0":1]', 6, NEXT },
    { '{"0":1\f}', 6, NEXT },
    { '{"0":9223372036854775808}', 5, BIG_MARK },
    { '{"0":9223372036854775807,"1":9223372036854775808}', 29, BIG_MARK },
    { '{"0":18446744073709551615}', 5, BIG_MARK },
    { '{"0":18446744073709551616}', 5, BIG_MARK },
    { '{"0":18446744073709551617}', 5, BIG_MARK },
    { '{"0":99999999999999999999999}', 5, BIG_MARK },
    { '{"0":1,', 7, END .. KEY },
    { '{"0":1,}', 7, KEY },
    { '{"0":1,,"1":1}', 7, KEY },
    { '{"0":1,1}', 7, KEY },
    { '{"0":1,"0":1}', 7, TWICE },
    { '{"0":1,"0":2}', 7, TWICE },
    { '{"1":1,"0":1,"1":1}', 13, TWICE },
    { '{"1":1, "0":1,\n"0":1}', 15, TWICE },
    { '{"5":1,"4":1,"3":x}', 17, MARK }, -- out of order, and then something else
    { "{}x", 2, AFTER },
    { "{}{}", 2, AFTER },
    { "{},", 2, AFTER },
    { "{}\0", 2, AFTER },
    { '{"0":1}}', 7, AFTER },
    { '{"1":1,"0":1} x', 14, AFTER },
  }

  it(("name the byte that is wrong in %d malformed texts"):format(#malformed), function()
    assert(#malformed >= 60)
    for _, row in ipairs(malformed) do
      local text, offset, what = table.unpack(row)
      local answer = { ReplicationState.from_checkpoint_bytes(text, { 0, 1 }) }
      assert.same({ text, corrupt_at(offset, what) }, { text, answer })
      assert(reference(text) == nil, "the reference reads " .. text)
      answer = { ReplicationState.from_checkpoint_bytes(text, {}) } -- also where nothing of it is wanted
      assert.same({ text, corrupt_at(offset, what) }, { text, answer })
    end
  end)

  it("are refused when they are cut off, at every byte", function()
    for _, text in ipairs { '{"0":42,"1":7,"65535":9223372036854775807}', ' { "7" : 0 , "0" : 1 }', "{}" } do
      for length = 0, #text - 1 do
        local state, message, code = ReplicationState.from_checkpoint_bytes(text:sub(1, length), { 0 })
        assert.is_nil(state)
        assert.equal("CORRUPT", code)
        assert.truthy(message:find(("byte %d: the text ends here: "):format(length), 1, true), message)
      end
      assert.truthy(ReplicationState.from_checkpoint_bytes(text, { 0 }))
    end
  end)

  it("are read right or refused after random mutations", function()
    local seed = math.tointeger(os.getenv "TIDEMARK_SEED") or os.time()
    math.randomseed(seed)
    local pieces = { '"', ":", ",", "{", "}", " ", "\n", "0", "9", "-", ".", "e", "\0", "\255", "65535", "9223372036854775807", '"0":1,' }

    local function random_text()
      local parts, used = {}, {}
      for _ = 1, math.random(0, 5) do
        local shard = math.random(2) == 1 and math.random(0, 12) or math.random(0, 65535)
        if not used[shard] then
          local space = math.random(3) == 1 and " " or ""
          local mark = math.random(2) == 1 and math.random(0, 99) or math.random(0, MAX)
          parts[#parts + 1] = ('%s"%d"%s:%s%d%s'):format(space, shard, space, space, mark, space)
          used[shard] = true
        end
      end
      return "{" .. table.concat(parts, ",") .. "}"
    end

    local mutations = {
      function(text, at) -- another byte
        return text:sub(1, at - 1) .. string.char(math.random(0, 255)) .. text:sub(at + 1)
      end,
      function(text, at) -- a byte less
        return text:sub(1, at - 1) .. text:sub(at + 1)
      end,
      function(text, at) -- a piece more
        return text:sub(1, at - 1) .. pieces[math.random(#pieces)] .. text:sub(at)
      end,
      function(text, at) -- two parts in the other order
        return text:sub(at) .. text:sub(1, at - 1)
      end,
      function(text, at) -- a part twice
        local to = math.random(at, #text)
        return text:sub(1, to) .. text:sub(at)
      end,
    }

    local read, refused = 0, 0
    for _ = 1, 50000 do
      local text = random_text()
      for _ = 1, math.random(0, 2) do
        if text ~= "" then
          text = mutations[math.random(#mutations)](text, math.random(#text))
        end
      end
      local expected = reference(text)
      local shards = {}
      for shard in pairs(expected or { [0] = 0 }) do
        shards[#shards + 1] = shard
      end
      local state, _, code = ReplicationState.from_checkpoint_bytes(text, shards)
      local same = (state ~= nil) == (expected ~= nil) and (state or code == "CORRUPT")
      if state and same then
        read = read + 1
        for shard, mark in pairs(expected) do
          same = same and state:applied_seqno(shard) == mark
        end
      else
        refused = refused + 1
      end
      if not same then
        error(("TIDEMARK_SEED=%d: %q"):format(seed, text))
      end
    end
    assert(read > 5000 and refused > 5000, read .. " read, " .. refused .. " refused")
  end)

  describe("of 4 MiB are answered in time that grows with their length", function()
    -- Ten times within 2 s of processor time, where each takes milliseconds: only work that grows with the square of the bytes or
    -- of the keys takes longer.
    local function timed(bytes, shards)
      local start = os.clock()
      for _ = 1, 9 do
        ReplicationState.from_checkpoint_bytes(bytes, shards or { 0 })
      end
      local state, message, code = ReplicationState.from_checkpoint_bytes(bytes, shards or { 0 })
      local seconds = os.clock() - start
      assert(seconds < 2, seconds)
      return state, message, code
    end

    -- `prefix`, then as many `piece`s as fit
    local function filled(prefix, piece)
      return prefix .. piece:rep((LIMIT - #prefix) // #piece)
    end

    for name, row in pairs {
      ["spaces"] = { filled("", " "), LIMIT, END .. OBJECT },
      ["spaces behind the object"] = { filled("{}x", " "), 2, AFTER },
      ["opening braces"] = { filled("", "{"), 1, KEY },
      ["quotes"] = { filled('{', '"'), 2, SHARD },
      ["digits in a mark"] = { filled('{"0":', "9"), 5, BIG_MARK },
      ["zeros in a mark"] = { filled('{"0":', "0"), 6, NEXT },
      ["digits in a key"] = { filled('{"', "1"), 2, BIG_SHARD },
      ["zeros in a key"] = { filled('{"', "0"), 3, QUOTE },
      ["keys that are all the same"] = { filled("{", '"0":0,'), 7, TWICE },
      ["commas"] = { filled('{"0":0', ","), 7, KEY },
      ["zero bytes"] = { filled("", "\0"), 0, OBJECT },
    } do
      it(name, function()
        assert.same(corrupt_at(row[2], row[3]), { timed(row[1]) })
      end)
    end

    it("more than that", function()
      assert.same(corrupt_at(LIMIT, "longer than 4 MiB"), { timed("{}" .. (" "):rep(LIMIT - 1)) })
      assert.truthy(timed("{}" .. (" "):rep(LIMIT - 2)))
    end)

    -- `count` entries with mark = shard + 1 by the function `shard_at`
    local function entries(count, shard_at)
      local parts = {}
      for i = 1, count do
        local shard = shard_at(i)
        parts[i] = ('"%d":%d'):format(shard, shard + 1)
      end
      return parts
    end

    it("600,000 keys, each many times", function()
      local shards = entries(600000, function(i)
        return (i - 1) * 7 % 10 -- short ones, or they would not fit
      end)
      local text = "{" .. table.concat(shards, ",") .. "}"
      assert(#text <= LIMIT)
      assert.same(corrupt_at(1 + 10 * 6 + 1, TWICE), { timed(text) }) -- one of the ten marks has two digits
    end)

    for name, shard_at in pairs {
      ["ascending"] = function(i)
        return i - 1
      end,
      ["descending"] = function(i)
        return 65536 - i
      end,
      ["scattered"] = function(i)
        return i * 40503 % 65536 -- odd, so each once
      end,
    } do
      it("all keys, " .. name .. ", with white space up to the brim", function()
        local parts = entries(65536, shard_at)
        local text = "{" .. table.concat(parts, "," .. (" "):rep(44)) .. "}"
        text = text .. (" "):rep(LIMIT - #text)
        assert.equal(LIMIT, #text)
        local state = assert(timed(text, all_shards()))
        for shard, mark in pairs(state) do
          assert(mark == shard + 1)
        end
        assert.equal(65536, #state)
      end)

      it("all keys, " .. name .. ", and one again at the end", function()
        local parts = entries(65536, shard_at)
        local text = "{" .. table.concat(parts, ",") .. ","
        assert.same(corrupt_at(#text, TWICE), { timed(text .. '"300":1}') })
      end)
    end
  end)
end)
