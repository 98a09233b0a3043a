--- State files as a Lua program sees them: reopening, other processes, kill -9, options, errors. The faults of disks and system calls
--- are in spec/c/state_file_*.c.

local ReplicationState = require "tidemark.replication_state"
local crc32c = require "spec.support.crc32c"
local sandbox = require "spec.support.sandbox"

local function read(path)
  local file = assert(io.open(path, "rb"))
  local data = file:read "a"
  file:close()
  return data
end

local function write(path, data)
  local file = assert(io.open(path, "wb"))
  file:write(data)
  file:close()
end

-- A process that opens `path` and then runs each line that it is sent, with `state` in scope, and answers with its result.
local FOLLOWER = [[
  local path = ...
  local state = assert(require("tidemark.replication_state").open(path, {0}))
  io.stdout:setvbuf "line"
  print "open"
  for line in io.lines() do
    local results = table.pack(assert(load("local state = ...; return " .. line))(state))
    for i = 1, results.n do results[i] = tostring(results[i]) end
    print(table.concat(results, " "))
  end
]]

local function start(path)
  local child = sandbox.start(FOLLOWER, path)
  assert.equal("open", child:read_line())
  return child
end

local function ask(child, line)
  assert(child:write(line))
  return child:read_line()
end

describe("a state file", function()
  local path, states

  local function open(shards, opts)
    local state, message, code = ReplicationState.open(path, shards, opts)
    states[#states + 1] = state
    return state, message, code
  end

  before_each(function()
    path, states = sandbox.tempdir() .. "/state", {}
  end)

  after_each(function()
    for _, state in ipairs(states) do
      state:close()
    end
  end)

  teardown(sandbox.cleanup)

  it("is made with mode 0600 and starts at 0", function()
    local state = assert(open { 0, 3 })
    assert.same({ [0] = 0, [3] = 0 }, state:snapshot())
    local pipe = io.popen(("stat -c %%a '%s' '%s.live'"):format(path, path))
    assert.equal("600\n600\n", pipe:read "a")
    pipe:close()
  end)

  it("keeps marks over close, with or without a checkpoint", function()
    local state = assert(open { 0, 3 })
    assert.is_true(state:advance(3, 10))
    assert.is_true(state:checkpoint())
    assert.is_true(state:advance(3, 12))
    state:close()
    assert.same({ [0] = 0, [3] = 12 }, assert(open { 0 }):snapshot())
  end)

  it("goes back to the checkpoint when the live file is gone", function()
    local state = assert(open { 0 })
    state:advance(0, 10)
    assert(state:checkpoint())
    state:advance(0, 12)
    state:close()
    assert(os.remove(path .. ".live"))
    assert.equal(10, assert(open { 0 }):applied_seqno(0))
  end)

  it("starts at 0 when PATH is gone, whatever the live file says", function()
    local state = assert(open { 0 })
    state:advance(0, 10)
    assert(state:checkpoint())
    state:close()
    assert(os.remove(path))
    assert.equal(0, assert(open { 0 }):applied_seqno(0))
  end)

  it("goes back to an older PATH that was restored", function()
    local state = assert(open { 0 })
    state:advance(0, 10)
    assert(state:checkpoint())
    local copy = read(path)
    for seqno = 11, 15 do
      state:advance(0, seqno)
      assert(state:checkpoint())
    end
    state:close()
    write(path, copy)
    assert.equal(10, assert(open { 0 }):applied_seqno(0))
  end)

  it("is the same for two handles", function()
    local one, two = assert(open { 0 }), assert(open { 1 })
    assert.is_true(one:advance(1, 5))
    assert.equal(5, two:applied_seqno(1))
    assert.same({ 0, 1 }, one:shards())
    assert.is_false(one == two)
    assert.is_true(two:checkpoint { [0] = "from two" })
    assert.equal("from two", one:note(0))
  end)

  it("keeps notes, merged, over saves and openings", function()
    local state = assert(open { 0, 1, 2 })
    assert.is_nil(state:note(0))
    assert(state:checkpoint { [0] = "zero", [2] = "t\0wo" })
    assert(state:checkpoint { [1] = ("x"):rep(128), [0] = "" })
    assert(state:checkpoint())
    for _ = 1, 2 do
      assert.same({ "", ("x"):rep(128), "t\0wo" }, { state:note(0), state:note(1), state:note(2) })
      state:close()
      state = assert(open { 0 })
    end
    assert.is_nil(state:note(65535))
  end)

  it("refuses bad notes and changes nothing", function()
    local state = assert(open { 0 })
    assert(state:checkpoint { [0] = "kept" })
    assert.error_matches(function() state:checkpoint { [0] = ("x"):rep(129) } end, "bad argument #1 to 'checkpoint'.*128")
    assert.error_matches(function() state:checkpoint { [0] = 5 } end, "bad argument #1 to 'checkpoint'.*string")
    assert.error_matches(function() state:checkpoint { [70000] = "x" } end, "shard id out of range: 70000")
    assert.error_matches(function() state:checkpoint "x" end, "bad argument #1 to 'checkpoint'")
    assert.same({ nil, "shard 9 is not tracked", "UNKNOWN_SHARD" }, { state:checkpoint { [9] = "x" } })
    assert.equal("kept", state:note(0))
  end)

  it("holds 65,536 shards with notes", function()
    local shards, notes, marks = {}, {}, {}
    for shard = 0, 65535 do
      shards[shard + 1], notes[shard], marks[shard] = shard, ("%d "):format(shard):rep(16), shard + math.maxinteger - 65535
    end
    local state = assert(open(shards))
    assert.equal(65536, state:advance_all(marks))
    assert(state:checkpoint(notes))
    assert(state:checkpoint())
    state:close()
    assert(os.remove(path .. ".live"))
    state = assert(open { 0 })
    assert.same(marks, state:snapshot())
    for shard = 0, 65535, 977 do
      assert.equal(notes[shard], state:note(shard))
    end
  end)

  it("follows read-only, live or not, and makes nothing", function()
    assert.same({ nil, path .. ": no such file", "NOT_FOUND" }, { open(nil, { readonly = true }) })
    local state = assert(open { 0 })
    state:advance(0, 5)
    local reader = assert(open(nil, { readonly = true }))
    state:advance(0, 6)
    assert.equal(6, reader:applied_seqno(0))
    for _, call in ipairs {
      function() return reader:advance(0, 9) end,
      function() return reader:advance_all { [0] = 9 } end,
      function() return reader:checkpoint() end,
      function() return (reader:bind(0))(9) end,
    } do
      local result, message, code = call()
      assert.is_nil(result)
      assert.equal("READONLY", code)
      assert.truthy(message)
    end
    assert(state:checkpoint { [0] = "n" })
    assert.equal("n", reader:note(0))
    state:advance(0, 8)
    state:close()
    assert.equal(8, reader:applied_seqno(0))
    assert(os.remove(path .. ".live"))
    local later = assert(open(nil, { readonly = true }))
    assert.equal(6, later:applied_seqno(0))
    assert.equal("n", later:note(0))
    assert.is_nil(io.open(path .. ".live"))
    local copy = later:clone()
    assert.is_true(copy:advance(0, 9))
  end)

  it("is not made with create = false", function()
    assert.same({ nil, path .. ": no such file", "NOT_FOUND" }, { open(nil, { create = false }) })
    assert.is_nil(io.open(path))
    assert(open { 4 }):close()
    assert.same({ 4 }, assert(open(nil, { create = false })):shards())
  end)

  it("checks its arguments", function()
    for pattern, call in pairs {
      ["#1 to '.*open' %(string expected"] = function() return ReplicationState.open(nil, {}) end,
      ["#2 to '.*open' %(table expected"] = function() return ReplicationState.open(path) end,
      ["#2 to '.*open' %(shard id out of range: %-1"] = function() return ReplicationState.open(path, { -1 }) end,
      ["#3 to '.*open' %(no such option: 'readOnly'"] = function() return ReplicationState.open(path, {}, { readOnly = true }) end,
      ["#3 to '.*open' %(option 'create' must be a boolean"] = function() return ReplicationState.open(path, {}, { create = 0 }) end,
      ["zero byte"] = function() return ReplicationState.open("a\0b", {}) end,
      ["path is empty"] = function() return ReplicationState.open("", {}) end,
      ["must end in a file name"] = function() return ReplicationState.open(path .. "/", {}) end,
      ["names that end in .live and .new"] = function() return ReplicationState.open(path .. ".live", {}) end,
    } do
      assert.error_matches(call, pattern)
    end
    assert.is_nil(io.open(path))
  end)

  it("says what is wrong with a file that it cannot use, and leaves it", function()
    local function refuse(expected_code, pattern)
      local state, message, code = open { 0 }
      assert.is_nil(state)
      assert.equal(expected_code, code)
      assert.truthy(message:find(path, 1, true), message)
      assert.truthy(message:find(pattern), message)
    end
    for _, garbage in ipairs { "", "x", ("garbage"):rep(1000), ("\0"):rep(40960) } do
      write(path, garbage)
      refuse("CORRUPT", "offset 0")
      assert.equal(garbage, read(path))
    end
    os.remove(path)
    assert(open { 0 }):close()
    local good = read(path)
    local damaged = good:sub(1, 4096 + 64) .. "[" .. good:sub(4096 + 66)
    write(path, damaged)
    refuse("CORRUPT", "slot 0 %(offset 4096%) is damaged.*slot 1 %(offset 16781312%) is never written")
    assert.equal(damaged, read(path))
    for _, version in ipairs { 0, 2, 255 } do
      local header = good:sub(1, 8) .. string.char(version) .. good:sub(10, 60)
      local other = header .. ("<I4"):pack(crc32c(header)) .. good:sub(65)
      write(path, other)
      refuse("UNSUPPORTED", "version " .. version .. ",")
      assert.equal(other, read(path))
      write(path, header .. good:sub(61))
      refuse("CORRUPT", "header")
    end
    for _, size in ipairs { 5000, 16781312, #good - 1, #good + 1 } do -- a slot that is cut off is no torn save
      local cut = size < #good and good:sub(1, size) or good .. "x"
      write(path, cut)
      refuse("CORRUPT", ("has %d bytes, a state file has 33558528"):format(size))
      assert.equal(size, #read(path))
    end
    write(path, good:sub(1, 16) .. string.char(good:byte(17) ~ 1) .. good:sub(18)) -- a byte of the id, which is random
    refuse("CORRUPT", "header")
    os.remove(path)
    os.execute(("ln -s /dev/null '%s'"):format(path))
    refuse("DENIED", "symbolic link")
    os.remove(path)
    os.execute(("mkdir '%s'"):format(path))
    refuse("DENIED", "directory")
    local state, _, code = ReplicationState.open(path .. "/no/such/state", {})
    assert.same({ nil, "NOT_FOUND" }, { state, code })
  end)

  it("tells when its files were replaced", function()
    local state = assert(open { 0 })
    assert(state:checkpoint())
    assert(os.rename(path .. ".live", path .. ".away"))
    assert.equal("REPLACED", select(3, state:checkpoint()))
    assert(os.rename(path .. ".away", path .. ".live"))
    assert.is_true(state:checkpoint())
    assert(os.remove(path))
    assert.equal("REPLACED", select(3, state:checkpoint()))
    -- who comes now would not share marks with the process that still has the deleted file
    assert.equal("BUSY", select(3, open { 0 }))
    state:close()
    assert.equal(0, assert(open { 0 }):applied_seqno(0))
  end)

  it("follows the program through a change of directory", function()
    local ok, output = sandbox.lua([[
      local uv, ReplicationState = require "luv", require "tidemark.replication_state"
      local directory = ...
      assert(uv.chdir(directory))
      local state = assert(ReplicationState.open("here", {0}))
      assert(uv.chdir "/")
      state:advance(0, 3)
      print(state:checkpoint())
      state:close()
      assert(uv.fs_stat(directory .. "/here"))
    ]], (path:gsub("/state$", "")))
    assert(ok, output)
    assert.equal("true\n", output)
  end)

  describe("between processes", function()
    it("shares marks and shards at once", function()
      local state = assert(open { 0 })
      local child = start(path)
      assert.equal("true", ask(child, "state:advance(0, 7)"))
      assert.equal(7, state:applied_seqno(0))
      states[#states + 1] = assert(ReplicationState.open(path, { 500 }))
      assert.equal("true", ask(child, "state:advance(500, 3)"))
      assert.same({ [0] = 7, [500] = 3 }, state:snapshot())
      assert.is_true(child:wait())
    end)

    it("keeps what a killed process had advanced, with others attached or not", function()
      local child = start(path)
      ask(child, "state:checkpoint{[0] = 'n'}")
      assert.equal("true", ask(child, "state:advance(0, 7)"))
      local state = assert(open { 0 })
      child:kill()
      assert.same({ false, "signal", 9 }, { child:wait() })
      assert.equal(7, state:applied_seqno(0))
      state:close()
      child = start(path)
      assert.equal("true", ask(child, "state:advance(0, 9)"))
      child:kill()
      child:wait()
      state = assert(open { 0 })
      assert.equal(9, state:applied_seqno(0))
      assert.equal("n", state:note(0))
    end)

    it("saves in turn and at once, and no note is lost", function()
      local state = assert(open { 0, 1 })
      local child = start(path)
      for i = 1, 50 do
        assert.equal("true", ask(child, ("state:checkpoint{[0] = 'child %d'}"):format(i)))
        assert.is_true(state:checkpoint { [1] = "parent " .. i })
        assert.equal("child " .. i, state:note(0))
        assert.equal("parent " .. i, ask(child, "state:note(1)"))
      end
      assert(child:write "(function() for i = 1, 200 do assert(state:checkpoint{[0] = 'both ' .. i}) end return 'done' end)()")
      for i = 1, 200 do
        assert(state:checkpoint { [1] = "both " .. i })
      end
      assert.equal("done", child:read_line())
      assert.same({ "both 200", "both 200" }, { state:note(0), state:note(1) })
      assert.is_true(child:wait())
    end)

    it("loses nothing to 60 random kills", function()
      local seed = tonumber(os.getenv "TIDEMARK_SEED") or os.time()
      math.randomseed(seed)
      local checkpointed, advanced = 0, 0
      local function note_line(line)
        checkpointed = tonumber(line and line:match "^saved (%d+)$") or checkpointed
        advanced = tonumber(line and line:match "^advanced (%d+)$") or advanced
        return line
      end
      for round = 1, 60 do
        local child = sandbox.start([[
          local state = assert(require("tidemark.replication_state").open(..., {0}))
          io.stdout:setvbuf "no"
          local seqno = state:applied_seqno(0)
          while true do
            seqno = seqno + 1
            state:advance(0, seqno)
            io.write(("advanced %d\n"):format(seqno))
            if seqno % 3 == 0 then
              assert(state:checkpoint{[0] = tostring(seqno)})
              io.write(("saved %d\n"):format(seqno))
            end
          end
        ]], path)
        for _ = 1, math.random(0, 30) do
          note_line(child:read_line())
        end
        child:kill()
        child:wait()
        repeat until not note_line(child:read_line())
        local context = ("seed %d, round %d"):format(seed, round)
        local reader = assert(ReplicationState.open(path, { 0 }), context)
        assert.truthy(reader:applied_seqno(0) >= advanced, context)
        assert.truthy(reader:applied_seqno(0) <= advanced + 1, context)
        assert.truthy(tonumber(reader:note(0) or 0) >= checkpointed, context)
        reader:close()
      end
    end)
  end)
end)
