--- What ReplicationState refuses: each mistake raises a message that names argument and function, and changes nothing.

local ReplicationState = require "tidemark.replication_state"

-- Runs `code` with these globals and gives its results. It is a chunk of one line, so messages begin with "x:1: ".
local function run(code, globals)
  return assert(load(code, "=x", "t", globals))()
end

-- Each call raises exactly this and changes nothing.
describe("ReplicationState refuses", function()
  local state

  before_each(function()
    state = ReplicationState.new { 7, 0, 65535, 0 }
  end)

  local NOT_SHARD = "number has no integer representation"
  local HOLES = "an array of shard ids expected, this table has other keys or holes"
  local mistakes = {
    { "_ = state:applied_seqno()", "#1 to 'applied_seqno' (number expected, got no value)" },
    { "_ = state:applied_seqno(-1)", "#1 to 'applied_seqno' (shard id out of range: -1)" },
    { "_ = state:applied_seqno(65536)", "#1 to 'applied_seqno' (shard id out of range: 65536)" },
    { "_ = state:applied_seqno(1 << 32)", "#1 to 'applied_seqno' (shard id out of range: 4294967296)" },
    { "_ = state:applied_seqno((1 << 16) | 7)", "#1 to 'applied_seqno' (shard id out of range: 65543)" },
    { "_ = state:applied_seqno(max)", "#1 to 'applied_seqno' (shard id out of range: 9223372036854775807)" },
    { "_ = state:applied_seqno(7.5)", "#1 to 'applied_seqno' (" .. NOT_SHARD .. ")" },
    { "_ = state:applied_seqno('seven')", "#1 to 'applied_seqno' (number expected, got string)" },
    { "_ = state:applied_seqno({})", "#1 to 'applied_seqno' (number expected, got table)" },
    { "_ = state:advance()", "#1 to 'advance' (number expected, got no value)" },
    { "_ = state:advance(7)", "#2 to 'advance' (number expected, got no value)" },
    { "_ = state:advance(7, nil)", "#2 to 'advance' (number expected, got nil)" },
    { "_ = state:advance(7, true)", "#2 to 'advance' (number expected, got boolean)" },
    { "_ = state:advance(7, -1)", "#2 to 'advance' (seqno out of range: -1)" },
    { "_ = state:advance(7, min)", "#2 to 'advance' (seqno out of range: -9223372036854775808)" },
    { "_ = state:advance(7, max + 1)", "#2 to 'advance' (seqno out of range: -9223372036854775808)" },
    { "_ = state:advance(7, 2.0 ^ 63)", "#2 to 'advance' (" .. NOT_SHARD .. ")" },
    { "_ = state:advance(7, 1.5)", "#2 to 'advance' (" .. NOT_SHARD .. ")" },
    { "_ = state:advance(7, 0/0)", "#2 to 'advance' (" .. NOT_SHARD .. ")" },
    { "_ = state:advance(7, 1/0)", "#2 to 'advance' (" .. NOT_SHARD .. ")" },
    { "_ = state:advance(7, -1/0)", "#2 to 'advance' (" .. NOT_SHARD .. ")" },
    { "_ = state:advance(7, '1.5')", "#2 to 'advance' (" .. NOT_SHARD .. ")" },
    { "_ = state:advance(7, '9223372036854775808')", "#2 to 'advance' (" .. NOT_SHARD .. ")" },
    { "_ = state:advance(7, '-1')", "#2 to 'advance' (seqno out of range: -1)" },
    { "_ = state:advance(7, '')", "#2 to 'advance' (number expected, got string)" },
    { "_ = state:advance(7, '1 2')", "#2 to 'advance' (number expected, got string)" },
    { "_ = state:advance(-1, 1)", "#1 to 'advance' (shard id out of range: -1)" },
    { "_ = state:advance(65536, 1)", "#1 to 'advance' (shard id out of range: 65536)" },
    { "_ = state:advance(8, -1)", "#2 to 'advance' (seqno out of range: -1)" },
    { "_ = state:advance_all()", "#1 to 'advance_all' (table expected, got no value)" },
    { "_ = state:advance_all(7)", "#1 to 'advance_all' (table expected, got number)" },
    { "_ = state:advance_all {[0] = 1, [7] = -1}", "#1 to 'advance_all' (seqno out of range: -1)" },
    { "_ = state:advance_all {[0] = 1, [7] = 1.5}", "#1 to 'advance_all' (seqno has no integer representation: 1.5)" },
    { "_ = state:advance_all {[0] = 1, [7] = 1/0}", "#1 to 'advance_all' (seqno has no integer representation: inf)" },
    { "_ = state:advance_all {[0] = 1, [7] = '2'}", "#1 to 'advance_all' (seqno must be an integer, not a string)" },
    { "_ = state:advance_all {[0] = 1, [7] = true}", "#1 to 'advance_all' (seqno must be an integer, not a boolean)" },
    { "_ = state:advance_all {[0] = 1, [-7] = 1}", "#1 to 'advance_all' (shard id out of range: -7)" },
    { "_ = state:advance_all {[0] = 1, [65536] = 1}", "#1 to 'advance_all' (shard id out of range: 65536)" },
    { "_ = state:advance_all {[0] = 1, [7.5] = 1}", "#1 to 'advance_all' (shard id has no integer representation: 7.5)" },
    { "_ = state:advance_all {[0] = 1, ['7'] = 1}", "#1 to 'advance_all' (shard id must be an integer, not a string)" },
    { "_ = state:note(65536)", "#1 to 'note' (shard id out of range: 65536)" },
    { "_ = state:note()", "#1 to 'note' (number expected, got no value)" },
    { "_ = state:checkpoint(7)", "#1 to 'checkpoint' (table expected, got number)" },
    { "_ = state:checkpoint {[7] = 7}", "#1 to 'checkpoint' (a note must be a string, not a number)" },
    { "_ = state:checkpoint {[7] = ('x'):rep(129)}", "#1 to 'checkpoint' (a note is longer than 128 bytes)" },
    { "_ = state:checkpoint {x = 'x'}", "#1 to 'checkpoint' (shard id must be an integer, not a string)" },
    { "_ = state:bind()", "#1 to 'bind' (number expected, got no value)" },
    { "_ = state:bind(-1)", "#1 to 'bind' (shard id out of range: -1)" },
    { "_ = state:bind(7.5)", "#1 to 'bind' (" .. NOT_SHARD .. ")" },
    { "_ = state:wait_for(7)", "#2 to 'wait_for' (number expected, got no value)" },
    { "_ = state:wait_for(-1, 1)", "#1 to 'wait_for' (shard id out of range: -1)" },
    { "_ = state:wait_for(7, -1)", "#2 to 'wait_for' (seqno out of range: -1)" },
    { "_ = state:wait_for(7, 2, -1)", "#3 to 'wait_for' (timeout is negative or no number)" },
    { "_ = state:wait_for(7, 2, 0/0)", "#3 to 'wait_for' (timeout is negative or no number)" },
    { "_ = state:wait_for(7, 2, 'x')", "#3 to 'wait_for' (number expected, got string)" },
    { "_ = state:wait_any()", "#1 to 'wait_any' (table expected, got no value)" },
    { "_ = state:wait_any({[7] = -1}, 0)", "#1 to 'wait_any' (seqno out of range: -1)" },
    { "_ = state:wait_any({[65536] = 1}, 0)", "#1 to 'wait_any' (shard id out of range: 65536)" },
    { "_ = state:wait_any({[7] = 1}, -1)", "#2 to 'wait_any' (timeout is negative or no number)" },
    { "_ = advance()", "#1 to 'advance' (number expected, got no value)" },
    { "_ = advance(-1)", "#1 to 'advance' (seqno out of range: -1)" },
    { "_ = advance(1.5)", "#1 to 'advance' (" .. NOT_SHARD .. ")" },
    { "_ = advance(0/0)", "#1 to 'advance' (" .. NOT_SHARD .. ")" },
    { "_ = next_shard(state, 65536)", "#2 to 'next_shard' (shard id out of range: 65536)" },
    { "_ = next_shard(state, 'x')", "#2 to 'next_shard' (number expected, got string)" },
    { "_ = R.new()", "#1 to 'new' (table expected, got no value)" },
    { "_ = R.new(nil)", "#1 to 'new' (table expected, got nil)" },
    { "_ = R.new(0)", "#1 to 'new' (table expected, got number)" },
    { "_ = R.new('0')", "#1 to 'new' (table expected, got string)" },
    { "_ = R.new(state)", "#1 to 'new' (table expected, got tidemark.ReplicationState)" },
    { "_ = R.new {0, -1}", "#1 to 'new' (shard id out of range: -1)" },
    { "_ = R.new {65536}", "#1 to 'new' (shard id out of range: 65536)" },
    { "_ = R.new {0.5}", "#1 to 'new' (shard id has no integer representation: 0.5)" },
    { "_ = R.new {1/0}", "#1 to 'new' (shard id has no integer representation: inf)" },
    { "_ = R.new {'0'}", "#1 to 'new' (shard id must be an integer, not a string)" },
    { "_ = R.new {{}}", "#1 to 'new' (shard id must be an integer, not a table)" },
    { "_ = R.new {0, nil, 1}", nil }, -- which message depends on the border that Lua finds
    { "_ = R.new {[2] = 0}", HOLES, HOLES },
    { "_ = R.new {[0] = 0}", "#1 to 'new' (" .. HOLES .. ")" },
    { "_ = R.new {0, [-1] = 1}", "#1 to 'new' (" .. HOLES .. ")" },
    { "_ = R.new {0, [1.5] = 1}", "#1 to 'new' (" .. HOLES .. ")" },
    { "_ = R.new {0, [max] = 1}", "#1 to 'new' (" .. HOLES .. ")" },
    { "_ = R.new {0, x = 1}", "#1 to 'new' (" .. HOLES .. ")" },
    { "_ = R.new {0, ['2'] = 1}", "#1 to 'new' (" .. HOLES .. ")" },
    { "_ = R.from_checkpoint_bytes()", "#1 to 'from_checkpoint_bytes' (string expected, got no value)" },
    { "_ = R.from_checkpoint_bytes(7, {})", "#1 to 'from_checkpoint_bytes' (string expected, got number)" },
    { "_ = R.from_checkpoint_bytes('{}')", "#2 to 'from_checkpoint_bytes' (table expected, got no value)" },
    { "_ = R.from_checkpoint_bytes('{}', {65536})", "#2 to 'from_checkpoint_bytes' (shard id out of range: 65536)" },
    { "_ = R.from_checkpoint_bytes('{}', {[0] = 0})", "#2 to 'from_checkpoint_bytes' (" .. HOLES .. ")" },
  }

  for _, mistake in ipairs(mistakes) do
    local code, expected = mistake[1], mistake[2]
    it(code, function()
      state:advance(7, 1)
      local globals = { state = state, R = ReplicationState, max = math.maxinteger, min = math.mininteger }
      globals.advance = state:bind(7)
      globals.next_shard = pairs(state)
      local ok, message = pcall(run, code, globals)
      assert.is_false(ok)
      if expected == nil or mistake[3] then
        assert.truthy(message:find("^x:1: bad argument #1 to 'new' %(an array of shard ids expected, this "), message)
      else
        assert.equal("x:1: bad argument " .. expected, message)
      end
      assert.same({ [0] = 0, [7] = 1, [65535] = 0 }, state:snapshot())
    end)
  end

  it("a NaN among the marks", function()
    local ok, message = pcall(run, "_ = state:advance_all {[0] = 1, [7] = 0/0}", { state = state })
    assert.is_false(ok)
    assert.truthy(message:find "#1 to 'advance_all' %(seqno has no integer representation: %-?nan%)$", message)
    assert.equal(0, state:applied_seqno(0))
  end)

  it("a wrong self, in every method", function()
    local bad = { 7, "x", {}, io.stdout, coroutine.create(print), function() end, false }
    local functions = { new = true, single = true, open = true, from_checkpoint_bytes = true, inspect = true }
    for name, method in pairs(ReplicationState) do
      if not functions[name] then
        for _, self in ipairs(bad) do
          local ok, message = pcall(method, self, 7, 1)
          assert.is_false(ok, name)
          assert.truthy(message:find("ReplicationState expected, got " .. type(self), 1, true), message)
        end
        local ok, message = pcall(method)
        assert.is_false(ok, name)
        assert.truthy(message:find("ReplicationState expected, got no value", 1, true), message)
      end
    end
    for _, name in ipairs { "__gc", "__close", "__len", "__tostring", "__pairs" } do
      local ok, message = pcall(getmetatable(state)[name], io.stdout)
      assert.is_false(ok, name)
      assert.truthy(message:find("ReplicationState expected, got userdata", 1, true), message)
    end
    local ok, message = pcall(run, "_ = s.advance({}, 7, 1)", { s = state })
    assert.is_false(ok)
    assert.equal("x:1: bad argument #1 to 'advance' (ReplicationState expected, got table)", message)
    assert.same({ [0] = 0, [7] = 0, [65535] = 0 }, state:snapshot())
  end)
end)
